"""Matrices of linear layers in 8 bits, with a scale for each of their outputs.

Symmetric: W[i, o] is q[i, o] * scale[o], with the largest |W[:, o]| at the end of what q can be
(arXiv 2208.07339, 2209.05433). Weights alone are in 8 bits ("int8", "fp8", which is e4m3), or the
products too ("int8_w8a8"): then each token's activations are rounded to int8 as they come.

qwix has the same arithmetic (a test compares the two). It is not used: on weights that are stacked
for a scan its providers leave them as they are, or raise (0.1.8), and its stored form may change.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Shaped

FORMS = ("int8", "fp8", "int8_w8a8")
SCALE = "kernel_scale"  # the name of the scales, beside "kernel"
IN_8_BITS = {
    "int8": np.dtype(np.int8),
    "int8_w8a8": np.dtype(np.int8),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
}
_LARGEST = {"int8": 127.0, "int8_w8a8": 127.0, "fp8": 448.0}


def quantize(
    kernel: Float[np.ndarray, "*L I O"], form: str
) -> tuple[Shaped[np.ndarray, "*L I O"], Float[np.ndarray, "*L O"]]:
    """The matrix in 8 bits, and its scales in float32."""
    values = np.asarray(kernel, np.float32)
    scale = np.abs(values).max(axis=-2) / np.float32(_LARGEST[form])
    scale = np.where(scale > 0, scale, np.float32(1))  # an output that is always 0
    values = values / scale[..., None, :]
    if form != "fp8":
        np.rint(values, out=values)
    return values.astype(IN_8_BITS[form]), scale


def dequantize(
    kernel: Shaped[np.ndarray, "*L I O"], scale: Float[np.ndarray, "*L O"]
) -> Float[np.ndarray, "*L I O"]:
    """The matrix that the 8 bits stand for, in float32."""
    return np.asarray(kernel).astype(np.float32) * np.asarray(scale)[..., None, :]


def product(
    x: Float[Array, "*B I"],
    kernel: Shaped[Array, "I O"],
    scale: Float[Array, " O"],
    rounds_inputs: bool = False,
) -> Float[Array, "*B O"]:
    """x W in the dtype of x; `rounds_inputs` has x in int8 too, with a scale for each token."""
    if not rounds_inputs:
        return ((x @ kernel.astype(x.dtype)) * scale).astype(x.dtype)
    most = jnp.max(jnp.abs(x), axis=-1, keepdims=True).astype(jnp.float32)
    x_scale = jnp.where(most > 0, most / 127, 1)
    rounded = jnp.rint(x / x_scale).astype(jnp.int8)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    out = jax.lax.dot_general(rounded, kernel, contract, preferred_element_type=jnp.int32)
    return (out.astype(jnp.float32) * (x_scale * scale)).astype(x.dtype)


def is_quantized(params: Any) -> bool:
    """Whether there are matrices in 8 bits in nested dicts of parameters."""
    return any(path[-1] == SCALE for path in flatten_dict(params))
