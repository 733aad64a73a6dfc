"""Paths that a user gives: local ones, or addresses in buckets, for which a local folder stands.

What is read is copied here first. What is written goes to a local folder, from where a thread of
ours brings it to the bucket, every few seconds and at the end.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from m2dit_jax.utils.disks import describe
from m2dit_jax.utils.remote.bucket import Bucket, BucketError, is_remote
from m2dit_jax.utils.remote.cache import cache_folder, make_room, use
from m2dit_jax.utils.remote.lease import EXPIRES, Lease, Taken, is_lease, lease_name
from m2dit_jax.utils.remote.mirror import Mirror, Sharing, stamp
from m2dit_jax.utils.stopping import on_stop

PUSH_SECONDS = "M2DIT_PUSH_SECONDS"  # environment: how often what is new is brought to the bucket
_FILE_ENDS = (".html", ".json", ".jsonl", ".csv")  # pages and manifests
_PUSH_SECONDS = 20.0
_MOST_SECONDS = 86_400.0
_RENEW_SECONDS = EXPIRES / 6

_kept: dict[str, "Keeper | _File | _Shared"] = {}
_named: dict[str, Path] = {}  # what `named_place` has read
_opened: dict[str, Mirror] = {}  # what `opened_place` has opened
_origins: dict[Path, str] = {}  # folders of copies of single objects, and where those lie


class Keeper:
    """Threads that keep a bucket's folder like the local one, and hold its lease."""

    def __init__(self, mirror: Mirror, lease: Lease, push_seconds: float):
        self._mirror, self._lease = mirror, lease
        self._end = threading.Event()
        # Apart from each other: to bring a large file takes longer than a lease lasts.
        self._threads = [
            threading.Thread(target=self._repeat, args=each, name="bucket", daemon=True)
            for each in ((_RENEW_SECONDS, lease.renew), (push_seconds, mirror.push))
        ]
        for thread in self._threads:
            thread.start()
        self._stack = ExitStack()
        self._stack.enter_context(on_stop(lease.release))

    @property
    def mirror(self) -> Mirror:
        """What brings files to the bucket."""
        return self._mirror

    def close(self) -> None:
        """Brings what is left to the bucket and gives the lease back. Raises BucketError."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        with self._stack:
            try:
                self._mirror.push()
            except BucketError as error:
                raise BucketError(
                    f"{error}. What was made lies in {self._mirror.local}; the same command "
                    "brings it there"
                ) from error
            self._lease.release()

    def _repeat(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._end.wait(seconds):
            try:
                work()
            except OSError as error:
                print(f"{describe(error)}; the work goes on", file=sys.stderr)
            except Taken as error:
                url = self._mirror.bucket.url
                print(f"{url}: {error.holder} writes there now, so this ends", file=sys.stderr)
                os._exit(2)


class _File:
    """A file that is brought to the bucket when the command ends, if it wrote it."""

    def __init__(self, bucket: Bucket, local: Path):
        self._bucket, self._local = bucket, local
        self._before = self._stamp()

    def close(self) -> None:
        """Brings the file to the bucket. Raises BucketError."""
        if self._stamp() not in (None, self._before):
            self._bucket.upload(self._local, "")

    def _stamp(self) -> tuple[int, int] | None:
        return stamp(self._local) if self._local.is_file() else None


class _Shared:
    """A folder that many processes add files to, which never change: by their names alone."""

    def __init__(self, bucket: Bucket, local: Path):
        self._bucket, self._local = bucket, local
        for name, each in bucket.objects().items():
            path = local / name
            if path.resolve().is_relative_to(local.resolve()) and not path.is_file():
                bucket.download(name, path, each.size)
        self._there = set(self._names())

    def close(self) -> None:
        """Brings the files that are new to the bucket. Raises BucketError."""
        for name in sorted(set(self._names()) - self._there):
            self._bucket.upload(self._local / name, name)

    def _names(self) -> Iterator[str]:
        for path in self._local.rglob("*"):
            # Not what JAX notes about use, nor what is being written.
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".part":
                yield path.relative_to(self._local).as_posix()


def shared_place(text: str) -> Path:
    """The local folder for an address whose files many processes add to, until `close_places`.

    There is no lease: files of one name must be the same. Raises as `written_place`.
    """
    url, local = text.rstrip("/"), _local(text)
    if url not in _kept:
        bucket = Bucket(url)
        bucket.check()
        local.mkdir(parents=True, exist_ok=True)
        _kept[url] = _Shared(bucket, local)
    return local


def read_place(text: str) -> Path:
    """The path; of an address in a bucket a local copy of that object, or of all below it.

    Raises ValueError for other addresses, BucketError if the bucket cannot be read or has nothing
    there.
    """
    if not is_remote(text):
        return Path(text)
    if text.rstrip("/") in _kept:  # written by this very command
        return _local(text)
    bucket = Bucket(text)
    bucket.check()
    local, itself = _local(text), bucket.itself()
    if itself is not None:
        make_room(itself.size)
        bucket.download("", local, itself.size)
        _origins[local.parent] = text.rpartition("/")[0]
        return local
    Mirror(bucket, local, make_room=make_room).pull()
    if not local.is_dir():
        raise BucketError(f"{text}: there is nothing")
    return local


def named_place(text: str) -> Path:
    """`read_place` of a path within a config or a flag's text, each address once in a process.

    A ~ of a local path is the user's folder.
    """
    if not is_remote(text):
        return Path(text).expanduser()
    if text not in _named:
        _named[text] = read_place(text)
    return _named[text]


def place_beside(folder: Path, text: str) -> Path:
    """The path that a file in that folder names: an address, or a path from there on.

    Where the file came from a bucket, what is not here is taken from beside it there. Raises as
    `read_place`.
    """
    if is_remote(text):
        return named_place(text)
    path = folder / Path(text).expanduser()
    if folder in _origins and not path.exists() and path.is_relative_to(folder):
        return named_place(f"{_origins[folder]}/{path.relative_to(folder).as_posix()}")
    return path


def written_place(text: str, sharing: Sharing | None = None) -> Path:
    """The path; of an address in a bucket the local folder that is kept like it, until `close`.

    What is in the bucket is copied here first, but for what is light. Raises ValueError for other
    addresses, BucketError if the bucket cannot be used, or another process writes there.
    """
    if not is_remote(text):
        return Path(text)
    url, part = text.rstrip("/"), sharing.part if sharing else ""
    local = _local(text, part)
    if url in _kept:
        return local
    push_seconds = _push_seconds()
    bucket = Bucket(url)
    bucket.check()
    lease, mirror = Lease(bucket, lease_name(part)), Mirror(bucket, local, sharing, make_room)
    try:
        lease.take()
        if sharing is not None:
            _check_no_other(bucket, part)
    except Taken as error:
        raise BucketError(f"{url}: another process writes there ({error.holder})") from error
    mirror.pull()
    mirror.push()
    print(f"{url} is worked on as {local}", file=sys.stderr)
    _kept[url] = Keeper(mirror, lease, push_seconds)
    return local


def followed_place(text: str, number: int) -> Path:
    """A local copy of what process 0 writes at an address, as it is now; perhaps empty.

    Each process has its own, by its number. Raises as `read_place`.
    """
    bucket = Bucket(text.rstrip("/"))
    bucket.check()
    local = _local(bucket.url, f"process-{number}")
    Mirror(bucket, local, make_room=make_room).pull()
    local.mkdir(parents=True, exist_ok=True)
    return local


class RemoteFile(NamedTuple):
    """A file that only the bucket has."""

    bucket: Bucket
    name: str
    size: int

    def fetch(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` on and before `end`. Raises BucketError."""
        return self.bucket.read_range(self.name, begin, end)

    def bring(self, path: Path) -> None:
        """Copies it here whole. Raises BucketError."""
        make_room(self.size)
        self.bucket.download(self.name, path, self.size)


