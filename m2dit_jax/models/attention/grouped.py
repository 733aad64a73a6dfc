"""Masked attention without a mask: each group of queries gets exactly the keys that it may see."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.models.attention.by_head import attend_by_head
from m2dit_jax.models.attention.chunks import attend_in_chunks
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import sees, segment_codes

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
        return groups_in_turn(query, key, value, layout, mask, attend)
    real = replace(layout, padding=0)
    end = real.tokens
    out = _scenes_together(query[:, :end], key[:, :end], value[:, :end], real, mask, attend)
    if not layout.padding:
        return out
    return jnp.concatenate([out, attend(query[:, end:], key[:, end:], value[:, end:])], axis=1)


def groups_in_turn(
    query: Heads, key: Heads, value: Heads, layout: Layout, mask: str, attend: Attend
) -> Heads:
    """`grouped`, one group after the other: less memory, as no keys are repeated for each scene."""
    bounds = (*layout.segment_starts, layout.tokens)
    all_codes = segment_codes(layout.scenes, mask, layout.global_text)
    there = [i for i, (start, end) in enumerate(pairwise(bounds)) if start < end]
    spans = [slice(bounds[i], bounds[i + 1]) for i in there]
    codes = all_codes[there]
    groups: dict[tuple[int, ...], list[int]] = {}
    for segment in range(len(spans)):
        seen = np.flatnonzero(sees(codes[segment, None], codes))
        groups.setdefault(tuple(seen.tolist()), []).append(segment)

    def gather(x: Array, segments: Iterable[int]) -> Array:
        return jnp.concatenate([x[:, spans[segment]] for segment in segments], axis=1)

    outs: dict[int, Array] = {}
    for seen, segments in groups.items():
        out = attend(gather(query, segments), gather(key, seen), gather(value, seen))
        lengths = [spans[segment].stop - spans[segment].start for segment in segments]
        parts = jnp.split(out, np.cumsum(lengths[:-1]), axis=1)
        outs.update(zip(segments, parts, strict=True))
    return jnp.concatenate([outs[segment] for segment in range(len(spans))], axis=1)


def by_head(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """`grouped`, a few heads at a time: for CPUs."""
    return grouped(query, key, value, layout, mask, attend_by_head)


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
