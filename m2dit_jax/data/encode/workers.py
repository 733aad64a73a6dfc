"""Work on input that nobody vouches for, in processes that may crash or hang without harm."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from m2dit_jax.utils.stopping import SIGNALS, on_stop

Item = TypeVar("Item")
Result = TypeVar("Result")

_START_LIMIT = 120.0  # seconds for a worker to import what it needs
_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads in a broken state


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an item."""

    reason: str


class WorkerPool(Generic[Item, Result]):
    """Calls `work`, which must be importable, in worker processes; a context manager.

    An item whose work raises ValueError, kills its process or takes longer than `time_limit`
    seconds gives a `Failure`; the process is replaced and the others go on.
    """

    def __init__(self, work: Callable[[Item], Result], workers: int, time_limit: float | int):
        if workers < 1 or not 0 < time_limit < float("inf"):
            raise ValueError(f"needs workers and a time limit, found {workers=} {time_limit=}")
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers)
        self._mine = threading.local()  # each thread has a process of its own
        self._make = lambda: _Worker(work, time_limit)
        self._all: list[_Worker] = []
        self._signals = ExitStack()

    def map(self, items: Iterable[Item], ahead: int) -> Iterator[Result | Failure]:
        """Results in the order of the items; at most `ahead` items are begun before their turn."""
        under_way: deque[Future[Result | Failure]] = deque()
        items = iter(items)
        under_way.extend(self._threads.submit(self._run, item) for item in islice(items, ahead))
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(self._threads.submit(self._run, item) for item in islice(items, 1))
            yield result

    def __enter__(self) -> "WorkerPool[Item, Result]":
        resource_tracker.ensure_running()  # by a worker's start it would unblock the signals
        self._signals.enter_context(on_stop(self._end_all))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._end_all()
        self._threads.shutdown()
        self._signals.close()

    def _end_all(self) -> None:
        for worker in list(self._all):
            worker.close()

    def _run(self, item: Item) -> Any:
        worker = getattr(self._mine, "worker", None)
        if worker is None:
            worker = self._mine.worker = self._make()
            self._all.append(worker)
        return worker.run(item)


class _Worker:
    """One process at a time, and the thread that waits for it."""

    _lock = threading.Lock()  # multiprocessing's table of children is not for several threads

    def __init__(self, work: Callable[[Any], Any], time_limit: float | int):
        self._work, self._limit = work, time_limit
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._closed = False

    def run(self, item: Any) -> Any:
        if self._process is None:
            self._start()
        assert self._process is not None and self._connection is not None
        try:
            self._connection.send(item)
            if not self._connection.poll(self._limit):
                self._process.kill()
                self._stop()
                return Failure(f"took longer than {self._limit:g} s")
            return self._connection.recv()
        except (EOFError, OSError):
            return Failure(f"the worker process was ended by {self._stop()}")

    def close(self) -> None:
        self._closed = True
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _start(self) -> None:
        connection, theirs = _SPAWN.Pipe()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._process = _SPAWN.Process(
                target=_serve, args=(theirs, self._work, self._limit), daemon=True
            )
            with _signals_blocked():
                self._process.start()
        theirs.close()
        self._connection = connection
        try:
            ready = connection.poll(_START_LIMIT) and connection.recv()
        except EOFError:
            ready = False
        if not ready:
            raise RuntimeError(f"a worker process could not start: ended by {self._stop()}")

    def _stop(self) -> str:
        """Ends the process, if it has not ended by itself; says how it did."""
        assert self._process is not None and self._connection is not None
        self._connection.close()
        self._process.join(1)
        with self._lock:
            self._process.kill()
            self._process.join()
            code = self._process.exitcode or 0
        self._process = self._connection = None
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A context in which processes are started that SIGINT and SIGTERM never reach.

    Both may be sent to the whole group of processes. From its first moment on a worker is ended by
    its parent alone: it shows no traceback, and no scene is taken for one that breaks its reader.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Callable[[Any], Any], time_limit: float | int) -> None:
    """The life of a worker process: it ends with the pipe from its parent."""
    # What libraries print about broken files would tear the parent's line of progress.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    connection.send(True)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        _set_alarm(time_limit + 5)
        try:
            result = work(item)
        except ValueError as error:
            result = Failure(str(error))
        except Exception as error:  # of a library, on input that it was not made for
            result = Failure(f"{type(error).__name__}: {error}")
        try:
            connection.send(result)
        except OSError:
            return
        _set_alarm(0)


def _set_alarm(seconds: float | int) -> None:
    """Lets the kernel end this process after so many seconds; 0: never.

    A parent that was killed cannot end a worker that hangs, nor can Python where it no longer gets
    its turn. Windows has no such alarm, and there such a worker stays.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
