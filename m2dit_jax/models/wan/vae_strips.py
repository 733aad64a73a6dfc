"""Decoding a video block by block in horizontal strips: exact, for accelerators of little memory.

Between two blocks the activations, and between two chunks the caches, lie on the host. A strip goes
through a block with so many rows on either side as the block's convolutions look beyond it; what
those rows lack of their own neighbours never reaches the strip. It costs the way of every
activation to the host and back, and the rows that are worked on twice.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.causal_conv import Carry
from m2dit_jax.models.wan.vae import UpBlock, WanVae
from m2dit_jax.models.wan.vae_layers import from_patches

HostCache = tuple[np.ndarray, ...]


def decode_in_strips(
    vae: WanVae, latents: Float[Array | np.ndarray, "B f h w C"], rows: int = 8
) -> Iterator[Float[np.ndarray, "B _ H W D"]]:
    """The video on the host, chunk by chunk; `rows` of the latents at a time are worked on.

    Raises ValueError for less than one row.
    """
    if rows < 1:
        raise ValueError(f"rows {rows} must be positive")
    graphdef, params = nnx.split(vae)
    stages = [_stage(vae, index, rows) for index in range(len(vae.config.dim_mult))]
    caches: dict[Any, HostCache] = {}
    start = 0
    for size in vae.chunks(latents.shape[1]):
        chunk = jnp.asarray(latents[:, start : start + size])
        start += size
        x, caches["begin"] = jax.device_get(_begin(graphdef, params, chunk, caches.get("begin")))
        for number, stage in enumerate(stages):
            x = stage.run(x, caches, number)
        yield np.asarray(from_patches(jnp.asarray(x), vae.config.patch), latents.dtype)


class _Stage(NamedTuple):
    """A block of the decoder, the last one with what comes after it."""

    graphdef: Any
    params: Any
    rows: int
    """Rows of the block's input in a strip."""
    margin: int
    """Rows beyond a strip that it looks at."""

    def run(
        self, x: Float[np.ndarray, "B F H W C"], caches: dict[Any, HostCache], number: int
    ) -> Float[np.ndarray, "B G _ _ D"]:
        """The whole output on the host; `caches` of the strips are replaced by those after it."""
        height, outs = x.shape[2], []
        window = min(height, self.rows + 2 * self.margin)
        for top in range(0, height, self.rows):
            # All windows are of one size, so that one compilation serves them.
            first = min(max(top - self.margin, 0), height - window)
            part = x[:, :, first : first + window]
            past = caches.get((number, top))
            out, cache = jax.device_get(_run_stage(self.graphdef, self.params, part, past))
            caches[number, top] = cache
            scale = out.shape[2] // window
            bottom = min(top + self.rows, height)
            outs.append(out[:, :, (top - first) * scale : (bottom - first) * scale])
        return np.concatenate(outs, axis=2)


def _stage(vae: WanVae, index: int, rows: int) -> _Stage:
    decoder = vae.decoder
    block: UpBlock = decoder.up_blocks[index]
    last = index == len(decoder.up_blocks) - 1
    ending = (decoder.norm_out, decoder.conv_out) if last else None
    graphdef, params = nnx.split((block, ending))
    # Two convolutions in each residual block, one after them.
    return _Stage(graphdef, params, rows * 2**index, 2 * len(block.resnets) + 1)


@partial(jax.jit, static_argnums=0)
def _begin(graphdef, params, latents, cache):
    vae, carry = nnx.merge(graphdef, params), Carry(cache, zeros=True)
    raw = vae.unscale(latents).astype(vae.dtype)
    return vae.decoder.begin(vae.post_quant_conv(raw), carry), carry.cache


@partial(jax.jit, static_argnums=0)
def _run_stage(graphdef, params, x, cache):
    (block, ending), carry = nnx.merge(graphdef, params), Carry(cache, zeros=True)
    x = block(x, carry)
    if ending is not None:
        norm, conv = ending
        x = conv(jax.nn.silu(norm(x)), carry)
    return x, carry.cache
