"""Masked attention without a mask: each group of queries gets exactly the keys that it may see."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.model.attention_chunks import attend_in_chunks
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import segments_see

Heads = Float[Array, "B L N K"]
Attend = Callable[..., Float[Array, "B Q N K"]]


def grouped(
    query: Heads,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    attend: Attend = jax.nn.dot_product_attention,
) -> Heads:
    """Under the symmetric mask text_i asks [text_i, video_i] and video_i asks [text_i, all video].

    `attend` is the mask-free attention that is used. Scenes of equal length go through it together,
    others one after the other.
    """
    if not layout.equal_scenes:
        return _by_segment(query, key, value, layout, mask, attend)
    real = replace(layout, padding=0)
    end = real.tokens
    out = _scenes_together(query[:, :end], key[:, :end], value[:, :end], real, mask, attend)
    if not layout.padding:
        return out
    return jnp.concatenate([out, attend(query[:, end:], key[:, end:], value[:, end:])], axis=1)


def chunked(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """`grouped`, a chunk of queries at a time: logits of bounded memory, also backward."""
    return grouped(query, key, value, layout, mask, attend_in_chunks)


def _scenes_together(
    query: Heads, key: Heads, value: Heads, layout: Layout, mask: str, attend: Attend
) -> Heads:
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


def _per_scene(
    query: Float[Array, "B S Q N K"],
    key: Float[Array, "B S M N K"],
    value: Float[Array, "B S M N K"],
    attend: Attend,
) -> Float[Array, "B S Q N K"]:
    """Mask-free attention within each scene: the scene axis is folded into the batch."""
    fold = [x.reshape(-1, *x.shape[2:]) for x in (query, key, value)]
    return attend(*fold).reshape(query.shape)


def _every_scene(video: Float[Array, "B S V N K"]) -> Float[Array, "B S SV N K"]:
    """The video tokens of all scenes, repeated for each scene that looks at them."""
    batch, scenes, tokens, *heads = video.shape
    joined = video.reshape(batch, 1, scenes * tokens, *heads)
    return jnp.broadcast_to(joined, (batch, scenes, scenes * tokens, *heads))


def _by_segment(
    query: Heads, key: Heads, value: Heads, layout: Layout, mask: str, attend: Attend
) -> Heads:
    """The queries of one segment after the other, with the keys of the segments that they see."""
    bounds = (*layout.segment_starts, layout.tokens)
    spans = [slice(start, end) for start, end in pairwise(bounds) if start < end]
    segments = np.arange(len(spans))
    sees = np.asarray(segments_see(segments[:, None], segments[None, :], layout.scenes, mask))

    def gather(x: Array, segments: np.ndarray) -> Array:
        return jnp.concatenate([x[:, spans[segment]] for segment in segments], axis=1)

    outs = []
    for segment, span in enumerate(spans):
        seen = np.flatnonzero(sees[segment])
        outs.append(attend(query[:, span], gather(key, seen), gather(value, seen)))
    return jnp.concatenate(outs, axis=1)
