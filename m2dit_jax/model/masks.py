"""Who may attend to whom: the paper's symmetric mask and the two that it is compared with."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from m2dit_jax.model.layout import Layout

MASKS = ("symmetric", "full", "independent")


def scene_mask(layout: Layout, variant: str = "symmetric") -> Bool[Array, "L L"]:
    """The attention mask over the joint sequence; True = row (query) may attend to column (key).

    `symmetric` (Mask²DiT, section 3.2): text_i and video_i see each other and themselves, and all
    video sees all video. For two scenes of one text and one video token each:

            t0 t1 v0 v1
        t0   1  0  1  0
        t1   0  1  0  1
        v0   1  0  1  1
        v1   0  1  1  1

    `full`: everything sees everything. `independent`: each scene is alone.
    """
    check_mask(variant)
    scene = jnp.asarray(layout.scene_ids())
    video = ~jnp.asarray(layout.is_text())
    same_scene = scene[:, None] == scene[None, :]
    if variant == "independent":
        return same_scene
    if variant == "full":
        return jnp.ones_like(same_scene)
    return same_scene | (video[:, None] & video[None, :])


def check_mask(variant: str) -> None:
    """Raises ValueError if there is no mask of that name."""
    if variant not in MASKS:
        raise ValueError(f"unknown attention mask {variant!r}; there are {', '.join(MASKS)}")
