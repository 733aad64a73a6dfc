"""Checkpoints: `<workdir>/checkpoints/<step>`, each with state, config and digests of its files.

The position in the data needs no saving: it is the number of the step.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from m2dit_jax.config.schema import Config
from m2dit_jax.parallel.processes import gather_errors, is_first, said_by_first
from m2dit_jax.training.apart import ManagerApart, alone, read_state
from m2dit_jax.training.state import TrainState
from m2dit_jax.utils import digests
from m2dit_jax.utils.compat import checkpoint_manager
from m2dit_jax.utils.disks import writing
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.orbax_files import without_tracebacks
from m2dit_jax.weights.run_folder import FOLDER, damaged

DAMAGED = "damaged_checkpoints"  # beside FOLDER


Manager = ocp.CheckpointManager | ManagerApart


def open_manager(workdir: Path, keep: int, apart: bool = False) -> Manager:
    """A manager that saves in the background and keeps the latest checkpoints.

    A checkpoint has a temporary name until all of it is written; then come its digests. Until
    they are there, which a kill may prevent, it counts as one of an older version, without digests:
    to wait for them would lose it where a preempted machine has half a minute. `apart`: processes
    have workdirs of their own.
    """
    folder = (workdir / FOLDER).absolute()
    if apart and not is_first():
        return ManagerApart(folder, None)
    with writing(folder):
        more = {}
        if apart:
            folder.mkdir(parents=True, exist_ok=True)
            more = {"create": False, "multiprocessing_options": alone()}
        manager = checkpoint_manager(
            folder,
            ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                **more,
            ),
            _write_digests,
        )
        return ManagerApart(folder, manager) if apart else manager


@contextmanager
def manager_of(workdir: Path, keep: int, apart: bool = False) -> Iterator[Manager]:
    """A context with such a manager, at whose end all checkpoints are written.

    Raises OSError as `save` does.
    """
    with without_tracebacks():
        manager = open_manager(workdir, keep, apart)
        try:
            yield manager
            wait(manager)
        finally:
            with suppress(Exception):  # what it says has been raised
                manager.close()


def wait(manager: Manager) -> None:
    """Waits for the checkpoint that is being written. Raises OSError as `save` does."""
    step = manager.latest_step()
    with writing(Path(manager.directory) / ("" if step is None else str(step))):
        manager.wait_until_finished()


def _write_digests(folder: Path) -> None:
    try:
        digests.write_digests(folder)
    except OSError as error:  # the checkpoint itself is whole
        print(f"{folder}: has no digests: {error}", file=sys.stderr)


def save(
    manager: Manager,
    state: TrainState,
    config: Config,
) -> None:
    """Starts to save; when it returns the state is copied and its buffers may be donated.

    Raises OSError, naming the checkpoint, if the disk is full or lost or may not be written to, for
    this one or, as that comes out later, the one before.
    """
    wait(manager)
    step = int(state.step)
    with writing(Path(manager.directory) / str(step)):
        if isinstance(manager, ManagerApart):
            manager.save(step, state, config.to_dict())
            return
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                config=ocp.args.JsonSave(config.to_dict()),
            ),
        )


def compare_together(workdir: Path) -> None:
    """Compares the latest checkpoints with their digests, until one is good, sharing the reading.

    All processes call it, each reads a part, and `latest_good_step` need not read the good one
    again, and finds the same in all: what one cannot read well counts as damaged in each. A process
    alone leaves it to that.
    """
    count = jax.process_count()
    if count == 1:
        return
    said = said_by_first("steps", " ".join(map(str, run_folder.steps(workdir))))
    for step in said.split():
        folder = workdir / FOLDER / step
        found = run_folder.checkpoint_problem(folder, share=(jax.process_index(), count))
        problem = gather_errors(f"compared/{step}", found)
        if problem is None:
            digests.trust(folder)
            return
        run_folder.count_as_damaged(folder, problem.replace("\n", "; "))


def restore_latest(manager: Manager, like: TrainState) -> TrainState | None:
    """The state of the latest good checkpoint, None if there is none.

    `like` has the shapes, dtypes and shardings. Newer checkpoints, which are damaged, are moved to
    DAMAGED, so that their steps can be saved anew. Raises CheckpointError if none is good, or if
    the good one cannot be read. All processes call it.
    """
    workdir = Path(manager.directory).parent
    manager.wait_until_finished()
    step = run_folder.latest_good_step(workdir)
    if isinstance(manager, ManagerApart):
        _check_same_step(workdir, step)
    if step is None:
        return None
    _set_aside(workdir, step)
    manager.reload()
    try:
        if isinstance(manager, ManagerApart):
            return read_state(Path(manager.directory) / str(step), like)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(like)),
        )
    except Exception as error:  # orbax raises just that for truncated files
        raise damaged(Path(manager.directory) / str(step), error) from error
    return restored["state"]


def _check_same_step(workdir: Path, step: int | None) -> None:
    """Raises CheckpointError, in all processes, if not all have a copy of the same checkpoint."""
    first = said_by_first("good step", str(step))
    problem = None
    if first != str(step):
        problem = f"{workdir}: the newest good checkpoint is {step} here, {first} in process 0"
    if problem := gather_errors("good step", problem):
        raise run_folder.CheckpointError(problem)


def _set_aside(workdir: Path, last: int) -> None:
    """Moves the checkpoints of later steps out of the way; the first process does it for all."""
    problem = None
    if is_first():
        try:
            for step in run_folder.steps(workdir):
                if step > last:
                    _move(workdir / FOLDER / str(step), workdir / DAMAGED)
        except OSError as error:
            problem = f"{workdir / FOLDER}: damaged checkpoints cannot be moved ({error})"
    problem = gather_errors("set aside", problem)
    if problem:
        raise run_folder.CheckpointError(problem)


def _move(folder: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    number, place = 1, target / folder.name
    while place.exists():
        number += 1
        place = target / f"{folder.name}.{number}"
    os.replace(folder, place)
    print(f"{folder}: moved to {place}, which nothing needs", file=sys.stderr)
