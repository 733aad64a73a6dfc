"""Training from the first step or the latest checkpoint to the last step."""

import signal
import time
from collections import deque
from contextlib import ExitStack, closing
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array

from m2dit_jax import __version__
from m2dit_jax.config.schema import Config
from m2dit_jax.data.loader import StallTimer, on_devices
from m2dit_jax.parallel.batches import local_rows, on_mesh, rows_to_read
from m2dit_jax.parallel.processes import gather_errors, is_first, print_once, said_by_first
from m2dit_jax.training import checkpoints
from m2dit_jax.training.data_identity import check_same_data, describe, fingerprints
from m2dit_jax.training.hooks import make_hooks
from m2dit_jax.training.interrupt import StopOnSignal
from m2dit_jax.training.metrics import DiscardedMetrics, MetricsWriter, duration
from m2dit_jax.training.preview import write_first_batch
from m2dit_jax.training.profiling import StepsTrace, named_step
from m2dit_jax.training.record import READY, START, RunRecord, read_record
from m2dit_jax.training.run import Run, next_commands
from m2dit_jax.training.speed import goodput, restart_costs
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.wandb_writer import WandbWriter
from m2dit_jax.training.workdir import check_resume, only_run_in
from m2dit_jax.utils.machine import process_started
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.adapted_run import keep_base
from m2dit_jax.weights.latent_scale import keep_scaling_factor
from m2dit_jax.weights.run_folder import CheckpointError

# How many steps may be waiting for the devices: enough to keep them busy, but a signal that asks to
# stop is heeded only after them, and a preempted machine has half a minute.
STEPS_AHEAD = 2


def train_and_evaluate(run: Run) -> signal.Signals | None:
    """Trains on to the last step; returns the signal if one stopped it before.

    Raises CheckpointError if the workdir is in use or cannot be written to, or its latest
    checkpoint is damaged, and NonFiniteLoss.
    """
    last_step = run.config.train.steps
    with ExitStack() as stack:
        changed = _take_workdir(run, stack)
        manager = stack.enter_context(
            checkpoints.manager_of(run.workdir, run.config.train.keep_checkpoints, run.apart)
        )
        state = _first_or_restored_state(run, manager)
        first_step = step = int(state.step)
        _print_start(run, state, changed)
        record = RunRecord(run.workdir)
        record.add(
            START,
            step,
            changed=changed,
            data=fingerprints(run.data.datasets, run.config.data.source),
            datasets=describe(run.data.datasets),
            **({} if run.frozen is None else {run.frozen.kind: run.frozen.recorded}),
            version=__version__,
            process_started=process_started(),
        )
        started = time.perf_counter()
        metrics = stack.enter_context(closing(_open_metrics(run, step)))
        stop = stack.enter_context(StopOnSignal())
        trace = StepsTrace(run.workdir / "profile", run.profile_steps, step)
        stack.enter_context(closing(trace))
        batches = StallTimer(
            _batches_from(run, step), is_busy=lambda: not cast(Any, state.step).is_ready()
        )
        run_hooks = make_hooks(run, manager, metrics, batches, record, step)
        pending = _PendingSteps()

        stopping = False
        while step < last_step and not stopping:
            trace.before(step)
            batch = next(batches)
            if step == 0:
                _show_first_batch(run, batch)
            with named_step("train", step):
                state = run.train_step(state, run.seed_key, batch)
            trace.after(step, state)
            pending.add(state)
            step += 1
            if step == first_step + 1:
                jax.block_until_ready(state.step)
                _record_restart(record, step, metrics)
            stopping = stop.asked(step)
            state = run_hooks(state, step, stopping)
        checkpoints.wait(manager)
        _tell_goodput(record, step, metrics)

    place = run.workdir / run_folder.FOLDER / str(step)
    if step < last_step:
        print_once(
            f"Stopped. Step {step} is saved in {place}; the same command goes on from there."
        )
        return stop.received
    steps, seconds = step - first_step, time.perf_counter() - started
    print_once(f"Done: {steps} steps in {duration(seconds)}. Step {step} is saved in {place}")
    print_once(next_commands(run.workdir, run.config))
    return None


class _PendingSteps:
    """The steps that the devices have not finished, of which there may be STEPS_AHEAD."""

    def __init__(self):
        self._counters: deque[Array] = deque()

    def add(self, state: TrainState) -> None:
        """Waits, if there are too many, until the oldest is finished."""
        self._counters.append(jnp.copy(state.step))  # the state's own is given to the next step
        if len(self._counters) > STEPS_AHEAD:
            self._counters.popleft().block_until_ready()


