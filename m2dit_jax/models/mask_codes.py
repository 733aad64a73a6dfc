"""A mask as an integer for each segment, by which kernels find out what a token may see."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import Booleans, key_runs, segment_table

Codes = Int[np.ndarray | Array, "*#shape"]


@dataclass(frozen=True)
class SegmentCodes:
    """A table as integers of its rows and columns, so that kernels need no table to look things up.

    Those of one clique see each other; other pairs do if they share one of the lowest `bits`.
    `queries` has an entry for each segment, `keys` for each of the runs of keys, and each has one
    more: for positions beyond the joint sequence, which see each other and nothing else.
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
    beyond = len(table) - 1
    segments = np.append(key_runs(layout, mask).segments, beyond)
    whole = np.stack([table[:, segments == i].all(1) for i in range(len(table))], axis=1)
    cliques = _cliques(whole, np.append(layout.segment_scenes(), -2))
    elsewhere = cliques[:, None] != cliques[segments][None, :]
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
    queries, keys = cliques << bits, cliques[segments] << bits
    for bit, columns in enumerate(shared):
        queries = queries | ((table & elsewhere)[:, columns].any(1).astype(int) << bit)
        keys[columns] |= 1 << bit
    return SegmentCodes(tuple(queries.tolist()), tuple(keys.tolist()), bits)


def value_at(
    positions: Int[Array, "*shape"], lengths: tuple[int, ...], values: tuple[int, ...]
) -> Int[Array, "*shape"]:
    """The value of the run at each position, which may be traced; the last is for those beyond.

    Runs of these lengths lie one after the other. Comparisons and selections only: a TPU kernel
    does this for every block of keys.
    """
    at = jnp.full_like(positions, values[0])
    for (before, value), start in zip(pairwise(values), accumulate(lengths), strict=True):
        if value != before:
            at = jnp.where(positions >= start, value, at)
    return at


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
