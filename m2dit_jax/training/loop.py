"""Training from the first step or the latest checkpoint to the last step, with evaluations."""

import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from m2dit_jax.config.recipe import Recipe, build_recipe
from m2dit_jax.data.loader import Waiting, on_devices
from m2dit_jax.parallel.batches import local_rows, on_mesh, rows_to_read
from m2dit_jax.parallel.mesh import make_mesh, replicated
from m2dit_jax.parallel.processes import gather_errors, is_first
from m2dit_jax.parallel.rules import sharding_table
from m2dit_jax.pipeline.load import of_pixels_run
from m2dit_jax.training import checkpoints
from m2dit_jax.training.data import TrainingData, open_training_data
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.interrupt import StopOnSignal
from m2dit_jax.training.metrics import DiscardedMetrics, MetricsWriter, Progress, duration
from m2dit_jax.training.optimizer import learning_rate_schedule
from m2dit_jax.training.preview import write_first_batch
from m2dit_jax.training.profiling import StepsTrace, named_step
from m2dit_jax.training.program import TrainProgram, make_train_program
from m2dit_jax.training.quick_evaluation import evaluate_held_out, evaluate_recall
from m2dit_jax.training.state import RunningMetrics, TrainState
from m2dit_jax.training.workdir import check_same_config, only_run_in
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.run_folder import CheckpointError

# How many steps may be waiting for the devices: enough to keep them busy, but a signal that asks to
# stop is heeded only after them, and a preempted machine has half a minute.
STEPS_AHEAD = 2


def say(text: str) -> None:
    """Prints, once for all processes."""
    if is_first():
        print(text, flush=True)


class NonFiniteLoss(RuntimeError):
    """A loss or gradient was infinite or not a number."""


@dataclass(frozen=True)
class Run:
    """A training run, checked and compiled; nothing of it is written yet."""

    recipe: Recipe
    workdir: Path
    program: TrainProgram
    data: TrainingData
    seed_key: Key[Array, ""]
    first_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Key[Array, ""], Any], TrainState]
    profile_steps: int = 0
    """Steps to trace, soon after the start."""

    @property
    def config(self) -> ConfigDict:
        return self.recipe.config


def prepare(config: ConfigDict, workdir: Path, profile_steps: int = 0) -> Run | None:
    """The run to go on with, None if it is finished.

    Raises ValueError for a config that cannot be or that is not the workdir's.
    """
    recipe = build_recipe(config)
    mesh = make_mesh(config.mesh)
    check_same_config(config, workdir)
    if run_folder.latest_step(workdir) == config.train.steps:
        say(f"{workdir}: nothing to do, all {config.train.steps} steps are done")
        say(_next_commands(workdir, config.data.source))
        return None
    if config.train.init_from and run_folder.latest_step(workdir) is None:
        check_init_from(recipe)
    data = open_training_data(recipe)

    program = make_train_program(recipe, mesh, data.empty_prompt, data.latent_scale)
    init_key, seed_key = _keys(config.seed, mesh)
    first_state = make_first_state(recipe, program.optimizer, init_key, program.state)
    # Ahead of the first step, as tracing also finds what is wrong with a config: unknown names.
    compiled = {_shapes(batch): program.lower(batch).compile() for batch in data.batch_shapes}

    def train_step(state: TrainState, key: Key[Array, ""], batch: Any) -> TrainState:
        return compiled[_shapes(batch)](state, key, batch)

    return Run(recipe, workdir, program, data, seed_key, first_state, train_step, profile_steps)


def show_sharding(config: ConfigDict) -> str:
    """What of the state the devices of `config.mesh` hold. Raises ValueError as `prepare` does."""
    recipe, mesh = build_recipe(config), make_mesh(config.mesh)
    return sharding_table(state_shapes(recipe, recipe.optimizer()), mesh)


