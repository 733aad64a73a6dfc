"""Periodic work of a training run: means are logged, stories evaluated, checkpoints saved."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from m2dit_jax.data.loader import StallTimer
from m2dit_jax.parallel.mesh import replicated
from m2dit_jax.parallel.processes import gather_errors, is_first, print_once
from m2dit_jax.pipeline.load import of_pixels_run
from m2dit_jax.training import checkpoints
from m2dit_jax.training.metrics import MetricsWriter, ProgressMeter
from m2dit_jax.training.optimizer import learning_rate_schedule
from m2dit_jax.training.quick_evaluation import evaluate_held_out, evaluate_recall
from m2dit_jax.training.run import Run
from m2dit_jax.training.state import RunningMetrics, TrainState
from m2dit_jax.weights import run_folder


class NonFiniteLoss(RuntimeError):
    """A loss or gradient was infinite or not a number."""


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
    manager: ocp.CheckpointManager,
    metrics: MetricsWriter,
    batches: StallTimer[Any],
    first_step: int,
) -> Callable[[TrainState, int, bool], TrainState]:
    """A function (state, step, stopping) -> state that runs the hooks due after a step, in order.

    It raises NonFiniteLoss, before any hook, if a step since the last ones was not finite.
    """
    train = run.config.train
    progress = ProgressMeter(first_step, train.steps)
    hooks: Sequence[Hook] = (
        Hook(train.log_every, lambda state: _log(run, state, metrics, progress, batches)),
        Hook(train.eval_every, lambda state: _evaluate(run, state, metrics, progress)),
        Hook(
            train.checkpoint_every,
            lambda state: _save(run, state, metrics, manager),
            when_stopped=True,
        ),
    )

    def run_hooks(state: TrainState, step: int, stopping: bool) -> TrainState:
        due = [hook for hook in hooks if hook.is_due(step, train.steps, stopping)]
        if due:
            _check_finite(state, run.workdir, manager)
        for hook in due:
            state = hook.function(state)
        return state

    return run_hooks


def _check_finite(state: TrainState, workdir: Path, manager: ocp.CheckpointManager) -> None:
    bad = int(state.metrics.first_bad_step)
    if bad < 0:
        return
    manager.wait_until_finished()  # the last save may still be under way
    good = run_folder.latest_step(workdir)
    raise NonFiniteLoss(
        f"The loss or gradient of step {bad} is not finite. "
        + (
            "There is no checkpoint yet."
            if good is None
            else f"The last good checkpoint is {workdir / run_folder.FOLDER / str(good)}."
        )
        + " The same command would come to the same; try a lower config.train.learning_rate."
    )


def _log(
    run: Run,
    state: TrainState,
    metrics: MetricsWriter,
    progress: ProgressMeter,
    batches: StallTimer[Any],
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
    (values if run.data.datasets else timings)["waiting_share"] = batches.share()
    metrics.write(step, values, timings)
    print_once(line)
    zero = jax.jit(RunningMetrics.zero, out_shardings=replicated(run.program.mesh))
    return state._replace(metrics=zero())


def _evaluate(
    run: Run, state: TrainState, metrics: MetricsWriter, progress: ProgressMeter
) -> TrainState:
    """Evaluates in the first process, on one device: models that can be looked at are small."""
    started, step = time.perf_counter(), int(state.step)
    whole = jax.jit(lambda x: x, out_shardings=replicated(run.program.mesh))(state.averaged)
    if is_first():
        params = jax.tree.map(lambda x: x.addressable_data(0), whole)
        engine, place = of_pixels_run(run.recipe, lambda: params, step), run.workdir
        if run.data.datasets:
            evaluate_recall(engine, run.config, step, place, metrics, run.data.datasets[0])
        else:
            evaluate_held_out(engine, run.config, step, place, metrics)
    # The others wait here: in a collective they would give up after half a minute.
    gather_errors(f"evaluated/{step}", None)
    progress.skip(time.perf_counter() - started)
    return state


def _save(
    run: Run, state: TrainState, metrics: MetricsWriter, manager: ocp.CheckpointManager
) -> TrainState:
    metrics.flush()
    checkpoints.save(manager, state, run.config)
    return state
