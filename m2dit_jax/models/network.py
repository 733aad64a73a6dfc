"""A network and its parameters."""

from typing import Any, NamedTuple

from flax import nnx

Params = Any  # nested dicts of arrays


class LoadedNetwork(NamedTuple):
    """A loaded network; `nnx.merge(*network)` is the module."""

    graphdef: nnx.GraphDef
    params: Params
