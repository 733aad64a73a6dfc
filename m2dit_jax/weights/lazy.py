"""Arrays that are in files and are read, piece by piece, when they are asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


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


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # an error is raised below
        cast = values.astype(dtype)
    too_large = np.isinf(cast) & np.isfinite(values)
    if too_large.any():
        raise ValueError(f"{values[too_large].flat[0]:g} is too large for {dtype}")
    return cast
