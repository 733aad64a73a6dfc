"""Training from the first step or the latest checkpoint to the last step, with evaluations."""

import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from m2dit_jax.data.loader import Waiting, on_devices
from m2dit_jax.evaluation.accuracy import StoryBatch, evaluate_stories
from m2dit_jax.evaluation.recall import recall_stories, training_stories
from m2dit_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from m2dit_jax.recipe import Recipe, build_recipe
from m2dit_jax.story_sampler import StorySampler
from m2dit_jax.training import checkpoints
from m2dit_jax.training.checkpoints import CheckpointError
from m2dit_jax.training.data import TrainingData, open_training_data
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.interrupt import StopOnSignal
from m2dit_jax.training.metrics import MetricsWriter, Progress, duration
from m2dit_jax.training.optimizer import learning_rate_schedule
from m2dit_jax.training.preview import write_first_batch, write_preview, write_recall
from m2dit_jax.training.state import RunningMetrics, TrainState
from m2dit_jax.training.step import make_train_step

say = partial(print, flush=True)


class NonFiniteLoss(RuntimeError):
    """A loss or gradient was infinite or not a number."""


@dataclass(frozen=True)
class Run:
    """A training run, checked and compiled; nothing of it is written yet."""

    recipe: Recipe
    workdir: Path
    mesh: Mesh
    data: TrainingData
    sampler: StorySampler
    seed_key: Key[Array, ""]
    state_shapes: TrainState
    first_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Key[Array, ""], Any], TrainState]

    @property
    def config(self) -> ConfigDict:
        return self.recipe.config


