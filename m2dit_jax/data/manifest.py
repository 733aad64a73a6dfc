"""Manifests of videos with captions: two formats of the reference, and one of our own.

    CSV          a clip a line, with a header; columns `path` and `caption`
    JSON         a list of stories: {"prefix": name, "values": [{"url": path, "caption": text}]}
    JSON Lines   a story a line: {"name": name, "scenes": [{"video": path, "caption": text,
                 "start": seconds, "end": seconds}]}; name, start and end may be left out

A scene of JSON Lines may also say its part of the video as "exact_start" and "exact_end", seconds
as fractions ("25/24"), and as "first_frame" and "end_frame", numbers from 0, the latter of the
frame after the last. Frames go before exact seconds, these before seconds; what is given together
must be the same. A frame within a millisecond before `start` or `end` counts as at it.

A video may be an address in a bucket, gs:// or s3://, which is fetched when it is encoded.

Which it is shows in the content. All else that an entry says is kept as metadata.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from m2dit_jax.data.scene_times import FIELDS, SceneTimes, read_times, shown
from m2dit_jax.data.story_table import ClipScene, ManifestStory, Naming, StoryTable
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.options import short
from m2dit_jax.utils.remote.objects import check_buckets, is_address, later_place

MAX_BYTES = 2**30
_FIELDS = ("video", "caption", *FIELDS)  # of a scene of our own format
_CLIP_KEYS = {
    "path": {"path", "caption"},
    "url": {"url", "caption"},
    "video": set(_FIELDS),
}
_THREADS = 32  # that look at files
_SHOWN = 50  # problems in a message; the others are counted


class ManifestError(ValueError):
    """All that is wrong with a manifest, a line each: place, what was found, what is needed."""


@dataclass(frozen=True)
class Manifest:
    """`kind` is "clips" for single clips that have nothing to do with each other, or "stories"."""

    stories: Sequence[ManifestStory]
    source: Path
    kind: str

    @property
    def scene_counts(self) -> Sequence[int]:
        """Number of scenes of each story."""
        if isinstance(self.stories, StoryTable):
            return self.stories.scene_counts
        return [len(story.scenes) for story in self.stories]


def read_manifest(path: Path, root: Path, min_scenes: int = 1) -> Manifest:
    """Reads and checks a manifest whole; its paths are relative to `root` and must stay in it.

    Raises ManifestError with all problems, among them stories of less than `min_scenes` scenes, and
    BucketError if a bucket that it names cannot be read.
    """
    first = _check_text(path)
    reader = _Reader(path, root)
    try:
        if first == "[":
            table = reader.json_stories()
        elif first == "{":
            table = reader.jsonl_stories()
        else:
            table = reader.csv_clips()
    except RecursionError:
        raise ManifestError(f"{path}: is nested too deeply") from None
    reader.check_videos(table)
    reader.check_stories(table, min_scenes)
    problems = [problem for _, problem in sorted(reader.problems, key=itemgetter(0))]
    if problems:
        more = len(problems) - _SHOWN
        last = [f"... and {more} more problems"] if more > 0 else []
        raise ManifestError("\n".join(problems[:_SHOWN] + last))
    return Manifest(table, path, "stories" if first in "[{" else "clips")


def write_jsonl(manifest: Manifest, path: Path, root: Path) -> None:
    """Writes the manifest as JSON Lines, with paths relative to `root`."""
    text = to_jsonl(manifest, root)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def to_jsonl(manifest: Manifest, root: Path) -> str:
    """The manifest as JSON Lines, with paths relative to `root`."""
    lines = []
    for story in manifest.stories:
        scenes = []
        for scene in story.scenes:
            scenes.append(
                {"video": os.path.relpath(scene.video, root.resolve()), "caption": scene.caption}
                | _times(scene)
                # a column of another format may have the name of a field of this one
                | {
                    f"{key}_" if key in _FIELDS else key: value
                    for key, value in scene.metadata.items()
                }
            )
        lines.append(json.dumps({"name": story.name, "scenes": scenes}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _times(scene: ClipScene) -> dict[str, Any]:
    exact = {"exact_start": scene.exact_start, "exact_end": scene.exact_end}
    times = {
        "start": scene.start,
        "end": scene.end,
        **{name: str(value) for name, value in exact.items() if value is not None},
        "first_frame": scene.first_frame,
        "end_frame": scene.end_frame,
    }
    return {name: value for name, value in times.items() if value is not None}


def _check_text(path: Path) -> str:
    """The first character that is no white space; raises ManifestError for what is no text."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ManifestError(f"{path}: cannot be read (is no file)")
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: is larger than {MAX_BYTES} bytes, no manifest")
        with path.open("rb") as file:
            return _first_letter(path, file)
    except (OSError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: cannot be read ({error})") from error


def _first_letter(path: Path, lines: Iterable[bytes]) -> str:
    first = ""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"{path}:{number}: byte 0x{line[error.start]:02x} is not UTF-8, needs UTF-8 text"
            ) from error
        if "\0" in text:
            raise ManifestError(f"{path}:{number}: a null character, needs text")
        first = first or text.lstrip()[:1]
    if not first:
        raise ManifestError(f"{path}: is empty, needs at least one scene")
    return first


