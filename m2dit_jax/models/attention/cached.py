"""Attention of generated scenes to keys and values of given ones that were computed before."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m2dit_jax.models.attention.by_head import attend_by_head
from m2dit_jax.models.attention.chunks import attend_in_chunks
from m2dit_jax.models.attention.cudnn import attend_even
from m2dit_jax.models.attention.dispatch import Heads, resolve
from m2dit_jax.models.attention.splash import attend_padded
from m2dit_jax.models.layout import Layout


class KeyValues(NamedTuple):
    """Rotated keys, and values, of the video of given scenes: of a layer, or of all, stacked."""

    keys: Float[Array, "*layers B M N K"]
    values: Float[Array, "*layers B M N K"]


def attention_cached(
    query: Heads,
    key: Heads,
    value: Heads,
    cached: KeyValues,
    layout: Layout,
    implementation: str,
    platform: str | None = None,
) -> Heads:
    """text_i asks [text_i, video_i]; video_i asks [text_i, cached video, all video].

    `layout` is that of the generated scenes; what comes out at its padding is zero. Its scenes take
    turns, each with exactly the keys that it sees, by the named implementation of `attention`.
    Raises ValueError for an unknown name.
    """
    shape = (query.shape[0], layout.tokens + cached.keys.shape[1], *query.shape[2:])
    attend = ATTEND[resolve(implementation, shape, query.dtype, platform)]
    query_text, query_video = layout.split_scenes(query)
    key_text, key_video = layout.split_scenes(key)
    value_text, value_video = layout.split_scenes(value)
    text, video = [], []
    for scene in range(layout.scenes):
        own_key = jnp.concatenate([key_text[scene], key_video[scene]], axis=1)
        own_value = jnp.concatenate([value_text[scene], value_video[scene]], axis=1)
        text.append(attend(query_text[scene], own_key, own_value))
        seen_key = jnp.concatenate([key_text[scene], cached.keys, *key_video], axis=1)
        seen_value = jnp.concatenate([value_text[scene], cached.values, *value_video], axis=1)
        video.append(attend(query_video[scene], seen_key, seen_value))
    return layout.join_scenes(text, video)


ATTEND: dict[str, Callable[..., Heads]] = {
    "dense": jax.nn.dot_product_attention,
    "grouped": jax.nn.dot_product_attention,
    "by_head": attend_by_head,
    "chunked": attend_in_chunks,
    "splash": attend_padded,
    "cudnn": attend_even,
}