def prepare(config: ConfigDict, workdir: Path) -> Run | None:
    """The run to go on with, None if it is finished.

    Raises ValueError for a config that cannot be or that is not the workdir's.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"training runs in one process so far, but there are {jax.process_count()}"
        )
    recipe = build_recipe(config)
    mesh = make_mesh(config.mesh)
    _check_batch(config, mesh)
    _check_same_config(config, workdir)
    if checkpoints.latest_step(workdir) == config.train.steps:
        say(f"{workdir}: nothing to do, all {config.train.steps} steps are done")
        say(_next_commands(workdir, config.data.source))
        return None
    if config.train.init_from and checkpoints.latest_step(workdir) is None:
        check_init_from(recipe)
    data = open_training_data(recipe)
    sampler = StorySampler(recipe)

    optimizer = recipe.optimizer()
    everywhere, cut = replicated(mesh), batch_sharding(mesh)
    keys = tuple(jax.random.split(jax.random.key(config.seed)))
    init_key, seed_key = jax.device_put(keys, everywhere)
    shapes = state_shapes(recipe, optimizer)
    first_state = make_first_state(recipe, optimizer, init_key, everywhere)
    step = make_train_step(
        recipe.graphdef,
        optimizer,
        recipe.schedule,
        data.empty_prompt,
        recipe.step_config(),
        data.latent_scale,
    )
    jitted = jax.jit(
        step,
        in_shardings=(everywhere, everywhere, cut),
        out_shardings=everywhere,
        donate_argnums=0,
    )
    # Ahead of the first step, as tracing also finds what is wrong with a config: unknown names.
    compiled = {
        _shapes(batch): jitted.lower(shapes, seed_key, batch).compile()
        for batch in data.batch_shapes
    }

    def train_step(state: TrainState, key: Key[Array, ""], batch: Any) -> TrainState:
        return compiled[_shapes(batch)](state, key, batch)

    return Run(recipe, workdir, mesh, data, sampler, seed_key, shapes, first_state, train_step)


def train_and_evaluate(run: Run) -> signal.Signals | None:
    """Trains on to the last step; returns the signal if one stopped it before.

    Raises CheckpointError if the workdir is in use or cannot be written to, or its latest
    checkpoint is damaged, and NonFiniteLoss.
    """
    train = run.config.train
    with (
        _only_process_in(run.workdir),
        closing(checkpoints.open_manager(run.workdir, train.keep_checkpoints)) as manager,
    ):
        # Again, as another run may have come and gone since `prepare`.
        _check_same_config(run.config, run.workdir)
        state = _first_or_restored_state(run, manager)
        first_step = step = int(state.step)
        _say_start(run, state)
        started = time.perf_counter()
        with closing(MetricsWriter(run.workdir, step)) as metrics, StopOnSignal() as stop:
            progress = Progress(step, train.steps)
            batches = Waiting(
                on_devices(run.data.batches(step), lambda batch: _on_devices(batch, run.mesh)),
                lambda: not cast(Any, state.step).is_ready(),
            )
            stopping = False
            while step < train.steps and not stopping:
                batch = next(batches)
                if step == 0:
                    write_first_batch(run.workdir / "first_batch.png", batch, run.recipe)
                state = run.train_step(state, run.seed_key, batch)
                step += 1

                stopping = stop.received is not None
                last = step == train.steps
                log = last or step % train.log_every == 0
                evaluate = train.eval_every > 0 and (last or step % train.eval_every == 0)
                save = last or stopping or step % train.checkpoint_every == 0
                if log or evaluate or save:
                    _check_finite(state, run.workdir, manager)
                if log:
                    state = _log(run, state, metrics, progress, batches.share())
                if evaluate:
                    _evaluate(run, state, metrics, progress)
                if save:
                    metrics.flush()
                    checkpoints.save(manager, state, run.config)
            manager.wait_until_finished()
    place = run.workdir / checkpoints.FOLDER / str(step)
    if step < train.steps:
        say(f"Stopped. Step {step} is saved in {place}; the same command goes on from there.")
        return stop.received
    steps, seconds = step - first_step, time.perf_counter() - started
    say(f"Done: {steps} steps in {duration(seconds)}. Step {step} is saved in {place}")
    say(_next_commands(run.workdir, run.config.data.source))
    return None


# --- before the first step


def _check_batch(config: ConfigDict, mesh: Mesh) -> None:
    part = config.train.batch_size // config.train.accumulate
    if part % mesh.shape["data"]:
        raise ValueError(
            f"config.train.batch_size / config.train.accumulate must be a multiple of the "
            f"{mesh.shape['data']} devices along config.mesh.data, got {part}"
        )


def _check_same_config(config: ConfigDict, workdir: Path) -> None:
    """Raises ValueError, with the fields that differ, if the workdir's run has another config."""
    if checkpoints.latest_step(workdir) is None:
        return
    there, here = (_flat(c.to_dict()) for c in (checkpoints.load_config(workdir), config))
    absent = "no such field"
    differing = [
        f"  config.{field}: there {there.get(field, absent)!r}, here {here.get(field, absent)!r}"
        for field in sorted(there.keys() | here.keys())
        if there.get(field, absent) != here.get(field, absent)
    ]
    if differing:
        raise ValueError(
            "\n".join([f"{workdir} holds a run with another config:", *differing])
            + "\nUse another --workdir, or the same config to go on. (More steps are another config"
            " too: the learning rate of every step depends on their number.)"
        )


def _flat(fields: dict, prefix: str = "") -> dict:
    """One level, with names such as train.steps."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in batch)


@contextmanager
def _only_process_in(workdir: Path) -> Iterator[None]:
    """Makes the workdir and keeps other processes from training in it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise CheckpointError(f"{workdir}: {error.strerror}; needs a folder to write to") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{workdir}: another process is training there") from error
        yield


def _first_or_restored_state(run: Run, manager: ocp.CheckpointManager) -> TrainState:
    like = checkpoints.with_sharding(run.state_shapes, replicated(run.mesh))
    restored = checkpoints.restore_latest(manager, like)
    return run.first_state() if restored is None else restored


def _say_start(run: Run, state: TrainState) -> None:
    config = run.config
    devices = run.mesh.devices.flatten()
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    stories = config.train.batch_size
    say(f"workdir     {run.workdir}")
    say(f"devices     {len(devices)} x {devices[0].device_kind}, mesh {dict(run.mesh.shape)}")
    say(f"parameters  {parameters:,}")
    say(f"steps       {int(state.step)} of {config.train.steps} done, {stories} stories each")


# --- at some steps


def _on_devices(batch: Any, mesh: Mesh) -> Any:
    cut = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(cut, x), batch)


