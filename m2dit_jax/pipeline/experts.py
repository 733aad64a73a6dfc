"""Transformers that share the steps of a sampling run: one those of much noise, one the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.pipeline.streaming import StreamedNetwork

Transformer = LoadedNetwork | StreamedNetwork
Rows = np.ndarray | Array


@dataclass(frozen=True)
class Experts:
    """Two transformers of the same shape, each loaded when its steps begin.

    `first` gives the one that takes the steps at timestep `boundary` and above, `second` the one
    that takes the others; it may free the first.
    """

    first: Callable[[], Transformer]
    second: Callable[[], Transformer]
    boundary: float


class Turn(NamedTuple):
    """Steps of a run, by number, and what gives the transformer that takes them."""

    load: Callable[[], Transformer]
    numbers: range


def turns(
    transformer: Transformer | Experts, timesteps: Int[Rows, " steps"] | Float[Rows, " steps"]
) -> list[Turn]:
    """Who takes which steps of a run; its timesteps descend."""
    steps = len(timesteps)
    if not isinstance(transformer, Experts):
        return [Turn(lambda: transformer, range(steps))]
    switch = int(np.sum(np.asarray(timesteps) >= transformer.boundary))
    both = Turn(transformer.first, range(switch)), Turn(transformer.second, range(switch, steps))
    return [turn for turn in both if turn.numbers]
