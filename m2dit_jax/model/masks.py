"""Who may attend to whom: the paper's symmetric mask and the two that it is compared with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from m2dit_jax.model.layout import Layout

Indices = Int[np.ndarray | Array, "*#shape"]
Allowed = Bool[np.ndarray | Array, "*shape"]

MASKS = ("symmetric", "full", "independent")


def scene_mask(layout: Layout, variant: str = "symmetric") -> Bool[Array, "L L"]:
    """The attention mask over the joint sequence; True = row (query) may attend to column (key).

    `symmetric` (Mask²DiT, section 3.2): text_i and video_i see each other and themselves, and all
    video sees all video. Padding sees padding, so that no row is empty, and no other token sees it.
    For two scenes of one text and one video token each, and one token of padding:

            t0 t1 v0 v1 p
        t0   1  0  1  0 0
        t1   0  1  0  1 0
        v0   1  0  1  1 0
        v1   0  1  1  1 0
        p    0  0  0  0 1

    `full`: everything sees everything but padding. `independent`: each scene is alone.
    """
    positions = np.arange(layout.tokens)
    return jnp.asarray(allowed(positions[:, None], positions[None, :], layout, variant))


def allowed(rows: Indices, columns: Indices, layout: Layout, variant: str) -> Allowed:
    """`scene_mask` at the given positions, which broadcast against each other and may be traced."""
    return segments_see(
        layout.segments_at(rows), layout.segments_at(columns), layout.scenes, variant
    )


def segments_see(rows: Indices, columns: Indices, scenes: int, variant: str) -> Allowed:
    """Whether tokens of one segment may attend to those of another (`Layout`): the one definition.

    Only comparisons and sums, which a TPU kernel can do.
    """
    check_mask(variant)
    if variant == "full":
        return ((rows < 2 * scenes) & (columns < 2 * scenes)) | (rows == columns)
    # The scene is the segment modulo S; padding is left with a scene of its own, S.
    same_scene = rows - scenes * (rows >= scenes) == columns - scenes * (columns >= scenes)
    if variant == "independent":
        return same_scene
    row_video = (rows >= scenes) & (rows < 2 * scenes)
    column_video = (columns >= scenes) & (columns < 2 * scenes)
    return same_scene | (row_video & column_video)


def check_mask(variant: str) -> None:
    """Raises ValueError if there is no mask of that name."""
    if variant not in MASKS:
        raise ValueError(f"unknown attention mask {variant!r}; there are {', '.join(MASKS)}")
