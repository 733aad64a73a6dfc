"""A lower bound of the time of a step: the slowest of computing, memory and networks."""

from typing import NamedTuple

from m2dit_jax.tools.planning.collectives import Collective
from m2dit_jax.utils.chips import Chip


class Roofline(NamedTuple):
    """Seconds that each part takes at the chip's peak, if nothing else is done meanwhile."""

    compute: float
    memory: float
    network: float

    @property
    def bound(self) -> float:
        """The step takes at least so long."""
        return max(self)

    @property
    def bound_by(self) -> str:
        """The resource that the bound comes from."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: int, memory_bytes: int, found: list[Collective]) -> Roofline:
    """The bounds of one device: by its operations, bytes read and written, and bytes received."""
    inside = sum(collective.total for collective in found) / chip.link_bandwidth
    outside = sum(collective.from_other_nodes for collective in found)
    between = 0.0 if chip.node_bandwidth is None else outside / chip.node_bandwidth
    return Roofline(flops / chip.flops, memory_bytes / chip.memory_bandwidth, max(inside, between))
