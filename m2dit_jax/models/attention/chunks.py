"""Attention of a chunk of queries at a time: logits of bounded memory, forward and backward."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import allowed, sees_other_video, value_at

# The logits (float32) of a chunk of queries take about this many bytes, but there are at least so
# many queries in a chunk.
LOGITS_BYTES = 2**30
LEAST_QUERIES = 256


def attend_in_chunks(
    query: Float[Array, "B Q N K"], key: Float[Array, "B M N K"], value: Float[Array, "B M N K"]
) -> Float[Array, "B Q N K"]:
    """`jax.nn.dot_product_attention` without a mask."""
    return _over_chunks(
        lambda queries, _, keys, values: jax.nn.dot_product_attention(queries, keys, values),
        query,
        None,
        key,
        value,
    )


def attend_rows(
    query: Float[Array, "B Q N K"],
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    rows: Int[Array, " Q"],
    layout: Layout,
    mask: str,
) -> Float[Array, "B Q N K"]:
    """Attention of the queries at some positions of the joint sequence, to all of it.

    `rows` are the positions, in any order; they may be traced. Gives those rows of `dense`. Keys
    beyond the joint sequence are cached ones of other scenes' video. Raises ValueError for masks
    that depend on which scenes are given.
    """
    columns = jnp.arange(layout.tokens)
    cached = key.shape[1] - layout.tokens
    sees_cached = (*sees_other_video(layout, mask).astype(int).tolist(), 0)

    def attend(query: Array, rows: Array, key: Array, value: Array) -> Array:
        # The mask needs no gradient, and so its bits for all chunks would be kept for the backward
        # pass (2.8 GB at full size), did it not seem to depend on the queries.
        query, rows = jax.lax.optimization_barrier((query, rows))
        seen = allowed(rows[:, None], columns[None, :], layout, mask)
        if cached:
            see = value_at(rows, layout, sees_cached) == 1
            see = jnp.broadcast_to(see[:, None], (len(rows), cached))
            seen = jnp.concatenate([seen, see], axis=1)
        return jax.nn.dot_product_attention(query, key, value, mask=seen[None, None])

    return _over_chunks(attend, query, rows, key, value)


def _over_chunks(
    attend: Callable[..., Array],
    query: Float[Array, "B Q N K"],
    rows: Int[Array, " Q"] | None,
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
) -> Float[Array, "B Q N K"]:
    batch, length, heads, head_dim = query.shape
    row_bytes = 4 * heads * key.shape[1]
    if batch * length * row_bytes <= LOGITS_BYTES:
        return attend(query, rows, key, value)
    chunks = -(-length // max(LOGITS_BYTES // row_bytes, LEAST_QUERIES))
    chunk = -(-length // chunks)
    missing = chunks * chunk - length
    padded = jnp.pad(query, ((0, 0), (0, missing), (0, 0), (0, 0)))
    row_parts = None if rows is None else jnp.pad(rows, (0, missing)).reshape(chunks, chunk)

    # Checkpointed, or the backward pass would keep the logits of all chunks.
    @jax.checkpoint
    def attend_chunk(queries: Array, rows: Array | None, keys: Array, values: Array) -> Array:
        return attend(queries[None], rows, keys[None], values[None])[0]

    def attend_element(element: tuple[Array, Array, Array]) -> Array:
        query_parts, keys, values = element
        return jax.lax.map(lambda part: attend_chunk(*part, keys, values), (query_parts, row_parts))

    parts = padded.reshape(batch, chunks, chunk, heads, head_dim)
    out = jax.lax.map(attend_element, (parts, key, value))
    return out.reshape(batch, chunks * chunk, heads, head_dim)[:, :length]
