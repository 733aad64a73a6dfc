"""The end of a command within seconds when SIGINT or SIGTERM asks for it, at any moment.

Nothing is raised: an exception would come wherever Python happens to be, where it is lost (in
callbacks and destructors of libraries), taken for a damaged file, or leaves threads behind that
crash Python as it ends. What we write is whole or not there at any moment, as it must be for
SIGKILL and power cuts too. So a thread of ours ends the process, after the few things that
`on_stop` was told. It gets its turn also while the main thread is in a long call outside Python,
such as a compilation.

This module is imported first, before what takes seconds, and so imports only what Python has
loaded already.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TIDY_SECONDS = 2.0  # for what `on_stop` was told, which may hang
_FAILED_TO_PRINT = 2

_tidy: list[Callable[[], object]] = []
_message = "interrupted"
_statuses: dict[int, int] = {}
_finished = False
_pipe: int | None = None  # where signals are told to the thread; None: nobody listens


def listen() -> None:
    """Lets SIGINT and SIGTERM end this process, which is a command's, with 130 and 143.

    Only the main thread can. SIGINT stays ignored where it is (as by a shell's `&`). On Windows,
    which has no such signals between processes, Ctrl-C stays Python's KeyboardInterrupt.
    """
    global _pipe
    if _pipe is not None or os.name == "nt" or not _end_at_once_from_now():
        return
    atexit.register(_leave)  # the first, so that it comes after those of libraries
    told, _pipe = os.pipe()
    os.set_blocking(_pipe, False)
    from threading import Thread  # takes longer than all before it

    Thread(target=_watch, args=(told,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(_pipe, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hold_still)


def _end_at_once_from_now() -> bool:
    """Has a signal end the process without a word, until all is ready; False in other threads."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            try:
                signal.signal(number, lambda number, frame: os._exit(128 + number))
            except ValueError:  # only the main thread can
                return False
    return True


def is_command() -> bool:
    """Whether this process was started as one of the commands, `python -m m2dit_jax.NAME`."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return bool(module) and module[0].split(".")[0] == "m2dit_jax" and module[0].count(".") < 2


def stop_listening() -> None:
    """Gives the signals back to Python, and to libraries that wait for them."""
    global _pipe
    if _pipe is None:
        return
    signal.set_wakeup_fd(-1)
    for number, default in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
        if signal.getsignal(number) is _hold_still:
            signal.signal(number, default)
    _pipe = None


def when_stopped(message: str, statuses: dict[int, int] | None = None) -> None:
    """Sets what a signal has said from now on, and exit statuses by signal where they differ."""
    global _message
    _message = message
    _statuses.clear()
    _statuses.update(statuses or {})


@contextmanager
def on_stop(tidy: Callable[[], object]) -> Iterator[None]:
    """A context in which `tidy` is called, in another thread, if a signal ends the process."""
    _tidy.append(tidy)
    try:
        yield
    finally:
        _tidy.remove(tidy)


def finish(status: int) -> int:
    """The exit status of a command whose work has ended so; what it printed is out.

    In a process that listens a failure ends it here: threads of libraries may still be at work on
    what failed, and would log or crash while Python ends.
    """
    global _finished
    if _pipe is None:
        return status
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            os.write(2, f"standard output: cannot be written: {error.strerror}\n".encode())
        os._exit(_FAILED_TO_PRINT)
    _finished = status == 0
    if status:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    return status


def _leave() -> None:
    """Ends a process whose work is done before Python takes itself apart.

    That takes seconds with JAX, and a signal then would end the process as if it had failed.
    """
    if _pipe is None or not _finished:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is broken, or closed
            stream.flush()
    os._exit(0)


def _watch(told: int) -> None:
    while True:
        for number in os.read(told, 64):
            # Who has set another handler, such as a training in its steps, sees to it.
            if number in SIGNALS and signal.getsignal(number) is _hold_still:
                _end(number)


def _end(number: int) -> None:
    try:
        if not _finished:
            from threading import Thread

            thread = Thread(target=_tidy_up, daemon=True)
            thread.start()
            thread.join(_TIDY_SECONDS)
    finally:
        os._exit(0 if _finished else _statuses.get(number, 128 + number))


def _tidy_up() -> None:
    with suppress(OSError):
        os.write(2, f"\n{_message}\n".encode())
    for tidy in reversed(_tidy):
        with suppress(Exception):
            tidy()
    with suppress(Exception):
        sys.stdout.flush()


def _hold_still(number: int, frame: FrameType | None) -> None:
    """Keeps the main thread from going on, say with workers that were ended, until the end."""
    if _pipe is not None:
        with suppress(OSError):
            os.write(_pipe, bytes([number]))  # again, for the case that it was replaced
    time.sleep(2 * _TIDY_SECONDS)
    os._exit(128 + number)
