"""The device mesh and who holds what on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict


def make_mesh(axes: ConfigDict) -> Mesh:
    """A mesh over all devices with the named axes of `config.mesh`; one size may be -1, the rest.

    Raises ValueError if the sizes do not multiply to the number of devices.
    """
    names, sizes = list(axes.keys()), list(axes.values())
    devices = jax.device_count()
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"config.mesh must hold sizes of at least 1 and at most one -1: {axes}")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // known, 1)
    if int(np.prod(sizes)) != devices:
        raise ValueError(
            f"config.mesh {dict(zip(names, sizes, strict=True))} needs {int(np.prod(sizes))} "
            f"devices, but there are {devices}"
        )
    # Auto: the compiler derives the shardings inside; explicit axes would refuse reshapes.
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading (story) axis cut along `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))
