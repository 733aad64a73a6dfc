"""Scores of finished stories, from their frames: consistency, alignment, cuts, motion, drift.

Consistency alone can be gamed: a video that never cuts is perfectly consistent. So it stands
beside cuts and alignment, and every score between a floor, what unrelated scenes reach, and a
ceiling, what a scene reaches with itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.evaluation.actors import ActorFeatures, ActorLikeness, likeness
from m2dit_jax.evaluation.cuts import StoryCuts, asked_cuts, match_cuts
from m2dit_jax.evaluation.extractors import STATISTICS_SIDE, Extractor, Extractors
from m2dit_jax.evaluation.frame_consistency import frame_consistency
from m2dit_jax.evaluation.scores import BoundedScore
from m2dit_jax.evaluation.video_stories import VideoStory, shrunk
from m2dit_jax.utils.frames import (
    brightness,
    colours,
    find_cuts,
    is_cut,
    is_frozen,
    motion,
    saturation,
    sharpness,
)

_EDGE_FRAMES = 8  # at each end of a scene, kept to look for cuts


@dataclass(frozen=True)
class SceneFeatures:
    """Features of a scene; its frames are not kept.

    `halves` are the mean features of its first and second half, `first` and `last` its frames at
    both ends, `shares` the `colours` of each frame, `subject` and `background` features of DINO and
    CLIP.
    """

    features: Float[np.ndarray, "F D"]
    halves: tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]
    first: UInt8[np.ndarray, "E H W 3"]
    last: UInt8[np.ndarray, "E H W 3"]
    motion: float
    frozen: bool
    statistics: Mapping[str, float]
    shares: Float[np.ndarray, "F 64"]
    subject: Float[np.ndarray, "F D3"] | None = None
    background: Float[np.ndarray, "F D4"] | None = None

    @property
    def mean(self) -> Float[np.ndarray, " D"]:
        """Products of two are mean cosines over all pairs of frames."""
        return self.features.mean(0)

    @property
    def clip(self) -> Float[np.ndarray, " D2"]:
        """Embedding of a whole clip: what its frames look like, and how that changes."""
        return np.concatenate([self.mean, np.abs(np.diff(self.features, axis=0)).mean(0)])


@dataclass(frozen=True)
class StoryScores:
    """Scores of one story. `alignment` has a row for each scene and a column for each prompt.

    `cuts` are flags for the places where scenes meet, `film_cuts` the cuts of the whole; `subject`
    and `background` are VBench's consistency of each scene.
    """

    name: str
    prompts: Sequence[str]
    visual: float | None
    same_actor: float | None
    alignment: Float[np.ndarray, "S S"] | None
    best_match: float | None
    cuts: Sequence[bool]
    cuts_within: int
    motion: Sequence[float]
    frozen: Sequence[int]
    film_cuts: StoryCuts
    drift: Mapping[str, Sequence[float]] = field(default_factory=dict)
    subject: Sequence[float] | None = None
    background: Sequence[float] | None = None
    actors: Sequence[ActorLikeness] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Scenes are numbered from 1."""
        alignment = None if self.alignment is None else self.alignment.round(4).tolist()
        return vars(self) | {
            "alignment": alignment,
            "frozen": [scene + 1 for scene in self.frozen],
            "film_cuts": self.film_cuts.to_json(),
            "actors": [asdict(actor) for actor in self.actors],
            "slope": {name: slope(values) for name, values in self.drift.items()},
        }