def _check_finite(state: TrainState, workdir: Path, manager: ocp.CheckpointManager) -> None:
    bad = int(state.metrics.first_bad_step)
    if bad < 0:
        return
    manager.wait_until_finished()  # the last save may still be under way
    good = checkpoints.latest_step(workdir)
    raise NonFiniteLoss(
        f"The loss or gradient of step {bad} is not finite. "
        + (
            "There is no checkpoint yet."
            if good is None
            else f"The last good checkpoint is {workdir / checkpoints.FOLDER / str(good)}."
        )
        + " The same command would come to the same; try a lower config.train.learning_rate."
    )


def _log(
    run: Run, state: TrainState, metrics: MetricsWriter, progress: Progress, waiting: float
) -> TrainState:
    """Writes the means since the last line and returns the state with new sums."""
    sums = jax.device_get(state.metrics)
    step = int(state.step)
    loss = float(sums.loss / sums.steps)
    rate = learning_rate_schedule(run.config.train)(step - 1)
    line, steps_per_second = progress.line(step, loss)
    values = {
        "loss": loss,
        "grad_norm": float(sums.grad_norm / sums.steps),
        "learning_rate": float(np.asarray(rate)),
    }
    timings = {"steps_per_second": steps_per_second}
    # Where data are read from files, whether they come in time belongs with the results; shapes
    # are drawn, and their lines are the same in every run.
    (values if run.data.datasets else timings)["waiting_share"] = waiting
    metrics.write(step, values, timings)
    say(line)
    return state._replace(metrics=jax.device_put(RunningMetrics.zero(), replicated(run.mesh)))


def _evaluate(run: Run, state: TrainState, metrics: MetricsWriter, progress: Progress) -> None:
    """Scores and shows held-out stories sampled with the averaged weights."""
    started = time.perf_counter()
    # Every device has all of them; one is enough for so few stories.
    params = jax.tree.map(lambda x: x.addressable_data(0), state.averaged)
    step, values = int(state.step), {}
    if run.data.datasets:
        _recall(run, params, step, metrics)
        progress.skip(time.perf_counter() - started)
        return
    for task in ("generation", "extension"):
        batches: list[StoryBatch] = []
        scores = evaluate_stories(
            run.recipe,
            params,
            num_stories=run.config.train.eval_stories,
            extension=task == "extension",
            seed=run.config.seed,
            sampler=run.sampler,
            progress=batches.append,
        )
        values |= {f"{task}/{name}": score.value for name, score in scores.items()}
        if task == "generation":
            folder = run.workdir / "previews"
            sheet = write_preview(folder, step, batches[0], run.config.sample.fps)
            metrics.write_image(step, "preview", np.asarray(sheet))
        shares = "  ".join(
            f"{name} {score.value:.0%}" for name, score in scores.items() if score.value is not None
        )
        say(f"step {step} {task:10}  {shares}")
    metrics.write(step, values)
    progress.skip(time.perf_counter() - started)


def _recall(run: Run, params: Any, step: int, metrics: MetricsWriter) -> None:
    """Shows what the prompts of the first training stories bring back."""
    config = run.config
    clips = training_stories(run.data.datasets[:1], config.data.scenes, config.train.eval_stories)
    recalled = recall_stories(run.recipe, params, clips, config.seed, run.sampler)
    folder = run.workdir / "previews"
    sheet = write_recall(folder, step, clips, recalled, config.sample.fps)
    metrics.write_image(step, "preview", np.asarray(sheet))
    value = float(recalled.psnr.mean())
    metrics.write(step, {"recall/psnr": value})
    say(f"step {step} PSNR of {len(clips)} training stories from their prompts: {value:.1f} dB")


def _next_commands(workdir: Path, source: str) -> str:
    storyboard, model = "configs/storyboards/lone_actor.yaml", ""
    if source != "shapes":
        storyboard = "FILE"
    if source == "latents":
        model = " --model=FOLDER"
    commands = [
        f"  python -m m2dit_jax.sample --checkpoint={workdir}{model} --storyboard={storyboard} "
        f"--output={workdir}/sample"
    ]
    if source != "latents":
        commands.append(
            f"  python -m m2dit_jax.evaluate --checkpoint={workdir} --json={workdir}/report.json"
        )
    return "\n".join(["Next:", *commands])
