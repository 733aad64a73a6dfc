"""Actors of a finished story: actors.json, which says where they are seen, and their likeness.

    {"actors": [{"name": "fox",
                 "references": ["fox.png"],
                 "seen": [{"scene": 1, "box": [0.1, 0.3, 0.5, 0.9]}, {"scene": 2}]}]}

The likeness follows ViStoryBench's character identification similarity (arXiv 2505.24862). Here
boxes come from the file, not from a detector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from pydantic import AfterValidator, BeforeValidator, Field

from m2dit_jax.utils.files import read_json
from m2dit_jax.utils.options import Count, OptionError, Options, Text, option, problem_lines

ACTORS = "actors.json"  # in a story's folder
_BOX = "left, top, right, bottom as shares of the picture: 0 <= left < right <= 1, the same down"


def _ordered(box: tuple[float, ...]) -> tuple[float, ...]:
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(_BOX)
    return box


def _named(name: str) -> str:
    if not name.strip():
        raise ValueError("a name")
    return name.strip()


Box = Annotated[tuple[float, ...], Field(strict=False), AfterValidator(_ordered)]
Name = Annotated[Text, AfterValidator(_named)]


class Sighting(Options, frozen=True):
    """An actor in a scene, numbered from 1; with a box, where in one of its frames."""

    scene: Count
    box: Box | None = option(None, "Where the actor is.", needed=_BOX)
    frame: Annotated[int, Field(ge=0, le=10**6)] | None = option(
        None, "The frame of the box, from 0; the scene's middle if none is named."
    )


class Reference(Options, frozen=True):
    """A picture of an actor; with a box, the part of it that shows the actor."""

    picture: Name
    box: Box | None = option(None, "Where the actor is.", needed=_BOX)


def _with_key(references: Any) -> Any:
    if not isinstance(references, list):
        return references
    return [{"picture": item} if isinstance(item, str) else item for item in references]


class Actor(Options, frozen=True):
    """Someone or something that a story shows, where, and what they should look like."""

    name: Name
    seen: Annotated[tuple[Sighting, ...], Field(strict=False)] = option(
        (), "The scenes that show the actor.", needed="a list of scenes"
    )
    references: Annotated[
        tuple[Reference, ...], Field(strict=False), BeforeValidator(_with_key)
    ] = option((), "Pictures of the actor.", needed="a list of pictures")


class ActorSheet(Options, frozen=True):
    """The content of actors.json. Raises OptionError with all that is wrong."""

    actors: Annotated[tuple[Actor, ...], Field(strict=False)] = Field(
        description="The story's actors.", json_schema_extra={"needed": "a list of actors"}
    )

    def in_scenes(self, scenes: int) -> tuple[frozenset[str], ...]:
        """The names of those who are in each scene."""
        return tuple(
            frozenset(a.name for a in self.actors if any(s.scene == scene for s in a.seen))
            for scene in range(1, scenes + 1)
        )


def read_actors(path: Path, scenes: int) -> ActorSheet:
    """The actors of a story of so many scenes; pictures by a path from the current folder.

    A list of a list of names for each scene, as the file was before there were boxes, is taken too.
    Raises ValueError, naming file, field and value.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise ValueError(str(error)) from error
    if isinstance(content, list):
        return _from_lists(content, path, scenes)
    if not isinstance(content, Mapping):
        raise ValueError(f'{path}: needs {{"actors": [...]}}, or a list of names for each scene')
    try:
        sheet = ActorSheet(**content)
    except (OptionError, TypeError) as error:
        lines = str(error).splitlines()
        raise ValueError(problem_lines(f"{path}: {line}" for line in lines)) from error
    problems = list(_problems(sheet, path, scenes))
    if problems:
        raise ValueError(problem_lines(problems))
    return ActorSheet(actors=tuple(_with_paths(actor, path.parent) for actor in sheet.actors))


def _with_paths(actor: Actor, folder: Path) -> Actor:
    references = [r.replace(picture=str(folder / r.picture)) for r in actor.references]
    return actor.replace(references=references)


def _from_lists(content: Sequence[Any], path: Path, scenes: int) -> ActorSheet:
    if not all(isinstance(names, list) for names in content):
        raise ValueError(f"{path}: not a list of lists of names")
    if len(content) != scenes:
        raise ValueError(f"{path}: found {len(content)} lists for {scenes} scenes")
    seen: dict[str, list[Sighting]] = {}
    for scene, names in enumerate(content, 1):
        for name in names:
            seen.setdefault(str(name), []).append(Sighting(scene=scene))
    actors = (Actor(name=name, seen=tuple(where)) for name, where in seen.items())
    return ActorSheet(actors=tuple(actors))


def _problems(sheet: ActorSheet, path: Path, scenes: int) -> Iterator[str]:
    names = [actor.name for actor in sheet.actors]
    for number, actor in enumerate(sheet.actors):
        place = f"{path}: actors[{number}]"
        if names.index(actor.name) != number:
            yield f"{place}.name: found {actor.name!r} twice, needs a name for each actor"
        for index, sighting in enumerate(actor.seen):
            if sighting.scene > scenes:
                yield (
                    f"{place}.seen[{index}].scene: found {sighting.scene}, the story has {scenes}"
                )
        for index, reference in enumerate(actor.references):
            if read_picture(path.parent / reference.picture) is None:
                yield (
                    f"{place}.references[{index}].picture: found {reference.picture!r}, needs the "
                    f"path of a picture, from {path.parent}"
                )


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture as viewers show it; None if the file is none that can be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


@dataclass(frozen=True)
class ActorLikeness:
    """How much an actor looks like its references and like itself in other scenes.

    Both are mean cosines, None without references, or without boxes in two scenes. `seen` counts
    the boxes.
    """

    name: str
    cross: float | None
    self_likeness: float | None
    seen: int


@dataclass(frozen=True)
class ActorFeatures:
    """Features of length 1 of an actor's boxes, the scenes of these, and of its references."""

    name: str
    scenes: tuple[int, ...]
    seen: Float[np.ndarray, "N D"]
    references: Float[np.ndarray, "R D"]


def likeness(actor: ActorFeatures) -> ActorLikeness:
    """Cross-similarity: the mean over all pairs of a box and a reference. Self-similarity: the mean
    over all pairs of boxes in different scenes.
    """
    cross = actor.seen @ actor.references.T
    pairs = [
        float(actor.seen[i] @ actor.seen[j])
        for i, j in combinations(range(len(actor.scenes)), 2)
        if actor.scenes[i] != actor.scenes[j]
    ]
    return ActorLikeness(
        actor.name,
        float(cross.mean()) if cross.size else None,
        float(np.mean(pairs)) if pairs else None,
        len(actor.scenes),
    )


def strangers(actors: Sequence[ActorFeatures]) -> tuple[list[float], list[float]]:
    """The cosines of boxes with the references of other actors, and with their boxes."""
    cross, seen = [], []
    for a in actors:
        for b in actors:
            if a is not b:
                cross += (a.seen @ b.references.T).ravel().tolist()
    for a, b in combinations(actors, 2):
        seen += (a.seen @ b.seen.T).ravel().tolist()
    return cross, seen
