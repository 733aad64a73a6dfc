"""3-D sines and cosines of the video tokens' positions, to be added to the patches."""

import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.models.cogvideox.grid import Grid, spread_over_grid

THETA = 10_000.0


def sincos_table(
    grid: Grid, dim: int, spatial_scale: float = 1.0, temporal_scale: float = 1.0
) -> Float[Array, "V {dim}"]:
    """Features of a grid of patches, token order frame, row, column (column fastest).

    The features are shared between time (1/4), width (3/8) and height (3/8), in this order, each
    with its sines before its cosines (CogVideoX-2B). Positions are divided by the scales. Raises
    ValueError unless dim is a multiple of 16.
    """
    return spread_over_grid(grid, _axis_features(grid, dim, spatial_scale, temporal_scale))


def stretched_sincos_table(
    base: Grid, scenes: int, grid: Grid, dim: int, spatial_scale: float, temporal_scale: float
) -> Float[Array, "{scenes} V {dim}"]:
    """The table of a base grid as the reference fits it to `scenes` scenes of another grid.

    The base's time is stretched over all scenes, its rows and columns to those of the grid, by
    linear interpolation with half-pixel centres. Scenes of fewer frames than the base take
    consecutive pieces from the start of the stretched table. Raises ValueError for more frames
    than the base has, as the reference does.
    """
    time, height, width = grid
    if time > base[0]:
        raise ValueError(f"added positions reach for {base[0]} latent frames per scene, got {time}")
    sizes = (scenes * base[0], height, width)
    features = [
        (axis, _resize(table, sizes[axis]))
        for axis, table in _axis_features(base, dim, spatial_scale, temporal_scale)
    ]
    # Only the first frames are used, so only they are spread: axis 0 of `features` is time.
    features[0] = (0, features[0][1][: scenes * time])
    return spread_over_grid((scenes * time, height, width), features).reshape(scenes, -1, dim)


def _axis_features(
    grid: Grid, dim: int, spatial_scale: float, temporal_scale: float
) -> list[tuple[int, np.ndarray]]:
    if dim % 16:
        raise ValueError(f"sincos positions need a width that is a multiple of 16, got {dim}")
    shares = (
        (0, dim // 4, temporal_scale),
        (2, 3 * dim // 8, spatial_scale),
        (1, 3 * dim // 8, spatial_scale),
    )
    features = []
    for axis, share, scale in shares:
        frequencies = THETA ** (-np.arange(share // 2, dtype=np.float64) / (share // 2))
        angles = np.arange(grid[axis])[:, None] / scale * frequencies
        features.append((axis, np.concatenate([np.sin(angles), np.cos(angles)], axis=1)))
    return features


def _resize(table: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation along axis 0, half-pixel centres, the ends held."""
    places = np.maximum((np.arange(size) + 0.5) * len(table) / size - 0.5, 0)
    lower = places.astype(int)
    upper = np.minimum(lower + 1, len(table) - 1)
    share = (places - lower)[:, None]
    return (1 - share) * table[lower] + share * table[upper]
