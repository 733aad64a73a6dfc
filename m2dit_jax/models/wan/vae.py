"""Wan's causal 3-D VAE, of 2.1 and 2.2 (arXiv 2503.20314): videos to latents and back.

Works through a video in chunks of latent frames, the first of which is one frame by itself. Each is
a pure function of the chunk and of what the causal convolutions saw before it. No layer looks at a
whole chunk, so that the result does not depend on how the others are cut.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.causal_conv import Cache, Carry, CausalConv
from m2dit_jax.models.vae_chunks import check_shape, decode_chunk, encode_chunk, run_chunks
from m2dit_jax.models.wan.vae_config import WanVaeConfig
from m2dit_jax.models.wan.vae_layers import (
    Downsample,
    MidBlock,
    ResidualBlock,
    RmsNorm,
    Upsample,
    from_patches,
    mean_down,
    repeat_up,
    residual_blocks,
    to_patches,
)

# Latent frames at a time, as in the reference: more take more memory, and make nothing different.
_CHUNK = 1
# Activations of the last block that decoding takes at once; an estimate by its layers: a
# convolution's input with its past, and three frames' products.
DECODING_ACTIVATIONS = 8.0


class ResidualDown(nnx.Module):
    """Residual blocks and downsampling, with a path of means around them (Wan 2.2)."""

    def __init__(self, config: WanVaeConfig, index: int, *, rngs: nnx.Rngs):
        before, width = config.encoder_widths[index : index + 2]
        last = index == len(config.temperal_downsample)
        self.time = not last and config.temperal_downsample[index]
        self.width, self.space = width, 1 if last else 2
        layers = config.num_res_blocks
        self.resnets = nnx.List(residual_blocks(before, width, layers, rngs=rngs))
        self.downsampler = None if last else Downsample(width, self.time, rngs=rngs)

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B f h w D"]:
        around = mean_down(x, self.width, 2 if self.time else 1, self.space)
        for resnet in self.resnets:
            x = resnet(x, carry)
        return around + (x if self.downsampler is None else self.downsampler(x, carry))


def _plain_down(config: WanVaeConfig, rngs: nnx.Rngs) -> list[ResidualBlock | Downsample]:
    """The layers of Wan 2.1's encoder, flat and in order, as their weights are named."""
    layers: list[ResidualBlock | Downsample] = []
    widths = config.encoder_widths
    for index, width in enumerate(widths[1:]):
        layers += residual_blocks(widths[index], width, config.num_res_blocks, rngs=rngs)
        if index < len(config.temperal_downsample):
            layers.append(Downsample(width, config.temperal_downsample[index], rngs=rngs))
    return layers


class Encoder(nnx.Module):
    """Frames, or patches of them, to mean and log variance of their latents, concatenated."""

    def __init__(self, config: WanVaeConfig, *, rngs: nnx.Rngs):
        first, last = config.encoder_widths[0], config.encoder_widths[-1]
        self.conv_in = CausalConv(config.in_channels, first, rngs=rngs)
        if config.is_residual:
            blocks = [ResidualDown(config, i, rngs=rngs) for i in range(len(config.dim_mult))]
        else:
            blocks = _plain_down(config, rngs)
        self.down_blocks = nnx.List(blocks)
        self.mid_block = MidBlock(last, rngs=rngs)
        self.norm_out = RmsNorm(last)
        self.conv_out = CausalConv(last, 2 * config.z_dim, rngs=rngs)

    def __call__(self, video: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B f h w D"]:
        x = self.conv_in(video, carry)
        for block in self.down_blocks:
            x = block(x, carry)
        x = self.mid_block(x, carry)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), carry)


