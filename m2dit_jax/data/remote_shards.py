"""Records of a shard that only a bucket has: each is fetched by itself, with the shard's two ends.

What was fetched is written to where it belongs in a file of holes, which the library reads as if it
were whole; it has a hash of each record. If copies are kept, a byte a record says what is there.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from m2dit_jax.data.record_offsets import HEAD
from m2dit_jax.utils.remote.places import RemoteFile

READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access


class RemoteShard:
    """Reads like ArrayRecord's reader; threads may share it."""

    def __init__(self, path: Path, remote: RemoteFile, offsets: Sequence[int], keep: bool):
        """Raises BucketError, as `read` does, if the bucket cannot be read."""
        self._path, self._remote, self._offsets = path, remote, offsets
        self._holes = path.with_name(f".{path.name}.part")  # names that mirrors leave out
        self._have = path.with_name(f".{path.name}.have.part")
        self._keep = keep
        if keep:
            self._begin_copy()
        else:
            self._ends = self._fetch_ends()

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The records of these numbers."""
        return [self._record(number) for number in numbers]

    def _record(self, number: int) -> bytes:
        begin, end = self._offsets[number : number + 2]
        if not self._keep:
            with self._passing_copy() as copy:
                _write(copy, begin, self._remote.fetch(begin, end))
                return _read(copy, number)
        with self._have.open("r+b") as have:
            have.seek(number)
            is_there = have.read(1) == b"\1"
        if is_there:
            with suppress(Exception):  # of many kinds: another process began the copy anew
                return _read(self._holes, number)
        _write(self._holes, begin, self._remote.fetch(begin, end))
        _write(self._have, number, b"\1")
        return _read(self._holes, number)

    def _begin_copy(self) -> None:
        count = len(self._offsets)  # one more than there are records: of the ends
        if self._holes.is_file() and self._have.is_file():
            have = self._have.read_bytes()
            if len(have) == count and have[-1:] == b"\1":
                return
        with tempfile.NamedTemporaryFile(
            dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".part", delete=False
        ) as new:
            new.truncate(self._remote.size)
        self._ends = self._fetch_ends()
        self._write_ends(Path(new.name))
        os.replace(new.name, self._holes)
        self._have.write_bytes(b"\0" * (count - 1) + b"\1")

    def _fetch_ends(self) -> tuple[bytes, bytes]:
        return (
            self._remote.fetch(0, HEAD),
            self._remote.fetch(self._offsets[-1], self._remote.size),
        )

    def _write_ends(self, file: Path) -> None:
        head, tail = self._ends
        _write(file, 0, head)
        _write(file, self._offsets[-1], tail)

    @contextmanager
    def _passing_copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, self._path.name)
            with copy.open("wb") as new:
                new.truncate(self._remote.size)
            self._write_ends(copy)
            yield copy


def _write(file: Path, place: int, content: bytes) -> None:
    with file.open("r+b") as holes:
        holes.seek(place)
        holes.write(content)


def _read(file: Path, number: int) -> bytes:
    # Opened each time: a reader may have read holes ahead that are filled by now.
    from array_record.python.array_record_module import ArrayRecordReader

    reader: Any = ArrayRecordReader(str(file), READER_OPTIONS)
    try:
        return reader.read([number])[0]
    finally:
        reader.close()
