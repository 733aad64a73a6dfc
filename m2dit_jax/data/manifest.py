"""Manifests of videos with captions: two formats of the reference, and one of our own.

    CSV          a clip a line, with a header; columns `path` and `caption`
    JSON         a list of stories: {"prefix": name, "values": [{"url": path, "caption": text}]}
    JSON Lines   a story a line: {"name": name, "scenes": [{"video": path, "caption": text,
                 "start": seconds, "end": seconds}]}; name, start and end may be left out

Which it is shows in the content. All else that an entry says is kept as metadata.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.utils.files import atomic_write

MAX_BYTES = 2**30
_FIELDS = ("video", "caption", "start", "end")  # of a scene of our own format
_SHOWN = 50  # problems in a message; the others are counted


class ManifestError(ValueError):
    """All that is wrong with a manifest, a line each: place, what was found, what is needed."""


@dataclass(frozen=True)
class ClipScene:
    """A scene: a video, or the part of it between `start` and `end` (seconds; None: its ends).

    `place` says where in the manifest it stands, for people to read.
    """

    video: Path
    caption: str
    start: float | None
    end: float | None
    metadata: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class ManifestStory:
    """Consecutive scenes."""

    name: str
    scenes: tuple[ClipScene, ...]


@dataclass(frozen=True)
class Manifest:
    """`kind` is "clips" for single clips that have nothing to do with each other, or "stories"."""

    stories: tuple[ManifestStory, ...]
    source: Path
    kind: str


def read_manifest(path: Path, root: Path, min_scenes: int = 1) -> Manifest:
    """Reads and checks a manifest whole; its paths are relative to `root` and must stay in it.

    Raises ManifestError with all problems, among them stories of less than `min_scenes` scenes.
    """
    text = _read_text(path)
    reader = _Reader(path, root)
    try:
        kind, stories = _parse(text, reader)
    except RecursionError:
        raise ManifestError(f"{path}: is nested too deeply") from None
    reader.check_stories(stories, min_scenes)
    if reader.problems:
        shown = reader.problems[:_SHOWN]
        more = len(reader.problems) - len(shown)
        raise ManifestError("\n".join(shown + [f"... and {more} more problems"] * bool(more)))
    return Manifest(tuple(stories), path, kind)


def write_jsonl(manifest: Manifest, path: Path, root: Path) -> None:
    """Writes the manifest as JSON Lines, with paths relative to `root`."""
    lines = []
    for story in manifest.stories:
        scenes = []
        for scene in story.scenes:
            times = {"start": scene.start, "end": scene.end}
            scenes.append(
                {"video": os.path.relpath(scene.video, root.resolve()), "caption": scene.caption}
                | {name: value for name, value in times.items() if value is not None}
                # a column of another format may have the name of a field of this one
                | {
                    f"{key}_" if key in _FIELDS else key: value
                    for key, value in scene.metadata.items()
                }
            )
        lines.append(json.dumps({"name": story.name, "scenes": scenes}, ensure_ascii=False))
    with atomic_write(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ManifestError(f"{path}: cannot be read (is no file)")
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: is larger than {MAX_BYTES} bytes, no manifest")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: cannot be read ({error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8, needs UTF-8 text"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ManifestError(f"{path}:{line}: a null character, needs text")
    if not text.strip():
        raise ManifestError(f"{path}: is empty, needs at least one scene")
    return text


def _parse(text: str, reader: "_Reader") -> tuple[str, list[ManifestStory]]:
    start = text.lstrip()[0]
    if start == "[":
        return "stories", reader.json_stories(text)
    if start == "{":
        return "stories", reader.jsonl_stories(text)
    return "clips", reader.csv_clips(text)


class _Duplicate(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(f"the key {_shown(key)} stands twice in an object")
        found[key] = value
    return found


def _loads(text: str) -> Any:
    """Raises ValueError, also for what JSON does not have: NaN, infinity, a key twice."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, object_pairs_hook=_object, parse_constant=refuse)


