"""A lock that one process holds; also on file systems without flock."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from m2dit_jax.utils.stopping import on_stop

# What flock says on network and FUSE file systems that do not have it, or whose lock server is off.
_NO_FLOCK = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK", "EINVAL", "EPROTONOSUPPORT")
    if hasattr(errno, name)
}


class InUse(Exception):
    """Another process holds the lock; `holder` is "process 7 on host", where that is known."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.holder = "a process that is not known"
        with suppress(OSError, ValueError):
            words = path.read_text(encoding="utf-8").split()[:2]
            if len(words) == 2 and words[0].isdecimal():  # as filelock's own files begin, too
                self.holder = f"process {words[0]} on {words[1]}"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """A context in which no other process holds the lock file `path`.

    Where the file system lacks flock, a line on stderr says so, and a file beside it that exists
    while the lock is held serves instead. Raises InUse at once if the lock is held, OSError if the
    file cannot be made.
    """
    lock: FileLock | SoftFileLock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(path) from None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        lock = _lock_without_flock(path, error)
    try:
        if isinstance(lock, FileLock):  # the other kind says it by itself
            _say_who(path, f"{os.getpid()}\n{socket.gethostname()}\n")
        with on_stop(lock.release):
            yield
    finally:
        if isinstance(lock, FileLock):
            _say_who(path, "")
        lock.release()


def _say_who(path: Path, text: str) -> None:
    with suppress(OSError):  # a full disk; and Windows, where nobody else opens a locked file
        if path.is_file():  # or the holder has deleted it
            path.write_text(text, encoding="utf-8")


def _lock_without_flock(path: Path, error: OSError) -> SoftFileLock:
    marker = path.with_name(f"{path.name}.held")
    print(
        f"{path.parent}: this file system has no flock ({error.strerror}); the file {marker.name} "
        "marks it as in use instead. If a process on another machine was killed here, delete it.",
        file=sys.stderr,
    )
    lock = SoftFileLock(marker, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(marker) from None
    return lock
