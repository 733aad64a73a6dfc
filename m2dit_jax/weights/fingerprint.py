"""Whether weights on disk are the same: by the ends of their files, and by all of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.utils import digests

_HASHED = 2**20  # bytes at each end of a file


def fingerprint(path: Path, folders: Sequence[str]) -> str:
    """SHA-256 of what these folders of `path` hold: names, sizes, and both ends of each file.

    It is part of the keys of finished scenes and of datasets' settings, which older versions have
    written too; what changed within a file is for `content_fingerprint` to say.
    """
    digest = hashlib.sha256()
    for name in _files(path, folders):
        file = path / name
        size = file.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as content:
            for start in sorted({0, max(size - _HASHED, 0)}):
                content.seek(start)
                digest.update(content.read(_HASHED))
    return digest.hexdigest()


def content_fingerprint(path: Path, folders: Sequence[str]) -> str:
    """SHA-256 of names, sizes and the CRC-32 of every part of these folders' files.

    All is read, once in a process, 0.3 s per GB and core; in folders with digests, which are
    compared with the files when they are loaded, that is the same reading.
    """
    return digests.content_hash(path, _files(path, folders))


def _files(path: Path, folders: Sequence[str]) -> list[str]:
    """Names relative to `path`, folder by folder."""
    return [
        file.relative_to(path).as_posix()
        for folder in folders
        for file in sorted(path.joinpath(folder).rglob("*"))
        if file.is_file() and file.name != digests.FILE
    ]
