"""Splash attention: the Pallas kernel of jax for TPUs, with the scene mask computed in it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as kernel_masks
from jaxtyping import Array, Float, Int

from m2dit_jax.models.attention.causal import hide_generated
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.mask_codes import segment_codes, value_at
from m2dit_jax.models.masks import key_runs
from m2dit_jax.utils.compat import computable_mask

Heads = Float[Array, "B L N K"]
Queries = Float[Array, "B Q N K"]

# Sequences of so many tokens are worked on in blocks of 512 queries and 1024 keys, shorter ones in
# the least that a TPU's vectors allow.
LONG_SEQUENCE = 4096


def splash(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    interpret: bool = False,
    query_layout: Layout | None = None,
) -> Queries:
    """Attention in the dtype of the inputs, softmax in float32; memory is linear in the tokens.

    `interpret` runs the kernel on any backend, slowly. The backend does not choose it, since
    programs are also compiled for absent TPUs.
    """
    block_queries, block_keys = (512, 1024) if layout.tokens >= LONG_SEQUENCE else (128, 128)
    query_layout = query_layout or layout
    filled = layout.tokens + -layout.tokens % block_keys
    filled_queries = query_layout.tokens + -query_layout.tokens % block_keys
    scene_mask = SceneMask(layout, mask, filled, query_layout, filled_queries)
    kernel = _make_kernel(scene_mask, query.shape[2], block_queries, block_keys, interpret)

    def heads_first(x: Array, length: int) -> Array:
        return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)

    scaled = query * jnp.asarray(query.shape[3] ** -0.5, query.dtype)
    out = jax.vmap(kernel)(
        heads_first(scaled, filled_queries), heads_first(key, filled), heads_first(value, filled)
    )
    return out.swapaxes(1, 2)[:, : query_layout.tokens]


def attend_padded(
    query: Float[Array, "B Q N K"],
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    interpret: bool = False,
) -> Float[Array, "B Q N K"]:
    """`jax.nn.dot_product_attention` without a mask; keys that fill up the blocks are hidden."""
    queries, keys, head_dim = query.shape[1], key.shape[1], query.shape[3]
    block_queries = 512 if queries >= LONG_SEQUENCE else 128
    block_keys = 1024 if keys >= LONG_SEQUENCE else 128
    lengths = queries + -queries % block_queries, keys + -keys % block_keys
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)))
        for x, length in ((query, lengths[0]), (key, lengths[1]), (value, lengths[1]))
    )
    everyone = jnp.ones(query.shape[:2], bool)
    is_real = jnp.broadcast_to(jnp.arange(lengths[1]) < keys, key.shape[:2])
    query, key, value = hide_generated(query, key, value, everyone, is_real)
    mask = kernel_masks.FullMask(lengths)
    kernel = _make_kernel(mask, query.shape[2], block_queries, block_keys, interpret)
    scaled = query * jnp.asarray(query.shape[3] ** -0.5, query.dtype)
    out = jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in (scaled, key, value)))
    return out.swapaxes(1, 2)[:, :queries, :, :head_dim]


class SceneMask(computable_mask()):
    """`masks.scene_mask`, filled up to `tokens`, computed block by block where it is needed.

    The kernel is given the codes of the queries, so that it only has to find those of the keys.
    The queries have a layout and a length of their own.
    """

    def __init__(self, layout: Layout, mask: str, tokens: int, query_layout: Layout, queries: int):
        codes = segment_codes(layout, mask)
        runs = key_runs(layout, mask)

        def mask_function(query_codes, key_positions):
            return codes.sees(query_codes, value_at(key_positions, runs.lengths, codes.keys))

        super().__init__((queries, tokens), mask_function)
        self._keys = _filled(runs.ids(), tokens, len(codes.keys) - 1)
        # A query must see something: without keys beyond the sequence, some that are in it.
        beyond = len(codes.queries) - 1 if tokens > layout.tokens else 0
        self._queries = _filled(query_layout.segments(), queries, beyond)
        self._codes = codes
        self.q_sequence = np.array(codes.queries, np.int32)[self._queries]
        self._identity = (layout, mask, tokens, query_layout, queries)

    def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
        rows, columns = self._queries[block[0]], self._keys[block[1]]
        queries, keys = np.array(self._codes.queries), np.array(self._codes.keys)
        kinds = self._codes.sees(queries[np.unique(rows)][:, None], keys[np.unique(columns)])
        # Nearly all blocks, and quicker by far.
        if kinds.all() or not kinds.any():
            return np.full((len(rows), len(columns)), kinds[0, 0])
        return np.asarray(self._codes.sees(queries[rows][:, None], keys[columns]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SceneMask) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _filled(ids: Int[np.ndarray, " L"], tokens: int, beyond: int) -> Int[np.ndarray, " tokens"]:
    """The id of each token, and of those that the sequence is filled up with."""
    return np.concatenate([ids, np.full(tokens - len(ids), beyond)])


# Going through the whole mask to find the blocks that nobody sees takes seconds at full size, and
# every layer and every compilation asks for the same.
@lru_cache(maxsize=16)
def _make_kernel(
    mask: kernel_masks.Mask, heads: int, block_queries: int, block_keys: int, interpret: bool
) -> Callable[..., Any]:
    sizes = kernels.BlockSizes(
        block_q=block_queries,
        block_kv=block_keys,
        block_q_dkv=block_queries,
        block_kv_dkv=block_keys,
        block_q_dq=block_queries,
        block_kv_dq=block_keys,
        # The fused kernel keeps dq of every block of keys: 37 GiB against 5.6 at full size.
        use_fused_bwd_kernel=False,
    )
    every_head = kernel_masks.MultiHeadMask([mask] * heads)
    with jax.ensure_compile_time_eval():
        kernel = kernels.make_splash_mha_single_device(
            every_head,
            block_sizes=sizes,
            # Of the transformer's remat "attention".
            residual_checkpoint_name="attention_residuals",
            interpret=interpret,
        )
    # What is cached must belong to no trace and no device.
    return jax.tree.map(np.asarray, kernel)
