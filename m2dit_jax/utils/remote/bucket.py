"""Objects of a bucket, by fsspec: read, listed, written whole; again after network faults."""

import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from m2dit_jax.utils.extras import how_to_install

# Of gcsfs its plain class: the other asks each bucket over gRPC for its kind, for a minute where
# that is not allowed.
_CLASSES = {"gs": ("gcsfs.core", "GCSFileSystem"), "s3": ("s3fs", "S3FileSystem")}
SCHEMES = tuple(_CLASSES)
_GCSFS_BOUNDARY = b"--==0=="
_SMALL = 5 << 20  # bytes up to which a file is sent from memory
_FIRST_PATIENCE = 10.0  # seconds for the first request, before any work
_PATIENCE = 300.0  # seconds for each that follows
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between tries; the last is repeated
# Names of exceptions of botocore and google.auth, which need not be installed.
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
T = TypeVar("T")


class Object(NamedTuple):
    """An object as a listing has it."""

    size: int
    version: str
    """Another one whenever the content is."""


class BucketError(OSError):
    """A bucket cannot be used, with why in one line."""


def is_remote(text: str) -> bool:
    """Whether it is an address in a bucket. Raises ValueError for other kinds of addresses."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme is None:
        return False
    if scheme[1] not in SCHEMES:
        raise ValueError(f"{text}: needs a path, or an address with gs:// or s3://")
    return True


class Bucket:
    """The objects below an address such as s3://bucket/runs/base, by their names from there.

    Credentials and endpoints are those of the libraries: AWS_PROFILE, AWS_ENDPOINT_URL,
    GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST and the like.
    """

    def __init__(self, url: str, patience: float = _PATIENCE):
        scheme, _, path = url.partition("://")
        self.url = url.rstrip("/")
        self._root = path.strip("/")
        if not self._root:
            raise ValueError(f"{url}: needs the name of a bucket, as in {scheme}://bucket/folder")
        if set(self._root.split("/")) & {"", ".", ".."}:
            raise ValueError(f"{url}: needs a name between all slashes, and no . or ..")
        self._fs = _file_system(scheme)
        self._is_gs = scheme == "gs"
        self._patience = patience

    def check(self) -> None:
        """Raises BucketError, within seconds, if the bucket cannot be read."""
        self._try("cannot be reached", lambda: self._find(maxdepth=1), _FIRST_PATIENCE)

    def objects(self) -> dict[str, Object]:
        """All objects by their names."""
        found = self._try("cannot be listed", self._find)
        skip = len(self._root) + 1
        return {name[skip:]: _object(each) for name, each in found.items() if name[skip:]}

    def itself(self) -> Object | None:
        """The object at the address itself; None if there is none."""
        return self.info("")

    def info(self, name: str) -> Object | None:
        """An object's size and version; None if there is none."""

        def info() -> Object | None:
            try:
                found = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
            return _object(found) if found["type"] == "file" else None

        return self._try(f"{name} cannot be read".strip(), info)

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""

        def cat() -> bytes | None:
            try:
                return self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None

        return self._try(f"{name} cannot be read", cat)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """The bytes of an object from `begin` on and before `end`."""

        def cat() -> bytes:
            content = self._fs.cat_file(self._path(name), start=begin, end=end)
            if len(content) != end - begin:
                raise ConnectionError("fewer bytes came than were asked for")
            return content

        return self._try(f"{name} cannot be read", cat)

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, which is there as a whole or not at all."""
        self._try(f"{name} cannot be written", lambda: self._pipe(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless there is one, as far as the server keeps to that."""

        def pipe() -> bool:
            try:
                self._pipe(name, content, mode="create")
            except FileExistsError:
                return False
            return True

        return self._try(f"{name} cannot be written", pipe)

    def upload(self, file: Path, name: str) -> None:
        """Writes the content of a file as an object. Raises FileNotFoundError if it is gone."""
        if not file.is_file():
            raise FileNotFoundError(file)

        def put() -> None:
            if file.stat().st_size < _SMALL:
                self._pipe(name, file.read_bytes())
            else:
                self._fs.put_file(str(file), self._path(name))

        self._try(f"{name} cannot be written", put)

    def download(self, name: str, file: Path, size: int) -> None:
        """Writes an object of so many bytes to a file; "" is the object at the address itself."""

        def get() -> None:
            part = file.with_name(f".{file.name}.{os.getpid()}.part")
            self._fs.get_file(self._path(name), str(part))
            if part.stat().st_size != size:
                part.unlink()
                raise ConnectionError("fewer bytes came than the object has")
            os.replace(part, file)

        file.parent.mkdir(parents=True, exist_ok=True)
        self._try(f"{name} cannot be read", get)

    def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; those that are gone already are none of its business."""

        def remove(name: str) -> None:
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

        for name in names:
            self._try(f"{name} cannot be deleted", lambda name=name: remove(name))

    def _pipe(self, name: str, content: bytes, **options: Any) -> None:
        # gcsfs sends a small object between the boundaries of a multipart body, and begins the
        # last one with a bare line feed: a server takes a carriage return before it as part of
        # the boundary, and the object is a byte short. In chunks, it goes as it is.
        if self._is_gs and (content.endswith(b"\r") or _GCSFS_BOUNDARY in content):
            options["chunksize"] = len(content)
        self._fs.pipe_file(self._path(name), content, **options)

    def _find(self, maxdepth: int | None = None) -> dict[str, Any]:
        return self._fs.find(self._root, maxdepth=maxdepth, detail=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, problem: str, call: Callable[[], T], patience: float | None = None) -> T:
        """Tries a call again after faults that may pass, and returns its result."""
        last = time.monotonic() + (self._patience if patience is None else patience)
        tries = 0
        while True:
            try:
                return call()
            except Exception as error:
                reason = _final_reason(error)
                wait = _WAITS[min(tries, len(_WAITS) - 1)]
                if reason is None and time.monotonic() + wait > last:
                    reason = f"{type(error).__name__}: {_first_line(error)}"
                if reason is not None:
                    raise BucketError(f"{self.url}: {problem} ({reason})") from error
                if tries == 2:
                    line = f"{self.url}: {problem} ({_first_line(error)}), tried again"
                    print(line, file=sys.stderr)
                tries += 1
                time.sleep(wait)


def _file_system(scheme: str) -> Any:
    module, name = _CLASSES[scheme]
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if "STORAGE_EMULATOR_HOST" in os.environ and scheme == "gs":
        options["token"] = "anon"
    try:
        return getattr(importlib.import_module(module), name)(**options)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ValueError(
            f"{scheme}:// needs the package {package}: {how_to_install(scheme)}"
        ) from error


def _object(found: dict[str, Any]) -> Object:
    version = found.get("ETag") or found.get("etag") or found.get("LastModified")
    return Object(found["size"], str(version))


def _final_reason(error: Exception) -> str | None:
    """Why another try would not help, in words; None if it may."""
    name, status = type(error).__name__, getattr(error, "code", None)
    if name in _NO_CREDENTIALS:
        return "no credentials were found"
    if isinstance(error, PermissionError) or status in (401, 403, "401", "403"):
        return f"no permission: {_first_line(error)}"
    if isinstance(error, FileNotFoundError):
        return f"there is none: {_first_line(error)}"
    if isinstance(error, TypeError | AttributeError | KeyError | NotADirectoryError):
        return f"{name}: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
