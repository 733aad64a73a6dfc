"""Periodic work of a training run: means are logged, stories evaluated, checkpoints saved."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from m2dit_jax.data.loader import StallTimer
from m2dit_jax.parallel.mesh import replicated
from m2dit_jax.parallel.processes import (
    gather_errors,
    is_first,
    print_once,
    said_by_first,
)
from m2dit_jax.pipeline.load import of_pixels_run
from m2dit_jax.training import checkpoints
from m2dit_jax.training.metrics import MetricsWriter, ProgressMeter
from m2dit_jax.training.optimizer import learning_rate_schedule
from m2dit_jax.training.quick_evaluation import evaluate_held_out, evaluate_recall
from m2dit_jax.training.record import CHECKPOINT, SPEED, RunRecord
from m2dit_jax.training.run import Run
from m2dit_jax.training.speed import SpeedMeter
from m2dit_jax.training.state import RunningMetrics, TrainState
from m2dit_jax.utils.errors import NotFinite
from m2dit_jax.utils.finite import check_finite
from m2dit_jax.weights import run_folder


class NonFiniteLoss(RuntimeError):
    """The loss or gradient of too many steps in a row was infinite or not a number."""


class CheckpointClock:
    """The seconds since the last checkpoint; the first process's clock is that of all."""

    def __init__(self, seconds: float):
        self._seconds, self._since = seconds, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether there are more than were wanted; all processes ask after the same steps."""
        if not self._seconds:
            return False
        over = time.monotonic() - self._since > self._seconds
        return said_by_first(f"checkpoint/{step}", "due" if over else "") == "due"

    def restart(self) -> None:
        """Begins to count anew."""
        self._since = time.monotonic()


@dataclass(frozen=True)
class Hook:
    """A function from state to state that runs after every so many steps and after the last one.

    `every` 0: never. With `when_stopped` it also runs after the step at which a signal stops the
    run.
    """

    every: int
    function: Callable[[TrainState], TrainState]
    when_stopped: bool = False

    def is_due(self, step: int, last_step: int, stopping: bool) -> bool:
        """Whether it runs after this step."""
        if self.every == 0:
            return False
        return step == last_step or step % self.every == 0 or (stopping and self.when_stopped)


def make_hooks(
    run: Run,
    manager: checkpoints.Manager,
    metrics: MetricsWriter,
    batches: StallTimer[Any],
    record: RunRecord,
    first_step: int,
) -> Callable[[TrainState, int, bool], TrainState]:
    """A function (state, step, stopping) -> state that runs the hooks due after a step, in order.

    It raises NonFiniteLoss, before any hook, once too many steps in a row were not finite.
    """
    train = run.config.train
    progress = ProgressMeter(first_step, train.steps)
    speed = SpeedMeter(run.recipe, list(run.program.mesh.devices.flat))
    clock = CheckpointClock(60 * train.checkpoint_minutes)
    hooks: Sequence[Hook] = (
        Hook(
            train.log_every,
            lambda state: _log(run, state, metrics, progress, batches, speed, record),
        ),
        Hook(train.eval_every, lambda state: _evaluate(run, state, metrics, progress)),
        Hook(
            train.validate_every if run.validation else 0,
            lambda state: _validate(run, state, metrics, progress),
        ),
        Hook(
            train.preview_every if run.previews else 0,
            lambda state: _preview(run, state, metrics, progress),
        ),
        Hook(
            train.checkpoint_every,
            lambda state: _save(run, state, metrics, manager, clock, record),
            when_stopped=True,
        ),
    )

    def run_hooks(state: TrainState, step: int, stopping: bool) -> TrainState:
        due = [hook for hook in hooks if hook.is_due(step, train.steps, stopping)]
        if due:
            _check_finite(run, state, manager)
        for hook in due:
            state = hook.function(state)
        # At lines of metrics only: there the devices are waited for, and processes ask each other.
        if step % train.log_every == 0 and clock.is_due(step):
            state = _save(run, state, metrics, manager, clock, record)
        return state

    return run_hooks


def _check_finite(run: Run, state: TrainState, manager: checkpoints.Manager) -> None:
    first, step = int(state.metrics.first_bad_step), int(state.step)
    in_a_row = step - first + 1 if first >= 0 else 0
    if in_a_row < run.config.train.stop_after_skipped:
        return
    checkpoints.wait(manager)  # the last save may still be under way
    saved = run_folder.latest_step(run.workdir)
    raise NonFiniteLoss(
        f"The loss or gradient of steps {first} to {step} is not finite: {in_a_row} skipped in a "
        "row, as many as config.train.stop_after_skipped allows or more. "
        + (
            "There is no checkpoint yet."
            if saved is None
            else f"The last checkpoint is {run.workdir / run_folder.FOLDER / str(saved)}."
        )
        + " The same command would come to the same; try a lower config.train.learning_rate, which"
        " needs --override."
    )


def _log(
    run: Run,
    state: TrainState,
    metrics: MetricsWriter,
    progress: ProgressMeter,
    batches: StallTimer[Any],
    speed: SpeedMeter,
    record: RunRecord,
) -> TrainState:
    """Writes the means since the last line and returns the state with new sums."""
    sums = jax.device_get(state.metrics)
    step, updates = int(state.step), state.updates
    loss, grad_norm = (float(x / sums.steps) if sums.steps else None for x in sums[:2])
    rate = learning_rate_schedule(run.config.train)(max(updates - 1, 0))
    line, steps_per_second = progress.line(step, loss, step - updates)
    values = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": float(np.asarray(rate)),
    }
    if step > updates:
        values["skipped_steps"] = step - updates
    timings = speed.figures(steps_per_second)
    # Where data are read from files, whether they come in time belongs with the results; shapes
    # are drawn, and their lines are the same in every run.
    waiting_share = batches.share()
    (values if run.data.datasets else timings)["waiting_share"] = waiting_share
    metrics.write(step, values, timings)
    record.add(SPEED, step, **(timings | {"waiting_share": waiting_share}))
    print_once(line)
    zero = jax.jit(RunningMetrics.zero, out_shardings=replicated(run.program.mesh))
    return state._replace(metrics=zero())


def _evaluate(
    run: Run, state: TrainState, metrics: MetricsWriter, progress: ProgressMeter
) -> TrainState:
    """Evaluates in the first process, on one device: models that can be looked at are small."""
    started, step = time.perf_counter(), int(state.step)
    whole = jax.jit(lambda x: x, out_shardings=replicated(run.program.mesh))(
        run.sampled_params(state)
    )
    if is_first():
        params = jax.tree.map(lambda x: x.addressable_data(0), whole)
        engine, place = of_pixels_run(run.recipe, lambda: params, step), run.workdir
        try:
            if run.data.datasets:
                evaluate_recall(engine, run.config, step, place, metrics, run.data.datasets[0])
            else:
                evaluate_held_out(engine, run.config, step, place, metrics)
        except NotFinite as error:  # the weights of a later step may do better
            print_once(f"step {step} evaluation: none, {error}")
    # The others wait here: in a collective they would give up after half a minute.
    gather_errors(f"evaluated/{step}", None)
    progress.skip(time.perf_counter() - started)
    return state


def _validate(
    run: Run, state: TrainState, metrics: MetricsWriter, progress: ProgressMeter
) -> TrainState:
    assert run.validation is not None  # or the hook never is due
    started, step = time.perf_counter(), int(state.step)
    values = run.validation(run.sampled_params(state))
    metrics.write(step, values)
    losses = "  ".join(
        f"{name.split('/')[1]} {value:.4f}" for name, value in values.items() if "loss" in name
    )
    print_once(f"step {step} validation  {losses}")
    progress.skip(time.perf_counter() - started)
    return state


def _preview(
    run: Run, state: TrainState, metrics: MetricsWriter, progress: ProgressMeter
) -> TrainState:
    """Samples on all devices; the first process decodes and writes, and the others wait."""
    assert run.previews is not None  # or the hook never is due
    started, step = time.perf_counter(), int(state.step)
    latents = run.previews.latents(run.sampled_params(state))
    if is_first():
        folder = run.workdir / "previews"
        try:
            check_finite("latents", latents)
            sheet, captions, video = run.previews.write(folder, step, latents)
        except NotFinite as error:  # the weights of a later step may do better
            print_once(f"step {step} preview: none, {error}")
        else:
            metrics.write_image(step, "preview/stories", np.asarray(sheet), captions)
            metrics.write_video(step, "preview/stories/video", video, run.config.sample.fps)
            print_once(f"step {step} preview: {folder}/stories_{step:06}.png")
    gather_errors(f"previewed/{step}", None)
    progress.skip(time.perf_counter() - started)
    return state


def _save(
    run: Run,
    state: TrainState,
    metrics: MetricsWriter,
    manager: checkpoints.Manager,
    clock: CheckpointClock,
    record: RunRecord,
) -> TrainState:
    metrics.flush()
    checkpoints.save(manager, state, run.config)
    record.add(CHECKPOINT, int(state.step))
    clock.restart()
    return state
