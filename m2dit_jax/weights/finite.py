"""Weights looked at while they are read: a network with NaN makes black pictures, or none."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from m2dit_jax.utils.finite import count_not_finite
from m2dit_jax.weights.lazy import Leaf, Tensor

_SHOWN = 3  # names in a message


@dataclass
class FiniteScan:
    """Counts the infinities and NaN of arrays as they are read, by name."""

    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The same array; reading it counts."""

        def read() -> np.ndarray:
            values = tensor.read()
            self.add(name, values)
            return values

        return replace(tensor, read=read)

    def leaf(self, name: str, leaf: Leaf) -> Leaf:
        """The same array; reading its pieces counts."""
        pieces = (
            self.tensor(f"{name}[{layer}]" if leaf.stacked else name, piece)
            for layer, piece in enumerate(leaf.pieces)
        )
        return replace(leaf, pieces=tuple(pieces))

    def add(self, name: str, values: np.ndarray) -> None:
        """Counts those of an array; of a second reading the count is the same."""
        self.counts[name], self.sizes[name] = count_not_finite(values), values.size

    def problem(self, place: Path) -> str | None:
        """A message that names the network's folder, how many values and where; None if none."""
        bad = [name for name, count in self.counts.items() if count]
        if not bad:
            return None
        count, size = sum(self.counts.values()), sum(self.sizes.values())
        shown = ", ".join(f"{name} ({self.counts[name]})" for name in bad[:_SHOWN])
        more = f", and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        return (
            f"{place}: {count} of {size} weights are not finite (NaN or infinite), in {shown}"
            f"{more}; download or copy it again, or convert it from weights that are whole"
        )


def check_params(place: Path, params: Any) -> None:
    """Raises ValueError, naming `place`, if weights on the devices are not finite."""
    scan = FiniteScan()
    for path, array in flatten_dict(params).items():
        if isinstance(array, jax.Array):
            shards = [s.data for s in array.addressable_shards if s.replica_id == 0]
            values = [np.asarray(shard).reshape(-1) for shard in shards]
        else:
            values = [np.asarray(array)]
        name = ".".join(map(str, path))
        for number, part in enumerate(values):
            scan.add(name if len(values) == 1 else f"{name} (shard {number})", part)
    problem = scan.problem(place)
    if problem:
        raise ValueError(problem)