class _Reader:
    """Reads the formats and collects the problems."""

    def __init__(self, path: Path, root: Path):
        self.path = path
        self.root = root.resolve()
        self.problems: list[str] = []

    def csv_clips(self, text: str) -> list[ManifestStory]:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        stories: list[ManifestStory] = []
        try:
            header = [name.strip() for name in next(rows)]
            missing = [name for name in ("path", "caption") if name not in header]
            twice = sorted({name for name in header if header.count(name) > 1})
            if missing or twice:
                for name in missing:
                    self._add("1", f"needs a column {name!r}, found {_shown(', '.join(header))}")
                for name in twice:
                    self._add("1", f"the column {name!r} stands twice")
                return []
            for row in rows:
                place = f"{self.path}:{rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    self.problems.append(
                        f"{place}: found {len(row)} values, needs {len(header)}, one a column"
                    )
                    continue
                values: dict[str, Any] = dict(zip(header, row, strict=True))
                scene = self._scene(values, "path", place)
                stories.append(ManifestStory(f"clip {len(stories) + 1}", (scene,)))
        except (csv.Error, StopIteration) as error:
            self._add(str(rows.line_num), f"is not readable as CSV ({error})")
        return stories

    def json_stories(self, text: str) -> list[ManifestStory]:
        try:
            entries = _loads(text)
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            self._add(str(line), f"is not readable as JSON ({error})")
            return []
        stories = []
        for number, entry in enumerate(entries, 1):
            place = f"{self.path}: story {number}"
            if not isinstance(entry, dict):
                self.problems.append(f"{place}: found {_shown(entry)}, needs an object")
                continue
            name = self._name(entry.get("prefix"), f"story {number}", f"{place}: prefix")
            place += f" {_shown(name)}" if "prefix" in entry else ""
            stories.append(ManifestStory(name, self._scenes(entry, "values", "url", place)))
        return stories

    def jsonl_stories(self, text: str) -> list[ManifestStory]:
        stories = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            place = f"{self.path}:{number}"
            try:
                entry = _loads(line)
            except ValueError as error:
                self.problems.append(f"{place}: is not readable as JSON ({error})")
                continue
            if not isinstance(entry, dict):
                self.problems.append(f"{place}: found {_shown(entry)}, needs an object")
                continue
            name = self._name(entry.get("name"), f"line {number}", f"{place}: name")
            for key in entry.keys() - {"name", "scenes"}:
                self.problems.append(f"{place}: unknown key {_shown(key)}, needs name and scenes")
            stories.append(ManifestStory(name, self._scenes(entry, "scenes", "video", place)))
        return stories

    def check_stories(self, stories: list[ManifestStory], min_scenes: int) -> None:
        """Checks the stories for what only shows when all are read."""
        if not stories and not self.problems:
            self.problems.append(f"{self.path}: holds no scene, needs at least one")
        seen: dict[str, int] = {}
        for number, story in enumerate(stories, 1):
            if story.name in seen:
                self.problems.append(
                    f"{self.path}: stories {seen[story.name]} and {number} are both called "
                    f"{_shown(story.name)}, needs different names"
                )
            seen.setdefault(story.name, number)
            if story.scenes and len(story.scenes) < min_scenes:
                self.problems.append(
                    f"{story.scenes[0].place}: story {_shown(story.name)} has {len(story.scenes)} "
                    f"scenes, needs at least {min_scenes}"
                )

    def _scenes(
        self, entry: dict[str, Any], key: str, video: str, place: str
    ) -> tuple[ClipScene, ...]:
        values = entry.get(key)
        if not isinstance(values, list) or not values:
            found = _shown(values) if key in entry else "nothing"
            self.problems.append(f"{place}: {key}: found {found}, needs a list of scenes")
            return ()
        scenes = []
        for number, value in enumerate(values, 1):
            at = f"{place}, scene {number}"
            if isinstance(value, dict):
                scenes.append(self._scene(value, video, at))
            else:
                self.problems.append(f"{at}: found {_shown(value)}, needs an object")
        return tuple(scenes)

    def _scene(self, values: dict[str, Any], video: str, place: str) -> ClipScene:
        caption = values.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            found = _shown(caption) if "caption" in values else "nothing"
            self.problems.append(f"{place}: caption: found {found}, needs a text")
            caption = ""
        elif any("\ud800" <= letter <= "\udfff" for letter in caption):
            self.problems.append(
                f"{place}: caption: found half of a surrogate pair, needs whole characters"
            )
        start, end = None, None
        known = {video, "caption"}
        if video == "video":  # our own format
            known |= {"start", "end"}
            start, end = (self._seconds(values, name, place) for name in ("start", "end"))
            if end is not None and end <= (start or 0):
                self.problems.append(f"{place}: end {end:g} must be after start {start or 0:g}")
        return ClipScene(
            self._video(values.get(video), video in values, f"{place}: {video}"),
            caption,
            start,
            end,
            {key: value for key, value in values.items() if key not in known},
            place,
        )

    def _video(self, name: Any, given: bool, place: str) -> Path:
        if not isinstance(name, str) or not name.strip():
            found = _shown(name) if given else "nothing"
            self.problems.append(f"{place}: found {found}, needs the path of a video")
            return self.root
        try:
            path = (self.root / name).resolve()
            if not path.is_relative_to(self.root):
                problem = f"leaves the root {self.root}, needs a path within it"
            elif path.is_dir():
                problem = "is a folder, needs a video"
            elif not path.exists():
                problem = f"no such file in {self.root}"
            elif not os.access(path, os.R_OK):
                problem = "cannot be read, needs permission"
            else:
                return path
        except (OSError, ValueError, RuntimeError) as error:  # too long, a loop of links
            problem = f"cannot be read ({error})"
        self.problems.append(f"{place}: {_shown(name)} {problem}")
        return self.root

    def _seconds(self, values: dict[str, Any], name: str, place: str) -> float | None:
        value = values.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            number = float(value) if is_number else math.nan
        except OverflowError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            self.problems.append(f"{place}: {name}: found {_shown(value)}, needs seconds from 0 on")
            return None
        return number

    def _name(self, value: Any, default: str, place: str) -> str:
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{place}: found {_shown(value)}, needs a text")
            return default
        return value

    def _add(self, line: str, problem: str) -> None:
        self.problems.append(f"{self.path}:{line}: {problem}")


def _shown(value: Any) -> str:
    """The value on one line of at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
