"""The device mesh: its axes, their sizes, and which device stands where."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from m2dit_jax.parallel.heads import HeadShares, story_devices

# From the slowest network to the fastest. Stories are sharded along the first two, the tokens of a
# story along `context`, parameters and what belongs to them along the last two.
AXES = ("data", "fsdp", "context")
STORIES = ("data", "fsdp")
TOKENS = "context"
PARAMETERS = ("fsdp", "context")


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices with the sizes of `config.mesh`; one may be -1, the rest.

    Slices of TPUs and nodes of GPUs, between which the network is slow, divide along `data`, and
    if that is too small along `fsdp`. Raises ValueError if the sizes do not multiply to the number
    of devices, or if a story would be sharded over slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(axes, len(devices))
    # Auto: the compiler derives the shardings inside; explicit axes would refuse reshapes.
    kinds = (AxisType.Auto,) * len(AXES)
    return Mesh(arrange(devices, sizes), AXES, axis_types=kinds)


def story_mesh(heads: int, count: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh for sampling one story: its tokens are sharded over `count` devices.

    The default are as many as the attention's heads are shared well by (`story_devices`); in a run
    of several processes all, as each needs its own. Raises ValueError if there are fewer devices.
    """
    devices = jax.devices() if devices is None else devices
    if count is None:
        several = len({device.process_index for device in devices}) > 1
        count = len(devices) if several else story_devices(heads, len(devices))
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"a mesh of {count} devices for a story: needs a number from 1 to the {len(devices)} "
            "that there are"
        )
    if count == len(devices):
        return make_mesh({"data": 1, "fsdp": 1, "context": count}, devices)
    # Some of a TPU's chips are no torus that could be arranged.
    kinds = (AxisType.Auto,) * len(AXES)
    return Mesh(np.array(devices[:count]).reshape(1, 1, count), AXES, axis_types=kinds)


def story_mesh_line(mesh: Mesh, heads: int, available: int) -> str:
    """The line that says over how many devices a story is sharded, and why not over all."""
    used = mesh.shape[TOKENS]
    shares = str(HeadShares.of(heads, used))
    line = f"a story on {used} of {available} devices"
    if used == story_devices(heads, available) < available:
        line += f" (more would not share the transformer's {heads} heads; --mesh=N has N)"
    return f"{line}, {shares}" if shares else line


def mesh_sizes(axes: Mapping[str, int], devices: int) -> tuple[int, ...]:
    """The sizes of `config.mesh` in the order of AXES, the -1 replaced.

    Raises ValueError, as for `make_mesh`.
    """
    sizes = [axes[name] for name in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"config.mesh must hold sizes of at least 1 and at most one -1, got {_named(sizes)}"
        )
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // known, 1)
    if math.prod(sizes) != devices:
        raise ValueError(
            f"config.mesh {_named(sizes)} needs {math.prod(sizes)} devices, but there are {devices}"
        )
    return tuple(sizes)


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """The devices as an array of these sizes, neighbours in the fast network next to each other.

    Raises ValueError if the slices do not divide over the axes before the last.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    outer = [1] * len(sizes)
    left = slices
    for axis in range(len(sizes) - 1):
        outer[axis] = math.gcd(left, sizes[axis])
        left //= outer[axis]
    if left > 1:
        raise ValueError(
            f"{slices} slices (or nodes) do not divide over config.mesh {_named(sizes)}: "
            "data x fsdp must be a multiple of their number, as a story is not sharded over slices"
        )
    inner = [size // part for size, part in zip(sizes, outer, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array of which every device has a whole copy."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading (story) axis along `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(STORIES))


def story_shards(mesh: Mesh) -> int:
    """The number of shards of a batch."""
    return math.prod(mesh.shape[name] for name in STORIES)


def _named(sizes: Sequence[int]) -> dict[str, int]:
    return dict(zip(AXES, sizes, strict=True))
