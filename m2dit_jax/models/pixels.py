"""The `pixels` codec: latents are the pixels themselves, so that no VAE is needed."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def encode_pixels(
    video: UInt8[Array | np.ndarray, "*batch H W 3"],
) -> Float[Array, "*batch H W 3"]:
    """Pixels of 0..255 as latents in -1..1."""
    return jnp.asarray(video, jnp.float32) / 127.5 - 1.0


def decode_pixels(latents: Float[Array, "*batch H W 3"]) -> UInt8[Array, "*batch H W 3"]:
    """Latents in -1..1 as pixels of 0..255; values outside are clipped."""
    return jnp.round((jnp.clip(latents, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
