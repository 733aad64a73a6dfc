"""Digests of what a folder holds, written beside the files and compared when they are read.

`digests.json` in a folder covers all files in it and below, but for those of subfolders that have
a `digests.json` of their own:

    {"format": 1,
     "chunk_bytes": 67108864,
     "files": {"state/d/0a1b": {"bytes": 70000000, "crc32": ["1f2e3d4c", "00c0ffee"]}},
     "crc32": "9a8b7c6d"}

A file has the CRC-32 of each of its chunks, so that several threads read one large file; the last
line is that of all the rest, see `seal`, for this file may rot too. Folders
without the file, as older versions and others have written them, are taken as they are.

CRC-32 finds every change of up to 32 neighbouring bits, and all but one of 4e9 others. On one core
of an AMD EPYC it runs at 3.1 GB/s, SHA-256 at 1.5 and BLAKE2b at 0.7. It is no protection against
somebody who wants to deceive.
"""

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.machine import usable_cpus

FILE = "digests.json"
SKIP = "M2DIT_NO_VERIFY"  # environment variable: if set, and not to 0, nothing is compared
FORMAT = 1
_CHUNK = 2**26  # bytes
_BUFFER = 2**22  # bytes that a thread holds; larger ones are no faster
_MOST_THREADS = 8
_SHOWN = 3  # problems that a message names


@dataclass(frozen=True)
class FileDigest:
    """Size of a file in bytes, and the CRC-32 of each of its chunks, in hexadecimal."""

    bytes: int
    crc32: tuple[str, ...]


Digests = Mapping[str, FileDigest]


def digest_files(
    folder: Path, names: Iterable[str], chunk_bytes: int = _CHUNK
) -> dict[str, FileDigest]:
    """Digests of these files of the folder, by name.

    A process reads the same file, by size and time of change, only once. Raises OSError for what
    cannot be read.
    """
    states = {name: _state(folder / name, chunk_bytes) for name in names}
    missing = {name: state for name, state in states.items() if state not in _read_before}
    tasks = [
        (folder / name, start, min(chunk_bytes, state.bytes - start))
        for name, state in missing.items()
        for start in range(0, state.bytes, chunk_bytes)
    ]
    sums = iter(_crc32_of_all(tasks))
    for state in missing.values():
        found = tuple(next(sums) for _ in range(0, state.bytes, chunk_bytes))
        _read_before[state] = FileDigest(state.bytes, found)
    return {name: _read_before[state] for name, state in states.items()}


def covered_files(folder: Path) -> list[str]:
    """Sorted names, relative to the folder, of the files that its `digests.json` covers."""
    found = []
    for above, folders, files in os.walk(folder):
        here = Path(above)
        folders[:] = [name for name in folders if not (here / name / FILE).is_file()]
        found += [
            (here / name).relative_to(folder).as_posix()
            for name in files
            if not (here == folder and name == FILE) and (here / name).is_file()
        ]
    return sorted(found)


def write_digests(folder: Path, digests: Digests | None = None) -> None:
    """Writes the folder's `digests.json`, whole or not at all.

    It has the given digests, by default those of all files that it covers. Raises OSError for what
    cannot be read or written.
    """
    if digests is None:
        digests = digest_files(folder, covered_files(folder))
    files = {name: _as_json(each) for name, each in sorted(digests.items())}
    content = seal({"format": FORMAT, "chunk_bytes": _CHUNK, "files": files})
    with atomic_write(folder / FILE) as part:
        text = json.dumps(content, indent=1) + "\n"  # ASCII: names of files need not be UTF-8
        part.write_text(text, encoding="utf-8")


def read_digests(folder: Path) -> dict[str, FileDigest] | None:
    """The digests in a folder's `digests.json`, None if it has none. Raises ValueError if damaged.

    Nothing is compared with the files.
    """
    content = _read(folder)
    return None if content is None else content[1]


