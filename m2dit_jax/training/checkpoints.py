"""Checkpoints: `<workdir>/checkpoints/<step>`, each with state and config.

The position in the data needs no saving: it is the number of the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orbax.checkpoint as ocp

from m2dit_jax.config.schema import Config
from m2dit_jax.training.state import TrainState
from m2dit_jax.utils.disks import writing
from m2dit_jax.weights.orbax_files import without_tracebacks
from m2dit_jax.weights.run_folder import FOLDER, damaged


def open_manager(workdir: Path, keep: int) -> ocp.CheckpointManager:
    """A manager that saves in the background and keeps the latest checkpoints.

    A checkpoint has a temporary name until all of it is written.
    """
    folder = (workdir / FOLDER).absolute()
    with writing(folder):
        return ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )


@contextmanager
def manager_of(workdir: Path, keep: int) -> Iterator[ocp.CheckpointManager]:
    """A context with such a manager, at whose end all checkpoints are written.

    Raises OSError as `save` does.
    """
    with without_tracebacks():
        manager = open_manager(workdir, keep)
        try:
            yield manager
            wait(manager)
        finally:
            with suppress(Exception):  # what it says has been raised
                manager.close()


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits for the checkpoint that is being written. Raises OSError as `save` does."""
    step = manager.latest_step()
    with writing(Path(manager.directory) / ("" if step is None else str(step))):
        manager.wait_until_finished()


def save(
    manager: ocp.CheckpointManager,
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
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                config=ocp.args.JsonSave(config.to_dict()),
            ),
        )


def restore_latest(manager: ocp.CheckpointManager, like: TrainState) -> TrainState | None:
    """The state of the latest checkpoint, None if there is none.

    `like` has the shapes, dtypes and shardings. Raises CheckpointError if it is damaged.
    """
    step = manager.latest_step()
    if step is None:
        return None
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(like)),
        )
    except Exception as error:  # orbax raises just that for truncated files
        raise damaged(Path(manager.directory) / str(step), error) from error
    return restored["state"]
