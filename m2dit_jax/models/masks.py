"""Which segments may attend to which: the paper's symmetric mask and those it is compared with.

A mask is a table of segments (`Layout`), queries x keys. Where scenes see only some frames of each
other, a scene's column is divided into runs of frames. Everything else is derived from the table:
the mask of tokens (`scene_mask`), the groups of queries with equal keys (`query_groups`), and the
codes by which a kernel finds out what a token may see (`mask_codes.segment_codes`). A new mask is a
new entry of TABLES.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from m2dit_jax.models.layout import Layout

Booleans = Bool[np.ndarray | Array, "*shape"]
Table = Bool[np.ndarray, "Q K"]


class Pairs(NamedTuple):
    """Facts about each pair of a query's segment and a key's frame: a mask is defined by them.

    Global text counts as video, as the first frame of a scene of its own, and as of the opening.
    """

    same_scene: Table
    both_video: Table
    frame: Int[np.ndarray, "1 K"]
    """Number of the key's frame in its scene; 0 for text."""
    opening: Bool[np.ndarray, "1 K"]
    """Whether the key is of the story's first scene."""


# The masks that depend on the layout alone; `segment_table` draws them. Padding is no concern of
# theirs.
TABLES: dict[str, Callable[[Pairs], Table]] = {
    "symmetric": lambda pairs: pairs.same_scene | pairs.both_video,
    "full": lambda pairs: np.ones_like(pairs.same_scene),
    "independent": lambda pairs: pairs.same_scene,
    "first_frame": lambda pairs: pairs.same_scene | (pairs.both_video & (pairs.frame == 0)),
    "every_other_frame": lambda pairs: (
        pairs.same_scene | (pairs.both_video & (pairs.frame % 2 == 0))
    ),
    "opening_frame": lambda pairs: (
        pairs.same_scene | (pairs.both_video & (pairs.frame == 0) & pairs.opening)
    ),
}
# The masks that hide generated scenes from given ones, and what they are apart from that.
HIDE_GENERATED = {"causal": "symmetric"}


class ByBlock(NamedTuple):
    """A mask that is one table in a transformer's outer blocks and another in its inner ones.

    The outer ones are the first and the last, as many of 30 as `first` and `last` say.
    """

    outer: str
    inner: str
    first: int
    last: int


# CineTrans masks the blocks 6 to 27 of the 30 of Wan 2.1 1.3B (arXiv 2508.11484, its released
# settings).
BY_BLOCK = {"block_diagonal": ByBlock("symmetric", "opening_frame", first=6, last=2)}

STATIC_MASKS = tuple(TABLES)
MASKS = (*STATIC_MASKS, *HIDE_GENERATED, *BY_BLOCK)


