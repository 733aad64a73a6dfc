"""Scores of stories of `data.shapes`, by what the oracle reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from m2dit_jax.data.oracle import UNKNOWN, Readings, read_scenes
from m2dit_jax.data.shapes import (
    ACTOR_COLOURS,
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Scene,
)
from m2dit_jax.evaluation.fidelity import FIDELITY, Fidelity, measure_fidelity, score_fidelity
from m2dit_jax.evaluation.scores import Mean, Score

METRICS = ("background", "colour", "shape", "direction", "it", "same_actor", "leakage")
# The keys of the scores: shares, and means of what `fidelity` measures.
SCORES = (*METRICS, *FIDELITY)


class ShapesReadings(NamedTuple):
    """What the oracle reads of all scenes, and how clean those are that were generated."""

    scenes: Readings
    fidelity: Fidelity


class ShapesScorer:
    """See `world_scores.WorldScorer`; the shares are those of `score_stories`."""

    metrics: tuple[str, ...] = METRICS
    of_stories: tuple[str, ...] = ("same_actor",)

    def read(
        self,
        video: UInt8[np.ndarray, "N S F H W 3"],
        stories: Sequence[tuple[Scene, ...]],
        given: Bool[np.ndarray, "N S"],
    ) -> ShapesReadings:
        """Reads every scene, and measures those that are not given.

        Actors of no colour that is drawn by chance are recognised where all stories may have them;
        they are not measured, as no ideal scene has them.
        """
        is_new = any(scene.colour not in COLOURS for story in stories for scene in story)
        values = np.full((len(FIDELITY), *given.shape), np.nan)
        if not is_new:
            values[:, ~given] = measure_fidelity(video[~given])
        scenes = video.reshape(-1, *video.shape[2:])
        readings = read_scenes(scenes, ACTOR_COLOURS if is_new else COLOURS)
        return ShapesReadings(readings, Fidelity(*values))

    def score(
        self,
        reading: ShapesReadings,
        stories: Sequence[tuple[Scene, ...]],
        given: Bool[np.ndarray, "N S"],
    ) -> dict[str, Score | Mean]:
        """The scores by SCORES."""
        of_scenes = Fidelity(*(values[~given] for values in reading.fidelity))
        return score_stories(reading.scenes, stories, given) | score_fidelity(of_scenes)


def score_stories(
    readings: Readings, stories: Sequence[tuple[Scene, ...]], given: Bool[np.ndarray, "N S"]
) -> dict[str, Score]:
    """Scores what the oracle read, scene after scene of story after story.

    Cases are the scenes that are not given, but for `same_actor`, and unknown is wrong:

    - background, colour, shape, direction: the scene shows its own. The actor of a scene whose
      caption says "it" is the story's.
    - it: shape and colour are both right; cases are only the scenes whose caption says "it".
    - same_actor: cases are stories; in all scenes, given ones included, shape and colour are
      recognised and the same, be it the right ones or not.
    - leakage (the lower the better): the background is wrong and that of another scene of the
      story, or the direction is wrong and that of another scene. Cases are only the scenes for
      which another scene differs in background or direction, since in others nothing could leak.

    Raises ValueError if the numbers of scenes do not agree.
    """
    if readings.shape.size != given.size or len(stories) != len(given):
        raise ValueError(
            f"needs a reading for each scene, got {readings.shape.size} readings, "
            f"{len(stories)} stories and given {given.shape}"
        )
    read = {
        name: getattr(readings, name).reshape(given.shape)
        for name in ("background", "colour", "shape", "direction")
    }
    wanted = {
        "background": _positions([[s.background for s in story] for story in stories], BACKGROUNDS),
        "colour": _positions([[s.colour for s in story] for story in stories], ACTOR_COLOURS),
        "shape": _positions([[s.shape for s in story] for story in stories], SHAPES),
        "direction": _positions([[s.direction for s in story] for story in stories], DIRECTIONS),
    }
    right = {name: read[name] == wanted[name] for name in read}
    generated = ~given
    scores = {name: _share(right[name], generated) for name in right}

    says_it = np.array([[scene.says_it for scene in story] for story in stories])
    scores["it"] = _share(right["shape"] & right["colour"], generated & says_it)

    same_shape = (read["shape"] == read["shape"][:, :1]) & (read["shape"] != UNKNOWN)
    same_colour = (read["colour"] == read["colour"][:, :1]) & (read["colour"] != UNKNOWN)
    same = (same_shape & same_colour).all(1)
    scores["same_actor"] = _share(same, np.ones_like(same))

    leaked, could_leak = np.zeros_like(given), np.zeros_like(given)
    for name in ("background", "direction"):
        own = wanted[name][:, :, None]
        others = wanted[name][:, None, :]
        # An UNKNOWN reading is no scene's value, and a scene does not differ from itself.
        leaked |= ((others != own) & (others == read[name][:, :, None])).any(2)
        could_leak |= (others != own).any(2)
    scores["leakage"] = _share(leaked, generated & could_leak)
    return scores


def _positions(
    names: Sequence[Sequence[str]], table: Sequence[str] | dict[str, tuple]
) -> Int[np.ndarray, "N S"]:
    order = list(table)
    return np.array([[order.index(name) for name in story] for story in names])


def _share(success: Bool[np.ndarray, "*cases"], cases: Bool[np.ndarray, "*cases"]) -> Score:
    return Score.of(int((success & cases).sum()), int(cases.sum()))
