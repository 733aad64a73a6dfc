"""Trains and scores several arms that differ in the attention mask alone, with the same budget.

Each run (an arm with a seed) is trained and evaluated by the commands a user would type, in
processes of their own: they can be stopped, and the same comparison started again goes on.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from absl.flags import Error as FlagsError
from absl.flags import FlagValues
from ml_collections import ConfigDict, config_flags

from m2dit_jax.config.files import named_config
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.report import Comparison, Report, read_report
from m2dit_jax.pipeline.load import run_options
from m2dit_jax.utils.files import write_json, write_text
from m2dit_jax.utils.stopping import SIGNALS

ARMS = ("symmetric", "full", "independent")


class RunFailed(RuntimeError):
    """A training or evaluation that ended with an error, which it has printed itself."""


@dataclass(frozen=True)
class ComparedRuns:
    """The runs to compare. `overrides` are flags like --config.train.steps=5 for the training.

    `train_steps` is the number of steps that they make of the config; `evaluate_flags` are flags
    of `m2dit_jax.evaluate`; `jobs` runs go on at the same time.
    """

    config_file: str
    overrides: Sequence[str]
    train_steps: int
    seeds: Sequence[int]
    evaluate_flags: Sequence[str]
    workdir: Path
    jobs: int = 1


def compare(plan: ComparedRuns) -> Comparison:
    """Makes all runs that are not there yet; writes compare.md and compare.json to the workdir.

    Raises RunFailed as soon as a run does, and KeyboardInterrupt when interrupted or terminated;
    the other runs are then told to save and end.
    """
    # Seed by seed, so that what an interrupted comparison has done can be compared.
    runs = [(arm, seed) for seed in plan.seeds for arm in ARMS]
    children = _Children()
    shares: SimpleQueue[set[int]] = SimpleQueue()
    for share in core_shares(plan.jobs):
        shares.put(share)
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        with ThreadPoolExecutor(plan.jobs, initializer=lambda: _pin(shares.get())) as pool:
            reports = {pool.submit(_make_run, plan, children, *run): run for run in runs}
            try:
                for future in as_completed(reports):
                    future.result()
            except BaseException:
                children.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    by_run = {run: future.result() for future, run in reports.items()}
    result = Comparison({arm: {seed: by_run[arm, seed] for seed in plan.seeds} for arm in ARMS})
    write_text(plan.workdir / "compare.md", result.to_markdown())
    write_json(plan.workdir / "compare.json", result.to_json())
    return result


def compare_masks(
    config_file: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    stories: int,
    seed: int,
    chosen: Callable[[SamplingOptions], SamplingOptions],
    option_flags: Sequence[str],
    workdir: Path,
    jobs: int,
) -> Comparison:
    """Checks the config with every mask, then compares them as `compare` does.

    `chosen` makes the sampling options of the evaluations out of those of the config;
    `option_flags` are the flags that say the same. Raises ValueError before the workdir is made.
    """
    config = load_config_file(config_file, overrides)
    for arm in ARMS:
        config.model.mask = arm
        recipe = build_recipe(config)
        chosen(run_options(recipe)).table(recipe.schedule)
    workdir.mkdir(parents=True, exist_ok=True)
    return compare(
        ComparedRuns(
            config_file=config_file,
            overrides=overrides,
            train_steps=config.train.steps,
            seeds=seeds,
            evaluate_flags=[f"--stories={stories}", f"--seed={seed}", *option_flags],
            workdir=workdir,
            jobs=jobs,
        )
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


def core_shares(jobs: int) -> list[set[int]]:
    """The cores that this process may use, dealt out; with more jobs than cores some are shared.

    Two runs that each use all cores would wait for each other in every operation.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    if jobs >= len(cores):
        return [{cores[job % len(cores)]} for job in range(jobs)]
    return [
        set(cores[job * len(cores) // jobs : (job + 1) * len(cores) // jobs]) for job in range(jobs)
    ]


def _raise(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt: the main thread only waits, so that it is not lost."""
    raise KeyboardInterrupt(number)


def _pin(cores: set[int]) -> None:
    """Keeps this thread, and the processes that it starts, on these cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def _make_run(plan: ComparedRuns, children: "_Children", arm: str, seed: int) -> Report:
    folder = plan.workdir / f"{arm}-seed{seed}"
    # The settings are in the name: a report made with others is not taken for this one.
    settings = "".join(flag.replace("--", "-").replace("=", "_") for flag in plan.evaluate_flags)
    path = folder / f"evaluation{settings}.json"
    label = f"{arm}, seed {seed}"
    arm_flags = [f"--config.model.mask={arm}", f"--config.seed={seed}"]
    # A run that is trained to its end returns at once; one of another config is refused.
    children.run(
        label,
        "m2dit_jax.train",
        f"--config={plan.config_file}",
        *plan.overrides,
        *arm_flags,
        f"--workdir={folder}",
    )
    if path.exists() and read_report(path).checkpoint_step == plan.train_steps:
        print(f"[{label}] {path} is there already", flush=True)
    else:
        flags = [f"--checkpoint={folder}", f"--json={path}", *plan.evaluate_flags]
        children.run(label, "m2dit_jax.evaluate", *flags)
    return read_report(path)


class _Children:
    """Processes of `python -m`, whose lines are printed with a label in front."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, label: str, module: str, *flags: str) -> None:
        """Runs to the end. Raises RunFailed unless the status is 0."""
        with self._lock:
            if self._stopped:
                raise RunFailed(f"{label}: not started, since the comparison was stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", module, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()},
                # Ctrl-C is for this process alone, which then tells each child once.
                process_group=0,
            )
            self._running.add(process)
        with process:
            for line in process.stdout or ():
                print(f"[{label}] {line}", end="", flush=True)
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            raise RunFailed(f"{label}: {module} ended with status {process.returncode}")

    def stop(self) -> None:
        """Terminates what runs, which lets a training save, and starts no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _python_path() -> str:
    """PYTHONPATH with the folder of this package, wherever the command was started."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
