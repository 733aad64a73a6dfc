"""Which segments may attend to which: the paper's symmetric mask and those it is compared with.

A mask is a table of segments (`Layout`), queries x keys. Everything else is derived from it: the
mask of tokens (`scene_mask`), the groups of queries with equal keys (`query_groups`), and the codes
by which a kernel finds out what a token may see (`segment_codes`). A new mask is a new entry of
TABLES.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from m2dit_jax.models.layout import Layout

Booleans = Bool[np.ndarray | Array, "*shape"]
Codes = Int[np.ndarray | Array, "*#shape"]


class Pairs(NamedTuple):
    """Facts about each pair of a query's and a key's segment: a mask is defined by them.

    Global text counts as video, and as a scene of its own.
    """

    same_scene: Bool[np.ndarray, "Q K"]
    both_video: Bool[np.ndarray, "Q K"]


# The masks that depend on the layout alone; `segment_table` draws them. Padding is no concern of
# theirs.
TABLES: dict[str, Callable[[Pairs], Bool[np.ndarray, "Q K"]]] = {
    "symmetric": lambda pairs: pairs.same_scene | pairs.both_video,
    "full": lambda pairs: np.ones_like(pairs.same_scene),
    "independent": lambda pairs: pairs.same_scene,
}
# The masks that hide generated scenes from given ones, and what they are apart from that.
HIDE_GENERATED = {"causal": "symmetric"}

STATIC_MASKS = tuple(TABLES)
MASKS = (*STATIC_MASKS, *HIDE_GENERATED)


def segment_table(
    layout: Layout, mask: str = "symmetric", given: Bool[np.ndarray | Array, " S"] | None = None
) -> Bool[np.ndarray | Array, "Q K"]:
    """The mask itself: True where the row's segment (query) may attend to the column's (key).

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
    depend on it ignore it. Raises ValueError for an unknown mask, for one that needs
    `given` and does not get it, and for global text under a mask that has no place for it.
    """
    check_given(mask, given)
    if layout.global_text:
        check_global_text(mask)
    table = _static_table(layout, base_mask(mask))
    if given is None or not depends_on_given(mask):
        return table
    is_given = given_segments(layout, given)
    return table & (is_given[None, :] | ~is_given[:, None])


def scene_mask(
    layout: Layout, mask: str = "symmetric", given: Bool[np.ndarray | Array, " S"] | None = None
) -> Bool[Array, "L L"]:
    """`segment_table` over the tokens of the joint sequence: row (query) may attend to column.

    Raises ValueError as it does.
    """
    segments = layout.segments()
    return jnp.asarray(segment_table(layout, mask, given))[segments][:, segments]


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

    So it is with scenes whose keys are cached. Raises ValueError for masks that depend on `given`.
    """
    scenes = layout.scenes
    longer = replace(layout, scenes=scenes + 1, video=(*layout.video_counts, 1))
    column = np.asarray(segment_table(longer, mask))[:, 2 * scenes + 1]
    return np.delete(column, [scenes, 2 * scenes + 1])


class QueryGroup(NamedTuple):
    """Segments whose queries see the same keys, and the segments of those keys."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


def query_groups(table: Bool[np.ndarray, "Q K"]) -> list[QueryGroup]:
    """The rows of a table, those with equal entries together, by their first row."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, seen in enumerate(table):
        rows.setdefault(tuple(np.flatnonzero(seen).tolist()), []).append(row)
    return [QueryGroup(tuple(queries), keys) for keys, queries in rows.items()]