class UpBlock(nnx.Module):
    """Residual blocks, then upsampling in all blocks but the last; `residual` as in Wan 2.2.

    There repeated pixels go around them, here upsampling halves the features.
    """

    def __init__(self, config: WanVaeConfig, index: int, *, rngs: nnx.Rngs):
        before, width = config.decoder_widths[index : index + 2]
        halves = index > 0 and not config.is_residual
        before = before // 2 if halves else before
        last = index == len(config.temperal_downsample)
        self.time = not last and config.temperal_downsample[::-1][index]
        self.width, self.residual = width, config.is_residual and not last
        layers = config.num_res_blocks + 1
        self.resnets = nnx.List(residual_blocks(before, width, layers, rngs=rngs))
        after = width if config.is_residual else width // 2
        upsample = None if last else Upsample(width, after, self.time, rngs=rngs)
        # Named as in the files: one, or a list of one.
        self.upsampler = upsample if config.is_residual else None
        self.upsamplers = nnx.List([upsample] if upsample and not config.is_residual else [])

    def __call__(self, x: Float[Array, "B f h w C"], carry: Carry) -> Float[Array, "B F H W D"]:
        before = x
        for resnet in self.resnets:
            x = resnet(x, carry)
        for upsample in (self.upsampler, *self.upsamplers):
            x = x if upsample is None else upsample(x, carry)
        if self.residual:
            x = x + repeat_up(before, self.width, 2 if self.time else 1, 2, carry.begins)
        return x


class Decoder(nnx.Module):
    """Latents to frames, or to patches of them."""

    def __init__(self, config: WanVaeConfig, *, rngs: nnx.Rngs):
        first, last = config.decoder_widths[0], config.decoder_widths[-1]
        self.conv_in = CausalConv(config.z_dim, first, rngs=rngs)
        self.mid_block = MidBlock(first, rngs=rngs)
        blocks = range(len(config.dim_mult))
        self.up_blocks = nnx.List([UpBlock(config, i, rngs=rngs) for i in blocks])
        self.norm_out = RmsNorm(last)
        self.conv_out = CausalConv(last, config.out_channels, rngs=rngs)

    def begin(self, latents: Float[Array, "B f h w C"], carry: Carry) -> Float[Array, "B f h w D"]:
        """All that is done at the size of the latents, with attention over the whole picture."""
        return self.mid_block(self.conv_in(latents, carry), carry)

    def __call__(
        self, latents: Float[Array, "B f h w C"], carry: Carry
    ) -> Float[Array, "B F H W D"]:
        x = self.begin(latents, carry)
        for block in self.up_blocks:
            x = block(x, carry)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), carry)


