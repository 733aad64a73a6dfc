"""Masked attention without a mask: each group of queries gets exactly the keys that it may see."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.models.attention.by_head import attend_by_head
from m2dit_jax.models.attention.chunks import attend_in_chunks
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import key_runs, query_groups, segment_table

Heads = Float[Array, "B L N K"]
Queries = Float[Array, "B Q N K"]
Attend = Callable[..., Float[Array, "B Q N K"]]


def grouped(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    attend: Attend = jax.nn.dot_product_attention,
    together: bool = True,
    query_layout: Layout | None = None,
) -> Queries:
    """One call of `attend`, an attention without a mask, for the groups of each shape.

    Under the symmetric mask there are two for scenes of equal length: text_i asks [text_i, video_i]
    and video_i asks [text_i, all video]. Scenes of different lengths take turns; without `together`
    all groups do, which needs less memory, as no keys are repeated for each scene. `query_layout`
    is that of the queries, if it is another than that of the keys.
    """
    table = np.asarray(segment_table(layout, mask))
    query_lengths = (query_layout or layout).segment_lengths
    key_lengths = key_runs(layout, mask).lengths
    together = together and layout.equal_scenes
    return attend_groups(query, key, value, query_lengths, key_lengths, table, attend, together)


def by_head(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    query_layout: Layout | None = None,
) -> Queries:
    """`grouped`, a few heads at a time: for CPUs."""
    return grouped(query, key, value, layout, mask, attend_by_head, query_layout=query_layout)


def chunked(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    query_layout: Layout | None = None,
) -> Queries:
    """`grouped`, a chunk of queries at a time: logits of bounded memory, also backward."""
    return grouped(query, key, value, layout, mask, attend_in_chunks, query_layout=query_layout)


def attend_groups(
    query: Float[Array, "B L N K"],
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    table: Bool[np.ndarray, "rows columns"],
    attend: Attend,
    together: bool,
) -> Heads:
    """Attention under a table of segments, which lie one after the other in queries and keys.

    Groups of the same shape go through `attend` as one batch if they are `together`. Segments
    without tokens are skipped.
    """
    rows, columns = np.flatnonzero(query_lengths), np.flatnonzero(key_lengths)
    query_spans, key_spans = _spans(query_lengths, rows), _spans(key_lengths, columns)
    batches: dict[object, list[tuple[np.ndarray, np.ndarray]]] = {}
    for number, group in enumerate(query_groups(table[np.ix_(rows, columns)])):
        queries, keys = query_spans[list(group.queries)], key_spans[list(group.keys)]
        # In one order, so that groups which see others' frames before or after their own scene
        # are of one shape; to the attention the order of keys is nothing.
        keys = keys[np.argsort(keys[:, 1], kind="stable")] if together else keys
        shape = tuple(queries[:, 1]), tuple(keys[:, 1])
        batches.setdefault(shape if together else number, []).append((queries, keys))
    parts: dict[int, Array] = {}
    for groups in batches.values():
        queries, keys = (np.stack(spans) for spans in zip(*groups, strict=True))
        out = attend(_gather(query, queries), _gather(key, keys), _gather(value, keys))
        parts |= _placed(out, queries)
    return jnp.concatenate([parts[start] for start in sorted(parts)], axis=1)


def _spans(lengths: Sequence[int], segments: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N 2"]:
    """Start and length of some of the segments."""
    starts = list(accumulate(lengths, initial=0))
    return np.stack([np.array(starts)[segments], np.array(lengths)[segments]], axis=1)


def _gather(x: Heads, spans: Int[np.ndarray, "G M 2"]) -> Float[Array, "BG Q N K"]:
    """The spans of each group side by side, the groups folded into the batch."""
    batch, _, *heads = x.shape
    parts = []
    for starts, length in _runs(spans):
        groups, end = len(starts), starts[0] + length
        if (starts == starts[0]).all():  # the same for all groups
            part = x[:, None, starts[0] : end]
            part = jnp.broadcast_to(part, (batch, groups, length, *heads))
        elif (np.diff(starts) == length).all():  # each group's after that of the group before
            part = x[:, starts[0] : starts[0] + groups * length]
            part = part.reshape(batch, groups, length, *heads)
        else:
            part = jnp.stack([x[:, start : start + length] for start in starts], axis=1)
        parts.append(part)
    joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2)
    return joined.reshape(batch * len(spans), -1, *heads)


def _placed(out: Float[Array, "BG Q N K"], spans: Int[np.ndarray, "G M 2"]) -> dict[int, Array]:
    """The results of `attend` by the position of their first token in the joint sequence."""
    groups = len(spans)
    out = out.reshape(-1, groups, *out.shape[1:])
    parts, offset = {}, 0
    for starts, length in _runs(spans):
        part = out[:, :, offset : offset + length]
        offset += length
        if (np.diff(starts) == length).all():
            parts[int(starts[0])] = part.reshape(part.shape[0], groups * length, *part.shape[3:])
        else:
            parts |= {int(start): part[:, group] for group, start in enumerate(starts)}
    return parts


def _runs(spans: Int[np.ndarray, "G M 2"]) -> Iterator[tuple[Int[np.ndarray, " G"], int]]:
    """Starts and length of spans, those that are neighbours in every group as one."""
    starts, length = spans[:, 0, 0], int(spans[0, 0, 1])
    for span in range(1, spans.shape[1]):
        if (spans[:, span, 0] == starts + length).all():
            length += int(spans[0, span, 1])
        else:
            yield starts, length
            starts, length = spans[:, span, 0], int(spans[0, span, 1])
    yield starts, length
