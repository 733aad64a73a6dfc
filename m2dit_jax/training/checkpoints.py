"""Checkpoints: `<workdir>/checkpoints/<step>`, each with state and config.

The position in the data needs no saving: it is the number of the step.
"""

from pathlib import Path

import orbax.checkpoint as ocp

from m2dit_jax.config.schema import Config
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.run_folder import FOLDER, damaged


def open_manager(workdir: Path, keep: int) -> ocp.CheckpointManager:
    """A manager that saves in the background and keeps the latest checkpoints.

    A checkpoint has a temporary name until all of it is written.
    """
    return ocp.CheckpointManager(
        (workdir / FOLDER).absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        ),
    )


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    config: Config,
) -> None:
    """Starts to save; when it returns the state is copied and its buffers may be donated."""
    manager.save(
        int(state.step),
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
