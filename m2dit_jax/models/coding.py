"""Prompts to text embeddings, clips to latents and back, with loaded networks."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from m2dit_jax.models.network import LoadedNetwork


@runtime_checkable
class Vae(Protocol):
    """The interface of every family's VAE; `config.scaling_factor` scales its latents."""

    config: Any

    def encode(
        self, video: Float[Array, "N F H W 3"]
    ) -> tuple[Float[Array, "N f h w C"], Float[Array, "N f h w C"]]:
        """Mean and log variance of the latents of clips with values in -1..1."""
        ...

    def decode(self, latents: Float[Array, "N f h w C"]) -> Float[Array, "N F H W 3"]:
        """Clips with values around -1..1."""
        ...

    def decode_stream(
        self, latents: Float[Array, "N f h w C"]
    ) -> Iterator[Float[Array, "N _ H W 3"]]:
        """The clips of `decode` in pieces of some frames."""
        ...

    def chunks(self, frames: int) -> list[int]:
        """The pieces of that many latent frames, in latent frames."""
        ...

    def decoding_bytes(self, frames: int, rows: int, columns: int, platform: str) -> int:
        """About how much device memory `decode_stream` takes for such latents."""
        ...


@partial(jax.jit, static_argnums=0)
def encode_ids(graphdef: nnx.GraphDef, params, token_ids: Int[Array, "N T"]) -> Array:
    """Text embeddings of prompts, one by one; compiled."""
    return nnx.merge(graphdef, params)(token_ids)


def encode_prompts(
    text_encoder: LoadedNetwork, token_ids: Int[Array, "B S T"]
) -> Float[Array, "B S T E"]:
    """Text embeddings of each scene's prompt; padding is encoded as text is, without a mask."""
    batch, scenes, length = token_ids.shape
    embeds = encode_ids(*text_encoder, jnp.asarray(token_ids).reshape(batch * scenes, length))
    return embeds.reshape(batch, scenes, length, -1)


def latent_frames(frames: int, ratio: int, patch: int = 1) -> int:
    """Latent frames of a scene, rounded up to patches of `patch`; L stand for ratio (L - 1) + 1."""
    whole = -(-(frames - 1) // ratio) + 1
    return -(-whole // patch) * patch


def frames_to_decode(
    vae: Vae, latents: Float[Array | np.ndarray, "N f h w C"], frames: int
) -> Float[Array | np.ndarray, "N _ h w C"]:
    """Latents without the first ones that only fill a patch; decoding gives `frames` or a few more.

    diffusers (CogVideoXPipeline) drops them in front too.
    """
    filled = latents.shape[1] - latent_frames(frames, vae.config.temporal_compression_ratio)
    return latents[:, filled:]


def encode_posterior(
    vae: Vae, clips: Float[Array, "N F H W 3"], length: int
) -> tuple[Float[Array, "N {length} h w C"], Float[Array, "N {length} h w C"]]:
    """Mean and log variance of the `length` latent frames that clips with values in -1..1 have.

    The last frame of a clip is repeated up to a whole latent frame, the first latent frame up to a
    whole patch, as CogVideoX 1.5 was trained.
    """
    frames = clips.shape[1]
    rest = -(frames - 1) % vae.config.temporal_compression_ratio
    if rest:
        clips = jnp.concatenate([clips, jnp.repeat(clips[:, -1:], rest, axis=1)], axis=1)
    mean, logvar = (_repeat_first(moment, length) for moment in vae.encode(clips))
    return mean, logvar


def _repeat_first(latents: Float[Array, "N f h w C"], length: int) -> Float[Array, "N _ h w C"]:
    missing = length - latents.shape[1]
    if not missing:
        return latents
    return jnp.concatenate([jnp.repeat(latents[:, :1], missing, axis=1), latents], axis=1)


def sample_latents(
    mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"], noise: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """A draw from what a VAE's `encode` returns; `noise` is standard normal."""
    return mean + jnp.exp(0.5 * logvar) * noise


def encode_clips(
    vae: Vae, clips: Float[Array, "N F H W 3"], noise: Float[Array, "N f h w C"]
) -> Float[Array, "N f h w C"]:
    """The transformer's latents of clips with values in -1..1: scaled draws from the posterior.

    Frames are filled up as by `encode_posterior`; what is repeated is the same draw.
    """
    whole = latent_frames(clips.shape[1], vae.config.temporal_compression_ratio)
    posterior = encode_posterior(vae, clips, whole)
    drawn = sample_latents(*posterior, noise[:, noise.shape[1] - whole :])
    return _repeat_first(drawn, noise.shape[1]) * vae.config.scaling_factor


def decode_scene(vae: Vae, latents: Float[Array, "N f h w C"]) -> Float[Array, "N F H W 3"]:
    """Frames in 0..1 of one scene's latents; scenes share nothing in the decoder."""
    return to_unit_range(vae.decode(latents / vae.config.scaling_factor))


def to_unit_range(video: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Values of -1..1 mapped to 0..1, and clipped."""
    return jnp.clip(video / 2 + 0.5, 0.0, 1.0)
