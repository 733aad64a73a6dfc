"""Checkpoints of processes that share no disk: the first writes all, each reads a copy of its own.

The state of all devices is brought to the first process leaf by leaf, and has to fit into the
memory of its host. Copies go through a bucket, see `m2dit_jax.utils.remote`.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.options import MultiprocessingOptions

from m2dit_jax.parallel.processes import is_first


def alone() -> MultiprocessingOptions:
    """Options by which this process saves and restores without the others."""
    number = jax.process_index()
    return MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"alone{number}"
    )


def gather(state: Any) -> Any:
    """The whole state as numpy arrays in the first process, None in others; all call it."""

    def whole(leaf: jax.Array) -> np.ndarray | None:
        array = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(array) if is_first() else None

    gathered = jax.tree.map(whole, state)
    return gathered if is_first() else None


def read_state(folder: Path, like: Any) -> Any:
    """The state of a checkpoint's folder, each device's share with the shardings of `like`."""
    options = alone()
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        arrays = checkpointer.restore(folder / "state", args=ocp.args.StandardRestore(target))

    def place(array: np.ndarray, leaf: Any) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    return jax.tree.map(place, arrays, like)


class ManagerApart:
    """The part of a manager that `checkpoints` needs; only the first process has a real one."""

    def __init__(self, directory: Path, manager: ocp.CheckpointManager | None):
        self.directory = directory
        self._manager = manager

    def latest_step(self) -> int | None:
        """Of what was saved; None also in other processes."""
        return self._manager.latest_step() if self._manager else None

    def wait_until_finished(self) -> None:
        """Until the first process has written what it saves; others do not wait."""
        if self._manager:
            self._manager.wait_until_finished()

    def reload(self) -> None:
        """Looks again at what is there."""
        if self._manager:
            self._manager.reload()

    def save(self, step: int, state: Any, config: dict[str, Any]) -> None:
        """Starts to save; all processes call it."""
        whole = gather(state)
        if self._manager:
            parts = {"state": ocp.args.StandardSave(whole), "config": ocp.args.JsonSave(config)}
            self._manager.save(step, args=ocp.args.Composite(**parts))

    def close(self) -> None:
        """Ends what works in the background."""
        if self._manager:
            self._manager.close()
