"""Batches on the mesh: which rows a process reads, and how they become one array."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from m2dit_jax.parallel.mesh import batch_sharding


def rows_to_read(mesh: Mesh, stories: int) -> list[int]:
    """The rows of a batch that the devices of this process hold.

    Processes whose devices share stories, along `context`, read the same rows.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((stories,)).values()
    return sorted({row for index in indices if index for row in range(stories)[index[0]]})


def on_mesh(batch: Any, rows: Sequence[int], stories: int, mesh: Mesh) -> Any:
    """The global arrays of a batch of which this process has read `rows`."""
    sharding = batch_sharding(mesh)
    place = {row: number for number, row in enumerate(rows)}

    def put(local: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # only of abstract arrays
            wanted = range(stories)[index[0]]
            first = place[wanted[0]]
            return local[first : first + len(wanted)]

        return jax.make_array_from_callback((stories, *local.shape[1:]), sharding, shard)

    return jax.tree.map(put, batch)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch's array that this process has, in their order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
