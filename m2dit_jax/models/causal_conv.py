"""Convolutions that see no later frame, chunk by chunk in time: each hands on the last frames."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

WINDOW = 3
PAST = WINDOW - 1

# For each causal convolution, in the order in which they run, the last frames that it saw.
Cache = tuple[Float[Array, "B _ _ _ _"], ...]


class Carry:
    """The frames that causal convolutions hand on from one chunk to the next.

    Lives during one pure function from (chunk, cache) to (result, new cache): the convolutions take
    their part of the old cache in turn and leave their part of the new one. Without a cache the
    chunk is the beginning of a video, before which its own first frame lies, or with `zeros`
    nothing.
    """

    def __init__(self, cache: Cache | None, zeros: bool = False):
        self._past = None if cache is None else iter(cache)
        self._seen: list[Array] = []
        self._zeros = zeros

    @property
    def begins(self) -> bool:
        """Whether the chunk is the beginning of a video."""
        return self._past is None

    def extend(self, x: Float[Array, "B F H W C"], past: int = PAST) -> Float[Array, "B G H W C"]:
        """`x` after the `past` frames before it."""
        if self._past is not None:
            before = next(self._past)
        else:
            before = jnp.repeat(x[:, :1], past, axis=1)
            before = jnp.zeros_like(before) if self._zeros else before
        x = jnp.concatenate([before, x], axis=1)
        self.leave(x[:, -past:])
        return x

    def leave(self, frames: Float[Array, "B _ H W C"]) -> None:
        """Hands frames on that a later chunk's `extend` puts before its own."""
        self._seen.append(frames)

    @property
    def cache(self) -> Cache:
        """The frames that the next chunk needs."""
        return tuple(self._seen)


class CausalConv(nnx.Module):
    """3x3x3 convolution that sees this frame and the two before it; zeros around the picture."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        shape = (WINDOW, WINDOW, WINDOW, in_channels, out_channels)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B F H W D"]:
        batch, frames, *picture = x.shape
        x = carry.extend(x)

        # A 2-D convolution for each place of the window: on the CPU half the time of a 3-D one.
        def convolve(place: int) -> Array:
            return jax.lax.conv_general_dilated(
                x[:, place : place + frames].reshape(batch * frames, *picture),
                self.kernel[...][place],
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        out = convolve(0) + convolve(1) + convolve(2) + self.bias[...]
        return out.reshape(batch, frames, *out.shape[1:])


class TimeConv(nnx.Module):
    """Convolution over three frames at the same place, every `stride` frames."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, rngs: nnx.Rngs):
        shape = (WINDOW, 1, 1, in_channels, out_channels)
        self.stride = stride
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: Float[Array, "B F H W C"], carry: Carry) -> Float[Array, "B G H W D"]:
        frames = x.shape[1]
        x = carry.extend(x, WINDOW - self.stride)
        places = (
            x[:, place : place + frames : self.stride] @ self.kernel[...][place, 0, 0]
            for place in range(WINDOW)
        )
        return sum(places, self.bias[...])
