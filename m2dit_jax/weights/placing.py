"""Arrays of files placed on the devices of several processes, each layer being read once.

A shard of a matrix is a strip of columns in PyTorch's files, of which the disk reads all rows
whole, and in ours a part of a compressed layer. So processes divide the layers among themselves,
and the devices exchange what they need.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from m2dit_jax.weights.lazy import Leaf


def place(leaf: Leaf, sharding: Sharding) -> jax.Array:
    """The array with this sharding; of several processes each reads a part of a stacked one."""
    several = len({device.process_index for device in sharding.device_set}) > 1
    if several and leaf.stacked and isinstance(sharding, NamedSharding):
        return place_layers(leaf, sharding)
    values = leaf.read()
    # device_put would compare the values of all processes
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def place_layers(leaf: Leaf, sharding: NamedSharding) -> jax.Array:
    """The array with this sharding, whose layers lay on one device each before."""
    mesh = sharding.mesh
    layers, devices = len(leaf.pieces), mesh.size
    rows = layer_rows(layers, devices)
    per_device = -(-layers // devices)
    layer_of = {row: layer for layer, row in enumerate(rows)}

    def read(index: Any) -> np.ndarray:
        first = index[0].start or 0
        values = np.zeros((per_device, *leaf.shape[1:]), leaf.dtype)  # some rows are no layer
        for place, row in enumerate(range(first, first + per_device)):
            if row in layer_of:
                values[place] = leaf.pieces[layer_of[row]].read()
        return values

    by_layer = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    shape = (per_device * devices, *leaf.shape[1:])
    spread = jax.make_array_from_callback(shape, by_layer, read)

    def collect(spread: jax.Array) -> jax.Array:
        # First the collective between equal shards, then a choice of rows within each device.
        return jax.lax.with_sharding_constraint(spread, sharding)[np.array(rows)]

    return jax.jit(collect, out_shardings=sharding)(spread)


def layer_rows(layers: int, devices: int) -> list[int]:
    """The row of each layer where every device has as many rows, and as equal a part of them.

    Of 5 layers on 3 devices with 2 rows each, the first has one and the others two: 0 | 2 3 | 4 5.
    """
    per_device = -(-layers // devices)
    firsts = [device * layers // devices for device in range(devices + 1)]
    return [
        device * per_device + layer - firsts[device]
        for device in range(devices)
        for layer in range(firsts[device], firsts[device + 1])
    ]