class KeyRuns(NamedTuple):
    """The columns of a table: runs of tokens, one after the other, of one segment each."""

    lengths: tuple[int, ...]
    segments: tuple[int, ...]

    def ids(self) -> Int[np.ndarray, " L"]:
        """The run of each token of the joint sequence."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def segment_table(
    layout: Layout, mask: str = "symmetric", given: Bool[np.ndarray | Array, " S"] | None = None
) -> Bool[np.ndarray | Array, "Q K"]:
    """The mask itself: True where the row's segment (query) may attend to the column's keys.

    A column is a segment or, where segments see only some frames of it, a run of its frames
    (`key_runs`).

    `symmetric` (Mask²DiT, section 3.2): text_i and video_i see each other and themselves, and all
    video sees all video. Padding sees padding, so that no row is empty, and no other segment sees
    it; this holds for every mask. `full`: everything sees everything. `independent`: each scene is
    alone. With three scenes, t text, v video and p padding:

        symmetric                full                     independent
           t0 t1 t2 v0 v1 v2 p      t0 t1 t2 v0 v1 v2 p      t0 t1 t2 v0 v1 v2 p
        t0  1  0  0  1  0  0 0   t0  1  1  1  1  1  1 0   t0  1  0  0  1  0  0 0
        t1  0  1  0  0  1  0 0   t1  1  1  1  1  1  1 0   t1  0  1  0  0  1  0 0
        t2  0  0  1  0  0  1 0   t2  1  1  1  1  1  1 0   t2  0  0  1  0  0  1 0
        v0  1  0  0  1  1  1 0   v0  1  1  1  1  1  1 0   v0  1  0  0  1  0  0 0
        v1  0  1  0  1  1  1 0   v1  1  1  1  1  1  1 0   v1  0  1  0  0  1  0 0
        v2  0  0  1  1  1  1 0   v2  1  1  1  1  1  1 0   v2  0  0  1  0  0  1 0
        p   0  0  0  0  0  0 1   p   0  0  0  0  0  0 1   p   0  0  0  0  0  0 1

    `first_frame` (HoloCine, arXiv 2510.20822, section 3.2) and `every_other_frame`: a scene sees
    all of itself, and of other scenes only the first frame, or every second one from the first on.
    `opening_frame` (what the inner blocks of CineTrans have, arXiv 2508.11484): all scenes see the
    first frame of the story, and else only themselves. Scenes of three frames a, b and c:

        first_frame                 every_other_frame           opening_frame
           t0 t1 a0 bc0 a1 bc1 p       t0 t1 a0 b0 c0 a1 b1 c1 p   t0 t1 a0 bc0 v1 p
        t0  1  0  1  1   0  0  0    t0  1  0  1  1  1  0  0  0 0   t0  1  0  1  1   0 0
        t1  0  1  0  0   1  1  0    t1  0  1  0  0  0  1  1  1 0   t1  0  1  0  0   1 0
        v0  1  0  1  1   1  0  0    v0  1  0  1  1  1  1  0  1 0   v0  1  0  1  1   0 0
        v1  0  1  1  0   1  1  0    v1  0  1  1  0  1  1  1  1 0   v1  0  1  1  0   1 0
        p   0  0  0  0   0  0  1    p   0  0  0  0  0  0  0  0 1   p   0  0  0  0   0 1

    `causal`: as symmetric, but segments of a `given` scene see none of a generated one. So what the
    model makes of given scenes stays the same while others are generated. Global text (g, in the
    place of t0) sees and is seen by all video, as if it were some of it; the text of scenes neither
    sees it nor is seen. `given` has an entry for it too, which must be true under the causal mask.

        causal, scene 0 given    symmetric, g             causal, g, scene 1 given
           t0 t1 t2 v0 v1 v2 p      g  t1 t2 v1 v2 p         g  t1 t2 v1 v2 p
        t0  1  0  0  1  0  0 0   g   1  0  0  1  1 0      g   1  0  0  1  0 0
        t1  0  1  0  0  1  0 0   t1  0  1  0  1  0 0      t1  0  1  0  1  0 0
        t2  0  0  1  0  0  1 0   t2  0  0  1  0  1 0      t2  0  0  1  0  1 0
        v0  1  0  0  1  0  0 0   v1  1  1  0  1  1 0      v1  1  1  0  1  0 0
        v1  0  1  0  1  1  1 0   v2  1  0  1  1  1 0      v2  1  0  1  1  1 0
        v2  0  0  1  1  1  1 0   p   0  0  0  0  0 1      p   0  0  0  0  0 1
        p   0  0  0  0  0  0 1

    (v0, empty there, is left out.) `given` may be traced, then so is the table; masks that do not
    depend on it ignore it. Raises ValueError for an unknown mask, for one that needs `given` or a
    layout with frames and does not get it, for one that differs from block to block
    (`block_masks`), and for global text under a mask that has no place for it.
    """
    check_given(mask, given)
    if layout.global_text:
        check_global_text(mask)
    table, runs = _static_table(layout, base_mask(mask))
    if given is None or not depends_on_given(mask):
        return table.copy()
    is_given = given_segments(layout, given)
    return table & (is_given[np.array(runs.segments)][None, :] | ~is_given[:, None])


def key_runs(layout: Layout, mask: str) -> KeyRuns:
    """The columns of `segment_table`. Raises ValueError as it does."""
    return _static_table(layout, base_mask(mask))[1]


def scene_mask(
    layout: Layout, mask: str = "symmetric", given: Bool[np.ndarray | Array, " S"] | None = None
) -> Bool[Array, "L L"]:
    """`segment_table` over the tokens of the joint sequence: row (query) may attend to column.

    Raises ValueError as it does.
    """
    table = jnp.asarray(segment_table(layout, mask, given))
    return table[layout.segments()][:, key_runs(layout, mask).ids()]


def block_masks(mask: str, blocks: int) -> tuple[str, ...]:
    """The mask of each block of a transformer, none of BY_BLOCK; for most it is the mask itself.

    Of few blocks at least the first has the outer one. Raises ValueError for an unknown name.
    """
    check_mask(mask)
    if mask not in BY_BLOCK:
        return (mask,) * blocks
    outer, inner, first, last = BY_BLOCK[mask]
    first, last = max(1, round(blocks * first / 30)), round(blocks * last / 30)
    middle = max(blocks - first - last, 0)
    return ((outer,) * first + (inner,) * middle + (outer,) * last)[:blocks]


def base_mask(mask: str) -> str:
    """The mask that is left when no scene is given. Raises ValueError for an unknown name."""
    check_mask(mask)
    return HIDE_GENERATED.get(mask, mask)


def depends_on_given(mask: str) -> bool:
    """Whether the mask hides generated scenes from given ones."""
    return mask in HIDE_GENERATED


def given_segments(layout: Layout, given: Bool[np.ndarray | Array, "*B S"]) -> Booleans:
    """Whether each segment belongs to a given scene, [*B 2S+1]; padding belongs to none."""
    scenes = layout.segment_scenes()
    return given[..., scenes] & (scenes >= 0)


def given_tokens(layout: Layout, given: Bool[Array, "B S"]) -> Bool[Array, "B L"]:
    """Whether each token of the joint sequence is of a given scene; padding is of none."""
    scenes = layout.scene_ids()
    return given[:, scenes] & (scenes >= 0)


def sees_other_video(layout: Layout, mask: str) -> Bool[np.ndarray, " Q"]:
    """Whether each segment sees the video of scenes that are not in the layout.

    So it is with scenes whose keys are cached. Raises ValueError for masks that depend on `given`,
    and for those by which scenes see only some frames of others.
    """
    scenes = layout.scenes
    longer = replace(layout, scenes=scenes + 1, video=(*layout.video_counts, 1), frame=0)
    column = np.asarray(segment_table(longer, mask))[:, 2 * scenes + 1]
    return np.delete(column, [scenes, 2 * scenes + 1])


class QueryGroup(NamedTuple):
    """Segments whose queries see the same keys, and the columns of those keys."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


