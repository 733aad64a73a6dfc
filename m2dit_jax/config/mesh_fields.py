"""The fields of `config.mesh`: how devices are arranged."""

from dataclasses import dataclass

from m2dit_jax.config.fields import setting


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one may be -1, all the rest.

    Sizes are checked where the number of devices is known (`parallel.mesh.make_mesh`).
    """

    data: int = setting(
        "Shards of the batch; every device along this axis has all weights.",
        at_least=-1,
        at_most=10**6,
    )
    fsdp: int = setting(
        "Shards of the batch, and of the weights, gradients and optimizer state.",
        at_least=-1,
        at_most=10**6,
    )
    context: int = setting(
        "Shards of a story's tokens, and of the weights as with fsdp.", at_least=-1, at_most=10**6
    )
