"""The folder of local copies, with a limit: what was not used for longest goes, never what is used.

Each copy is in a folder of its own, with a file for each process that uses it.
"""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from m2dit_jax.utils.machine import user_caches
from m2dit_jax.utils.sizes import size_text

CACHE = "M2DIT_REMOTE_CACHE"  # environment: the folder of the local copies
LIMIT = "M2DIT_CACHE_GB"  # environment: the most that they may take, in GB of 10**9 bytes
SYNCED = ".synced.json"  # end of the name of what `Mirror` notes about a copy
_USED = ".used-"
_MOST_GB = 1e9


def cache_folder() -> Path:
    """The folder of the local copies."""
    return Path(os.environ.get(CACHE) or user_caches() / "remote")


def limit_bytes() -> float | None:
    """The most bytes that copies may take; None: there is no limit. Raises ValueError."""
    text = os.environ.get(LIMIT, "")
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= _MOST_GB:
        raise ValueError(f"{LIMIT}: found {text!r}, needs gigabytes, more than 0")
    return found * 1e9


def use(copy: Path) -> None:
    """Says that this process uses a copy from now on, until it ends."""
    limit_bytes()  # a wrong limit is told before any work
    with _locked():
        copy.mkdir(parents=True, exist_ok=True)
        (copy / f"{_USED}{socket.gethostname()}-{os.getpid()}").touch()
        os.utime(copy)


def make_room(nbytes: int) -> None:
    """Deletes copies, the one first that was not used for longest, until so many bytes fit.

    What is in use stays, and what a bucket does not have yet; stderr says if that is too much.
    """
    limit = limit_bytes()
    if limit is None or not cache_folder().is_dir():
        return
    with _locked():
        copies = [path for path in cache_folder().iterdir() if path.is_dir()]
        sizes = {path: sum(_sizes(path)) for path in copies}
        total = sum(sizes.values()) + nbytes
        for path in sorted(copies, key=lambda path: path.stat().st_mtime):
            if total <= limit:
                return
            if not _is_used(path) and not _has_news(path):
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]
    if total > limit:
        print(
            f"{cache_folder()}: what is in use takes {size_text(int(total))}, more than "
            f"{LIMIT}={os.environ[LIMIT]}",
            file=sys.stderr,
        )


def _locked() -> FileLock:
    cache_folder().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_folder() / ".lock", timeout=60)


def _sizes(copy: Path) -> Iterator[int]:
    for folder, _, names in os.walk(copy):
        for name in names:
            with suppress(FileNotFoundError):  # of a file that another process replaces
                yield Path(folder, name).stat().st_size


def _is_used(copy: Path) -> bool:
    """Whether a process uses it; on another machine, which shares this disk, that is not known."""
    import psutil  # takes a while, and few get here

    used = False
    for path in copy.glob(f"{_USED}*"):
        host, _, process = path.name.removeprefix(_USED).rpartition("-")
        if host == socket.gethostname() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)
        else:
            used = True
    return used


def _has_news(copy: Path) -> bool:
    """Whether there are files that the bucket may not have, as of a command that was killed."""
    for noted in copy.glob(f"*{SYNCED}"):
        local = copy / noted.name.removesuffix(SYNCED)
        try:
            known = json.loads(noted.read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return True
        for folder, _, names in os.walk(local):
            for name in names:
                path = Path(folder, name)
                status = path.stat()
                stamp = [status.st_size, status.st_mtime_ns]
                if known.get(path.relative_to(local).as_posix(), [])[:2] != stamp:
                    return True
    return False