class WanVae(nnx.Module):
    """Encoder and decoder; the dtype of the computation is that of the parameters.

    Videos are in -1..1. Latents are the transformer's, of mean 0 and variance 1, but for the `raw`
    ones; scenes are separate videos, they share no cache.
    """

    def __init__(self, config: WanVaeConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant_conv = nnx.Linear(2 * config.z_dim, 2 * config.z_dim, rngs=rngs)
        self.post_quant_conv = nnx.Linear(config.z_dim, config.z_dim, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode_chunk(
        self, video: Float[Array, "B F H W C"], cache: Cache | None
    ) -> tuple[Float[Array, "B f h w D"], Cache]:
        """Raw moments of a chunk of frames, and the cache for the next; None before the first."""
        carry = Carry(cache, zeros=True)
        patches = to_patches(video.astype(self.dtype), self.config.patch)
        return self.quant_conv(self.encoder(patches, carry)).astype(video.dtype), carry.cache

    def decode_chunk(
        self, raw: Float[Array, "B f h w C"], cache: Cache | None
    ) -> tuple[Float[Array, "B F H W D"], Cache]:
        """Frames of a chunk of raw latents, and the cache for the next; None before the first.

        The first is a single latent frame, and becomes a single frame.
        """
        carry = Carry(cache, zeros=True)
        x = self.decoder(self.post_quant_conv(raw.astype(self.dtype)), carry)
        return from_patches(x, self.config.patch).astype(raw.dtype), carry.cache

    def encode_raw(
        self, video: Float[Array, "B F H W C"], chunk: int = _CHUNK
    ) -> tuple[Float[Array, "B f h w D"], Float[Array, "B f h w D"]]:
        """Mean and log variance, this one clamped to -30..20, as they leave the network.

        `chunk` latent frames are worked on at a time. Raises ValueError if the shape does not fit.
        """
        check_shape("video", video, self.config.colours)
        frames, height, width = video.shape[1:4]
        side, ratio = self.config.spatial_compression, self.config.temporal_compression_ratio
        if height % side or width % side:
            raise ValueError(
                f"height and width of a video must be multiples of {side}: {height}x{width}"
            )
        if (frames - 1) % ratio:
            raise ValueError(f"a video must have 1 frame more than a multiple of {ratio}: {frames}")
        sizes = [1, *(ratio * size for size in self.chunks((frames - 1) // ratio + 1, chunk)[1:])]
        moments = jnp.concatenate(list(run_chunks(self, encode_chunk, video, sizes)), axis=1)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def encode(
        self, video: Float[Array, "B F H W C"]
    ) -> tuple[Float[Array, "B f h w D"], Float[Array, "B f h w D"]]:
        """Mean and log variance of the transformer's latents; ValueError as `encode_raw`."""
        mean, logvar = self.encode_raw(video)
        of_latents, std = self._statistics(mean.dtype)
        return (mean - of_latents) / std, logvar - 2 * jnp.log(std)

    def unscale(self, latents: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        """Raw latents of the transformer's."""
        mean, std = self._statistics(latents.dtype)
        return latents * std + mean

    def decode_raw(
        self, raw: Float[Array, "B f h w C"], chunk: int = _CHUNK
    ) -> Float[Array, "B F H W D"]:
        """The video of raw latents; values may leave -1..1. Raises ValueError as `encode_raw`."""
        check_shape("latents", raw, self.config.z_dim)
        sizes = self.chunks(raw.shape[1], chunk)
        return jnp.concatenate(list(run_chunks(self, decode_chunk, raw, sizes)), axis=1)

    def decode_stream(
        self, latents: Float[Array, "B f h w C"]
    ) -> Iterator[Float[Array, "B _ H W D"]]:
        """The video piece by piece, so that only one chunk needs to be on the accelerator.

        Raises ValueError for a shape that does not fit the network.
        """
        check_shape("latents", latents, self.config.z_dim)
        raw = self.unscale(jnp.asarray(latents))
        return run_chunks(self, decode_chunk, raw, self.chunks(latents.shape[1]))

    def decode(self, latents: Float[Array, "B f h w C"]) -> Float[Array, "B F H W D"]:
        """The video of the transformer's latents; values may leave -1..1; ValueError as above."""
        return jnp.concatenate(list(self.decode_stream(latents)), axis=1)

    @staticmethod
    def chunks(frames: int, chunk: int = _CHUNK) -> list[int]:
        """Latent frames of each chunk: the first by itself."""
        whole, rest = divmod(frames - 1, chunk)
        return [1] + [chunk] * whole + [rest] * (rest > 0)

    def decoding_bytes(self, frames: int, rows: int, columns: int, platform: str) -> int:
        """About how much device memory `decode_stream` takes beside the weights.

        `frames`, `rows` and `columns` are those of the latents. Nearly all of it are activations of
        the last block, of the size of the picture.
        """
        config = self.config
        pixels = rows * columns * (config.spatial_compression // config.patch) ** 2
        features = config.decoder_widths[-1] * (2 if config.is_residual else 1)
        one = pixels * features * min(frames, _CHUNK) * config.temporal_compression_ratio
        return int(DECODING_ACTIVATIONS * one * jnp.dtype(self.dtype).itemsize)

    @property
    def dtype(self) -> Any:
        """That of the parameters."""
        return self.decoder.conv_in.kernel.dtype

    def _statistics(self, dtype: Any) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
        each = self.config.latents_mean, self.config.latents_std
        mean, std = (jnp.asarray(np.asarray(values), dtype) for values in each)
        return mean, std
