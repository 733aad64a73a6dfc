"""The causal 3-D VAE of CogVideoX (arXiv 2408.06072, section 2.1): videos to latents and back.

Works through a video in chunks of frames, each a pure function of the chunk and of what the causal
convolutions saw before it. The statistics of the norms are over a chunk, so that the result depends
on the chunks: the rules for them are part of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.causal_conv import Cache, Carry, CausalConv
from m2dit_jax.models.cogvideox.vae_layers import (
    Downsample,
    GroupNorm,
    Guide,
    MakeNorm,
    SpatialNorm,
    Upsample,
    resnet_blocks,
)
from m2dit_jax.models.vae_chunks import check_shape, decode_chunk, encode_chunk, run_chunks

_ENCODER_CHUNK = 8
_DECODER_CHUNK = 2
# Activations of the last block that decoding takes at once: measured for 480x720 in bfloat16 as
# 14.1 on H100 and 31.1 on v5p, jax 0.10.2.
DECODING_ACTIVATIONS = {"gpu": 15.0, "tpu": 33.0}


@dataclass(frozen=True)
class VaeConfig:
    """Shape of the VAE; names as in diffusers' AutoencoderKLCogVideoX.

    `scaling_factor` takes no part here: the transformer's latents are ours times it.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    latent_channels: int
    in_channels: int = 3
    out_channels: int = 3
    temporal_compression_ratio: int = 4
    norm_eps: float = 1e-6
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        odd = [width for width in self.block_out_channels if width % self.norm_num_groups]
        if odd or not self.block_out_channels:
            raise ValueError(
                f"block_out_channels {self.block_out_channels} must all be multiples of "
                f"norm_num_groups {self.norm_num_groups}"
            )
        possible = [2**stages for stages in range(len(self.block_out_channels))]
        if self.temporal_compression_ratio not in possible:
            raise ValueError(
                f"temporal_compression_ratio {self.temporal_compression_ratio} must be one of "
                f"{possible} with {len(self.block_out_channels)} blocks"
            )

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent in height and in width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def temporal_stages(self) -> int:
        """Number of blocks, from the first of encoder and decoder on, that resample time."""
        return self.temporal_compression_ratio.bit_length() - 1


class DownBlock(nnx.Module):
    """Residual blocks, then downsampling in all blocks but the last."""

    def __init__(self, config: VaeConfig, index: int, *, rngs: nnx.Rngs):
        widths = config.block_out_channels
        width, last = widths[index], index == len(widths) - 1
        before, layers = widths[max(index - 1, 0)], config.layers_per_block
        make_norm = _encoder_norm(config)
        self.resnets = nnx.List(resnet_blocks(before, width, layers, make_norm, rngs=rngs))
        time = index < config.temporal_stages
        self.downsample = None if last else Downsample(width, time, rngs=rngs)

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B f h w D"]:
        for resnet in self.resnets:
            x = resnet(x, carry)
        return x if self.downsample is None else self.downsample(x)


class Encoder(nnx.Module):
    """Frames to mean and log variance of their latents, concatenated."""

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs):
        first, last = config.block_out_channels[0], config.block_out_channels[-1]
        blocks = range(len(config.block_out_channels))
        self.conv_in = CausalConv(config.in_channels, first, rngs=rngs)
        self.down_blocks = nnx.List([DownBlock(config, i, rngs=rngs) for i in blocks])
        make_norm = _encoder_norm(config)
        self.mid_block = nnx.List(resnet_blocks(last, last, 2, make_norm, rngs=rngs))
        self.norm_out = GroupNorm(last, config.norm_num_groups)
        self.conv_out = CausalConv(last, 2 * config.latent_channels, rngs=rngs)

    def __call__(self, video: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B f h w D"]:
        x = self.conv_in(video, carry)
        for block in self.down_blocks:
            x = block(x, carry)
        for resnet in self.mid_block:
            x = resnet(x, carry)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), carry)