def _open_metrics(run: Run, step: int) -> MetricsWriter:
    if not is_first():
        return DiscardedMetrics()
    mode = run.config.train.wandb
    others = [] if mode == "off" else [WandbWriter(run.workdir, mode)]
    metrics = MetricsWriter(run.workdir, step, others)
    metrics.write_text(step, "config", _config_text(run.config))
    return metrics


def _config_text(config: Config) -> str:
    """All fields of the config as a block of Markdown."""
    fields = flatten_dict(config.to_dict(), sep=".")
    return "\n".join(f"    {name}: {value!r}" for name, value in fields.items())


def _record_restart(record: RunRecord, step: int, metrics: MetricsWriter) -> None:
    """Records that the first step is done, and of a run that goes on what restarts have cost."""
    record.add(READY, step)
    costs = restart_costs(record.lines)
    if costs["restarts"]:
        metrics.write_timings(step, {f"restarts/{name}": value for name, value in costs.items()})
        print_once(
            f"restarts    {costs['restarts']:.0f} so far: {duration(costs['lost_seconds'])} of work"
            f" lost, {duration(costs['start_seconds'])} to start, "
            f"{duration(costs['stopped_seconds'])} stopped"
        )
        _tell_goodput(record, step, metrics)


def _tell_goodput(record: RunRecord, step: int, metrics: MetricsWriter) -> None:
    share = goodput(record.lines, time.time())
    if share is not None:
        metrics.write_timings(step, {"goodput": share})
        print_once(f"goodput     {share:.1%} of the run's time so far went into steps that count")


def _take_workdir(run: Run, stack: ExitStack) -> dict[str, list[Any]]:
    """Locks the workdir and returns the fields that are others than before, in the first process.

    Raises CheckpointError, in all processes, if another run has it.
    """
    problem, changed = None, {}
    mine = ", ".join(fingerprints(run.data.datasets, run.config.data.source))
    first = said_by_first("data", mine)
    if first != mine:
        problem = (
            f"config.data.paths: process 0 found data with the fingerprints {first}, this one "
            f"{mine}; needs the same on all hosts"
        )
    if is_first():
        try:
            stack.enter_context(only_run_in(run.workdir))
            # Again, as another run may have come and gone since `prepare`.
            changed = check_resume(run.config, run.workdir, run.override)
            check_same_data(
                run.data.datasets, read_record(run.workdir), run.workdir, run.config.data.source
            )
            if run.config.data.source == "latents":
                keep_scaling_factor(run.workdir, run.data.latent_scale)
            if run.frozen is not None and run.frozen.kind == "base":
                keep_base(run.workdir, run.frozen.place, run.frozen.fingerprint)
        except ValueError as error:
            problem = str(error)
    problem = gather_errors("workdir", problem)
    if problem:
        raise CheckpointError(problem)
    return changed


def _first_or_restored_state(run: Run, manager: checkpoints.Manager) -> TrainState:
    restored = checkpoints.restore_latest(manager, run.program.state)
    return run.first_state() if restored is None else restored


def _batches_from(run: Run, step: int) -> Any:
    """The batches from a step on, each copied to the devices ahead of its step."""
    mesh, stories = run.program.mesh, run.config.train.batch_size
    rows = rows_to_read(mesh, stories)
    return on_devices(
        run.data.batches(step, rows), lambda batch: on_mesh(batch, rows, stories, mesh)
    )


def _show_first_batch(run: Run, batch: Any) -> None:
    if is_first():
        shown = jax.tree.map(local_rows, batch)
        write_first_batch(run.workdir / "first_batch.png", shown, run.recipe)


def _print_start(run: Run, state: TrainState, changed: dict[str, list[Any]]) -> None:
    config, mesh = run.config, run.program.mesh
    devices = mesh.devices.flatten()
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    stories = config.train.batch_size
    print_once(f"workdir     {run.workdir}")
    print_once(f"devices     {len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}")
    if jax.process_count() > 1:
        print_once(f"processes   {jax.process_count()}")
    print_once(f"parameters  {parameters:,}")
    print_once(
        f"steps       {int(state.step)} of {config.train.steps} done, {stories} stories each"
    )
    for name, (there, here) in changed.items():
        print_once(f"changed     config.{name}: before {there!r}, now {here!r}")
