"""The parts of the CogVideoX VAE: norms, residual block, resampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.causal_conv import Carry, CausalConv

# Mean and variance of each group of channels.
Statistics = tuple[Float[Array, "B groups"], Float[Array, "B groups"]]

# From a number of channels to a norm over them.
MakeNorm = Callable[[int], Any]


class Guide(NamedTuple):
    """The latents that the decoder's layers look back at.

    `first_apart`: the first frame of the chunk is not doubled in time, but the others are.
    """

    latents: Float[Array, "B F H W C"]
    first_apart: bool


def group_statistics(x: Float[Array, "B F H W C"], groups: int) -> Statistics:
    """Mean and variance of each group of channels over all frames and the whole picture."""
    x = x.astype(jnp.float32).reshape(*x.shape[:4], groups, -1)

    # Millions of values: the mean of the rows' means is far more accurate than one long sum.
    def mean_of(x: Array) -> Array:
        return jnp.mean(jnp.mean(x, (3, 5)), (1, 2))

    mean = mean_of(x)
    return mean, mean_of((x - mean[:, None, None, None, :, None]) ** 2)


class GroupNorm(nnx.Module):
    """Normalises in float32, whatever the dtype.

    `statistics` are those of the whole picture, if `x` is only a part of it.
    """

    def __init__(self, channels: int, groups: int, epsilon: float = 1e-6):
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self, x: Float[Array, "B F H W C"], statistics: Statistics | None = None
    ) -> Float[Array, "B F H W C"]:
        mean, variance = group_statistics(x, self.groups) if statistics is None else statistics
        factor = jax.lax.rsqrt(variance + self.epsilon)
        mean, factor = (
            jnp.repeat(each, x.shape[-1] // self.groups, axis=-1)[:, None, None, None]
            for each in (mean, factor)
        )
        normal = (x.astype(jnp.float32) - mean) * factor
        return (normal * self.scale[...] + self.bias[...]).astype(x.dtype)


class SpatialNorm(nnx.Module):
    """GroupNorm, scaled and shifted by the latents at the same place (MoVQ, arXiv 2209.09002)."""

    def __init__(self, channels: int, latent_channels: int, groups: int, *, rngs: nnx.Rngs):
        self.norm_layer = GroupNorm(channels, groups)
        self.conv_y = nnx.Linear(latent_channels, channels, rngs=rngs)
        self.conv_b = nnx.Linear(latent_channels, channels, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B F H W C"],
        guide: Guide,
        statistics: Statistics | None = None,
    ) -> Float[Array, "B F H W C"]:
        latents, first_apart = guide
        # Per step of the latents' time; a lone first frame stays one frame.
        time = max(x.shape[1] - first_apart, 1) // max(latents.shape[1] - first_apart, 1)
        space = x.shape[2] // latents.shape[2]
        # A pointwise layer can as well come before the enlargement, where it is far less work.
        scale = enlarge(self.conv_y(latents), time, space, first_apart)
        shift = enlarge(self.conv_b(latents), time, space, first_apart)
        return self.norm_layer(x, statistics) * scale + shift


class ResnetBlock(nnx.Module):
    """Norm, SiLU and causal convolution, twice, with a residual."""

    def __init__(self, in_channels: int, out_channels: int, make_norm: MakeNorm, *, rngs: nnx.Rngs):
        self.norm1 = make_norm(in_channels)
        self.conv1 = CausalConv(in_channels, out_channels, rngs=rngs)
        self.norm2 = make_norm(out_channels)
        self.conv2 = CausalConv(out_channels, out_channels, rngs=rngs)
        narrows = in_channels != out_channels
        self.conv_shortcut = nnx.Linear(in_channels, out_channels, rngs=rngs) if narrows else None

    def __call__(
        self, x: Float[Array, "B F H W C"], carry: Carry, *guide: Guide
    ) -> Float[Array, "B F H W D"]:
        """The decoder's norms take a `guide`, the encoder's none."""
        hidden = self.conv1(jax.nn.silu(self.norm1(x, *guide)), carry)
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden, *guide)), carry)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def resnet_blocks(
    in_channels: int, out_channels: int, layers: int, make_norm: MakeNorm, *, rngs: nnx.Rngs
) -> list[ResnetBlock]:
    """Blocks to run one after the other."""
    widths = [in_channels] + [out_channels] * layers
    return [ResnetBlock(widths[i], widths[i + 1], make_norm, rngs=rngs) for i in range(layers)]


class Downsample(nnx.Module):
    """Halves height and width by a convolution; first, with `time`, pairs of frames by their mean.

    An odd number of frames keeps its first one as it is.
    """

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        self.time = time
        # The reference pads with zeros at the right and at the bottom only.
        padding = ((0, 1), (0, 1))
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=2, padding=padding, rngs=rngs)

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B G h w C"]:
        if self.time:
            odd = x.shape[1] % 2
            pairs = (x[:, odd::2] + x[:, odd + 1 :: 2]) / 2
            x = jnp.concatenate([x[:, :odd], pairs], axis=1)
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width, and with `time` the frames: nearest neighbour, then convolution."""

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        self.time = time
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(
        self, x: Float[Array, "B F H W C"], first_apart: bool
    ) -> Float[Array, "B G 2*H 2*W C"]:
        x = self.conv(enlarge(x, 1, 2))
        # The convolution knows no time: doubled frames need not be convolved twice.
        return enlarge(x, 2, 1, first_apart) if self.time else x


def enlarge(
    x: Float[Array, "B F H W C"], time: int, space: int, first_apart: bool = False
) -> Float[Array, "B G {space}*H {space}*W C"]:
    """Nearest neighbour by whole factors; `first_apart`: not in time for the first frame."""
    if first_apart and time > 1:
        first, rest = enlarge(x[:, :1], 1, space), enlarge(x[:, 1:], time, space)
        return jnp.concatenate([first, rest], axis=1)
    batch, frames, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None, :, None, :],
        (batch, frames, time, height, space, width, space, channels),
    )
    return x.reshape(batch, frames * time, height * space, width * space, channels)
