"""Videos as tokens: patches of latents, and their place in the joint sequence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.layout import Layout


def patch_grid(
    latents: tuple[int, ...], lengths: tuple[int, ...], patch: int, patch_t: int
) -> Grid:
    """The patches of the longest scene, of latents of the shape [B S F H W C].

    `lengths` are the scenes' own frames. Raises ValueError if these cannot be, or frames, rows or
    columns do not divide into patches.
    """
    _, scenes, frames, height, width, _ = latents
    if len(lengths) != scenes or not 0 < min(lengths) <= max(lengths) <= frames:
        raise ValueError(f"{scenes} scenes of up to {frames} frames cannot have {lengths}")
    if any(n % patch_t for n in (frames, *lengths)) or height % patch or width % patch:
        raise ValueError(
            f"latents of {frames}x{height}x{width} (frames, rows, columns) do not divide into "
            f"patches of {patch_t}x{patch}x{patch}"
        )
    return frames // patch_t, height // patch, width // patch


def join_patches(
    layout: Layout, text: Float[Array, "B P T D"], video: Float[Array, "B S V D"]
) -> Float[Array, "B L D"]:
    """The joint sequence, without what scenes are filled up with."""
    if layout.equal_scenes:
        return layout.join(text, video)
    counts = layout.video_counts[layout.global_text :]
    parts = [video[:, scene, :count] for scene, count in enumerate(counts)]
    return layout.join_scenes([text[:, scene] for scene in range(text.shape[1])], parts)


def split_video(
    layout: Layout, tokens: Float[Array, "B L D"], longest: int
) -> Float[Array, "B S V D"]:
    """The inverse of `join_patches`, as far as video goes; scenes are filled up with zeros."""
    if layout.equal_scenes:
        return layout.split(tokens)[1]
    _, parts = layout.split_scenes(tokens)
    return jnp.stack(
        [
            jnp.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0)))
            for part in parts[layout.global_text :]
        ],
        axis=1,
    )


def patchify(
    latents: Float[Array, "B S F H W C"], patch: int, patch_t: int = 1
) -> Float[Array, "B S V P"]:
    """Patches of `patch_t` frames as tokens, in the order frame, row, column.

    The values of a patch are in the order channel, frame, row, column (CogVideoX 1.5's).
    """
    batch, scenes, frames, height, width, channels = latents.shape
    grid = (frames // patch_t, height // patch, width // patch)
    x = latents.reshape(batch, scenes, grid[0], patch_t, grid[1], patch, grid[2], patch, channels)
    x = x.transpose(0, 1, 2, 4, 6, 8, 3, 5, 7)
    return x.reshape(batch, scenes, grid[0] * grid[1] * grid[2], channels * patch_t * patch**2)


def unpatchify(
    tokens: Float[Array, "B S V P"], grid: tuple[int, int, int], patch: int, patch_t: int = 1
) -> Float[Array, "B S F H W C"]:
    """The inverse of `patchify`; `grid` counts patches in time, height and width."""
    batch, scenes = tokens.shape[:2]
    time, rows, columns = grid
    x = tokens.reshape(batch, scenes, time, rows, columns, -1, patch_t, patch, patch)
    x = x.transpose(0, 1, 2, 6, 3, 7, 4, 8, 5)
    return x.reshape(batch, scenes, time * patch_t, rows * patch, columns * patch, -1)
