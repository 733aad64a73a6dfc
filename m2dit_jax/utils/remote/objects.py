"""Objects of buckets that are fetched when they are due, and local paths that stand for them."""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from m2dit_jax.utils.remote.bucket import SCHEMES, Bucket, BucketError
from m2dit_jax.utils.remote.cache import cache_folder, make_room, use

_PATIENCE = 10.0  # seconds for the first request, before any work
_FOLDER = "objects-"  # and the number of the process, which alone fetches and deletes there


def is_address(text: str) -> bool:
    """Whether a name is that of an object in a bucket, and not of a file."""
    return text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def later_place(address: str) -> Path:
    """The path that stands for an object; nothing is fetched. Raises ValueError for no address."""
    scheme, _, name = address.partition("://")
    parts = name.split("/")
    if len(parts) < 2 or set(parts) & {"", ".", ".."}:
        raise ValueError(f"{address}: needs the name of an object, as in {scheme}://bucket/a.mp4")
    return _folder().joinpath(scheme, *parts)


def address_of(path: Path) -> str | None:
    """The address that the path stands for; None for other paths."""
    if not path.is_relative_to(_folder()):
        return None
    scheme, *parts = path.relative_to(_folder()).parts
    return f"{scheme}://{'/'.join(parts)}"


def check_buckets(addresses: list[str]) -> None:
    """Raises BucketError, soon, if a bucket of these objects cannot be read or is empty."""
    first = {address.split("/")[2]: address for address in reversed(addresses)}
    for address in first.values():
        if Bucket(address, _PATIENCE).itself() is None:  # perhaps only this one
            folder = Bucket(address.rpartition("/")[0], _PATIENCE)
            if not folder.objects():  # so does a bucket look that is not there
                raise BucketError(f"{folder.url}: there is nothing")


def object_stamp(address: str) -> tuple[int, int] | None:
    """Size in bytes and a number that is another one when the content is; None: there is none."""
    bucket, name = _parts(address)
    found = bucket.info(name)
    if found is None:
        return None
    return found.size, int(hashlib.sha256(found.version.encode()).hexdigest()[:12], 16)


def fetch(path: Path) -> None:
    """Makes the path the object that it stands for, if there is one. Raises BucketError."""
    address = address_of(path)
    assert address is not None, path
    bucket, name = _parts(address)
    found = bucket.info(name)
    if found is not None:
        use(_folder())
        make_room(found.size)
        bucket.download(name, path, found.size)


def let_go(path: Path) -> None:
    """Deletes what was fetched."""
    with suppress(OSError):  # it is not there, or Windows still has it open
        path.unlink()


def _folder() -> Path:
    return cache_folder().absolute() / f"{_FOLDER}{os.getpid()}"


def _parts(address: str) -> tuple[Bucket, str]:
    """The bucket, the same one for all its objects, and the name from there."""
    scheme, _, whole = address.partition("://")
    bucket, _, name = whole.partition("/")
    return _bucket(f"{scheme}://{bucket}"), name


_bucket = cache(Bucket)
