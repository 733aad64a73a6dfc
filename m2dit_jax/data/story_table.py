"""Stories of a manifest in columns: 80 bytes a scene beside its texts, for millions of scenes."""

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from m2dit_jax.data.scene_times import SceneTimes

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ClipScene:
    """A scene: a video, or the part of it between `start` and `end` (seconds; None: its ends).

    `first_frame` and `end_frame` (the one after the last) say the same in numbers of frames, and
    go before the seconds. `exact_start` and `exact_end` are seconds that were not rounded, to be
    written. `place` says where in the manifest it stands, for people to read.
    """

    video: Path
    caption: str
    start: float | None
    end: float | None
    metadata: Mapping[str, Any]
    place: str
    first_frame: int | None = None
    end_frame: int | None = None
    exact_start: Fraction | None = None
    exact_end: Fraction | None = None


@dataclass(frozen=True, slots=True)
class ManifestStory:
    """Consecutive scenes."""

    name: str
    scenes: tuple[ClipScene, ...]


@dataclass(frozen=True)
class Naming:
    """How a format calls its stories, and what it says of their places.

    `default_name` takes the index of a story and its line or number in the file; `place` takes that
    number, the story's own name or "", and the number of a scene from 1.
    """

    default_name: Callable[[int, int], str]
    place: Callable[[int, str, int], str]


class StoryTable(Sequence[Any]):
    """Stories that are put together when they are asked for.

    `paths` are those of the videos by their index, which may be filled in later.
    """

    def __init__(self, naming: Naming):
        self.naming = naming
        self.paths: list[str] = []
        self._first_scenes = array("q", [0])
        self._numbers = array("q")
        self._names, self._captions, self._metadata = _Texts(), _Texts(), _Texts()
        self._videos = array("q")
        self._starts, self._ends = array("d"), array("d")
        self._first_frames, self._end_frames = array("q"), array("q")
        self._path = lru_cache(4096)(lambda index: Path(self.paths[index]))

    # --- writing

    def add_scene(
        self,
        video: int,
        caption: str,
        times: SceneTimes,
        metadata: Mapping[str, Any],
    ) -> None:
        """Appends a scene to the story that the next `end_story` ends."""
        self._videos.append(video)
        self._captions.append(caption)
        self._starts.append(math.nan if times.start is None else times.start)
        self._ends.append(math.nan if times.end is None else times.end)
        self._first_frames.append(-1 if times.first_frame is None else times.first_frame)
        self._end_frames.append(-1 if times.end_frame is None else times.end_frame)
        self._metadata.append(json.dumps(metadata) if metadata else "")

    def end_story(self, number: int, name: str = "") -> None:
        """Makes a story of the scenes since the last one; `name` "" stands for the default."""
        self._first_scenes.append(len(self._videos))
        self._numbers.append(number)
        self._names.append(name)

    # --- reading

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> ManifestStory: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ManifestStory]: ...

    def __getitem__(self, index: int | slice) -> ManifestStory | Sequence[ManifestStory]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # counts from the end, and refuses what is beyond
        number, own = self._numbers[index], self._names[index]
        first, last = self._first_scenes[index], self._first_scenes[index + 1]
        scenes = tuple(
            ClipScene(
                self._path(self._videos[scene]),
                self._captions[scene],
                _seconds(self._starts[scene]),
                _seconds(self._ends[scene]),
                json.loads(metadata) if (metadata := self._metadata[scene]) else _NONE,
                self.naming.place(number, own, scene - first + 1),
                _frame(self._first_frames[scene]),
                _frame(self._end_frames[scene]),
            )
            for scene in range(first, last)
        )
        return ManifestStory(own or self.naming.default_name(index, number), scenes)

    def __iter__(self) -> Iterator[ManifestStory]:
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """The name of a story."""
        return self._names[index] or self.naming.default_name(index, self._numbers[index])

    def place(self, index: int, scene: int) -> str:
        """The place of a scene, counted over all stories, of the story `index`."""
        number = scene - self._first_scenes[index] + 1
        return self.naming.place(self._numbers[index], self._names[index], number)

    @property
    def scene_counts(self) -> Sequence[int]:
        """Number of scenes of each story."""
        return array("q", (last - first for first, last in pairwise(self._first_scenes)))

    @property
    def first_scenes(self) -> Sequence[int]:
        """Number of the first scene of each story, counted over all stories."""
        return self._first_scenes[:-1]

    @property
    def videos(self) -> Sequence[int]:
        """Index of the video of each scene, over all stories."""
        return self._videos


class _Texts:
    """A list of texts that can only grow, one after another in memory."""

    def __init__(self):
        self._bytes, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        """Appends a text, which may hold halves of characters, as JSON may."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].decode("utf-8", "surrogatepass")


def _seconds(value: float) -> float | None:
    return None if math.isnan(value) else value


def _frame(value: int) -> int | None:
    return None if value < 0 else value
