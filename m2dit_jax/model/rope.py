"""3-D rotary position embedding of the video tokens."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

THETA = 10_000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How the head dimension is shared between time (1/4), height (3/8) and width (3/8).

    Raises ValueError unless head_dim is a multiple of 16, so that each share is even.
    """
    if head_dim < 16 or head_dim % 16:
        raise ValueError(f"rotary positions need head_dim to be a multiple of 16, got {head_dim}")
    return head_dim // 4, 3 * (head_dim // 8), 3 * (head_dim // 8)


def rope_table(
    frames: int, height: int, width: int, head_dim: int
) -> tuple[Float[np.ndarray, "V K"], Float[np.ndarray, "V K"]]:
    """Cosines and sines for a grid of patches, token order frame, row, column (column fastest).

    `frames` counts the latent frames of all scenes together: time runs on through the scenes
    (reference behaviour). Each frequency stands twice in a row, for interleaved pairs.
    """
    grid = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    angles = []
    for positions, dim in zip(grid, axis_dims(head_dim), strict=True):
        frequencies = THETA ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        angles.append(positions.reshape(-1, 1) * frequencies)
    angle = np.repeat(np.concatenate(angles, axis=1), 2, axis=1)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def apply_rope(
    x: Float[Array, "B L N K"], cos: Float[Array, "L K"], sin: Float[Array, "L K"]
) -> Float[Array, "B L N K"]:
    """Rotates the interleaved pairs (0, 1), (2, 3), ... of each head."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return x * cos[:, None] + turned * sin[:, None]