class UpBlock(nnx.Module):
    """One residual block more than in a `DownBlock`, then upsampling in all blocks but the last."""

    def __init__(self, config: VaeConfig, index: int, *, rngs: nnx.Rngs):
        widths = config.block_out_channels[::-1]
        width, last = widths[index], index == len(widths) - 1
        before, layers = widths[max(index - 1, 0)], config.layers_per_block + 1
        make_norm = _decoder_norm(config, rngs)
        self.resnets = nnx.List(resnet_blocks(before, width, layers, make_norm, rngs=rngs))
        time = index < config.temporal_stages
        self.upsample = None if last else Upsample(width, time, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B f h w C"], carry: Carry, guide: Guide
    ) -> Float[Array, "B F H W D"]:
        for resnet in self.resnets:
            x = resnet(x, carry, guide)
        return x if self.upsample is None else self.upsample(x, guide.first_apart)


class Decoder(nnx.Module):
    """Latents to frames; every norm looks back at the latents."""

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs):
        first, last = config.block_out_channels[-1], config.block_out_channels[0]
        blocks = range(len(config.block_out_channels))
        self.conv_in = CausalConv(config.latent_channels, first, rngs=rngs)
        make_norm = _decoder_norm(config, rngs)
        self.mid_block = nnx.List(resnet_blocks(first, first, 2, make_norm, rngs=rngs))
        self.up_blocks = nnx.List([UpBlock(config, i, rngs=rngs) for i in blocks])
        self.norm_out = make_norm(last)
        self.conv_out = CausalConv(last, config.out_channels, rngs=rngs)

    def __call__(self, guide: Guide, carry: Carry) -> Float[Array, "B F H W C"]:
        x = self.conv_in(guide.latents, carry)
        for resnet in self.mid_block:
            x = resnet(x, carry, guide)
        for block in self.up_blocks:
            x = block(x, carry, guide)
        return self.conv_out(jax.nn.silu(self.norm_out(x, guide)), carry)


