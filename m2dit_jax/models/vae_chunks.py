"""VAEs that go through a video in chunks, each compiled once for its shape."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array


# Compiled for the first chunk, for later ones and perhaps for a shorter last one: not per video.
@partial(jax.jit, static_argnums=0, donate_argnums=3)
def encode_chunk(graphdef, params, video, cache):
    """The method of that name of a VAE that is split, compiled; the cache is donated."""
    return nnx.merge(graphdef, params).encode_chunk(video, cache)


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode_chunk(graphdef, params, latents, cache):
    """The method of that name of a VAE that is split, compiled; the cache is donated."""
    return nnx.merge(graphdef, params).decode_chunk(latents, cache)


def run_chunks(
    vae: nnx.Module, run_chunk: Any, frames: Array, chunks: Sequence[int]
) -> Iterator[Array]:
    """The results of one of the functions above, chunk by chunk of so many frames."""
    graphdef, params = nnx.split(vae)
    start, cache = 0, None
    for chunk in chunks:
        out, cache = run_chunk(graphdef, params, frames[:, start : start + chunk], cache)
        start += chunk
        yield out


def check_shape(what: str, x: Array, channels: int) -> None:
    """Raises ValueError for frames [B F H W C] of other channels, and if there are none."""
    if x.shape[-1] != channels:
        raise ValueError(f"{what} must have {channels} channels, not {x.shape[-1]}")
    if 0 in x.shape:
        raise ValueError(f"{what} of shape {x.shape} has no frames or no pixels")
