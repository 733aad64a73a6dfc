"""Cuts of a finished story against those that its storyboard asks for, in frames of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from m2dit_jax.evaluation.scores import Mean, Score, shown_interval

_RESAMPLED = 200


@dataclass(frozen=True)
class Tolerance:
    """How far a found cut may lie from the one that is asked for, in frames or in seconds."""

    value: int | float
    seconds: bool = False

    def in_frames(self, fps: int | float) -> int:
        """Whole frames that are within, at so many frames per second."""
        return int(self.value * fps + 1e-6) if self.seconds else int(self.value)

    def __str__(self) -> str:
        return f"{self.value:g} {'s' if self.seconds else 'frames'}"


@dataclass(frozen=True)
class StoryCuts:
    """Numbers of the frames, from 0, before which a cut is asked for, or was found.

    `matched` are pairs of an asked and a found one, no further apart than `tolerance` frames.
    """

    asked: tuple[int, ...]
    found: tuple[int, ...]
    matched: tuple[tuple[int, int], ...]
    tolerance: int

    @property
    def missed(self) -> tuple[int, ...]:
        """Those asked for that none was found for."""
        return tuple(sorted(set(self.asked) - {asked for asked, _ in self.matched}))

    @property
    def extra(self) -> tuple[int, ...]:
        """Those found that nobody asked for."""
        return tuple(sorted(set(self.found) - {found for _, found in self.matched}))

    def to_json(self) -> dict[str, Any]:
        """The cuts, with those that were missed and those too many."""
        return vars(self) | {"missed": self.missed, "extra": self.extra}


@dataclass(frozen=True)
class CutScores:
    """The cuts of all stories together, with 95 % intervals.

    `offset` is found minus asked of the matched cuts, in frames, `distance` its absolute value,
    `tolerance` the largest of the stories. F1 has the interval of a bootstrap over the stories:
    none for one story.
    """

    precision: Score
    recall: Score
    f1: float | None
    f1_low: float | None
    f1_high: float | None
    offset: Mean
    distance: Mean
    matched: int
    missed: int
    extra: int
    tolerance: int

    def to_text(self) -> str:
        """Two lines: shares in per cent, then counts."""
        f1 = Score.shown(self.f1)
        if self.f1_low is not None:
            f1 += f" ({Score.shown(self.f1_low)} to {Score.shown(self.f1_high)})"
        return (
            f"cuts: precision {shown_interval(self.precision)}, recall "
            f"{shown_interval(self.recall)}, F1 {f1} (per cent, with 95 % intervals)\n"
            f"cuts: {self.matched} matched within {self.tolerance} frames, {self.missed} missed, "
            f"{self.extra} too many; on average {shown_interval(self.offset)} frames late, "
            f"{shown_interval(self.distance)} frames away"
        )


def asked_cuts(lengths: Sequence[int], asked: Sequence[bool]) -> tuple[int, ...]:
    """Frames before which cuts are asked for.

    `lengths` are the frames of each scene, `asked` has a value for each meeting of two scenes.
    """
    return tuple(
        start for start, cut in zip(list(accumulate(lengths))[:-1], asked, strict=True) if cut
    )


def match_cuts(asked: Sequence[int], found: Sequence[int], tolerance: int) -> StoryCuts:
    """As many pairs as can be within the tolerance, each cut in at most one.

    Of all ways to pair so many, one with the least sum of distances.
    """
    distances = np.abs(np.subtract.outer(np.asarray(asked, int), np.asarray(found, int)))
    # One pair less costs more than any pairs could gain.
    beyond = (tolerance + 1) * (min(len(asked), len(found)) + 1)
    costs = np.where(distances <= tolerance, distances, beyond)
    pairs = zip(*linear_sum_assignment(costs), strict=True)
    matched = [(int(asked[i]), int(found[j])) for i, j in pairs if distances[i, j] <= tolerance]
    return StoryCuts(tuple(asked), tuple(found), tuple(matched), tolerance)


def score_cuts(stories: Sequence[StoryCuts], seed: int = 0) -> CutScores:
    """Precision, recall, F1 and offsets over the cuts of all stories."""
    counts = np.array(
        [[len(story.matched), len(story.missed), len(story.extra)] for story in stories], int
    ).reshape(-1, 3)
    matched, missed, extra = map(int, counts.sum(0))
    offsets = np.array([f - a for story in stories for a, f in story.matched], float)
    low, high = _f1_interval(counts, seed)
    return CutScores(
        Score.of(matched, matched + extra),
        Score.of(matched, matched + missed),
        _f1(matched, missed, extra),
        low,
        high,
        Mean.of(offsets),
        Mean.of(np.abs(offsets)),
        matched,
        missed,
        extra,
        max((story.tolerance for story in stories), default=0),
    )


def _f1(matched: int, missed: int, extra: int) -> float | None:
    """The harmonic mean of precision and recall; None where no cut is asked for or found."""
    every = 2 * matched + missed + extra
    return 2 * matched / every if every else None


def _f1_interval(counts: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    if len(counts) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    sums = [counts[rng.choice(len(counts), len(counts))].sum(0) for _ in range(_RESAMPLED)]
    drawn = [f1 for f1 in (_f1(*map(int, s)) for s in sums) if f1 is not None]
    if not drawn:
        return None, None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
