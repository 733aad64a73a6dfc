"""A grid of patches in time, rows and columns, and features that depend on one axis each."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int, int]
"""Counts of patches in time, height and width."""


def spread_over_grid(
    grid: Grid, features: list[tuple[int, Float[np.ndarray, "_N _D"]]]
) -> Float[Array, "V _sum"]:
    """Features of every patch, token order frame, row, column (column fastest).

    `features` are pairs of an axis (0 time, 1 height, 2 width) and what its positions have; they
    are laid side by side. Assembled with jnp, so that no big table becomes part of a program.
    """
    parts = []
    for axis, table in features:
        shape = [1, 1, 1, table.shape[1]]
        shape[axis] = table.shape[0]
        part = jnp.asarray(table, jnp.float32).reshape(shape)
        parts.append(jnp.broadcast_to(part, (*grid, table.shape[1])))
    return jnp.concatenate(parts, axis=-1).reshape(grid[0] * grid[1] * grid[2], -1)


def fit_into(
    height: int, width: int, base_height: int, base_width: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left) and (bottom, right) of a grid that is fitted into a base grid.

    It keeps its aspect, fills the base in one direction and is centred in the other. Rounding is
    half to even (reference behaviour).
    """
    if height / width > base_height / base_width:
        fitted = base_height, round(base_height / height * width)
    else:
        fitted = round(base_width / width * height), base_width
    top, left = round((base_height - fitted[0]) / 2), round((base_width - fitted[1]) / 2)
    return (top, left), (top + fitted[0], left + fitted[1])
