"""The parts of Wan's VAE: norm, residual block, attention within a frame, resampling."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.attention.chunks import attend_in_chunks
from m2dit_jax.models.causal_conv import PAST, Carry, CausalConv, TimeConv

_LEAST_NORM = 1e-12


class RmsNorm(nnx.Module):
    """The features of each pixel over their root mean square, in float32 whatever the dtype."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        wide = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(wide**2, axis=-1, keepdims=True))
        normal = wide / jnp.maximum(norm, _LEAST_NORM) * x.shape[-1] ** 0.5
        return (normal * self.scale[...]).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Norm, SiLU and causal convolution, twice, with a residual."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.norm1 = RmsNorm(in_channels)
        self.conv1 = CausalConv(in_channels, out_channels, rngs=rngs)
        self.norm2 = RmsNorm(out_channels)
        self.conv2 = CausalConv(out_channels, out_channels, rngs=rngs)
        narrows = in_channels != out_channels
        self.conv_shortcut = nnx.Linear(in_channels, out_channels, rngs=rngs) if narrows else None

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B F H W D"]:
        hidden = self.conv1(jax.nn.silu(self.norm1(x)), carry)
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)), carry)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def residual_blocks(
    in_channels: int, out_channels: int, layers: int, *, rngs: nnx.Rngs
) -> list[ResidualBlock]:
    """Blocks to run one after the other."""
    widths = [in_channels] + [out_channels] * layers
    return [ResidualBlock(widths[i], widths[i + 1], rngs=rngs) for i in range(layers)]


class FrameAttention(nnx.Module):
    """Self-attention of one head among the pixels of each frame, with a residual."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = RmsNorm(channels)
        self.to_qkv = nnx.Conv(channels, 3 * channels, (1, 1), rngs=rngs)
        self.proj = nnx.Conv(channels, channels, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        batch, frames, height, width, channels = x.shape
        parts = jnp.split(self.to_qkv(self.norm(x)), 3, axis=-1)
        tokens = (part.reshape(batch * frames, height * width, 1, channels) for part in parts)
        return x + self.proj(attend_in_chunks(*tokens).reshape(x.shape))


class MidBlock(nnx.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.resnets = nnx.List(residual_blocks(channels, channels, 2, rngs=rngs))
        self.attention = FrameAttention(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B F H W C"]:
        before, after = self.resnets
        return after(self.attention(before(x, carry)), carry)


class Downsample(nnx.Module):
    """Halves height and width, and with `time` the frames, by convolutions.

    The first frame of a video stays a frame of its own.
    """

    def __init__(self, channels: int, time: bool, *, rngs: nnx.Rngs):
        # The reference pads with zeros at the right and at the bottom only.
        padding = ((0, 1), (0, 1))
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.time_conv = TimeConv(channels, channels, 2, rngs=rngs) if time else None

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B G h w C"]:
        x = self.conv(x)
        if self.time_conv is None:
            return x
        if carry.begins:
            carry.leave(x)
            return x
        return self.time_conv(x, carry)


class Upsample(nnx.Module):
    """Doubles height and width, nearest neighbour and convolution, and with `time` the frames.

    A convolution makes two frames of each but the first of a video, which it does not even see.
    """

    def __init__(self, in_channels: int, out_channels: int, time: bool, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(in_channels, out_channels, (3, 3), rngs=rngs)
        self.time_conv = TimeConv(in_channels, 2 * in_channels, rngs=rngs) if time else None

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B G h w D"]:
        if self.time_conv is not None:
            x = self._double_frames(self.time_conv, x, carry)
        batch, frames, height, width, channels = x.shape
        doubled = jnp.broadcast_to(
            x[:, :, :, None, :, None], (batch, frames, height, 2, width, 2, channels)
        )
        return self.conv(doubled.reshape(batch, frames, 2 * height, 2 * width, channels))

    @staticmethod
    def _double_frames(time_conv: TimeConv, x: Array, carry: Carry) -> Array:
        if carry.begins:
            carry.leave(jnp.zeros((x.shape[0], PAST, *x.shape[2:]), x.dtype))
            return x
        batch, frames, height, width, channels = x.shape
        pairs = time_conv(x, carry).reshape(batch, frames, height, width, 2, channels)
        return jnp.moveaxis(pairs, 4, 2).reshape(batch, 2 * frames, height, width, channels)


def mean_down(
    x: Float[Array, "B F H W C"], channels: int, time: int, space: int
) -> Float[Array, "B G h w {channels}"]:
    """Blocks of `time` frames and `space` pixels as channels, and groups of those as their mean.

    Frames that lack to a whole block are zeros before the first one.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
    batch, frames, height, width, _ = x.shape
    x = x.reshape(batch, frames // time, time, height // space, space, width // space, space, -1)
    x = jnp.transpose(x, (0, 1, 3, 5, 7, 2, 4, 6))
    return jnp.mean(x.reshape(*x.shape[:4], channels, -1), axis=-1)


def repeat_up(
    x: Float[Array, "B F H W C"], channels: int, time: int, space: int, begins: bool
) -> Float[Array, "B G _ _ {channels}"]:
    """The inverse order of `mean_down` with each channel repeated: blocks of frames and pixels.

    `begins`: of the first frame of a video only the last of its block is there.
    """
    batch, frames, height, width, before = x.shape
    x = jnp.repeat(x, channels * time * space**2 // before, axis=-1)
    x = x.reshape(batch, frames, height, width, channels, time, space, space)
    x = jnp.transpose(x, (0, 1, 5, 2, 6, 3, 7, 4))
    x = x.reshape(batch, frames * time, height * space, width * space, channels)
    return x[:, time - 1 :] if begins else x


def to_patches(
    video: Float[Array, "B F H W C"], side: int
) -> Float[Array, "B F H//{side} W//{side} C*{side}*{side}"]:
    """Patches of pixels as channels, columns before rows as in the reference."""
    batch, frames, height, width, colours = video.shape
    x = video.reshape(batch, frames, height // side, side, width // side, side, colours)
    x = jnp.transpose(x, (0, 1, 2, 4, 6, 5, 3))
    return x.reshape(*x.shape[:4], colours * side**2)


def from_patches(
    x: Float[Array, "B F h w D"], side: int
) -> Float[Array, "B F h*{side} w*{side} D//({side}*{side})"]:
    """The inverse of `to_patches`."""
    batch, frames, rows, columns, _ = x.shape
    x = x.reshape(batch, frames, rows, columns, -1, side, side)
    x = jnp.transpose(x, (0, 1, 2, 6, 3, 5, 4))
    return x.reshape(batch, frames, rows * side, columns * side, -1)