def query_groups(table: Table) -> list[QueryGroup]:
    """The rows of a table, those with equal entries together, by their first row."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, seen in enumerate(table):
        rows.setdefault(tuple(np.flatnonzero(seen).tolist()), []).append(row)
    return [QueryGroup(tuple(queries), keys) for keys, queries in rows.items()]


def check_mask(mask: str) -> None:
    """Raises ValueError if there is no mask of that name."""
    if mask not in MASKS:
        raise ValueError(f"unknown attention mask {mask!r}; there are {', '.join(MASKS)}")


def check_global_text(mask: str) -> None:
    """Raises ValueError if the mask has no place for text that all scenes see."""
    layout = Layout(2, 1, (0, 1), global_text=True, frame=1)
    for table in {base_mask(of_block) for of_block in block_masks(mask, 30)}:
        video_1, global_text = 3, 0
        if not _static_table(layout, table)[0][video_1, global_text]:
            raise ValueError(
                f"under the attention mask {mask!r} scenes share nothing: there can be no global "
                "prompt"
            )


def check_given(mask: str, given: object) -> None:
    """Raises ValueError if there is no such mask, or it depends on `given` and that is None."""
    check_mask(mask)
    if depends_on_given(mask) and given is None:
        raise ValueError(f"the attention mask {mask!r} needs to know which scenes are `given`")


def check_constant(mask: str) -> None:
    """Raises ValueError for a mask by which given scenes see others, and so are not constant."""
    if not depends_on_given(mask):
        raise ValueError(
            "keys and values of given scenes are constant under the attention mask "
            f"{' or '.join(map(repr, HIDE_GENERATED))} only, this model has {mask!r}"
        )


def looks_at_frames(mask: str) -> bool:
    """Whether scenes see only some frames of each other, in some block."""
    layout = Layout(2, 1, 2, frame=1)
    tables = {base_mask(of_block) for of_block in block_masks(mask, 30)}
    return any(len(key_runs(layout, table).lengths) > 5 for table in tables)


@lru_cache(maxsize=256)
def _static_table(layout: Layout, mask: str) -> tuple[Table, KeyRuns]:
    """The table of a mask in TABLES, not to be changed, and its columns."""
    if mask in BY_BLOCK:
        raise ValueError(f"the attention mask {mask!r} is not the same in all blocks")
    if not layout.frame and looks_at_frames(mask):
        raise ValueError(f"the attention mask {mask!r} needs a layout that knows its frames")
    scenes = layout.segment_scenes()
    lengths, segments, frames = _frames(layout)
    is_video = np.arange(len(scenes)) >= layout.scenes
    is_video[0] |= layout.global_text
    real = scenes >= 0
    same_scene = scenes[:, None] == scenes[segments][None, :]
    pairs = Pairs(
        same_scene,
        is_video[:, None] & is_video[segments][None, :],
        frames[None, :],
        (scenes[segments] <= layout.global_text)[None, :],
    )
    seen = np.where(real[:, None] & real[segments][None, :], TABLES[mask](pairs), same_scene)
    # Neighbours that all see alike are one column.
    alike = (segments[1:] == segments[:-1]) & (seen[:, 1:] == seen[:, :-1]).all(0)
    first = np.flatnonzero(np.append(True, ~alike))
    lengths = np.add.reduceat(lengths, first)
    return seen[:, first], KeyRuns(tuple(lengths.tolist()), tuple(segments[first].tolist()))


def _frames(layout: Layout) -> tuple[Int[np.ndarray, " K"], ...]:
    """Tokens, segment and number in its scene of each frame; text and padding are one frame each.

    So are scenes without video, and all of them where the layout knows no frames.
    """
    frames = []
    for segment, tokens in enumerate(layout.segment_lengths):
        is_video = layout.scenes <= segment < 2 * layout.scenes
        count = max(tokens // layout.frame, 1) if is_video and layout.frame else 1
        frames += [(tokens // count, segment, number) for number in range(count)]
    return tuple(np.array(column) for column in zip(*frames, strict=True))
