"""Attention of generated scenes to keys and values of given ones that were computed before."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.models.attention.by_head import attend_by_head
from m2dit_jax.models.attention.chunks import attend_in_chunks
from m2dit_jax.models.attention.cudnn import attend_even
from m2dit_jax.models.attention.dispatch import Heads, Queries, resolve
from m2dit_jax.models.attention.grouped import attend_groups
from m2dit_jax.models.attention.splash import attend_padded
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import base_mask, sees_other_video, segment_table


class KeyValues(NamedTuple):
    """Rotated keys, and values, of the video of given scenes: of a layer, or of all, stacked."""

    keys: Float[Array, "*layers B M N K"]
    values: Float[Array, "*layers B M N K"]


def attention_cached(
    query: Queries,
    key: Heads,
    value: Heads,
    cached: KeyValues,
    layout: Layout,
    mask: str,
    implementation: str,
    target: Target | None = None,
    query_layout: Layout | None = None,
) -> Queries:
    """Attention of generated scenes, of this layout, to themselves and to the cached ones.

    Under the causal mask text_i asks [text_i, video_i], and video_i asks [text_i, cached video, all
    video]. Groups of queries take turns, each with exactly the keys that it sees, by the named
    implementation of `attention`. `query_layout` is that of the queries, if it is another than that
    of the keys. The result is zero at padding. Raises ValueError for an unknown name.
    """
    query_layout = query_layout or layout
    shape = (query.shape[0], layout.tokens + cached.keys.shape[1], *query.shape[2:])
    attend = ATTEND[resolve(implementation, shape, query.dtype, target)]
    texts, real, end = layout.scenes, 2 * layout.scenes, layout.text_tokens
    mask = base_mask(mask)
    table = np.asarray(segment_table(layout, mask))[:real, :real]
    table = np.insert(table, texts, sees_other_video(layout, mask)[:real], axis=1)
    lengths = layout.segment_lengths[:real]
    key_lengths = (*lengths[:texts], cached.keys.shape[1], *lengths[texts:])
    key, value = (
        jnp.concatenate([x[:, :end], seen, x[:, end : layout.real_tokens]], axis=1)
        for x, seen in ((key, cached.keys), (value, cached.values))
    )
    query_lengths = query_layout.segment_lengths[:real]
    query = query[:, : query_layout.real_tokens]
    out = attend_groups(query, key, value, query_lengths, key_lengths, table, attend, False)
    return jnp.pad(out, ((0, 0), (0, query_layout.padding), (0, 0), (0, 0)))


ATTEND: dict[str, Callable[..., Heads]] = {
    "dense": jax.nn.dot_product_attention,
    "grouped": jax.nn.dot_product_attention,
    "by_head": attend_by_head,
    "chunked": attend_in_chunks,
    "splash": attend_padded,
    "cudnn": attend_even,
}
