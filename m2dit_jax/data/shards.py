"""Random access to the records of many shards, with few of them open at a time."""

import functools
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

# Opening one takes 0.15 ms, next to nothing beside the reading of a story.
MOST_OPEN = 64
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access


class ShardReaders:
    """The records of ArrayRecord files, by their number over all of them; picklable.

    At most `most_open` files of a process are open, those last read from.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], most_open: int = MOST_OPEN):
        self._paths = tuple(paths)
        self._ends = tuple(accumulate(counts))
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
        except Exception:
            _raise_os_error(self._paths[shard])
            raise

    def path(self, index: int) -> Path:
        """The file of a record."""
        return self._paths[bisect_right(self._ends, index)]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._reader = functools.lru_cache(self._most_open)(
            functools.partial(_open_reader, self._paths)
        )


def _open_reader(paths: Sequence[Path], shard: int) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(paths[shard]), _READER_OPTIONS)
    if not reader.ok():  # it says why only in a text, and only when it is read from
        _raise_os_error(paths[shard])
    return reader


def _raise_os_error(path: Path) -> None:
    """Raises what the operating system has against reading the file, if anything."""
    with path.open("rb") as file:
        while file.read(2**20):
            pass
