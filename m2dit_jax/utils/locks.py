"""A lock that one process holds; also on file systems without flock."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

# What flock says on network and FUSE file systems that do not have it, or whose lock server is off.
_NO_FLOCK = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK", "EINVAL", "EPROTONOSUPPORT")
    if hasattr(errno, name)
}


class InUse(Exception):
    """Another process holds the lock; `holder` says which, where it is known."""

    def __init__(self, path: Path):
        try:
            self.holder = _holder_file(path).read_text(encoding="utf-8").strip() or UNKNOWN
        except (OSError, ValueError):
            self.holder = UNKNOWN
        super().__init__(f"{path}: {self.holder} holds it")


UNKNOWN = "another process"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """A context in which no other process holds the lock file `path`.

    Where the file system lacks flock, a line on stderr says so, and a file beside it that exists
    while the lock is held serves instead. Who holds it is written beside it, in `<path>.by`.
    Raises InUse at once if the lock is held, OSError if the file cannot be made.
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
    holder = _holder_file(path)
    with suppress(OSError):  # it only serves the message
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.by")


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
        raise InUse(path) from None
    return lock