@dataclass(frozen=True)
class SegmentCodes:
    """A table as an integer for each segment, so that kernels need no table to look things up.

    Segments of one clique see each other; other pairs do if they share one of the lowest `bits`.
    There is an entry more than there are segments: for positions beyond the joint sequence, which
    see each other and nothing else.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    bits: int

    def sees(self, queries: Codes, keys: Codes) -> Booleans:
        """Whether tokens with these codes of queries may attend to those with these of keys."""
        shared = queries & keys & ((1 << self.bits) - 1)
        return ((queries ^ keys) < (1 << self.bits)) | (shared != 0)


@lru_cache(maxsize=64)
def segment_codes(layout: Layout, mask: str) -> SegmentCodes:
    """The codes of a mask that does not depend on `given`.

    Raises ValueError as `segment_table` does, and for a table that no 31 bits can tell.
    """
    table = np.pad(np.asarray(segment_table(layout, mask)), ((0, 1), (0, 1)))
    table[-1, -1] = True
    cliques = _cliques(table, np.append(layout.segment_scenes(), -2))
    elsewhere = cliques[:, None] != cliques[None, :]
    # Columns share a bit if each row sees all of them or none, apart from those of its clique.
    shared: list[list[int]] = []
    for column in np.flatnonzero((table & elsewhere).any(0)).tolist():
        for columns in shared:
            both = [*columns, column]
            some = (table & elsewhere)[:, both].any(1)
            if (table | ~elsewhere)[some][:, both].all():
                columns.append(column)
                break
        else:
            shared.append([column])
    # A column without a bit is seen by its clique alone.
    bits = len(shared)
    if bits + int(cliques.max()).bit_length() > 31:
        raise ValueError(f"the attention mask {mask!r} of {layout} needs more than 31 bits")
    queries, keys = cliques << bits, cliques << bits
    for bit, columns in enumerate(shared):
        queries = queries | ((table & elsewhere)[:, columns].any(1).astype(int) << bit)
        keys[columns] |= 1 << bit
    return SegmentCodes(tuple(queries.tolist()), tuple(keys.tolist()), bits)


def value_at(
    positions: Int[Array, "*shape"], layout: Layout, values: tuple[int, ...]
) -> Int[Array, "*shape"]:
    """The value of the segment at each position, which may be traced; the last is for those beyond.

    Comparisons and selections only: a TPU kernel does this for every block of keys.
    """
    at = jnp.full_like(positions, values[0])
    starts = (*layout.segment_starts, layout.tokens)
    for (before, value), start in zip(pairwise(values), starts[1:], strict=True):
        if value != before:
            at = jnp.where(positions >= start, value, at)
    return at


def check_mask(mask: str) -> None:
    """Raises ValueError if there is no mask of that name."""
    if mask not in MASKS:
        raise ValueError(f"unknown attention mask {mask!r}; there are {', '.join(MASKS)}")


def check_global_text(mask: str) -> None:
    """Raises ValueError if the mask has no place for text that all scenes see."""
    table = _static_table(Layout(2, 1, (0, 1), global_text=True), base_mask(mask))
    video_1, global_text = 3, 0
    if not table[video_1, global_text]:
        raise ValueError(
            f"under the attention mask {mask!r} scenes share nothing: there can be no global prompt"
        )


def check_given(mask: str, given: object) -> None:
    """Raises ValueError if there is no such mask, or it depends on `given` and that is None."""
    check_mask(mask)
    if depends_on_given(mask) and given is None:
        raise ValueError(f"the attention mask {mask!r} needs to know which scenes are `given`")


def _static_table(layout: Layout, mask: str) -> Bool[np.ndarray, "Q K"]:
    scenes = layout.segment_scenes()
    is_video = np.arange(len(scenes)) >= layout.scenes
    is_video[0] |= layout.global_text
    real = scenes >= 0
    same_scene = scenes[:, None] == scenes[None, :]
    seen = TABLES[mask](Pairs(same_scene, is_video[:, None] & is_video[None, :]))
    return np.where(real[:, None] & real[None, :], seen, same_scene)


def _cliques(table: Bool[np.ndarray, "N N"], scenes: Int[np.ndarray, " N"]) -> np.ndarray:
    """A number for each segment, equal only where segments see each other and themselves.

    Of one scene they get the same one where they may; scenes too, as under the full mask.
    """
    cliques: list[list[int]] = []
    for scene in dict.fromkeys(scenes.tolist()):
        members = np.flatnonzero(scenes == scene).tolist()
        complete = table[np.ix_(members, members)].all()
        for part in [members] if complete else [[member] for member in members]:
            for clique in cliques:
                both = [*clique, *part]
                if table[np.ix_(both, both)].all():
                    clique.extend(part)
                    break
            else:
                cliques.append(part)
    numbers = np.zeros(len(scenes), int)
    for number, clique in enumerate(cliques):
        numbers[clique] = number
    return numbers
