"""Finished stories on disk: story.json, read and checked, and the videos beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from m2dit_jax.utils.files import read_json

STATUSES = ("given", "kept", "generated", "reused")


class RecordError(ValueError):
    """A folder that holds no story, or one whose story.json is not as it should be."""


@dataclass(frozen=True)
class Attempt:
    """One drawing of a scene and what the gate found. `failures` are empty if it passed."""

    seed: int | None
    passed: bool
    failures: tuple[str, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SceneRecord:
    """A scene as story.json has it; fields that an older file lacks are None or empty.

    `settings` are those of the scene, of the whole story where it has none of its own.
    `context` are the 1-based numbers of the scenes that were given to it, `made_with` of those
    that were generated in the same run. `evaluations` counts the calls of the network. `cut` is the
    storyboard's. `digest` is the SHA-256 of its frames, "" in older files.
    """

    number: int
    prompt: str
    status: str
    video: Path
    clip: str
    settings: Mapping[str, Any]
    context: tuple[int, ...]
    made_with: tuple[int, ...]
    seconds: float | None
    steps: int | None
    evaluations: int | None
    attempts: tuple[Attempt, ...]
    metrics: Mapping[str, float]
    cut: bool = False
    digest: str = ""


@dataclass(frozen=True)
class StoryRecord:
    """A story in `folder`. `settings` are all of its storyboard but the scenes.

    `storyboard` is the whole of it, with clips by their names alone.
    """

    folder: Path
    video: Path
    scenes: tuple[SceneRecord, ...]
    settings: Mapping[str, Any]
    seconds: float | None
    origin: Mapping[str, Any]
    config: Mapping[str, Any]
    storyboard: Mapping[str, Any]


def read_record(folder: Path) -> StoryRecord:
    """The story in a folder. Raises RecordError, naming file and field, if it is not complete."""
    path = folder / "story.json"
    story = _Fields(_read_json(path), f"{path}: ")
    storyboard = story.mapping("storyboard", needed=True)
    settings = {key: value for key, value in storyboard.items() if key != "scenes"}
    entries = story.list("scenes", needed=True)
    if not entries:
        raise RecordError(f"{path}: scenes: found an empty list, needs at least one scene")
    scenes = tuple(
        _read_scene(folder, number, _Fields(entry, f"{path}: scenes[{number - 1}]."), storyboard)
        for number, entry in enumerate(entries, 1)
    )
    return StoryRecord(
        folder=folder,
        video=_own_video(folder, "story.mp4", str(path)),
        scenes=scenes,
        settings=settings,
        seconds=story.number("seconds"),
        origin=dict(story.mapping("checkpoint")) | dict(story.mapping("versions")),
        config=story.mapping("config"),
        storyboard=_without_folders(storyboard),
    )


_SCENE_SETTINGS = ("seed", "take", "guidance_scale", "negative_prompt", "frames")


def _read_scene(
    folder: Path, number: int, scene: "_Fields", storyboard: Mapping[str, Any]
) -> SceneRecord:
    given = scene.value("given", bool, needed=True)
    status = scene.value("status", str) or ("given" if given else "generated")
    if status not in STATUSES:
        raise RecordError(f"{scene.place}status: found {status!r}, needs one of {STATUSES}")
    return SceneRecord(
        number=number,
        prompt=scene.value("prompt", str, needed=True),
        status=status,
        video=_own_video(folder, scene.value("video", str, needed=True), f"{scene.place}video"),
        clip=_clip_name(storyboard, number - 1),
        settings={
            name: scene.values.get(name, storyboard.get(name))
            for name in _SCENE_SETTINGS
            if name == "frames" or not given
        },
        context=scene.numbers("context"),
        made_with=scene.numbers("made_with"),
        seconds=scene.number("seconds"),
        steps=scene.value("steps", int),
        evaluations=scene.value("evaluations", int),
        attempts=tuple(
            _read_attempt(_Fields(attempt, f"{scene.place}attempts[{i}]."))
            for i, attempt in enumerate(scene.list("attempts"))
        ),
        metrics=scene.metrics(),
        cut=_from_board(storyboard, number - 1, "cut") is True,
        digest=scene.value("frames_sha256", str) or "",
    )


def _read_attempt(attempt: "_Fields") -> Attempt:
    return Attempt(
        seed=attempt.value("seed", int),
        passed=attempt.value("passed", bool, needed=True),
        failures=tuple(str(failure) for failure in attempt.list("failures")),
        metrics=attempt.metrics(),
    )


def _clip_name(storyboard: Mapping[str, Any], index: int) -> str:
    """Name alone: the page may go to others, whom the folders of this machine do not concern."""
    video = _from_board(storyboard, index, "video")
    return Path(video).name if isinstance(video, str) else ""


def _without_folders(storyboard: Mapping[str, Any]) -> dict[str, Any]:
    scenes = storyboard.get("scenes")
    if not isinstance(scenes, list):
        return dict(storyboard)
    named = [
        {**scene, "video": name} if (name := _clip_name(storyboard, i)) else scene
        for i, scene in enumerate(scenes)
    ]
    return {**storyboard, "scenes": named}


def _from_board(storyboard: Mapping[str, Any], index: int, name: str) -> Any:
    """A field of a scene as the storyboard has it, None if it is not there."""
    try:
        return storyboard["scenes"][index][name]
    except (LookupError, TypeError):
        return None


def _own_video(folder: Path, name: str, place: str) -> Path:
    """A file of the folder itself: story.json may have come from elsewhere."""
    path = folder / name
    if name != Path(name).name or path.is_symlink() or not path.is_file():
        raise RecordError(f"{place}: found {name!r}, needs the name of a video in {folder}")
    return path


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise RecordError(f"{path}: no such file; needs the output folder of a finished story")
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(str(error)) from error


class _Fields:
    """The fields of a JSON object, by the type that they must have; null counts as left out."""

    def __init__(self, values: Any, place: str):
        if not isinstance(values, Mapping):
            raise RecordError(f"{place} found {str(values)[:60]!r}, needs an object with fields")
        self.values = values
        self.place = place

    def value(self, name: str, kind: type | tuple[type, ...], needed: bool = False) -> Any:
        found = self.values.get(name)
        if found is None and not needed:
            return None
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise RecordError(f"{self.place}{name}: found {str(found)[:60]!r}, needs a {names}")
        return found

    def mapping(self, name: str, needed: bool = False) -> Mapping[str, Any]:
        return self.value(name, dict, needed) or {}

    def list(self, name: str, needed: bool = False) -> list[Any]:
        return self.value(name, list, needed) or []

    def number(self, name: str) -> float | None:
        found = self.value(name, (int, float))
        return None if found is None else float(found)

    def numbers(self, name: str) -> tuple[int, ...]:
        found = self.list(name)
        if not all(isinstance(number, int) for number in found):
            raise RecordError(f"{self.place}{name}: found {str(found)[:60]}, needs scene numbers")
        return tuple(cast("list[int]", found))

    def metrics(self) -> dict[str, float]:
        metrics = _Fields(self.mapping("metrics"), f"{self.place}metrics.")
        found = {name: metrics.number(name) for name in metrics.values}
        return {name: number for name, number in found.items() if number is not None}
