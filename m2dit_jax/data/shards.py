"""Random access to the records of many shards, with few of them open at a time."""

import functools
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from m2dit_jax.data.remote_shards import READER_OPTIONS, RemoteShard
from m2dit_jax.utils.remote.bucket import BucketError
from m2dit_jax.utils.remote.cache import limit_bytes
from m2dit_jax.utils.remote.places import remote_file

# Opening one takes 0.15 ms, next to nothing beside the reading of a story.
MOST_OPEN = 64


class ShardReaders:
    """The records of ArrayRecord files, by their number over all of them; picklable.

    Files that only a bucket has are read record by record, by the `offsets` of all records in their
    files, one after another with the end of each file's last; else they are copied here.

    At most `most_open` files of a process are open, those last read from.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        counts: Sequence[int],
        offsets: Sequence[int] | None = None,
        nbytes: int = 0,
        most_open: int = MOST_OPEN,
    ):
        self._paths = tuple(paths)
        self._ends = tuple(accumulate(counts))
        self._offsets = offsets
        limit = limit_bytes()
        self._keeps = limit is None or nbytes <= limit
        self._most_open = most_open
        self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """Raises OSError if the file cannot be opened or read, RuntimeError if it is damaged."""
        shard = bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        # What has left the cache is closed once no thread reads from it any more.
        reader = self._reader(shard)
        try:
            return reader.read([index - first])[0]
        except BucketError:
            raise
        except Exception:
            if self._paths[shard].is_file() or not isinstance(reader, RemoteShard):
                _raise_os_error(self._paths[shard])
            raise

    def path(self, index: int) -> Path:
        """The file of a record."""
        return self._paths[bisect_right(self._ends, index)]

    @property
    def is_remote(self) -> bool:
        """Whether there are files that only a bucket has."""
        return any(remote_file(path) for path in self._paths if not path.is_file())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._reader = functools.lru_cache(self._most_open)(self._open_reader)

    def _open_reader(self, shard: int) -> Any:
        path = self._paths[shard]
        if not path.is_file() and (remote := remote_file(path)) is not None:
            if self._offsets is not None:
                first = self._ends[shard - 1] + shard if shard else 0
                offsets = self._offsets[first : self._ends[shard] + shard + 1]
                return RemoteShard(path, remote, offsets, self._keeps)
            remote.bring(path)
        return _open_reader(path)


def _open_reader(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), READER_OPTIONS)
    if not reader.ok():  # it says why only in a text, and only when it is read from
        _raise_os_error(path)
    return reader


def _raise_os_error(path: Path) -> None:
    """Raises what the operating system has against reading the file, if anything."""
    with path.open("rb") as file:
        while file.read(2**20):
            pass
