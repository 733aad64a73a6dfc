"""The videos that a dataset was made of, so that one that changes under its name is noticed.

A finished dataset has `videos.jsonl`, a line for each shard: an object of the videos that its
scenes come from, by their path relative to the root, each with its size in bytes, its time of
change in nanoseconds and, if asked for (`encode --hash`), the SHA-256 of its content. A shard of an
unfinished one has the same in its record. Datasets of earlier versions say nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from m2dit_jax.data.encoded import VIDEOS
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.remote.objects import address_of, is_address, later_place, object_stamp

# Size and time of change, and the SHA-256 if it was asked for; None: there was no such file.
Stamp = Sequence[Any] | None
Stamps = Mapping[str, Stamp]
_THREADS = 16  # on a network disk each look takes its time


def stamp_videos(root: Path, videos: Iterable[str], hashed: bool) -> dict[str, Stamp]:
    """The present stamps of the videos of these names; with `hashed`, all of each is read."""
    names = sorted(set(videos))
    with ThreadPoolExecutor(_THREADS) as pool:
        stamps = pool.map(lambda name: _stamp(_place(root, name), hashed), names)
        return dict(zip(names, stamps, strict=True))


def changed_videos(root: Path, stamps: Stamps, hashed: bool = False) -> list[str]:
    """Names of the videos that are no longer what they were.

    Where the content was hashed, it counts and not the time of change. It is read where size or
    time differ, with `hashed` of all.
    """
    names = list(stamps)
    with ThreadPoolExecutor(_THREADS) as pool:
        changed = pool.map(
            lambda name: _is_changed(_place(root, name), stamps[name], hashed), names
        )
        return [name for name, yes in zip(names, changed, strict=True) if yes]


def write_videos(folder: Path, shards: Iterable[Stamps]) -> None:
    """Writes a dataset's VIDEOS, whole or not at all."""
    with atomic_write(folder / VIDEOS) as part, part.open("w", encoding="utf-8") as lines:
        for stamps in shards:
            lines.write(json.dumps(stamps) + "\n")  # ASCII: names of files need not be UTF-8


def changed_since(folder: Path, root: Path, hashed: bool = False) -> list[str]:
    """Names of the videos of a finished dataset that are no longer what they were, each once.

    Empty if the dataset does not say. Raises ValueError if its VIDEOS is damaged.
    """
    found: dict[str, None] = {}
    for stamps in _read_videos(folder):
        found |= dict.fromkeys(changed_videos(root, stamps, hashed))
    return list(found)


def _read_videos(folder: Path) -> Iterator[Stamps]:
    path = folder / VIDEOS
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                stamps = json.loads(line)
                if not isinstance(stamps, dict) or not all(map(_is_stamp, stamps.values())):
                    raise ValueError("needs an object of sizes and times")
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}:{number}: is damaged ({error}); delete this file, it only says which "
                    "videos the dataset was made of"
                ) from error
            yield stamps


def _is_stamp(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) in (2, 3)
        and all(isinstance(number, int) for number in value[:2])
        and all(isinstance(digest, str) for digest in value[2:])
    )


def _place(root: Path, name: str) -> Path:
    return later_place(name) if is_address(name) else root / name


def _stamp(path: Path, hashed: bool) -> Stamp:
    if (address := address_of(path)) is not None:  # whose version tells its content
        return (found := object_stamp(address)) and [*found]
    try:
        status = path.stat()
        found = [status.st_size, status.st_mtime_ns]
        return [*found, _sha256(path)] if hashed else found
    except OSError:
        return None


def _is_changed(path: Path, before: Stamp, hashed: bool) -> bool:
    now = _stamp(path, False)
    if before is None or now is None:
        return now is not before
    if len(before) < 3 or before[0] != now[0]:
        return list(before[:2]) != list(now)
    if not hashed and before[1] == now[1]:
        return False
    try:
        return _sha256(path) != before[2]
    except OSError:
        return True


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
