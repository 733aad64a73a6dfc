"""Whether numbers are numbers: neither infinite nor NaN."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from m2dit_jax.utils.errors import NotFinite

# All bits of the exponent, which only infinities and NaN have set. Reading bits is 6 times as quick
# as numpy's isfinite in the dtypes of 16 bits, and as quick in float32.
_EXPONENTS = {
    np.dtype(np.float32): np.uint32(0x7F80_0000),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}
_AT_ONCE = 2**18  # values; what is made of them stays in the processor's cache


def count_not_finite(values: np.ndarray) -> int:
    """The number of values that are infinite or NaN; whole numbers never are.

    1 GB of float32 takes 0.15 s, of bfloat16 0.25 s.
    """
    exponent = _EXPONENTS.get(values.dtype)
    if exponent is None:
        if not np.issubdtype(values.dtype, np.inexact):
            return 0
        return int(np.count_nonzero(~np.isfinite(values)))
    bits = np.ascontiguousarray(values).reshape(-1).view(exponent.dtype)
    parts = (bits[start : start + _AT_ONCE] for start in range(0, bits.size, _AT_ONCE))
    return sum(int(np.count_nonzero((part & exponent) == exponent)) for part in parts)


def is_finite(array: np.ndarray | jax.Array) -> bool:
    """Whether all values are finite; those on a device are looked at there."""
    if isinstance(array, jax.Array):
        return bool(jnp.isfinite(array).all())
    return count_not_finite(array) == 0


def check_finite(name: str, array: np.ndarray | jax.Array) -> None:
    """Raises NotFinite, with `name` and how many, if some values are infinite or NaN."""
    if is_finite(array):
        return
    bad = count_not_finite(np.asarray(array))
    raise NotFinite(
        f"{name}: {bad} of {array.size} values are not finite (NaN or infinite); the model's "
        "weights are damaged, or its numbers overflow: try --dtype=float32, or another seed"
    )