def describe_scene(
    frames: UInt8[np.ndarray, "F H W 3"], extractor: Extractor | Extractors
) -> SceneFeatures:
    """Everything that scores need of a scene of at least two frames."""
    use = extractor if isinstance(extractor, Extractors) else Extractors(extractor)
    small = np.stack([shrunk(frame, STATISTICS_SIDE) for frame in frames])
    known = {}  # by extractor: one may serve as two
    for each in (use.main, use.dino, use.clip):
        if each is not None and id(each) not in known:
            known[id(each)] = each.of_frames(frames if each.side > STATISTICS_SIDE else small)
    features = known[id(use.main)]
    middle = max(len(frames) // 2, 1)
    return SceneFeatures(
        features,
        (features[:middle].mean(0), features[middle:].mean(0)),
        small[:_EDGE_FRAMES].copy(),
        small[-_EDGE_FRAMES:].copy(),
        motion(small),
        is_frozen(small),
        {
            "brightness": brightness(small),
            "saturation": saturation(small),
            "sharpness": sharpness(small),
        },
        colours(small),
        None if use.dino is None else known[id(use.dino)],
        None if use.clip is None else known[id(use.clip)],
    )


def score_story(
    story: VideoStory,
    scenes: Sequence[SceneFeatures],
    extractor: Extractor,
    tolerance: int = 2,
    actors: Sequence[ActorFeatures] = (),
) -> StoryScores:
    """Scores of a story from the features of its scenes, in their order.

    `tolerance` is how many frames a cut may lie from where it is asked for.
    """
    pairs = list(combinations(range(len(scenes)), 2))
    alike = {(i, j): float(scenes[i].mean @ scenes[j].mean) for i, j in pairs}
    acted = [alike[pair] for pair in pairs if story.same_actor(*pair)]
    texts = extractor.of_texts(story.prompts)
    means = _units([scene.mean for scene in scenes])
    first = scenes[0].mean
    drift = {name: [s.statistics[name] for s in scenes] for name in scenes[0].statistics}
    drift["likeness to scene 1"] = [float(first @ scene.mean) for scene in scenes]
    return StoryScores(
        story.name,
        story.prompts,
        _mean(list(alike.values())),
        _mean(acted),
        None if texts is None else means @ texts.T,
        _mean([_best_match(scenes[i], scenes[j]) for i, j in pairs]),
        [_is_cut_between(a, b) for a, b in pairwise(scenes)],
        sum(len(find_cuts(scene.shares)) for scene in scenes),
        [scene.motion for scene in scenes],
        [number for number, scene in enumerate(scenes) if scene.frozen],
        _story_cuts(story, scenes, tolerance),
        drift,
        _consistency([scene.subject for scene in scenes]),
        _consistency([scene.background for scene in scenes]),
        [likeness(actor) for actor in actors],
    )


def score_all(
    stories: Sequence[StoryScores], scenes: Sequence[Sequence[SceneFeatures]]
) -> dict[str, BoundedScore]:
    """Means over the stories, with floors from scenes of different stories.

    With one story alone there is no floor, and the score says so.
    """
    everything = [scene for of_story in scenes for scene in of_story]
    strangers = [(a, b) for x, y in combinations(scenes, 2) for a in x for b in y]
    no_floor = "" if strangers else "no floor: needs several stories"

    def of_strangers(measure: Callable[[SceneFeatures, SceneFeatures], float]) -> float | None:
        return _mean([measure(a, b) for a, b in strangers])

    twice = _mean([float(scene.halves[0] @ scene.halves[1]) for scene in everything])
    alike = of_strangers(lambda a, b: float(a.mean @ b.mean))
    visual = _told([s.visual for s in stories])
    acted = _told([s.same_actor for s in stories])
    cuts = [float(cut) for s in stories for cut in s.cuts]
    match = _told([s.best_match for s in stories])
    aligned = [s.alignment for s in stories if s.alignment is not None]
    scores = {
        "visual consistency": BoundedScore(_mean(visual), alike, twice, len(visual), no_floor),
        "same actor consistency": BoundedScore(
            _mean(acted),
            alike,
            twice,
            len(acted),
            no_floor if acted else "nobody said who is in which scene (actors.json)",
        ),
        **_alignment_scores(aligned),
        "cuts where scenes meet": BoundedScore(
            _mean(cuts),
            _mean([float(_is_cut_in_two(scene)) for scene in everything]),
            of_strangers(lambda a, b: float(_is_cut_between(a, b))),
            len(cuts),
            "floor: within a scene; ceiling: between stories",
        ),
        "best frame match": BoundedScore(
            _mean(match),
            of_strangers(_best_match),
            1.0,
            len(match),
            "near 1: a frame of one scene comes again in another",
        ),
        "scenes that move": BoundedScore(
            1 - _mean_of([float(scene.frozen) for scene in everything]), 0.0, 1.0, len(everything)
        ),
    }
    semantic = scores["semantic alignment"]
    if scores["visual consistency"].value is not None and semantic.value is not None:
        both = (scores["visual consistency"], semantic)
        scores["sequence consistency"] = BoundedScore(
            _mean_of([score.value for score in both if score.value is not None]),
            note="inferred: the mean of visual consistency and semantic alignment; the paper does "
            "not define it",
        )
    else:
        scores["sequence consistency"] = BoundedScore(None, note="needs visual and semantic scores")
    return scores


def _story_cuts(story: VideoStory, scenes: Sequence[SceneFeatures], tolerance: int) -> StoryCuts:
    """Of the scenes joined to one film, in which those of another size are cut for certain."""
    lengths = [len(scene.shares) for scene in scenes]
    starts = asked_cuts(lengths, [True] * (len(scenes) - 1))
    found = set(find_cuts(np.concatenate([scene.shares for scene in scenes])))
    sizes = [scene.first.shape[1:] for scene in scenes]
    found |= {start for start, (a, b) in zip(starts, pairwise(sizes), strict=True) if a != b}
    asked = story.asked or (True,) * (len(scenes) - 1)
    return match_cuts(asked_cuts(lengths, asked), sorted(found), tolerance)


def _consistency(features: Sequence[Float[np.ndarray, "_F _D"] | None]) -> list[float] | None:
    known = [scene for scene in features if scene is not None]
    return [float(frame_consistency(scene).mean()) for scene in known] or None


def slope(values: Sequence[float]) -> float:
    """Change from scene to scene of the line through the values; 0 for a single one."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def _alignment_scores(matrices: Sequence[Float[np.ndarray, "_S _S"]]) -> dict[str, BoundedScore]:
    names = ("semantic alignment", "alignment over other prompts", "prompt retrieval")
    if not matrices:
        note = "the extractor knows no text: name a folder with CLIP"
        return {name: BoundedScore(None, note=note) for name in names}
    own = [float(value) for matrix in matrices for value in np.diag(matrix)]
    others = [
        float(value) for matrix in matrices for value in matrix[~np.eye(len(matrix), dtype=bool)]
    ]
    right = [float(np.argmax(row) == i) for matrix in matrices for i, row in enumerate(matrix)]
    chance = _mean([1 / len(matrix) for matrix in matrices for _ in matrix])
    floor = _mean(others)
    over = None if floor is None else _mean_of(own) - floor
    note = "floor: prompts of other scenes; no ceiling: a scene has no other caption"
    return {
        names[0]: BoundedScore(_mean(own), floor, None, len(own), note),
        names[1]: BoundedScore(over, 0.0, None, len(own), "" if others else "needs several scenes"),
        names[2]: BoundedScore(_mean(right), chance, 1.0, len(right), "floor: chance"),
    }


def _is_cut_between(before: SceneFeatures, after: SceneFeatures) -> bool:
    """Scenes of different size are cut for certain."""
    if before.last.shape[1:] != after.first.shape[1:]:
        return True
    return is_cut(before.last, after.first)


def _is_cut_in_two(scene: SceneFeatures) -> bool:
    """Whether its first frames, halved, are taken for two scenes: they never should."""
    middle = max(len(scene.first) // 2, 1)
    return is_cut(scene.first[:middle], scene.first[middle:])


def _best_match(a: SceneFeatures, b: SceneFeatures) -> float:
    return float((a.features @ b.features.T).max())


def _units(vectors: Sequence[Float[np.ndarray, " D"]]) -> Float[np.ndarray, "N D"]:
    return np.stack([vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors])


def _told(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))
