"""The reference's layouts and ours: it has scenes one after another along frames or tokens."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def to_scenes(
    latents: Float[np.ndarray, "B SF C H W"], scenes: int
) -> Float[Array, "B {scenes} F H W C"]:
    """Latents b f c h w to ours."""
    batch, frames, *rest = latents.shape
    x = latents.reshape(batch, scenes, frames // scenes, *rest)
    return jnp.asarray(x.transpose(0, 1, 2, 4, 5, 3))


def from_scenes(latents: Float[Array, "B S F H W C"]) -> Float[np.ndarray, "B SF C H W"]:
    """The inverse of `to_scenes`."""
    x = np.asarray(latents).transpose(0, 1, 2, 5, 3, 4)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def text_to_scenes(text: Float[np.ndarray, "B ST E"], scenes: int) -> Float[Array, "B S T E"]:
    """Text states, scenes one after another along the sequence, to ours."""
    return jnp.asarray(text.reshape(text.shape[0], scenes, -1, text.shape[-1]))


def text_from_scenes(text: Float[Array, "B S T E"]) -> Float[np.ndarray, "B ST E"]:
    """The inverse of `text_to_scenes`."""
    return np.asarray(text).reshape(text.shape[0], -1, text.shape[-1])


def channels_last(video: Float[np.ndarray, "B C F H W"]) -> Float[Array, "B F H W C"]:
    """A video of the VAE to ours."""
    return jnp.asarray(video.transpose(0, 2, 3, 4, 1))


def channels_first(video: Float[Array, "B F H W C"]) -> Float[np.ndarray, "B C F H W"]:
    """The inverse of `channels_last`."""
    return np.asarray(video).transpose(0, 4, 1, 2, 3)


def video_to_scenes(
    video: Float[np.ndarray, "B C SF H W"], scenes: int
) -> Float[Array, "B {scenes} F H W C"]:
    """Latents b c f h w, which is Wan's layout, to ours."""
    return to_scenes(video.swapaxes(1, 2), scenes)


def video_from_scenes(latents: Float[Array, "B S F H W C"]) -> Float[np.ndarray, "B C SF H W"]:
    """The inverse of `video_to_scenes`."""
    return from_scenes(latents).swapaxes(1, 2)