class _Duplicate(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(f"the key {shown(key)} stands twice in an object")
        found[key] = value
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


# Raises ValueError also for what JSON does not have: NaN, infinity, a key twice.
_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
_SPACE = re.compile(r"[ \t\n\r]*")


def _elements(text: str) -> Iterator[Any]:
    """The elements of a JSON array, one after another: all at once take ten times the memory."""

    def skip(place: int) -> int:
        found = _SPACE.match(text, place)
        assert found is not None
        return found.end()

    place = skip(0)
    if text[place : place + 1] != "[":
        raise json.JSONDecodeError("Expecting value", text, place)
    place = skip(place + 1)
    ended = text[place : place + 1] == "]"
    while not ended:
        value, place = _JSON.raw_decode(text, place)
        yield value
        place = skip(place)
        delimiter = text[place : place + 1]
        ended = delimiter == "]"
        if delimiter not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        if not ended:
            place = skip(place + 1)
    if skip(place + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, place + 1)


class _Reader:
    """Reads the formats and collects the problems, each with its place in their order."""

    def __init__(self, path: Path, root: Path):
        self.path = path
        self.root = root.resolve()
        self.problems: list[tuple[float, str]] = []
        self._videos: dict[str, int] = {}  # names, and the index of each
        self._video_key = ""
        self._scenes_read = 0

    def csv_clips(self) -> StoryTable:
        """A clip a line, each a story of its own."""
        table = StoryTable(
            Naming(
                lambda index, line: f"clip {index + 1}",
                lambda line, name, scene: f"{self.path}:{line}",
            )
        )
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                header = [name.strip() for name in next(rows)]
                missing = [name for name in ("path", "caption") if name not in header]
                twice = sorted({name for name in header if header.count(name) > 1})
                if missing or twice:
                    for name in missing:
                        found = shown(", ".join(header))
                        self._add(f":1: needs a column {name!r}, found {found}")
                    for name in twice:
                        self._add(f":1: the column {name!r} stands twice")
                    return table
                for row in rows:
                    if not row:
                        continue
                    if len(row) != len(header):
                        found = f"found {len(row)} values, needs {len(header)}, one a column"
                        self._add(f":{rows.line_num}: {found}")
                        continue
                    values: dict[str, Any] = dict(zip(header, row, strict=True))
                    self._scene(table, values, "path", f":{rows.line_num}")
                    table.end_story(rows.line_num)
            except (csv.Error, StopIteration) as error:
                self._add(f":{rows.line_num}: is not readable as CSV ({error})")
        return table

    def json_stories(self) -> StoryTable:
        """The reference's list of stories."""

        def place(number: int, name: str, scene: int) -> str:
            return f"{self.path}{_json_place(number, name)}, scene {scene}"

        table = StoryTable(Naming(lambda index, number: f"story {number}", place))
        elements = enumerate(_elements(self.path.read_text(encoding="utf-8-sig")), 1)
        try:
            for number, entry in elements:
                if not isinstance(entry, dict):
                    found = f"found {shown(entry)}, needs an object"
                    self._add(f"{_json_place(number, '')}: {found}")
                    continue
                name = self._name(entry, "prefix", f"{_json_place(number, '')}: prefix")
                self._scenes(table, entry, "values", "url", _json_place(number, name))
                table.end_story(number, name)
        except RecursionError:
            raise
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            self._add(f":{line}: is not readable as JSON ({error})")
        return table

    def jsonl_stories(self) -> StoryTable:
        """A story a line."""
        table = StoryTable(
            Naming(
                lambda index, line: f"line {line}",
                lambda line, name, scene: f"{self.path}:{line}, scene {scene}",
            )
        )
        with self.path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if not text:
                    continue
                try:
                    entry = _JSON.decode(text)
                except ValueError as error:
                    self._add(f":{number}: is not readable as JSON ({error})")
                    continue
                if not isinstance(entry, dict):
                    self._add(f":{number}: found {shown(entry)}, needs an object")
                    continue
                name = self._name(entry, "name", f":{number}: name")
                for key in entry.keys() - {"name", "scenes"}:
                    self._add(f":{number}: unknown key {shown(key)}, needs name and scenes")
                self._scenes(table, entry, "scenes", "video", f":{number}")
                table.end_story(number, name)
        return table

    def check_videos(self, table: StoryTable) -> None:
        """Looks at each file once, in threads: on a network disk each look takes its time."""
        names = list(self._videos)
        check_buckets([name for name in names if is_address(name)])
        step = 256  # names that a thread takes at once
        parts = [names[start : start + step] for start in range(0, len(names), step)]
        with ThreadPoolExecutor(_THREADS) as pool:
            looks = chain.from_iterable(pool.map(lambda part: [*map(self._look, part)], parts))
            results = list(looks)
        table.paths = [path for path, _ in results]
        bad = {number: problem for number, (_, problem) in enumerate(results) if problem}
        if not bad:
            return
        scenes = count()
        for story, length in enumerate(table.scene_counts):
            for scene in islice(scenes, length):
                problem = bad.get(table.videos[scene])
                if problem:
                    place = f"{table.place(story, scene)}: {self._video_key}"
                    name = shown(names[table.videos[scene]])
                    self.problems.append((scene + 0.5, f"{place}: {name} {problem}"))

    def check_stories(self, table: StoryTable, min_scenes: int) -> None:
        """Checks the stories for what only shows when all are read."""
        if not len(table) and not self.problems:
            self._add(": holds no scene, needs at least one")
        problems = [
            *self._same_names(table),
            *(
                (
                    story,
                    f"{table.place(story, scene)}: story {shown(table.name(story))} has {length} "
                    f"scenes, needs at least {min_scenes}",
                )
                for story, (length, scene) in enumerate(
                    zip(table.scene_counts, table.first_scenes, strict=False)
                )
                if 0 < length < min_scenes
            ),
        ]
        self.problems += [(math.inf, problem) for _, problem in sorted(problems)]

    def _same_names(self, table: StoryTable) -> Iterator[tuple[int, str]]:
        # By hashes: the names themselves, of a million stories, would take 150 MB.
        hashes = np.fromiter((hash(table.name(i)) for i in range(len(table))), np.int64)
        order = np.argsort(hashes, kind="stable")
        same = hashes[order[1:]] == hashes[order[:-1]]
        groups: dict[str, int] = {}
        for story in sorted({*order[1:][same].tolist(), *order[:-1][same].tolist()}):
            name = table.name(story)
            if name in groups:
                yield (
                    story,
                    f"{self.path}: stories {groups[name] + 1} and {story + 1} are both called "
                    f"{shown(name)}, needs different names",
                )
            groups.setdefault(name, story)

    def _scenes(
        self, table: StoryTable, entry: dict[str, Any], key: str, video: str, place: str
    ) -> None:
        values = entry.get(key)
        if not isinstance(values, list) or not values:
            found = shown(values) if key in entry else "nothing"
            self._add(f"{place}: {key}: found {found}, needs a list of scenes")
            return
        for number, value in enumerate(values, 1):
            at = f"{place}, scene {number}"
            if isinstance(value, dict):
                self._scene(table, value, video, at)
            else:
                self._add(f"{at}: found {shown(value)}, needs an object")

    def _scene(self, table: StoryTable, values: dict[str, Any], video: str, place: str) -> None:
        caption = values.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            found = shown(caption) if "caption" in values else "nothing"
            self._add(f"{place}: caption: found {found}, needs a text")
            caption = ""
        elif _has_half_characters(caption):
            self._add(f"{place}: caption: found half of a surrogate pair, needs whole characters")
        times, known = SceneTimes(), _CLIP_KEYS[video]
        if video == "video":  # our own format
            times, problems = read_times(values)
            for problem in problems:
                self._add(f"{place}: {problem}")
        metadata = {key: value for key, value in values.items() if key not in known}
        self._video_key = video
        table.add_scene(self._video(values, video, place), caption, times, metadata)
        self._scenes_read += 1

    def _video(self, values: dict[str, Any], key: str, place: str) -> int:
        """The index of a video's name, which `check_videos` looks at; -1 for what is no name."""
        name = values.get(key)
        if not isinstance(name, str) or not name.strip():
            found = shown(name) if key in values else "nothing"
            self._add(f"{place}: {key}: found {found}, needs the path of a video")
            return -1
        return self._videos.setdefault(name, len(self._videos))

    def _look(self, name: str) -> tuple[str, str]:
        """The whole path of a video, and what is wrong with it, or ""."""
        try:
            if is_address(name):
                return str(later_place(name)), ""  # whether it is there shows when it is due
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
                return str(path), ""
        except (OSError, ValueError, RuntimeError) as error:  # too long, a loop of links
            problem = f"cannot be read ({short(error)})"
        return "", problem

    def _name(self, entry: dict[str, Any], key: str, place: str) -> str:
        """The story's own name; "" if it has none."""
        value = entry.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip():
            self._add(f"{place}: found {shown(value)}, needs a text")
            return ""
        if _has_half_characters(value):
            self._add(f"{place}: found half of a surrogate pair, needs whole characters")
        return value

    def _add(self, problem: str) -> None:
        """Notes a problem of the scene that is being read, or of what stands before it."""
        self.problems.append((self._scenes_read, f"{self.path}{problem}"))


def _has_half_characters(text: str) -> bool:
    """Whether there are halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def _json_place(number: int, name: str) -> str:
    return f": story {number}" + (f" {shown(name)}" if name else "")
