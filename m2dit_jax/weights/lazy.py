"""Arrays that are in files and are read, piece by piece, when they are asked for."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import ml_dtypes
import numpy as np

from m2dit_jax.utils.finite import count_not_finite


@dataclass(frozen=True)
class Tensor:
    """One array in a file; `read` reads it anew each time."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """The size of what `read` returns."""
        return math.prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: np.dtype | None) -> "Tensor":
        """The same numbers in another dtype; None keeps it.

        Reading raises ValueError if a number is too large for it.
        """
        if dtype is None or dtype == self.dtype:
            return self
        return replace(self, dtype=dtype, read=lambda: _cast(self.read(), dtype))


@dataclass(frozen=True)
class Leaf:
    """One of our arrays as pieces of one dtype: its layers if it is stacked, else itself alone."""

    pieces: tuple[Tensor, ...]
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole, with the layer axis first if it is stacked."""
        one = self.pieces[0].shape
        return (len(self.pieces), *one) if self.stacked else one

    @property
    def dtype(self) -> np.dtype:
        """The dtype that all pieces have."""
        return self.pieces[0].dtype

    @property
    def nbytes(self) -> int:
        """The size of what `read` returns."""
        return sum(piece.nbytes for piece in self.pieces)

    def cast(self, dtype: np.dtype | None) -> "Leaf":
        """The same numbers with all pieces in another dtype, as by `Tensor.cast`."""
        return replace(self, pieces=tuple(piece.cast(dtype) for piece in self.pieces))

    def read(self) -> np.ndarray:
        """The whole array; beside the result there is only one piece in memory."""
        if not self.stacked:
            return self.pieces[0].read()
        whole = np.empty(self.shape, self.dtype)
        for layer, piece in enumerate(self.pieces):
            whole[layer] = piece.read()
        return whole


def layered(tensors: Mapping[str, Tensor], stacked: Collection[str]) -> dict[str, Leaf]:
    """Leaves of arrays that are read whole, those of the names in `stacked` as their layers.

    The array that was read last stays in memory until another is read: leaf after leaf is read
    once, in any order of the layers.
    """
    latest = _Latest()
    leaves = {}
    for name, tensor in tensors.items():
        if name not in stacked:
            leaves[name] = Leaf((tensor,), False)
            continue
        layers = (
            Tensor(tensor.shape[1:], tensor.dtype, partial(latest.layer, tensor, layer))
            for layer in range(tensor.shape[0])
        )
        leaves[name] = Leaf(tuple(layers), True)
    return leaves


class _Latest:
    """Keeps the array that was read last."""

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._values: np.ndarray | None = None

    def layer(self, tensor: Tensor, layer: int) -> np.ndarray:
        if self._tensor is not tensor or self._values is None:
            self._tensor = self._values = None  # before the next one is read
            self._values, self._tensor = tensor.read(), tensor
        return self._values[layer]


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # an error is raised below
        cast = values.astype(dtype)
    if ml_dtypes.finfo(dtype).max < ml_dtypes.finfo(values.dtype).max and count_not_finite(cast):
        too_large = np.isinf(cast) & np.isfinite(values)
        if not too_large.any():
            return cast
        raise ValueError(f"{values[too_large].flat[0]:g} is too large for {dtype}")
    return cast
