"""Cross-attention: video asks the text of its scenes, which is no part of the sequence of video."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.models.attention.cached import ATTEND
from m2dit_jax.models.attention.dispatch import Queries, resolve
from m2dit_jax.models.attention.grouped import attend_groups
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import base_mask, segment_table


def cross_attention(
    query: Queries,
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    layout: Layout,
    mask: str,
    implementation: str,
    target: Target | None = None,
    query_layout: Layout | None = None,
) -> Queries:
    """Attention of video to text, by the rows of video and columns of text of the mask's table.

    `layout` is that of the video alone (no text tokens); keys and values are of the texts of all
    its scenes, equally long, one after the other. The implementations are those of `attention`:
    but for `dense` each group of scenes gets exactly the keys that it sees. Which scenes are given
    is nothing to it: no mask shows the text of a scene to another one. `query_layout` is that of
    the queries, if it is another. The result is zero at padding.
    """
    query_layout = query_layout or layout
    scenes, real = layout.scenes, query_layout.real_tokens
    table = np.asarray(segment_table(layout, base_mask(mask)))[scenes : 2 * scenes, :scenes]
    lengths, text_lengths = query_layout.video_counts, (key.shape[1] // scenes,) * scenes
    query = query[:, :real]
    # As many logits as attention of so many tokens to themselves.
    tokens = math.isqrt(real * key.shape[1])
    shape = (query.shape[0], tokens, *query.shape[2:])
    name = resolve(implementation, shape, query.dtype, target)
    if name == "dense":
        allowed = np.repeat(np.repeat(table, lengths, axis=0), text_lengths, axis=1)
        out = jax.nn.dot_product_attention(query, key, value, mask=jnp.asarray(allowed)[None, None])
    else:
        out = attend_groups(
            query, key, value, lengths, text_lengths, table, ATTEND[name], layout.equal_scenes
        )
    return jnp.pad(out, ((0, 0), (0, query_layout.padding), (0, 0), (0, 0)))
