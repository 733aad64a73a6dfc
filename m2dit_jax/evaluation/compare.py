"""Trains and scores several arms that differ in the attention mask alone, with the same budget.

Each run (an arm with a seed) is trained and evaluated by the commands a user would type, in
processes of their own: they can be stopped, and the same comparison started again goes on. What is
done so far is in compare.md and compare.json as soon as a seed has all its arms.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

import numpy as np
from absl.flags import Error as FlagsError
from absl.flags import FlagValues
from ml_collections import ConfigDict, config_flags

from m2dit_jax.config.files import named_config
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.arms import arm_cost, arm_flags, choose_arms, set_arm
from m2dit_jax.evaluation.children import Children, core_shares, pin
from m2dit_jax.evaluation.comparison import ArmCost, Comparison, RunScores
from m2dit_jax.evaluation.report import Scores, read_report, scores_from_json
from m2dit_jax.pipeline.load import run_options
from m2dit_jax.utils.files import read_json, write_json, write_text
from m2dit_jax.utils.stopping import SIGNALS


@dataclass(frozen=True)
class ComparedRuns:
    """The runs to compare. `overrides` are flags like --config.train.steps=5 for the training.

    `costs` has the arms; `train_steps` is the number of steps that they make of the config;
    `evaluate_flags` are flags of `m2dit_jax.evaluate`, and `long_flags` those of its stories of
    `long_scenes` scenes, if there are to be any; `jobs` runs go on at the same time.
    `first_weights` are runs, by seed, that training starts from.
    """

    config_file: str
    overrides: Sequence[str]
    costs: Mapping[str, ArmCost]
    train_steps: int
    seeds: Sequence[int]
    evaluate_flags: Sequence[str]
    workdir: Path
    jobs: int = 1
    long_scenes: int = 0
    long_flags: Sequence[str] = ()
    first_weights: Mapping[int, Path] = field(default_factory=dict)


def compare(plan: ComparedRuns) -> Comparison:
    """Makes all runs that are not there yet; writes compare.md and compare.json to the workdir.

    Raises RunFailed as soon as a run does, and KeyboardInterrupt when interrupted or terminated;
    the other runs are then told to save and end.
    """
    # Seed by seed, so that what an interrupted comparison has done can be compared.
    runs = [(arm, seed) for seed in plan.seeds for arm in plan.costs]
    children = Children()
    clock = _Clock(len(runs), plan.jobs)
    shares: SimpleQueue[set[int]] = SimpleQueue()
    for share in core_shares(plan.jobs):
        shares.put(share)
    done: dict[tuple[str, int], RunScores] = {}
    plan.workdir.mkdir(parents=True, exist_ok=True)
    with (
        stopped_by_signals(),
        ThreadPoolExecutor(plan.jobs, initializer=lambda: pin(shares.get())) as pool,
    ):
        futures = {pool.submit(_make_run, plan, children, *run): run for run in runs}
        try:
            for future in as_completed(futures):
                scores, worked = future.result()
                done[futures[future]] = scores
                clock.tell(worked)
                _write_table(plan, done)
        except BaseException:
            children.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _table(plan, done, plan.seeds)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it signals that stop a command raise KeyboardInterrupt."""
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plan_comparison(
    config_file: str,
    overrides: Sequence[str],
    arms: Sequence[str] | None,
    seeds: Sequence[int],
    stories: int,
    long_scenes: int,
    long_stories: int,
    seed: int,
    chosen: Callable[[SamplingOptions], SamplingOptions],
    option_flags: Sequence[str],
    workdir: Path,
    jobs: int,
) -> ComparedRuns:
    """The runs of all arms (None: all of ARMS that the config can have), after checking each.

    `long_stories` of `long_scenes` scenes are made of windows as `evaluate long` does; 0 scenes:
    none are. `chosen` makes the sampling options of the evaluations out of those of the config;
    `option_flags` are the flags that say the same. Raises ValueError before the workdir is made.
    """
    config = load_config_file(config_file, overrides)
    costs = {}
    for arm in choose_arms(build_recipe(config), arms):
        set_arm(config, arm)
        recipe = build_recipe(config)
        chosen(run_options(recipe)).table(recipe.schedule)
        costs[arm] = arm_cost(recipe)
    return ComparedRuns(
        config_file=config_file,
        overrides=overrides,
        costs=costs,
        train_steps=config.train.steps,
        seeds=seeds,
        evaluate_flags=[f"--stories={stories}", f"--seed={seed}", *option_flags],
        workdir=workdir,
        jobs=jobs,
        long_scenes=long_scenes,
        long_flags=[
            *(f"--scenes={long_scenes}", f"--stories={long_stories}", f"--seed={seed}"),
            *option_flags,
        ],
    )