def differences(
    folder: Path,
    names: Iterable[str] | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[str]:
    """Each way in which files are not as the folder's `digests.json` says, as a line of text.

    Empty if all are, if the folder has no digests, or if SKIP is set. `names` are the files to
    compare, by default all; `share` (i, n) takes every n-th of them from i on, so that n processes
    do it together.
    """
    if skips():
        return []
    try:
        content = _read(folder)
    except ValueError as error:
        return [str(error)]
    except FileNotFoundError:
        return [f"{folder}: is gone"]
    if content is None:
        return []
    chunk_bytes, digests = content
    wanted = sorted(digests if names is None else set(names) & digests.keys())[share[0] :: share[1]]
    return _compare(folder, digests, wanted, chunk_bytes)


def trust(folder: Path) -> None:
    """Takes the files of a folder for what its digests say, since other processes compared them."""
    content = None if skips() else _read(folder)
    if content is not None:
        chunk_bytes, digests = content
        for name, digest in digests.items():
            _read_before[_state(folder / name, chunk_bytes)] = digest


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raises ValueError, naming the files and what differs, unless `differences` finds none."""
    found = differences(folder, names)
    if found:
        raise ValueError(f"{folder}: is damaged: {summary(found)}; copy it again, or {way_out()}")


def content_hash(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of names, sizes and CRC-32 of files of the folder, each read whole."""
    return _hash(digest_files(folder, names))


def summary(problems: Sequence[str]) -> str:
    """The first few problems in one line, and how many more there are."""
    more = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def skips() -> bool:
    """Whether the environment says that nothing is to be compared; the first call says so."""
    value = os.environ.get(SKIP, "")
    if value in ("", "0"):
        return False
    if SKIP not in _said:
        _said.add(SKIP)
        print(f"{SKIP}={value}: digests of files are not compared", file=sys.stderr)
    return True


def way_out() -> str:
    """How a user goes on without the comparison, for the end of a message."""
    return f"delete its {FILE} if that was changed on purpose (or set {SKIP}=1)"


# --- one file


def digest_file(path: Path) -> FileDigest:
    """Digest of one file. Raises OSError if it cannot be read."""
    return digest_files(path.parent, [path.name])[path.name]


def is_same(path: Path, digest: FileDigest) -> bool:
    """Whether a file has the digest, of chunks of the usual size; if SKIP is set, the size."""
    if not path.is_file() or path.stat().st_size != digest.bytes:
        return False
    return skips() or digest_file(path) == digest


def crc32(content: Any) -> str:
    """CRC-32 of bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def _crc32_of_all(tasks: Sequence[tuple[Path, int, int]]) -> list[str]:
    threads = min(len(tasks), usable_cpus(), _MOST_THREADS)
    if threads <= 1:
        return [_crc32_of(task) for task in tasks]
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(_crc32_of, tasks))  # zlib lets other threads run meanwhile
    finally:
        pool.shutdown(cancel_futures=True)  # at once, if the user interrupts


def _crc32_of(task: tuple[Path, int, int]) -> str:
    """CRC-32 of so many bytes from a place in a file on; of fewer, if the file has become short."""
    path, start, left = task
    value = 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (content := file.read(min(left, _BUFFER))):
            value = zlib.crc32(content, value)
            left -= len(content)
    return f"{value:08x}"


def _compare(folder: Path, digests: Digests, names: Sequence[str], chunk_bytes: int) -> list[str]:
    problems, whole = [], []
    for name in names:
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            problems.append(f"{name} is missing")
        elif size != digests[name].bytes:
            problems.append(f"{name} has {size} bytes, needs {digests[name].bytes}")
        else:
            whole.append(name)
    try:
        found = digest_files(folder, whole, chunk_bytes)
    except OSError as error:
        return [*problems, f"{error.filename or folder} cannot be read ({error.strerror})"]
    for name in whole:
        pairs = zip(found[name].crc32, digests[name].crc32, strict=True)
        for number, (here, there) in enumerate(pairs):
            if here != there:
                end = min((number + 1) * chunk_bytes, digests[name].bytes)
                problems.append(
                    f"{name} has changed between bytes {number * chunk_bytes} and {end} (CRC-32 "
                    f"{here}, was {there})"
                )
    return problems


# --- the JSON


def _read(folder: Path) -> tuple[int, dict[str, FileDigest]] | None:
    """The size of chunks, and the digests."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, needs {FORMAT}")
        chunk_bytes, files = content["chunk_bytes"], content["files"]
        if "crc32" not in content or not is_sealed(content):
            raise ValueError("its own CRC-32 differs")
        return chunk_bytes, {
            name: FileDigest(each["bytes"], tuple(each["crc32"])) for name, each in files.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{FILE} is damaged itself ({error}); delete this one file if the others are trusted"
        ) from error


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with one field more, "crc32": that of all others."""
    return {**content, "crc32": crc32(_canonical(content))}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether an object is as `seal` made it; True for one without "crc32", of older versions."""
    if "crc32" not in content:
        return True
    rest = {name: value for name, value in content.items() if name != "crc32"}
    return content["crc32"] == crc32(_canonical(rest))


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _hash(digests: Digests) -> str:
    files = {name: _as_json(each) for name, each in digests.items()}
    return hashlib.sha256(_canonical({"chunk_bytes": _CHUNK, "files": files})).hexdigest()


def _as_json(digest: FileDigest) -> dict[str, Any]:
    return {"bytes": digest.bytes, "crc32": list(digest.crc32)}


# --- once in a process


class _State(NamedTuple):
    path: str
    bytes: int
    changed: int  # nanoseconds
    chunk_bytes: int


def _state(path: Path, chunk_bytes: int) -> _State:
    stat = path.stat()
    return _State(str(path.absolute()), stat.st_size, stat.st_mtime_ns, chunk_bytes)


_read_before: dict[_State, FileDigest] = {}
_said: set[str] = set()