def train_and_evaluate(run: Run) -> signal.Signals | None:
    """Trains on to the last step; returns the signal if one stopped it before.

    Raises CheckpointError if the workdir is in use or cannot be written to, or its latest
    checkpoint is damaged, and NonFiniteLoss.
    """
    train, mesh = run.config.train, run.program.mesh
    with ExitStack() as stack:
        _take_workdir(run, stack)
        manager = checkpoints.open_manager(run.workdir, train.keep_checkpoints)
        stack.enter_context(closing(manager))
        state = _first_or_restored_state(run, manager)
        first_step = step = int(state.step)
        _say_start(run, state)
        started = time.perf_counter()
        writer = MetricsWriter if is_first() else DiscardedMetrics
        with closing(writer(run.workdir, step)) as metrics, StopOnSignal() as stop:
            progress = Progress(step, train.steps)
            rows = rows_to_read(mesh, train.batch_size)
            batches = Waiting(
                on_devices(
                    run.data.batches(step, rows),
                    lambda batch: on_mesh(batch, rows, train.batch_size, mesh),
                ),
                lambda: not cast(Any, state.step).is_ready(),
            )
            profile = StepsTrace(run.workdir / "profile", run.profile_steps, step)
            stack.enter_context(closing(profile))
            under_way: deque[Array] = deque()
            stopping = False
            while step < train.steps and not stopping:
                profile.before(step)
                batch = next(batches)
                if step == 0 and is_first():
                    shown = jax.tree.map(local_rows, batch)
                    write_first_batch(run.workdir / "first_batch.png", shown, run.recipe)
                with named_step("train", step):
                    state = run.train_step(state, run.seed_key, batch)
                profile.after(step, state)
                under_way.append(jnp.copy(state.step))  # the state's own is given to the next step
                if len(under_way) > STEPS_AHEAD:
                    under_way.popleft().block_until_ready()
                step += 1

                stopping = stop.asked(step)
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
    place = run.workdir / run_folder.FOLDER / str(step)
    if step < train.steps:
        say(f"Stopped. Step {step} is saved in {place}; the same command goes on from there.")
        return stop.received
    steps, seconds = step - first_step, time.perf_counter() - started
    say(f"Done: {steps} steps in {duration(seconds)}. Step {step} is saved in {place}")
    say(_next_commands(run.workdir, run.config.data.source))
    return None


# --- before the first step


def _keys(seed: int, mesh: Mesh) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys of the first state and of the steps, on all devices."""
    return jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(seed))), out_shardings=replicated(mesh)
    )()


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in batch)


def _take_workdir(run: Run, stack: ExitStack) -> None:
    """Raises CheckpointError, in all processes, if another run has the workdir."""
    problem = None
    if is_first():
        try:
            stack.enter_context(only_run_in(run.workdir))
            # Again, as another run may have come and gone since `prepare`.
            check_same_config(run.config, run.workdir)
        except ValueError as error:
            problem = str(error)
    problem = gather_errors("workdir", problem)
    if problem:
        raise CheckpointError(problem)


def _first_or_restored_state(run: Run, manager: ocp.CheckpointManager) -> TrainState:
    restored = checkpoints.restore_latest(manager, run.program.state)
    return run.first_state() if restored is None else restored


def _say_start(run: Run, state: TrainState) -> None:
    config = run.config
    mesh = run.program.mesh
    devices = mesh.devices.flatten()
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    stories = config.train.batch_size
    say(f"workdir     {run.workdir}")
    say(f"devices     {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
    if jax.process_count() > 1:
        say(f"processes   {jax.process_count()}")
    say(f"parameters  {parameters:,}")
    say(f"steps       {int(state.step)} of {config.train.steps} done, {stories} stories each")


# --- at some steps


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
    zero = jax.jit(RunningMetrics.zero, out_shardings=replicated(run.program.mesh))
    return state._replace(metrics=zero())


def _evaluate(run: Run, state: TrainState, metrics: MetricsWriter, progress: Progress) -> None:
    """The first process evaluates, on one device: models that can be looked at are small."""
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


def _next_commands(workdir: Path, source: str) -> str:
    storyboard, model = "lone_actor", ""
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
