"""A local folder whose content a bucket has, too: taken from there at first, brought there behind.

The index in the bucket names the files that count, with their digests. It is written last, so that
what was brought by halves is not there for others; an object by itself is whole or not there. What
the local folder had when both were the same is kept beside it: so a process that was killed goes on
with its local files, unless another machine has written meanwhile.
"""

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2dit_jax.utils.disks import check_room
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.remote.bucket import Bucket
from m2dit_jax.utils.remote.cache import SYNCED

INDEX = ".m2dit/index.json"
_OWN = ".m2dit/"
_OF_PART = re.compile(rf"{re.escape(_OWN)}.+\.index\.json")
# What is being written, and locks: of Orbax, of `atomic_write`, of filelock.
_PASSING = re.compile(
    r"(^|/)(\.[^/]*\.part|[^/]*\.lock|lock|[^/]*\.held|\.shared-[^/]*)$|orbax-checkpoint-tmp"
)
_TRIES = 3  # passes over a folder that changes meanwhile
_SAVE_SECONDS = 5.0  # between notes of what came already


@dataclass
class _Synced:
    """The state in which bucket and folder were the same: number of the index, files.

    Of each file size, time of the last change, and digest; `light` are those that are not here.
    """

    index: str = ""
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    light: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "_Synced":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {name: (a, b, str(c)) for name, (a, b, c) in content["files"].items()}
            return cls(str(content["index"]), files, set(content.get("light", ())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()  # of a first start, or damaged: then the bucket has it

    def write(self, path: Path) -> None:
        with atomic_write(path) as part:
            content = {"index": self.index, "files": self.files, "light": sorted(self.light)}
            part.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class Sharing:
    """How a bucket's folder is worked on by several: each has a part, with an index of its own.

    `part` empty is all of them: what the indices of parts name becomes its own. Files whose names
    are `light`, which are many or large and are not read again, stay here only until the bucket
    has them.
    """

    part: str = ""
    is_light: Callable[[str], bool] = lambda name: False
    only_reads: bool = False
    """Then indices of parts do not count, and without an index all objects do."""

    @property
    def index(self) -> str:
        """Name of the object that has the index."""
        return f"{_OWN}{self.part}.index.json" if self.part else INDEX

    def others(self, names: Iterable[str]) -> list[str]:
        """Names of the indices of others, among all names."""
        return sorted(
            name
            for name in names
            if name != self.index and (name == INDEX or _OF_PART.fullmatch(name))
        )


class Mirror:
    """The files below an address in a bucket, and the local folder that has the same ones."""

    def __init__(
        self,
        bucket: Bucket,
        local: Path,
        sharing: Sharing | None = None,
        make_room: Callable[[int], None] = lambda nbytes: None,
    ):
        self._make_room = make_room
        self.bucket = bucket
        self.local = local
        self._sharing = sharing
        self._index_name = sharing.index if sharing else INDEX
        self._state = local.with_name(f"{local.name}{SYNCED}")
        self._synced = _Synced.read(self._state)
        self._indexed = dict(self._synced.files)  # what the index in the bucket tells
        self._foreign: set[str] = set()  # which the index of another part tells
        self._joined: list[str] = []  # indices of parts that are now in ours

    def pull(self) -> int:
        """Makes the folder what the bucket has, if another wrote there; how many files came.

        Where there is no index, as of data that other programs brought there, all objects count;
        not so where several work.
        """
        index = self._read_index(self._index_name)
        same = index is not None and index["id"] == self._synced.index
        if same and self._sharing is None:
            return 0
        objects = self.bucket.objects()
        others = self._indices_of_others(objects)
        if index is None and (self._sharing is None or self._sharing.only_reads):
            wanted = {name: each.version for name, each in objects.items() if not _is_ours(name)}
        else:
            named = {**others, **(index["files"] if index else {})}
            wanted = {name: digest for name, digest in named.items() if name in objects}
        light = {
            name for name in wanted if self._is_light(name) and not self._place(name).is_file()
        }
        for name in light:
            if not self._has_noted(name, wanted[name]):
                for part in self._place(name).parent.glob(f".{self._place(name).name}.*part"):
                    part.unlink()  # of another version
            self._synced.files[name] = (objects[name].size, 0, wanted[name])
        ours = set(self._synced.files) - set(others) if same else set()  # perhaps newer here
        missing = [n for n in wanted if n not in ours | light and not self._has(n, wanted[n])]
        self._download({name: objects[name].size for name in missing}, wanted)
        if index is not None and not same:  # else what is here is yet to be brought there
            for name in set(self._files()) - set(wanted):
                self._place(name).unlink(missing_ok=True)
            self._remove_empty_folders()
            self._synced.index = index["id"]
        self._synced.files = {n: self._synced.files[n] for n in wanted if n in self._synced.files}
        self._synced.light = light
        part = self._sharing is not None and bool(self._sharing.part)
        self._foreign = set(others) - set(index["files"] if index else ()) if part else set()
        self._indexed = self._ours()
        self._save()
        return len(missing)

    def push(self) -> int:
        """Brings to the bucket what changed here; how many files that were.

        The first push writes an index in any case, so that from then on only what it names counts.
        Raises BucketError if it cannot; the folder stays as it is, and the next push brings it.
        """
        brought = 0
        for _ in range(_TRIES):
            files = self._files()
            changed = [
                n for n, found in files.items() if self._synced.files.get(n, ())[:2] != found
            ]
            # In the order of writing: who reads the bucket meanwhile finds nothing too early.
            for name in sorted(changed, key=lambda name: (files[name][1], name)):
                brought += self._bring(name, files[name])
            if self._files() == files:
                break
        left = set(self._files()) | self._synced.light
        self._synced.files = {n: each for n, each in self._synced.files.items() if n in left}
        ours = self._ours()
        if ours == self._indexed and self._synced.index and not self._joined:
            return 0
        self._synced.index = uuid.uuid4().hex
        digests = {name: digest for name, (*_, digest) in sorted(ours.items())}
        content = {"id": self._synced.index, "files": digests}
        self.bucket.write(self._index_name, json.dumps(content).encode())
        gone = sorted(set(self._indexed) - set(digests))
        self._indexed = ours
        self._let_go(name for name in ours if self._is_light(name))
        self._save()
        self.bucket.delete([*gone, *self._joined])
        self._joined = []
        return brought

    def object_of(self, path: Path) -> tuple[str, int] | None:
        """Name and bytes of a file that only the bucket has; None for others."""
        if not path.is_relative_to(self.local):
            return None
        name = path.relative_to(self.local).as_posix()
        known = self._synced.files.get(name)
        return (name, known[0]) if known and name in self._synced.light else None

    def _ours(self) -> dict[str, tuple[int, int, str]]:
        return {n: each for n, each in self._synced.files.items() if n not in self._foreign}

    def _is_light(self, name: str) -> bool:
        return self._sharing is not None and self._sharing.is_light(name)

    def _let_go(self, names: Iterable[str]) -> None:
        """Deletes files here that the bucket has."""
        for name in names:
            path = self._place(name)
            if path.is_file() and stamp(path) == self._synced.files[name][:2]:
                self._synced.light.add(name)  # before: whoever looks finds one or the other
                path.unlink()

    def _indices_of_others(self, objects: Mapping[str, Any]) -> dict[str, str]:
        """Names and digests of files that the indices of other parts have."""
        files: dict[str, str] = {}
        if self._sharing is None or self._sharing.only_reads:
            return files
        names = self._sharing.others(objects)
        for name in names:
            files |= (self._read_index(name) or {"files": {}})["files"]
        if not self._sharing.part:
            self._joined = names
        return files

    def _download(self, sizes: dict[str, int], versions: dict[str, str]) -> None:
        """Downloads files; what came before an interruption is not asked for again."""
        total, saved = sum(sizes.values()), time.monotonic()
        self._make_room(total)
        check_room(self.local, total)
        with progress_bar(total, f"from {self.bucket.url}", "B") as bar:
            for name, size in sizes.items():
                path = self._place(name)
                self.bucket.download(name, path, size)
                self._synced.files[name] = (*stamp(path), versions[name])
                bar.update(size)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()

    def _save(self) -> None:
        self._state.parent.mkdir(parents=True, exist_ok=True)
        self._synced.write(self._state)

    def _bring(self, name: str, found: tuple[int, int]) -> bool:
        path = self._place(name)
        try:
            digest = _digest(path)
            known = self._synced.files.get(name)
            if known is None or known[2] != digest:
                self.bucket.upload(path, name)
        except FileNotFoundError:
            return False  # deleted meanwhile
        self._synced.files[name] = (*found, digest)
        self._synced.light.discard(name)
        self._foreign.discard(name)
        return True

    def _has(self, name: str, digest: str) -> bool:
        known, path = self._synced.files.get(name), self._place(name)
        return known is not None and path.is_file() and known == (*stamp(path), digest)

    def _has_noted(self, name: str, digest: str) -> bool:
        known = self._synced.files.get(name)
        return known is not None and known[2] == digest

    def _read_index(self, name: str) -> dict[str, Any] | None:
        content = self.bucket.read(name)
        if content is None:
            return None
        try:
            index = json.loads(content)
            return {"id": str(index["id"]), "files": dict(index["files"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.bucket.url}/{name} is damaged ({error}); deleted, all objects there count"
            ) from error

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of the last change of each file that counts."""
        found = {}
        for folder, _, names in os.walk(self.local):
            for name in names:
                path = Path(folder, name)
                short = path.relative_to(self.local).as_posix()
                try:
                    if not _PASSING.search(short):
                        found[short] = stamp(path)
                except FileNotFoundError:
                    continue  # deleted meanwhile
        return found

    def _place(self, name: str) -> Path:
        path = self.local.joinpath(*name.split("/"))
        if not path.resolve().is_relative_to(self.local.resolve()):
            raise ValueError(f"{self.bucket.url}: has an object named {name!r}, which is no file's")
        return path

    def _remove_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self.local, topdown=False):
            if folder != str(self.local) and not os.listdir(folder):
                shutil.rmtree(folder)


def _is_ours(name: str) -> bool:
    return name.startswith(_OWN) or name.endswith("/")


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: others than before if a file is."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
