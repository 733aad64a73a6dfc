"""3-D rotary positions of Wan's video tokens."""

import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.models.cogvideox.grid import spread_over_grid

THETA = 10_000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Shares of the head dimension for time, height and width: a third each, time has the rest.

    Raises ValueError unless head_dim is even and at least 6, so that each share is even.
    """
    if head_dim < 6 or head_dim % 2:
        raise ValueError(
            f"rotary positions need head_dim to be an even number from 6 on, got {head_dim}"
        )
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def rope_table(
    times: Int[np.ndarray, " F"], height: int, width: int, head_dim: int
) -> tuple[Float[Array, "V {head_dim}"], Float[Array, "V {head_dim}"]]:
    """Cosines and sines for frames of patches at these `times`, all of height x width patches.

    The order of tokens is frame, row, column (column fastest). Each frequency stands twice in a
    row, for interleaved pairs. Angles are of float64, as in diffusers.
    """
    angles = []
    positions = (times, np.arange(height), np.arange(width))
    for axis, (places, dim) in enumerate(zip(positions, axis_dims(head_dim), strict=True)):
        frequencies = 1 / THETA ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        angles.append((axis, np.repeat(np.outer(places, frequencies), 2, axis=1)))
    grid = (len(times), height, width)
    return (
        spread_over_grid(grid, [(axis, np.cos(angle)) for axis, angle in angles]),
        spread_over_grid(grid, [(axis, np.sin(angle)) for axis, angle in angles]),
    )