def load_config_file(config_file: str, overrides: Sequence[str]) -> ConfigDict:
    """A config with its overrides. Raises ValueError if there is none or one does not fit."""
    argv = ["evaluate", f"--config={named_config(config_file)}", *overrides]
    values = FlagValues()
    try:
        holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values(argv)
    except (FlagsError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{config_file}: {error}") from error
    # A file that cannot be opened becomes an object that fails when it is used.
    if not isinstance(holder.value, ConfigDict):
        raise ValueError(f"{config_file}: cannot be read, needs a file with get_config()")
    return holder.value


def _raise(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt: the main thread only waits, so that it is not lost."""
    raise KeyboardInterrupt(number)


def _table(
    plan: ComparedRuns, done: Mapping[tuple[str, int], RunScores], seeds: Sequence[int]
) -> Comparison:
    arms = {arm: {seed: done[arm, seed] for seed in seeds} for arm in plan.costs}
    return Comparison(arms, plan.costs, plan.long_scenes)


def _write_table(plan: ComparedRuns, done: Mapping[tuple[str, int], RunScores]) -> None:
    """Writes compare.md and compare.json of the seeds whose arms are all done, if there are any."""
    seeds = [seed for seed in plan.seeds if all((arm, seed) in done for arm in plan.costs)]
    if seeds:
        table = _table(plan, done, seeds)
        write_text(plan.workdir / "compare.md", table.to_markdown())
        write_json(plan.workdir / "compare.json", table.to_json())


def _make_run(
    plan: ComparedRuns, children: "Children", arm: str, seed: int
) -> tuple[RunScores, float]:
    """The scores of a run, and the seconds that it took; 0 if it was there already."""
    folder, started = plan.workdir / f"{arm}-seed{seed}", time.monotonic()
    label = f"{arm}, seed {seed}"
    # A run that is trained to its end returns at once; one of another config is refused.
    children.run(
        label,
        "m2dit_jax.train",
        f"--config={plan.config_file}",
        *plan.overrides,
        *arm_flags(arm),
        f"--config.seed={seed}",
        *([f"--config.train.init_from={first}"] if (first := plan.first_weights.get(seed)) else []),
        f"--workdir={folder}",
    )
    path, made = _evaluate(plan, children, label, folder, (), plan.evaluate_flags)
    report, long = read_report(path), {}
    if plan.long_scenes:
        long_path, long_made = _evaluate(plan, children, label, folder, ("long",), plan.long_flags)
        long, made = _long_scores(long_path), made or long_made
    scores = RunScores(report, long, step_seconds(folder))
    return scores, time.monotonic() - started if made else 0.0


def _evaluate(
    plan: ComparedRuns,
    children: "Children",
    label: str,
    folder: Path,
    program: Sequence[str],
    flags: Sequence[str],
) -> tuple[Path, bool]:
    """The file of the scores of a trained run, and whether it had to be made."""
    # The settings are in the name: a report made with others is not taken for this one.
    settings = "".join(flag.replace("--", "-").replace("=", "_") for flag in (*program, *flags))
    path = folder / f"evaluation{'-' * bool(program)}{settings}.json"
    if path.exists() and read_json(path).get("checkpoint_step") == plan.train_steps:
        print(f"[{label}] {path} is there already", flush=True)
        return path, False
    checkpoint = f"--checkpoint={folder}"
    children.run(label, "m2dit_jax.evaluate", *program, checkpoint, f"--json={path}", *flags)
    return path, True


def _long_scores(path: Path) -> Scores:
    """The scores of all scenes that `evaluate long --json` wrote."""
    try:
        return scores_from_json(read_json(path)["whole"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the report of long stories ({error!r})") from error


def step_seconds(folder: Path) -> float | None:
    """The median time of a training step, from the speeds in a run's record; None if it has none.

    (`training.record` is above this package.)
    """
    record, speeds = folder / "run.jsonl", []
    if record.is_file():
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                speeds.append(float(json.loads(line)["steps_per_second"]))
            except (ValueError, KeyError, TypeError):
                continue  # other events, and damaged lines
    return float(np.median([1 / speed for speed in speeds if speed > 0])) if speeds else None


@dataclass
class _Clock:
    """Tells how long the rest of the runs will take, by those that were made this time."""

    runs: int
    jobs: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    def tell(self, seconds: float) -> None:
        """A run is done, which took so many seconds; 0: it was there already."""
        self.done += 1
        self.seconds += [seconds] * (seconds > 0)
        left = self.runs - self.done
        if left and self.seconds:
            minutes = np.mean(self.seconds) * left / min(self.jobs, left) / 60
            print(f"{self.done} of {self.runs} runs done, {minutes:.0f} min left", flush=True)
