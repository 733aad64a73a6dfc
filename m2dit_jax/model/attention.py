"""Masked attention over the joint sequence: one function, implementations by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import check_mask, scene_mask

Heads = Float[Array, "B L N K"]
Attend = Callable[..., Float[Array, "B Q N K"]]

# `chunked` keeps the logits (float32) of a chunk of queries to about this many bytes, but takes at
# least so many queries at a time.
LOGITS_BYTES = 2**30
LEAST_QUERIES = 256


def attention(
    query: Heads, key: Heads, value: Heads, layout: Layout, mask: str, implementation: str
) -> Heads:
    """Attention of the joint sequence under the named mask (`masks.scene_mask`).

    All implementations compute the same function. Raises ValueError for an unknown name.
    """
    check_implementation(implementation)
    check_mask(mask)
    return IMPLEMENTATIONS[implementation](query, key, value, layout, mask)


def dense(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """The definition: the whole boolean mask given to `jax.nn.dot_product_attention`."""
    allowed = scene_mask(layout, mask)[None, None]
    return jax.nn.dot_product_attention(query, key, value, mask=allowed)


def grouped(
    query: Heads,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    attend: Attend = jax.nn.dot_product_attention,
) -> Heads:
    """The same without a mask: each group of queries gets exactly the keys that it may see.

    Under the symmetric mask text_i asks [text_i, video_i] and video_i asks [text_i, all video].
    """
    if mask == "full":
        return attend(query, key, value)
    (query_text, query_video), (key_text, key_video), (value_text, value_video) = (
        layout.split(x) for x in (query, key, value)
    )
    own_key = jnp.concatenate([key_text, key_video], axis=2)
    own_value = jnp.concatenate([value_text, value_video], axis=2)
    if mask == "independent":
        own_query = jnp.concatenate([query_text, query_video], axis=2)
        out = _per_scene(own_query, own_key, own_value, attend)
        return layout.join(out[:, :, : layout.text], out[:, :, layout.text :])
    seen_key = jnp.concatenate([key_text, _every_scene(key_video)], axis=2)
    seen_value = jnp.concatenate([value_text, _every_scene(value_video)], axis=2)
    return layout.join(
        _per_scene(query_text, own_key, own_value, attend),
        _per_scene(query_video, seen_key, seen_value, attend),
    )


def chunked(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """`grouped`, a chunk of queries at a time: logits of bounded memory, also backward."""
    return grouped(query, key, value, layout, mask, _attend_in_chunks)


IMPLEMENTATIONS: dict[str, Callable[..., Heads]] = {
    "dense": dense,
    "grouped": grouped,
    "chunked": chunked,
}


def check_implementation(name: str) -> None:
    """Raises ValueError if there is no attention implementation of that name."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown attention implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}"
        )


def _per_scene(
    query: Float[Array, "B S Q N K"],
    key: Float[Array, "B S M N K"],
    value: Float[Array, "B S M N K"],
    attend: Attend,
) -> Float[Array, "B S Q N K"]:
    """Mask-free attention within each scene: the scene axis is folded into the batch."""
    fold = [x.reshape(-1, *x.shape[2:]) for x in (query, key, value)]
    return attend(*fold).reshape(query.shape)


def _attend_in_chunks(
    query: Float[Array, "B Q N K"], key: Float[Array, "B M N K"], value: Float[Array, "B M N K"]
) -> Float[Array, "B Q N K"]:
    batch, length, heads, head_dim = query.shape
    row_bytes = 4 * heads * key.shape[1]
    if batch * length * row_bytes <= LOGITS_BYTES:
        return jax.nn.dot_product_attention(query, key, value)
    chunks = -(-length // max(LOGITS_BYTES // row_bytes, LEAST_QUERIES))
    chunk = -(-length // chunks)
    padded = jnp.pad(query, ((0, 0), (0, chunks * chunk - length), (0, 0), (0, 0)))

    # Checkpointed, or the backward pass would keep the logits of all chunks.
    @jax.checkpoint
    def attend_chunk(element: tuple[Array, Array, Array]) -> Array:
        return jax.nn.dot_product_attention(*element)

    def attend_element(element: tuple[Array, Array, Array]) -> Array:
        queries, keys, values = element
        return jax.lax.map(lambda part: attend_chunk((part, keys, values)), queries)

    parts = padded.reshape(batch, chunks, chunk, heads, head_dim)
    out = jax.lax.map(attend_element, (parts, key, value))
    return out.reshape(batch, chunks * chunk, heads, head_dim)[:, :length]


def _every_scene(video: Float[Array, "B S V N K"]) -> Float[Array, "B S SV N K"]:
    """The video tokens of all scenes, repeated for each scene that looks at them."""
    batch, scenes, tokens, *heads = video.shape
    joined = video.reshape(batch, 1, scenes * tokens, *heads)
    return jnp.broadcast_to(joined, (batch, scenes, scenes * tokens, *heads))
