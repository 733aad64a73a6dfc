"""Weights quantised while they are read: the files stay as they are, and one layer is in memory."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from m2dit_jax.models.quantized import SCALE, STORED_AS, quantize, stored_shapes
from m2dit_jax.weights.lazy import Leaf, Tensor

FLOAT32 = np.dtype(np.float32)


def quantized_leaves(
    leaves: Mapping[str, Leaf], names: Collection[str], form: str, dtype: np.dtype | None
) -> dict[str, Leaf]:
    """The leaves of a quantised network, whose `names` tell by their scales which are quantised.

    The others are cast to `dtype`, None keeps theirs.
    """
    made = {}
    for name, leaf in leaves.items():
        scale_name = f"{name.removesuffix('kernel')}{SCALE}"
        if name.endswith("kernel") and scale_name in names:
            made[name], made[scale_name] = _quantized(leaf, form)
        else:
            made[name] = leaf.cast(dtype)
    return made


def quantize_params(params: Any, abstract: Any, form: str) -> Any:
    """The same for arrays that are there: nested dicts, in the shapes of `abstract`."""
    made = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            made[name] = quantize_params(value, abstract[name], form)
        elif name == "kernel" and SCALE in abstract:
            made[name], made[SCALE] = quantize(np.asarray(value), form)
        else:
            made[name] = value
    return made


class _Scales:
    """The scales of matrices, kept from when these were quantised."""

    def __init__(self, form: str):
        self.form = form
        self._scales: dict[int, np.ndarray] = {}

    def kernel(self, number: int, piece: Tensor) -> np.ndarray:
        kernel, self._scales[number] = quantize(piece.read(), self.form)
        return kernel

    def scale(self, number: int, piece: Tensor) -> np.ndarray:
        if number not in self._scales:
            self.kernel(number, piece)
        return self._scales[number]


def _quantized(leaf: Leaf, form: str) -> tuple[Leaf, Leaf]:
    """A leaf's matrices quantised, and their scales."""
    scales = _Scales(form)
    kernel_shape, scale_shape = stored_shapes(leaf.pieces[0].shape, form)
    kernels = (
        Tensor(kernel_shape, STORED_AS[form], partial(scales.kernel, number, piece))
        for number, piece in enumerate(leaf.pieces)
    )
    of_kernels = (
        Tensor(scale_shape, FLOAT32, partial(scales.scale, number, piece))
        for number, piece in enumerate(leaf.pieces)
    )
    return replace(leaf, pieces=tuple(kernels)), replace(leaf, pieces=tuple(of_kernels))
