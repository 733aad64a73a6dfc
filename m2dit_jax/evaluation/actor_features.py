"""Features of the boxes in which a story shows its actors, and of the actors' pictures."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.evaluation.actors import (
    ActorFeatures,
    ActorLikeness,
    Reference,
    Sighting,
    read_picture,
    strangers,
)
from m2dit_jax.evaluation.extractors import Extractor
from m2dit_jax.evaluation.scores import BoundedScore
from m2dit_jax.evaluation.video_stories import VideoStory
from m2dit_jax.utils.media import VideoError, video_frames

_NO_ACTORS = "nobody said where the actors are (boxes in actors.json)"


def describe_actors(
    story: VideoStory, lengths: Sequence[int], extractor: Extractor
) -> list[ActorFeatures]:
    """The actors of whom there are boxes, cut out of the videos in their full size.

    `lengths` are the frames of each scene. Raises VideoError if there is no such frame.
    """
    if story.sheet is None:
        return []
    boxes = [
        (number, sighting)
        for number, actor in enumerate(story.sheet.actors)
        for sighting in actor.seen
        if sighting.box is not None
    ]
    seen: dict[int, list[Float[np.ndarray, " _D"]]] = defaultdict(list)
    for (number, _), part in zip(boxes, _parts(story, lengths, boxes), strict=True):
        seen[number].append(_features(part, extractor))
    return [
        ActorFeatures(
            actor.name,
            tuple(s.scene for s in actor.seen if s.box is not None),
            np.stack(seen[number]),
            _of_references(actor.references, extractor, seen[number][0].shape),
        )
        for number, actor in enumerate(story.sheet.actors)
        if number in seen
    ]


def actor_scores(
    stories: Sequence[Sequence[ActorFeatures]],
    likenesses: Sequence[Sequence[ActorLikeness]],
    note: str = "",
) -> dict[str, BoundedScore]:
    """Means over the actors of all stories; the floor is what other actors of a story reach.

    `note` is of the features and goes with each score.
    """
    every = [actor for story in likenesses for actor in story]
    cross = [actor.cross for actor in every if actor.cross is not None]
    within = [actor.self_likeness for actor in every if actor.self_likeness is not None]
    floors = [strangers(story) for story in stories]
    cross_floor = [value for of_cross, _ in floors for value in of_cross]
    self_floor = [value for _, of_seen in floors for value in of_seen]
    return {
        "actor cross-similarity": _score(
            cross, cross_floor, "no references in actors.json" if every else _NO_ACTORS, note
        ),
        "actor self-similarity": _score(
            within, self_floor, "no actor has boxes in two scenes" if every else _NO_ACTORS, note
        ),
    }


def _score(
    values: Sequence[float], strange: Sequence[float], missing: str, note: str
) -> BoundedScore:
    if not values:
        return BoundedScore(None, note=missing)
    floor = float(np.mean(strange)) if strange else None
    notes = [note, "" if strange else "no floor: needs several actors"]
    return BoundedScore(
        float(np.mean(values)), floor, 1.0, len(values), "; ".join(filter(None, notes))
    )


def _parts(
    story: VideoStory, lengths: Sequence[int], boxes: Sequence[tuple[int, Sighting]]
) -> list[UInt8[np.ndarray, "_H _W 3"]]:
    """The pictures within the boxes, in the order of these; each video is read once."""
    starts = [0, *accumulate(lengths)]
    wanted: dict[Path, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (_, sighting) in enumerate(boxes):
        scene = sighting.scene - 1
        frame = lengths[scene] // 2 if sighting.frame is None else sighting.frame
        video = story.videos[scene if story.lengths is None else 0]
        if frame >= lengths[scene]:
            raise VideoError(
                f"{video}: an actor is seen in frame {frame} of scene {sighting.scene}, which has "
                f"{lengths[scene]} frames"
            )
        wanted[video][frame if story.lengths is None else starts[scene] + frame].append(place)
    parts = {}
    for video, places in wanted.items():
        for number, picture in zip(range(max(places) + 1), video_frames(video), strict=False):
            for place in places.get(number, ()):
                parts[place] = _within(picture, boxes[place][1].box)
    return [parts[place] for place in range(len(boxes))]


def _of_references(
    references: Sequence[Reference], extractor: Extractor, size: tuple[int, ...]
) -> Float[np.ndarray, "R D"]:
    found = []
    for reference in references:
        picture = read_picture(Path(reference.picture))
        if picture is None:
            raise ValueError(f"{reference.picture}: not a picture that can be read")
        found.append(_features(_within(picture, reference.box), extractor))
    return np.stack(found) if found else np.zeros((0, *size))


def _features(picture: UInt8[np.ndarray, "H W 3"], extractor: Extractor) -> Float[np.ndarray, " D"]:
    return extractor.of_frames(picture[None])[0]


def _within(
    picture: UInt8[np.ndarray, "H W 3"], box: tuple[float, ...] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of the picture in the box, of 2 pixels at least."""
    if box is None:
        return picture
    height, width = picture.shape[:2]
    left, right = _span(box[0], box[2], width)
    top, bottom = _span(box[1], box[3], height)
    return picture[top:bottom, left:right]


def _span(start: float, end: float, size: int) -> tuple[int, int]:
    first = min(int(start * size), max(size - 2, 0))
    return first, min(max(round(end * size), first + 2), size)