def remote_file(path: Path) -> RemoteFile | None:
    """The file of a place that was opened, if only the bucket has it; None else."""
    mirrors = [each.mirror for each in _kept.values() if isinstance(each, Keeper)]
    for mirror in (*mirrors, *_opened.values()):
        if (found := mirror.object_of(path)) is not None:
            return RemoteFile(mirror.bucket, *found)
    return None


def opened_place(text: str, is_light: Callable[[str], bool]) -> Path:
    """`read_place` of a folder, without what is light: see `remote_file`. Once in a process."""
    url = text.rstrip("/")
    if not is_remote(text) or url in _kept:
        return read_place(text)
    if url not in _opened:
        bucket = Bucket(url)
        bucket.check()
        mirror = Mirror(bucket, _local(url, "opened"), Sharing("", is_light, True), make_room)
        mirror.pull()
        if not mirror.local.is_dir():
            raise BucketError(f"{text}: there is nothing")
        _opened[url] = mirror
    return _opened[url].local


def _check_no_other(bucket: Bucket, part: str) -> None:
    """Raises Taken if another process does what this one is to do: all beside a part, say."""
    division = part.rpartition("-of-")[2]
    for name in filter(is_lease, bucket.objects()):
        beside = part and name != lease_name() and name.endswith(f"-of-{division}.lease.json")
        if name != lease_name(part) and not beside:
            Lease(bucket, name).check_free()
            bucket.delete([name])  # of a process that was killed


def written_file(text: str) -> Path:
    """The path; of an address in a bucket a local file, brought there by `close_places`.

    What is in the bucket is copied here first. Raises ValueError for other addresses, BucketError
    if the bucket cannot be used.
    """
    if not is_remote(text):
        return Path(text)
    bucket, local = Bucket(text), _local(text)
    bucket.check()
    local.parent.mkdir(parents=True, exist_ok=True)
    local.unlink(missing_ok=True)
    if (itself := bucket.itself()) is not None:
        bucket.download("", local, itself.size)
    _kept[text] = _File(bucket, local)
    return local


def written_file_or_folder(text: str) -> Path:
    """`written_file` for names that end as files of ours do, else `written_place`."""
    return (written_file if text.endswith(_FILE_ENDS) else written_place)(text)


def close_places() -> None:
    """Brings to the buckets what is not there yet. Raises BucketError if that cannot be."""
    with ExitStack() as stack:  # one that fails leaves the others to be closed
        while _kept:
            stack.callback(_kept.popitem()[1].close)


def _push_seconds() -> float:
    text = os.environ.get(PUSH_SECONDS, str(_PUSH_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise ValueError(f"{PUSH_SECONDS}: found {text!r}, needs seconds, up to {_MOST_SECONDS:g}")
    return seconds


def _local(url: str, part: str = "") -> Path:
    """Where the copy of an address, or of a part of it, lies, under the same last name."""
    url = url.rstrip("/")
    whole = f"{url}#{part}" if part else url
    copy = cache_folder() / hashlib.sha256(whole.encode()).hexdigest()[:16]
    use(copy)
    return copy / url.rpartition("/")[2]
