"""Videos in buckets: each is fetched a little before its scenes are decoded, and then deleted."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType

from m2dit_jax.data.encode.scene_decoding import SceneTask
from m2dit_jax.utils.remote.objects import address_of, fetch, let_go

_THREADS = 16
_AHEAD = 32  # scenes


class RemoteVideos:
    """Fetches what tasks of shards read; a context manager. Local videos pass through it."""

    def __init__(self):
        self._threads = ThreadPoolExecutor(_THREADS)
        self._fetched: dict[Path, Future[None]] = {}
        self._last_shard: dict[Path, int] = {}

    def fetched(self, shard: int, tasks: Iterator[SceneTask]) -> Iterator[SceneTask]:
        """The tasks of a shard, each when its video is here or is known to be nowhere.

        Raises BucketError if a bucket cannot be read.
        """
        begun: deque[tuple[SceneTask, Future[None] | None]] = deque()
        while True:
            for task in islice(tasks, _AHEAD - len(begun)):
                begun.append((task, self._begin(shard, task.path)))
            if not begun:
                return
            task, coming = begun.popleft()
            if coming is not None:
                coming.result()
            yield task

    def let_go(self, shard: int) -> None:
        """Deletes the videos that no later shard has begun with."""
        for path in [path for path, last in self._last_shard.items() if last == shard]:
            let_go(path)
            del self._fetched[path], self._last_shard[path]

    def __enter__(self) -> "RemoteVideos":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for path in self._fetched:
            let_go(path)

    def _begin(self, shard: int, path: Path) -> Future[None] | None:
        if address_of(path) is None:
            return None
        self._last_shard[path] = shard
        if path not in self._fetched:
            self._fetched[path] = self._threads.submit(fetch, path)
        return self._fetched[path]