class CausalVae(nnx.Module):
    """Encoder and decoder; the dtype of the computation is that of the parameters.

    Videos are in -1..1. What the transformer calls latents are these latents times
    `config.scaling_factor`; scenes are separate videos, they share no cache.
    """

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode_chunk(
        self, video: Float[Array, "B F H W C"], cache: Cache | None
    ) -> tuple[Float[Array, "B f h w D"], Cache]:
        """Moments of a chunk of frames, and the cache for the next; None before the first."""
        carry = Carry(cache)
        moments = self.encoder(video.astype(self._dtype), carry)
        return moments.astype(video.dtype), carry.cache

    def decode_chunk(
        self, latents: Float[Array, "B f h w C"], cache: Cache | None
    ) -> tuple[Float[Array, "B F H W D"], Cache]:
        """Frames of a chunk of latents, and the cache for the next; None before the first.

        Each latent frame becomes `temporal_compression_ratio` frames; only if there is no cache and
        the number of latent frames is odd, the first becomes a single one.
        """
        carry = Carry(cache)
        first_apart = cache is None and latents.shape[1] % 2 == 1
        video = self.decoder(Guide(latents.astype(self._dtype), first_apart), carry)
        return video.astype(latents.dtype), carry.cache

    def encode_moments(self, video: Float[Array, "B F H W C"]) -> Float[Array, "B f h w D"]:
        """Means and log variances of the latents, concatenated as they leave the network.

        Raises ValueError if the shape does not fit the network.
        """
        check_shape("video", video, self.config.in_channels)
        frames, height, width = video.shape[1:4]
        factor = self.config.spatial_compression
        if height % factor or width % factor:
            raise ValueError(
                f"height and width of a video must be multiples of {factor}: {height}x{width}"
            )
        return jnp.concatenate(
            list(run_chunks(self, encode_chunk, video, encoder_chunks(frames))), 1
        )

    def encode(
        self, video: Float[Array, "B F H W C"]
    ) -> tuple[Float[Array, "B f h w D"], Float[Array, "B f h w D"]]:
        """Mean and log variance, this one clamped to -30..20, of the latents' distribution.

        Raises ValueError if the shape does not fit the network.
        """
        mean, logvar = jnp.split(self.encode_moments(video), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode_stream(
        self, latents: Float[Array, "B f h w C"], chunk_rule: str = "reference"
    ) -> Iterator[Float[Array, "B _ H W D"]]:
        """The video piece by piece, so that only one chunk needs to be on the accelerator.

        Raises ValueError for an unknown rule or a shape that does not fit the network.
        """
        check_shape("latents", latents, self.config.latent_channels)
        return run_chunks(self, decode_chunk, latents, decoder_chunks(latents.shape[1], chunk_rule))

    def decode(
        self, latents: Float[Array, "B f h w C"], chunk_rule: str = "reference"
    ) -> Float[Array, "B F H W D"]:
        """The video; values may leave -1..1. `chunk_rule` is one of `DECODER_CHUNK_RULES`.

        Raises ValueError for an unknown rule or a shape that does not fit the network.
        """
        return jnp.concatenate(list(self.decode_stream(latents, chunk_rule)), axis=1)

    def chunks(self, frames: int) -> list[int]:
        """Latent frames of each chunk of decoding."""
        return decoder_chunks(frames, "reference")

    def decoding_bytes(self, frames: int, rows: int, columns: int, platform: str) -> int:
        """See the function of that name."""
        return decoding_bytes(self.config, frames, rows, columns, self._dtype, platform)

    @property
    def _dtype(self):
        return self.decoder.conv_in.kernel.dtype


def encoder_chunks(frames: int) -> list[int]:
    """Frames of each chunk of the encoder: 8, the first one up to 15; fewer if the video is."""
    count = max(frames // _ENCODER_CHUNK, 1)
    return [frames - (count - 1) * _ENCODER_CHUNK] + [_ENCODER_CHUNK] * (count - 1)


def _reference_chunks(frames: int) -> list[int]:
    pairs, odd = divmod(frames - 1, _DECODER_CHUNK)
    return [1] + [_DECODER_CHUNK] * pairs + [1] * odd


def _diffusers_chunks(frames: int) -> list[int]:
    count = max(frames // _DECODER_CHUNK, 1)
    return [frames - (count - 1) * _DECODER_CHUNK] + [_DECODER_CHUNK] * (count - 1)


# Latent frames of each chunk of the decoder. With the reference's rule the first latent frame is
# alone, and L of them give ratio * (L - 1) + 1 frames. With diffusers' the first chunk is of 2 or
# 3, and an even L gives ratio * L frames; what was encoded from that many is decoded to as many.
DECODER_CHUNK_RULES = {"reference": _reference_chunks, "diffusers": _diffusers_chunks}


def decoder_chunks(frames: int, rule: str) -> list[int]:
    """Latent frames of each chunk of the decoder; ValueError if there is no such rule."""
    if rule not in DECODER_CHUNK_RULES:
        raise ValueError(f"chunk_rule {rule!r} must be one of {sorted(DECODER_CHUNK_RULES)}")
    return DECODER_CHUNK_RULES[rule](frames)


def decoding_bytes(
    config: VaeConfig, frames: int, rows: int, columns: int, dtype: Any, platform: str
) -> int:
    """About how much device memory `decode_stream` takes beside the weights, for such latents.

    Nearly all of it are activations of the last block, of the size of the picture: so many times
    as DECODING_ACTIVATIONS says of the platform, which the compilers for absent machines told
    (`m2dit plan --mode=decode`).
    """
    latent_frames = min(frames, _DECODER_CHUNK)
    pixels = rows * columns * config.spatial_compression**2
    one = pixels * latent_frames * config.temporal_compression_ratio * config.block_out_channels[0]
    activations = DECODING_ACTIVATIONS.get(platform, DECODING_ACTIVATIONS["gpu"])
    return int(activations * one * jnp.dtype(dtype).itemsize)


def _encoder_norm(config: VaeConfig) -> MakeNorm:
    return partial(GroupNorm, groups=config.norm_num_groups, epsilon=config.norm_eps)


def _decoder_norm(config: VaeConfig, rngs: nnx.Rngs) -> MakeNorm:
    return partial(
        SpatialNorm,
        latent_channels=config.latent_channels,
        groups=config.norm_num_groups,
        rngs=rngs,
    )
