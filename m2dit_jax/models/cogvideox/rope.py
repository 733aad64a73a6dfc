"""3-D rotary position embedding of the video tokens."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.models.cogvideox.grid import Grid, fit_into, spread_over_grid

THETA = 10_000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Shares of the head dimension for time (1/4), height (3/8) and width (3/8).

    Raises ValueError unless head_dim is a multiple of 16, so that each share is even.
    """
    if head_dim < 16 or head_dim % 16:
        raise ValueError(f"rotary positions need head_dim to be a multiple of 16, got {head_dim}")
    return head_dim // 4, 3 * (head_dim // 8), 3 * (head_dim // 8)


def rope_table(
    grid: Grid, head_dim: int, base: tuple[int, int] | None = None
) -> tuple[Float[Array, "V {head_dim}"], Float[Array, "V {head_dim}"]]:
    """Cosines and sines for a grid of patches, token order frame, row, column (column fastest).

    The grid's time counts the patches of all scenes together: time runs on through the scenes
    (reference behaviour). Each frequency stands twice in a row, for interleaved pairs.

    Positions are 0, 1, 2, ... ("slice" grid of CogVideoX 1.5). With `base`, the height and width
    in patches of the training videos, those of rows and columns are those of the place that the
    grid has when fitted into the base, and so can be fractions ("linspace" grid of CogVideoX).

    Frequencies and angles are rounded to float32 as in the reference, which the weights know.
    """
    time, height, width = grid
    rows, columns = np.arange(height), np.arange(width)
    if base is not None:
        (top, left), (bottom, right) = fit_into(height, width, *base)
        rows = np.linspace(top, bottom, height, endpoint=False)
        columns = np.linspace(left, right, width, endpoint=False)
    angles = []
    for axis, positions in enumerate((np.arange(time), rows, columns)):
        dim = axis_dims(head_dim)[axis]
        exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        frequencies = np.float32(1) / (THETA ** exponents.astype(np.float64)).astype(np.float32)
        angle = positions.astype(np.float32)[:, None] * frequencies
        angles.append((axis, np.repeat(angle.astype(np.float64), 2, axis=1)))
    return (
        spread_over_grid(grid, [(axis, np.cos(angle)) for axis, angle in angles]),
        spread_over_grid(grid, [(axis, np.sin(angle)) for axis, angle in angles]),
    )


def apply_rope(
    x: Float[Array, "B L N K"], cos: Float[Array, "L K"], sin: Float[Array, "L K"]
) -> Float[Array, "B L N K"]:
    """Rotates the interleaved pairs (0, 1), (2, 3), ... of each head; computed in float32."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x * cos[:, None] + turned * sin[:, None]).astype(x.dtype)
