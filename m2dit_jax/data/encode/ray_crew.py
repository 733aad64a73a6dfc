"""Workers of a Ray cluster that do tasks; the task of one that dies is done again, by another."""

import importlib
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from m2dit_jax.utils.errors import WorkFailed
from m2dit_jax.utils.extras import how_to_install
from m2dit_jax.utils.stopping import on_stop

_MOST_DEATHS = 3  # of workers over one task: then it is the task that kills them
_LOOK_SECONDS = 5.0  # between looks at the cluster, whose nodes come and go


class Need(NamedTuple):
    """The CPUs and GPUs of a node that a worker takes."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{cpus} and {self.gpus} GPU" if self.gpus else cpus


class Task(NamedTuple):
    """A method of a worker with its arguments, and what it does, in words."""

    method: str
    arguments: tuple[Any, ...]
    words: str


@contextmanager
def connected() -> Iterator[Any]:
    """The module ray, connected to the cluster of RAY_ADDRESS, or one that this machine becomes.

    Raises ValueError if it is not installed, or the cluster cannot be reached.
    """
    # For a cluster that starts here: nothing is told to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(f"--engine=ray needs the package ray: {how_to_install('ray')}") from error
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        lines = str(error).strip().splitlines()
        raise ValueError(f"the Ray cluster cannot be reached: {lines[0]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
    try:
        # Without it a cluster that started here leaves processes behind.
        with on_stop(ray.shutdown):
            yield ray
    finally:
        ray.shutdown()


def usual_need(ray: Any, cpus: int | None, on_gpus: bool) -> Need:
    """The need of a worker: a GPU if there are some and they help, and its share of CPUs.

    `cpus` None stands for all that a node has for each of its GPUs, or one without GPUs.
    """
    with_gpus = [node for node in _nodes(ray) if node.get("GPU", 0) >= 1] if on_gpus else []
    if cpus is None:
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in with_gpus]
        cpus = max(min(shares, default=1), 1)
    return Need(cpus, 1 if with_gpus else 0)


class Crew:
    """Does tasks with as many workers as the cluster has room for, at any time.

    Each is an instance of `kind`, made of `arguments` in a process of its own, and does one task
    after another.
    """

    def __init__(self, ray: Any, kind: type, arguments: tuple[Any, ...], need: Need):
        self._ray, self._need = ray, need
        actor = ray.remote(kind).options(num_cpus=need.cpus, num_gpus=need.gpus)
        self._make: Callable[[], Any] = lambda: actor.remote(*arguments)
        self._idle: list[Any] = []

    def size(self) -> int:
        """How many workers there is room for."""
        cpus, gpus = self._need
        rooms = (
            min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else float("inf"))
            for node in _nodes(self._ray)
        )
        return int(sum(rooms))

    def do(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they end.

        Raises what a task raises, and WorkFailed if several workers died of one.
        """
        waiting, deaths = deque(tasks), Counter[Task]()
        running: dict[Any, tuple[Any, Task]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < max(self.size(), 1):
                    worker, task = self._idle.pop() if self._idle else self._make(), waiting[0]
                    running[getattr(worker, task.method).remote(*task.arguments)] = worker, task
                    waiting.popleft()
                ended, _ = self._ray.wait(list(running), num_returns=1, timeout=_LOOK_SECONDS)
                for reference in ended:
                    worker, task = running.pop(reference)
                    try:
                        result = self._result(reference)
                    except self._ray.exceptions.RayActorError as error:
                        self._ray.kill(worker)  # if it was only out of reach
                        deaths[task] += 1
                        _tell_death(task, deaths[task], error)
                        waiting.appendleft(task)
                        continue
                    # One that is not needed leaves its room to a successor of one that died.
                    if waiting or not running:
                        self._idle.append(worker)
                    yield task, result
        finally:
            for worker, _ in running.values():
                self._ray.kill(worker)

    def _result(self, reference: Any) -> Any:
        """Raises the error that the task raised there."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause or error from None


def _tell_death(task: Task, times: int, error: Exception) -> None:
    """Raises WorkFailed if it was one too many."""
    if times >= _MOST_DEATHS:
        reason = str(error).strip().splitlines()[0]
        raise WorkFailed(f"{task.words}: {times} workers died of it; the last: {reason}")
    print(f"{task.words}: its worker died; another does it again", file=sys.stderr)


def _nodes(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
