"""Which of several sizes a story is encoded in: the one of which the crop cuts off least.

`sizes.json` in the output keeps what was found, so that videos are opened for it only once; each
size then is a dataset of its own, in a folder such as 480x720.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ManifestStory
from m2dit_jax.data.video import Video
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.options import MAX_SIDE
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.remote.objects import address_of, fetch, let_go
from m2dit_jax.utils.video_file import VideoError

FILE = "sizes.json"
_THREADS = 16  # on a network disk each look takes its time


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def read_sizes(text: str) -> tuple[Size, ...]:
    """The sizes of a text such as "480x720,720x480". Raises ValueError."""
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", part.strip())
        size = Size(int(found[1]), int(found[2])) if found else None
        if size is None or not 1 <= min(size) <= max(size) <= MAX_SIDE:
            raise ValueError(
                f"found {part.strip()!r}, needs HEIGHTxWIDTH with commas between them, as in "
                f"480x720,720x480; sides are from 1 to {MAX_SIDE}"
            )
        sizes.append(size)
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"found {text!r}, needs each size once")
    return tuple(sizes)


def crop_loss(video: Size, size: Size) -> float:
    """The share of a video's picture that is cut off to make it that size, from 0 to 1."""
    here, there = video.width * size.height, size.width * video.height
    return 1 - min(here, there) / max(here, there)


def best_size(videos: Sequence[Size], sizes: Sequence[Size]) -> int:
    """The number of the size of which least is cut off of the videos of a story.

    Of several such the largest that enlarges none of them, else the smallest.
    """

    def cost(number: int) -> tuple[float, bool, int]:
        size = sizes[number]
        enlarges = any(size.height > v.height or size.width > v.width for v in videos)
        area = size.height * size.width
        lost = sum(crop_loss(video, size) for video in videos)
        return round(lost, 6), enlarges, area if enlarges else -area

    return min(range(len(sizes)), key=cost)


def choose_sizes(manifest: Manifest, root: Path, output: Path, sizes: Sequence[Size]) -> list[int]:
    """The number of its size for each story; videos that cannot be read do not count.

    A story without one that can goes to the first size, where it is skipped.
    """
    names = [[scene.video for scene in story.scenes] for story in manifest.stories]
    digest = hashlib.sha256(
        repr([[address_of(v) or str(v) for v in story] for story in names]).encode()
    )
    key = {"videos": digest.hexdigest(), "sizes": [str(size) for size in sizes]}
    if (found := _read(output / FILE, key, len(names), len(sizes))) is not None:
        return found
    videos = list(dict.fromkeys(video for story in names for video in story))
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress_bar(len(videos), "sizes", "videos") as progress,
    ):
        known = {}
        for video, size in zip(videos, pool.map(lambda v: _size_of(root / v), videos), strict=True):
            known[video] = size
            progress.update()
    chosen = [
        best_size([size for video in story if (size := known[video]) is not None], sizes)
        if any(known[video] for video in story)
        else 0
        for story in names
    ]
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / FILE, {**key, "chosen": chosen})
    return chosen


def of_size(manifest: Manifest, chosen: Sequence[int], number: int) -> Manifest | None:
    """The stories that a size was chosen for; None if there are none."""
    numbers = tuple(index for index, each in enumerate(chosen) if each == number)
    return replace(manifest, stories=_Some(manifest.stories, numbers)) if numbers else None


@dataclass(frozen=True)
class _Some(Sequence[ManifestStory]):
    """Some of the stories."""

    stories: Sequence[ManifestStory]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ManifestStory: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ManifestStory]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Some(self.stories, self.numbers[index])
        return self.stories[self.numbers[index]]


def _read(path: Path, key: dict[str, Any], stories: int, sizes: int) -> list[int] | None:
    """The choice kept for the same videos and sizes; None if there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        chosen = content.pop("chosen")
        whole = len(chosen) == stories and all(each in range(sizes) for each in chosen)
        return chosen if content == key and whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _size_of(path: Path) -> Size | None:
    remote = address_of(path) is not None
    if remote:
        fetch(path)
    video = Video(path)
    try:
        info = video.info()
        return Size(info.height, info.width)
    except VideoError:
        return None
    finally:
        video.close()
        if remote:
            let_go(path)
