"""Matrices of linear layers in 8 bits or 4, with a scale for each of their outputs.

Symmetric: W[i, o] is q[i, o] * scale[o], with the largest |W[:, o]| at the end of what q can be
(arXiv 2208.07339, 2209.05433). Weights alone are in 8 bits ("int8", "fp8", which is e4m3), or the
products too ("int8_w8a8"): then each token's activations are rounded to int8 as they come.

For the weights that adapters are trained beside there is "nf4" too (arXiv 2305.14314): 16 values
that are equally likely of normally distributed weights, and a scale for each 64 inputs of an
output. Two values are in a byte, of the inputs 2 i and 2 i + 1.

qwix has the same arithmetic (a test compares the two). It is not used: on weights that are stacked
for a scan its providers leave them as they are, or raise (0.1.8), and its stored form may change.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Shaped

FORMS = ("int8", "fp8", "int8_w8a8")
FROZEN_FORMS = ("int8", "nf4")  # of weights that adapters are trained beside
SCALE = "kernel_scale"  # the name of the scales, beside "kernel"
STORED_AS = {
    "nf4": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int8_w8a8": np.dtype(np.int8),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
}
NF4_BLOCK = 64  # inputs
# The values of appendix E of arXiv 2305.14314, to the digits of float32.
NF4_VALUES = np.array(
    [
        *(-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0),
    ],
    np.float32,
)
_LARGEST = {"int8": 127.0, "int8_w8a8": 127.0, "fp8": 448.0}


def stored_shapes(shape: tuple[int, ...], form: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a matrix [*L I O] and of its scales, as a form keeps them.

    Raises ValueError for a number of inputs that cannot be packed.
    """
    *layers, inputs, outputs = shape
    if form != "nf4":
        return shape, (*layers, outputs)
    if inputs % 2:
        raise ValueError(f"nf4 keeps two inputs in a byte, a layer has {inputs}; int8 would do")
    block = math.gcd(inputs, NF4_BLOCK)
    return (*layers, inputs // 2, outputs), (*layers, inputs // block, outputs)


def quantize(
    kernel: Float[np.ndarray, "*L I O"], form: str
) -> tuple[Shaped[np.ndarray, "*L _I O"], Float[np.ndarray, "..."]]:
    """The matrix in one of FORMS or FROZEN_FORMS, and its scales in float32."""
    values = np.asarray(kernel, np.float32)
    if form == "nf4":
        return _quantize_nf4(values)
    scale = np.abs(values).max(axis=-2) / np.float32(_LARGEST[form])
    scale = np.where(scale > 0, scale, np.float32(1))  # an output that is always 0
    values = values / scale[..., None, :]
    if form != "fp8":
        np.rint(values, out=values)
    return values.astype(STORED_AS[form]), scale


def _quantize_nf4(
    values: Float[np.ndarray, "*L I O"],
) -> tuple[Shaped[np.ndarray, "*L P O"], Float[np.ndarray, "*L N O"]]:
    *layers, inputs, outputs = values.shape
    packed, scales = stored_shapes(values.shape, "nf4")
    blocks = values.reshape(*scales[:-1], inputs // scales[-2], outputs)
    scale = np.abs(blocks).max(axis=-2)
    scale = np.where(scale > 0, scale, np.float32(1))
    between = (NF4_VALUES[1:] + NF4_VALUES[:-1]) / 2
    codes = np.searchsorted(between, blocks / scale[..., None, :]).astype(np.uint8)
    pairs = codes.reshape(*layers, packed[-2], 2, outputs)
    return pairs[..., 0, :] | pairs[..., 1, :] << 4, scale


def unpack_nf4(
    kernel: Shaped[Array, "*L P O"], scale: Float[Array, "*L N O"]
) -> Float[Array, "*L I O"]:
    """The matrix that packed values stand for, in float32."""
    *layers, packed, outputs = kernel.shape
    codes = jnp.stack([kernel & 15, kernel >> 4], axis=-2)
    blocks = codes.reshape(*scale.shape[:-1], -1, outputs)
    values = jnp.asarray(NF4_VALUES)[blocks] * scale[..., None, :]
    return values.reshape(*layers, 2 * packed, outputs)


def dequantize(
    kernel: Shaped[np.ndarray, "*L _I O"], scale: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "*L I O"]:
    """The matrix that a quantised one stands for, in float32."""
    if is_packed(kernel, scale):
        return np.asarray(unpack_nf4(jnp.asarray(kernel), jnp.asarray(scale)))
    return np.asarray(kernel).astype(np.float32) * np.asarray(scale)[..., None, :]


def is_packed(kernel: Any, scale: Any) -> bool:
    """Whether a matrix is in nf4, by the shape of its scales."""
    return scale.ndim == kernel.ndim


def product(
    x: Float[Array, "*B I"],
    kernel: Shaped[Array, "_I O"],
    scale: Float[Array, "..."],
    rounds_inputs: bool = False,
) -> Float[Array, "*B O"]:
    """x W in the dtype of x; `rounds_inputs` has x in int8 too, with a scale for each token."""
    if is_packed(kernel, scale):
        return x @ unpack_nf4(kernel, scale).astype(x.dtype)
    if not rounds_inputs:
        return ((x @ kernel.astype(x.dtype)) * scale).astype(x.dtype)
    most = jnp.max(jnp.abs(x), axis=-1, keepdims=True).astype(jnp.float32)
    x_scale = jnp.where(most > 0, most / 127, 1)
    rounded = jnp.rint(x / x_scale).astype(jnp.int8)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    out = jax.lax.dot_general(rounded, kernel, contract, preferred_element_type=jnp.int32)
    return (out.astype(jnp.float32) * (x_scale * scale)).astype(x.dtype)


def is_quantized(params: Any) -> bool:
    """Whether there are quantised matrices in nested dicts of parameters."""
    return any(path[-1] == SCALE for path in flatten_dict(params))


def cast_floats(params: Any, dtype: Any) -> Any:
    """Parameters in nested dicts, in a dtype, but for quantised matrices and their scales.

    Shapes (`jax.ShapeDtypeStruct`) are cast too.
    """
    flat: dict[Any, Any] = flatten_dict(params)
    kept = {path for path in flat if path[-1] == SCALE}
    kept |= {(*path[:-1], "kernel") for path in kept}
    return unflatten_dict(
        {path: x if path in kept else _cast(x, dtype) for path, x in flat.items()}
    )


def _cast(x: Any, dtype: Any) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, dtype)
    return x.astype(dtype)
