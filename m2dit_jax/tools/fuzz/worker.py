"""A process that reads inputs one by one, and is started again when one of them ends it."""

import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from m2dit_jax.tools.fuzz.kinds import KINDS
from m2dit_jax.utils.machine import peak_process_bytes

ACCEPTED, REFUSED = "accepted", "refused"
TRACEBACK, UNNAMED, TOO_LONG = "traceback", "no file in the message", "message too long"
HANG, GROWTH, CRASH = "hang", "growth", "crash"
FAILURES = (TRACEBACK, UNNAMED, TOO_LONG, HANG, GROWTH, CRASH)
_LONGEST_MESSAGE = 30_000
_WARM_UP_SECONDS = 300.0  # imports, and the first use of jax


class Outcome(NamedTuple):
    """What became of an input; `text` is the message, or the traceback."""

    name: str
    text: str


class Reader:
    """Reads inputs in a process of its own, with limits of time and memory.

    `good` has a good input of every kind of `kinds`, with which the process warms up: what they
    take counts for no input.
    """

    def __init__(self, good: Path, kinds: list[str], seconds: float, growth: int):
        self._good, self._kinds = good, kinds
        self._seconds, self._growth = seconds, growth
        self._process = None
        self._connection: Connection | None = None

    def read(self, kind: str, folder: Path) -> Outcome:
        """The outcome of reading an input; the process is started first if there is none."""
        connection = self._connection or self._start()
        return self._ask(connection, kind, folder, self._seconds)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        for kind in self._kinds:
            for folder in sorted(path for path in (self._good / kind).iterdir() if path.is_dir()):
                outcome = self._ask(self._connection, kind, folder, _WARM_UP_SECONDS)
                if outcome.name != ACCEPTED:
                    raise RuntimeError(f"{folder}: a good input is not read: {outcome.text}")
        self._connection.send(self._growth)
        return self._connection

    def _ask(self, connection: Connection, kind: str, folder: Path, seconds: float) -> Outcome:
        try:
            connection.send((kind, folder))
            if connection.poll(seconds):
                return connection.recv()
            outcome = Outcome(HANG, f"no answer in {seconds:g} s")
        except (EOFError, ConnectionError):
            assert self._process is not None
            self._process.join(10)
            outcome = Outcome(CRASH, f"the process ended with status {self._process.exitcode}")
        self.close()
        return outcome


def outcome_of(kind: str, folder: Path) -> Outcome:
    """Reads an input in this process. Raises nothing but what ends Python itself."""
    try:
        KINDS[kind].read(folder)
    except (ValueError, OSError) as error:
        text = str(error)
        if len(text) > _LONGEST_MESSAGE:
            return Outcome(TOO_LONG, f"{len(text)} characters: {text[:1000]}")
        if not any(name in text for name in _names(kind, folder)):
            return Outcome(UNNAMED, traceback.format_exc())
        return Outcome(REFUSED, text)
    except MemoryError:
        return Outcome(GROWTH, traceback.format_exc())
    except BaseException:
        return Outcome(TRACEBACK, traceback.format_exc()[-20_000:])
    return Outcome(ACCEPTED, "")


def _names(kind: str, folder: Path) -> list[str]:
    """What a message may name the input by: its folder, or a field of the config."""
    return ["config"] if kind == "configs" else [str(folder)]


def _serve(connection: Connection) -> None:
    """The process: answers (kind, folder) with an Outcome; a number limits further memory."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # decoders write of their own there
        os.dup2(silence, descriptor)
    growth = None
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        if isinstance(asked, int):
            growth = asked
            _limit_memory(growth)
            continue
        before = peak_process_bytes()
        outcome = outcome_of(*asked)
        grown = peak_process_bytes() - before
        if growth is not None and grown > growth:
            outcome = Outcome(GROWTH, f"{grown / 1e9:.1f} GB; {outcome.name}: {outcome.text}")
        connection.send(outcome)


def _limit_memory(more: int) -> None:
    """Lets this process have so many bytes more than it has, where the system can."""
    try:
        import resource
    except ImportError:
        return
    import psutil

    most = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
