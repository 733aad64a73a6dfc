"""Attention of a chunk of queries at a time: logits of bounded memory, forward and backward."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The logits (float32) of a chunk of queries take about this many bytes, but there are at least so
# many queries in a chunk.
LOGITS_BYTES = 2**30
LEAST_QUERIES = 256


def attend_in_chunks(
    query: Float[Array, "B Q N K"], key: Float[Array, "B M N K"], value: Float[Array, "B M N K"]
) -> Float[Array, "B Q N K"]:
    """`jax.nn.dot_product_attention` without a mask."""
    batch, length, heads, head_dim = query.shape
    row_bytes = 4 * heads * key.shape[1]
    if batch * length * row_bytes <= LOGITS_BYTES:
        return jax.nn.dot_product_attention(query, key, value)
    chunks = -(-length // max(LOGITS_BYTES // row_bytes, LEAST_QUERIES))
    chunk = -(-length // chunks)
    missing = chunks * chunk - length
    padded = jnp.pad(query, ((0, 0), (0, missing), (0, 0), (0, 0)))

    # Checkpointed, or the backward pass would keep the logits of all chunks.
    @jax.checkpoint
    def attend_chunk(queries: Array, keys: Array, values: Array) -> Array:
        return jax.nn.dot_product_attention(queries[None], keys[None], values[None])[0]

    def attend_element(element: tuple[Array, Array, Array]) -> Array:
        query_parts, keys, values = element
        return jax.lax.map(lambda part: attend_chunk(part, keys, values), query_parts)

    parts = padded.reshape(batch, chunks, chunk, heads, head_dim)
    out = jax.lax.map(attend_element, (parts, key, value))
    return out.reshape(batch, chunks * chunk, heads, head_dim)[:, :length]
