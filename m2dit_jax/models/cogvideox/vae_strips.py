"""Decoding a video layer by layer in horizontal strips: exact, for accelerators with little memory.

Between two layers the activations, and between two chunks the cache, lie on the host; each layer
goes through them strip by strip. A strip sees a latent row more on either side than it makes, and
the statistics of the norms are put together from all strips, so that the result is that of
`CausalVae.decode` but for rounding. It costs the way of every activation to the host and back.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.causal_conv import Carry, CausalConv
from m2dit_jax.models.cogvideox.vae import CausalVae, decoder_chunks
from m2dit_jax.models.cogvideox.vae_layers import (
    Guide,
    ResnetBlock,
    SpatialNorm,
    Upsample,
    group_statistics,
)


def decode_in_strips(
    vae: CausalVae,
    latents: Float[Array | np.ndarray, "B f h w C"],
    rows: int = 8,
    chunk_rule: str = "reference",
) -> Iterator[Float[np.ndarray, "B _ H W D"]]:
    """The video on the host, chunk by chunk; `rows` of the latents at a time are worked on.

    Raises ValueError for an unknown rule or less than one row.
    """
    if rows < 1:
        raise ValueError(f"rows {rows} must be positive")
    dtype = vae.decoder.conv_in.kernel.dtype
    on_host, start, past = np.asarray(latents).astype(dtype), 0, None
    for size in decoder_chunks(latents.shape[1], chunk_rule):
        chunk = _Chunk(vae, on_host[:, start : start + size], rows, past)
        yield chunk.decode().astype(latents.dtype)
        start, past = start + size, chunk.seen


class _Activations(NamedTuple):
    """The whole output of a layer, and what the norm after it needs to know of it."""

    values: np.ndarray
    statistics: tuple[np.ndarray, np.ndarray] | None = None


class _Chunk:
    """The way of a chunk of latents through the decoder; `seen` is the cache for the next."""

    def __init__(
        self, vae: CausalVae, latents: np.ndarray, rows: int, past: list[np.ndarray] | None
    ):
        self.decoder, self.groups = vae.decoder, vae.config.norm_num_groups
        self.latents, self.height = latents, latents.shape[2]
        self.strips = [(top, min(top + rows, self.height)) for top in range(0, self.height, rows)]
        self.first_apart = past is None and latents.shape[1] % 2 == 1
        self.seen: list[np.ndarray] = []
        self._past = None if past is None else iter(past)

    def decode(self) -> np.ndarray:
        x = self._convolve(None, self.decoder.conv_in, _Activations(self.latents))
        for resnet in self.decoder.mid_block:
            x = self._resnet(resnet, x)
        for block in self.decoder.up_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            if block.upsample is not None:
                x = self._upsample(block.upsample, x)
        return self._convolve(self.decoder.norm_out, self.decoder.conv_out, x, last=True).values

    def _resnet(self, resnet: ResnetBlock, x: _Activations) -> _Activations:
        hidden = self._convolve(resnet.norm1, resnet.conv1, x)
        return self._convolve(resnet.norm2, resnet.conv2, hidden, resnet.conv_shortcut, x.values)

    def _convolve(
        self,
        norm: SpatialNorm | None,
        conv: CausalConv,
        x: _Activations,
        shortcut: nnx.Linear | None = None,
        residual: np.ndarray | None = None,
        last: bool = False,
    ) -> _Activations:
        graphdef, params = nnx.split((norm, conv, shortcut))
        past = None if self._past is None else next(self._past)
        outs, seen, statistics = [], [], []
        for strip in self.strips:
            result = _convolve_strip(
                graphdef,
                self.first_apart,
                # No norm follows on the last layer, and its channels may not be divisible.
                1 if last else self.groups,
                params,
                self._strip_rows(x.values, strip),
                self._strip_rows(self.latents, strip),
                self._strip_rows(np.ones((1, 1, self.height, 1, 1), bool), strip),
                x.statistics,
                None if past is None else self._strip_rows(past, strip),
                None if residual is None else self._strip_rows(residual, strip),
            )
            for parts, part in zip((outs, seen, statistics), jax.device_get(result), strict=True):
                parts.append(part)
        self.seen.append(np.concatenate(seen, axis=2))
        return self._joined(outs, statistics)

    def _upsample(self, layer: Upsample, x: _Activations) -> _Activations:
        graphdef, params = nnx.split(layer)
        outs, statistics = [], []
        for strip in self.strips:
            window = self._strip_rows(x.values, strip)
            result = _upsample_strip(
                graphdef,
                self.first_apart,
                self.groups,
                x.values.shape[2] // self.height,
                params,
                window,
            )
            for parts, part in zip((outs, statistics), jax.device_get(result), strict=True):
                parts.append(part)
        return self._joined(outs, statistics)

    def _strip_rows(self, x: np.ndarray, strip: tuple[int, int]) -> np.ndarray:
        """The rows of a strip and of a latent row on either side; zeros outside of the picture."""
        top, bottom = strip
        scale = x.shape[2] // self.height
        part = x[:, :, max(top - 1, 0) * scale : (bottom + 1) * scale]
        missing = (scale * (top == 0), scale * (bottom == self.height))
        return np.pad(part, ((0, 0), (0, 0), missing, (0, 0), (0, 0)))

    def _joined(self, outs: list[np.ndarray], statistics: list) -> _Activations:
        """The law of total variance puts the strips' statistics together."""
        means, variances = (
            np.stack(each).astype(np.float64) for each in zip(*statistics, strict=True)
        )
        share = np.array([bottom - top for top, bottom in self.strips])[:, None, None] / self.height
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        joined = np.concatenate(outs, axis=2)
        return _Activations(joined, (mean.astype(np.float32), variance.astype(np.float32)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _convolve_strip(
    graphdef, first_apart, groups, params, x, latents, inside, statistics, past, residual
):
    norm, conv, shortcut = nnx.merge(graphdef, params)
    margin = x.shape[2] // latents.shape[2]
    inner = slice(margin, -margin)
    if norm is not None:
        x = jax.nn.silu(norm(x, Guide(latents, first_apart), statistics))
        # Outside of the picture a convolution sees zeros, not what a norm makes of them.
        x = jnp.where(jnp.repeat(inside, margin, axis=2), x, 0)
    carry = Carry(None if past is None else (past,))
    out = conv(x, carry)[:, :, inner]
    if residual is not None:
        residual = residual[:, :, inner]
        out += residual if shortcut is None else shortcut(residual)
    (seen,) = carry.cache
    return out, seen[:, :, inner], group_statistics(out, groups)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _upsample_strip(graphdef, first_apart, groups, margin, params, x):
    out = nnx.merge(graphdef, params)(x, first_apart)[:, :, 2 * margin : -2 * margin]
    return out, group_statistics(out, groups)
