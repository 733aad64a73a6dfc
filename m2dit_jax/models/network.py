"""A network and its parameters."""

from typing import Any, NamedTuple

from flax import nnx


class LoadedNetwork(NamedTuple):
    """A loaded network; `nnx.merge(*network)` is the module."""

    graphdef: nnx.GraphDef
    params: Any
