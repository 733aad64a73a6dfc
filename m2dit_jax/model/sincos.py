"""3-D sines and cosines of the video tokens' positions, to be added to the patches."""

import numpy as np
from jaxtyping import Float

THETA = 10_000.0


def sincos_table(frames: int, height: int, width: int, dim: int) -> Float[np.ndarray, "V {dim}"]:
    """Features of a grid of patches, token order frame, row, column (column fastest).

    The features are shared between time (1/4), width (3/8) and height (3/8), in this order, each
    with its sines before its cosines (CogVideoX-2B). Raises ValueError unless dim is a multiple
    of 16.
    """
    if dim % 16:
        raise ValueError(f"sincos positions need a width that is a multiple of 16, got {dim}")
    time, row, column = np.meshgrid(
        np.arange(frames), np.arange(height), np.arange(width), indexing="ij"
    )
    features = []
    for positions, share in ((time, dim // 4), (column, 3 * dim // 8), (row, 3 * dim // 8)):
        frequencies = THETA ** (-np.arange(share // 2, dtype=np.float64) / (share // 2))
        angles = positions.reshape(-1, 1) * frequencies
        features += [np.sin(angles), np.cos(angles)]
    return np.concatenate(features, axis=1).astype(np.float32)
