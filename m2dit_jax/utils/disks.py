"""Disks that are full, lost or may not be written to: found in errors, and named."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2dit_jax.utils.errors import causes
from m2dit_jax.utils.sizes import size_text

# What a disk or a network share says that cannot take more, or was taken away.
_ERRNOS = tuple(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE"),
        *("ENOTCONN", "ENODEV", "ENXIO", "EHOSTDOWN", "ETIMEDOUT", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_IN_WORDS = {os.strerror(number): number for number in _ERRNOS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context whose errors of the disk, also those that libraries wrap, are OSErrors of `path`.

    Other errors, and those of the disk that name another file, pass.
    """
    try:
        yield
    except Exception as error:
        number = disk_errno(error)
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def disk_errno(error: BaseException) -> int | None:
    """The number of the disk's error among the causes of an error; None if there is none."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _ERRNOS:
            return cause.errno
    # Libraries in C++ and Rust have the system's words only. Some of these are said of files that
    # are read, too, and such an error names its file by itself.
    for cause in causes(error):
        text = str(cause)
        for words, number in _IN_WORDS.items():
            if words in text and (number in _OF_WRITING or "writ" in text.lower()):
                return number
    return None


def in_words(error: BaseException) -> str | None:
    """`describe` of an OSError, or of what a library made of one of the disk; None for others."""
    if isinstance(error, OSError):
        return describe(error)
    number = disk_errno(error)
    return None if number is None else describe(OSError(number, os.strerror(number)))


def describe(error: OSError) -> str:
    """One line for the user: file, problem, and for a problem of the disk which one that is."""
    if error.errno not in _ERRNOS:
        return str(error)
    if error.filename is None:
        return f"standard output, or a file, cannot be written: {error.strerror}"
    copied = error.errno in _OF_WRITING and error.filename2 is not None
    name: Any = error.filename2 if copied else error.filename
    path = Path(os.fsdecode(name))
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    then = "there is room" if full else "that is possible"
    return f"{path}: {error.strerror}{_about_disk(path)}; once {then}, the same command goes on"


def check_room(output: Path, nbytes: int) -> None:
    """Raises ValueError if the disk of a file or folder, which need not exist, has fewer free."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise ValueError(
            f"{output}: needs about {size_text(nbytes)}, {size_text(free)} are free; once there is "
            "room, the same command goes on"
        )


def _about_disk(path: Path) -> str:
    place = path.absolute()
    try:
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        while not os.path.ismount(place):
            place = place.parent
    except OSError:  # a share that is lost says nothing
        return f" (below {place})"
    return f" (disk {place}: {size_text(usage.free)} of {size_text(usage.total)} are free)"
