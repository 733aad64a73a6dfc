"""Scores of stories of `data.storyworld`: what captions say, and what only agrees.

Of two stories drawn by chance an actor's looks would agree in CHANCE["same_look"] of the cases, and
the things of a place in CHANCE["same_place"].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from m2dit_jax.data.storyworld.attributes import (
    ARRANGEMENTS,
    NEW_PATTERN,
    PATTERNS,
    SECOND_COLOURS,
    Actor,
    Scene,
)
from m2dit_jax.data.storyworld.fitting import picture_of
from m2dit_jax.data.storyworld.oracle import ActorReading, Reading, read_scene
from m2dit_jax.evaluation.fidelity import FIDELITY, Fidelity, psnr, score_fidelity
from m2dit_jax.evaluation.scores import Mean, Score

Stories = Sequence[tuple[Scene, ...]]

_KNOWN = len(PATTERNS) - 1  # patterns of training stories, each as frequent
# Plain has no second colour; of the others both the pattern and the colour must agree.
CHANCE = {
    "same_look": 1 / _KNOWN**2 * (1 + (_KNOWN - 1) / len(SECOND_COLOURS)),
    "same_place": 1 / len(ARRANGEMENTS),
}
_FLAT = 2.0  # greatest difference of neighbours, of values from 0 to 255, where a picture is flat


class StoryworldReadings(NamedTuple):
    """The readings of all scenes, story by story, and how clean those are that were generated."""

    scenes: list[list[Reading]]
    fidelity: Fidelity


class StoryworldScorer:
    """See `world_scores.WorldScorer`.

    Cases are the scenes that are not given, if nothing else is said; what is not recognised is
    wrong:

    - place, light, motion: the scene shows its own; light is that of the global prompt, or day.
    - actors: there are as many as the caption says.
    - body, colour, part: all actors of the scene have their own.
    - reference: all three are right; cases are scenes whose caption names nobody ("it", "they").
    - same_look: the pattern and its colour, which no prompt says, are recognised and the same in
      all scenes of an actor; cases are actors in two scenes or more, at least one of them not
      given. Chance is CHANCE["same_look"].
    - new_look: the same, where a given scene shows the pattern that is in no training story.
    - same_place: at a place to which the story comes back the things stand where they stood in the
      scenes before; cases are scenes that come back. Chance is CHANCE["same_place"].
    - same_light: cases are stories; light is recognised and the same in all scenes.
    - same_actor: cases are stories; all of body, colour, part, pattern and its colour are
      recognised and the same in all scenes of each actor.
    - leakage (the lower the better): the place is wrong and that of another scene of the story, or
      the motion is. Cases are scenes that differ from another one in either.
    """

    metrics: tuple[str, ...] = (
        *("place", "light", "actors", "body", "colour", "part", "motion", "reference"),
        *("same_look", "new_look", "same_place", "same_light", "same_actor", "leakage"),
    )
    of_stories: tuple[str, ...] = ("same_look", "new_look", "same_light", "same_actor")

    def read(
        self,
        video: UInt8[np.ndarray, "N S F H W 3"],
        stories: Stories,
        given: Bool[np.ndarray, "N S"],
    ) -> StoryworldReadings:
        """Reads every scene; fits those more exactly that are not given."""
        readings: list[list[Reading]] = []
        values = np.full((len(FIDELITY), *given.shape), np.nan)
        for number, story in enumerate(stories):
            readings.append([])
            for place, scene in enumerate(story):
                frames = video[number, place, : scene.frames]
                is_given = bool(given[number, place])
                reading = read_scene(frames, refinements=1 if is_given else 4)
                readings[-1].append(reading)
                if not is_given:
                    values[:, number, place] = measure_scene(frames, reading)
        return StoryworldReadings(readings, Fidelity(*values))

    def score(
        self, reading: StoryworldReadings, stories: Stories, given: Bool[np.ndarray, "N S"]
    ) -> dict[str, Score | Mean]:
        """The scores by `metrics` and FIDELITY."""
        pairs = [
            (read, scene)
            for reads, story, are_given in zip(reading.scenes, stories, given, strict=True)
            for read, scene, is_given in zip(reads, story, are_given, strict=True)
            if not is_given
        ]
        scores: dict[str, Score | Mean] = {
            name: _share(getattr(read, name) == getattr(scene, name) for read, scene in pairs)
            for name in ("place", "light", "motion")
        }
        scores["actors"] = _share(len(r.actors) == len(s.actors) for r, s in pairs)
        for name in ("body", "colour", "part"):
            scores[name] = _share(_actors_have(name, read, scene) for read, scene in pairs)
        scores["reference"] = _share(
            all(_actors_have(name, read, scene) for name in ("body", "colour", "part"))
            for read, scene in pairs
            if not scene.names_actors
        )
        told = list(zip(reading.scenes, stories, given.tolist(), strict=True))
        scores["same_look"] = _share(same for each in told for same in _same_looks(*each, False))
        scores["new_look"] = _share(same for each in told for same in _same_looks(*each, True))
        scores["same_place"] = _share(same for each in told for same in _same_places(*each))
        scores["same_light"] = _share(_all_same([r.light for r in reads]) for reads, _, _ in told)
        scores["same_actor"] = _share(_same_actors(reads, story) for reads, story, _ in told)
        scores["leakage"] = _share(leak for each in told for leak in _leaks(*each))
        of_scenes = Fidelity(*(values[~given] for values in reading.fidelity))
        ordered = {name: scores[name] for name in self.metrics}
        return ordered | score_fidelity(of_scenes)


def measure_scene(
    frames: UInt8[np.ndarray, "F S S 3"], reading: Reading
) -> tuple[float, float, float]:
    """The values of `Fidelity`, against the nearest scene that can be drawn.

    Background and actor count where the nearest scene and its neighbouring pixels differ little.
    """
    nearest = reading.nearest
    ideal = nearest.render(len(frames), frames.shape[1])
    place = np.rint(picture_of(nearest.background, frames.shape[1]))
    covered = (ideal != place).any(-1)
    flat = _neighbours(ideal.astype(float), np.max) - _neighbours(ideal.astype(float), np.min)
    is_flat = (flat <= _FLAT).all(-1)
    near_actor = _neighbours(covered[..., None], np.max)[..., 0]
    squares = ((frames.astype(float) - ideal) ** 2).mean(-1)

    def rms(where: Bool[np.ndarray, "F S S"]) -> float:
        return float(np.sqrt(squares[where].mean())) if where.any() else float("nan")

    of_scene = float(psnr(frames[None], ideal[None])[0])
    return of_scene, rms(is_flat & ~near_actor), rms(is_flat & covered)


def _neighbours(values: np.ndarray, of: Callable) -> np.ndarray:
    """The greatest or least of each pixel and its eight neighbours."""
    padded = np.pad(values, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    rows = of([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=0)
    return of([rows[:, :, :-2], rows[:, :, 1:-1], rows[:, :, 2:]], axis=0)


def _share(cases) -> Score:
    found = [bool(case) for case in cases]
    return Score.of(sum(found), len(found))


def _actors_have(name: str, read: Reading, scene: Scene) -> bool:
    return [getattr(a, name) for a in read.actors] == [getattr(a, name) for a in scene.actors]


def _all_same(values: Sequence) -> bool:
    return None not in values and len(set(values)) == 1


def _seen(
    reads: Sequence[Reading], story: Sequence[Scene], actor: Actor
) -> list[tuple[int, ActorReading | None]]:
    """What each scene of an actor shows in its place; None where the number of actors is wrong."""
    return [
        (
            number,
            read.actors[scene.actors.index(actor)]
            if len(read.actors) == len(scene.actors)
            else None,
        )
        for number, (read, scene) in enumerate(zip(reads, story, strict=True))
        if actor in scene.actors
    ]


def _cast(story: Sequence[Scene]) -> list[Actor]:
    return list(dict.fromkeys(actor for scene in story for actor in scene.actors))


def _same_looks(
    reads: Sequence[Reading], story: Sequence[Scene], given: Sequence[bool], new: bool
) -> list[bool]:
    """Whether the looks agree, for each actor that is a case; with `new` those of `new_look`."""
    cases = []
    for actor in _cast(story):
        seen = _seen(reads, story, actor)
        known = any(given[number] for number, _ in seen)
        if len(seen) < 2 or all(given[number] for number, _ in seen):
            continue
        if not new or (known and actor.pattern == NEW_PATTERN):
            cases.append(_all_same([None if read is None else read.look for _, read in seen]))
    return cases


def _same_places(
    reads: Sequence[Reading], story: Sequence[Scene], given: Sequence[bool]
) -> list[bool]:
    cases = []
    for number, scene in enumerate(story):
        before = [n for n in range(number) if story[n].place == scene.place]
        if before and not given[number]:
            right = all(reads[n].place == scene.place for n in (*before, number))
            cases.append(right and _all_same([reads[n].arrangement for n in (*before, number)]))
    return cases


def _same_actors(reads: Sequence[Reading], story: Sequence[Scene]) -> bool:
    return all(
        _all_same([None if read is None else _whole(read) for _, read in _seen(reads, story, a)])
        for a in _cast(story)
    )


def _whole(read: ActorReading) -> tuple[str, ...] | None:
    values = (read.body, read.colour, read.part, read.pattern, read.second)
    return None if None in values else tuple(str(value) for value in values)


def _leaks(reads: Sequence[Reading], story: Sequence[Scene], given: Sequence[bool]) -> list[bool]:
    cases = []
    for number, (read, scene) in enumerate(zip(reads, story, strict=True)):
        places = {other.place for other in story} - {scene.place}
        motions = {other.motion for other in story} - {scene.motion}
        if not given[number] and (places or motions):
            cases.append(read.place in places or read.motion in motions)
    return cases
