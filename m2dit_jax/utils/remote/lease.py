"""A lease of a folder in a bucket: one process writes there at a time."""

import json
import os
import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

NAME = ".m2dit/lease.json"
EXPIRES = 60.0  # seconds without a beat, after which nobody holds it
_SETTLE = 1.0  # seconds after which a lease that was written is read again: is it ours?


def lease_name(part: str = "") -> str:
    """The object of the lease of a part of a folder, by default of all of it."""
    return f".m2dit/{part}.lease.json" if part else NAME


def is_lease(name: str) -> bool:
    """Whether an object is a lease."""
    return name == NAME or (name.startswith(".m2dit/") and name.endswith(".lease.json"))


@runtime_checkable
class Objects(Protocol):
    """The part of a bucket that a lease needs."""

    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, content: bytes) -> None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def delete(self, names: Sequence[str]) -> None: ...


class Taken(Exception):
    """Another process holds the lease, `holder` in words."""

    def __init__(self, holder: str):
        super().__init__(holder)
        self.holder = holder


class Lease:
    """An object that says who writes, and which its holder writes again every few seconds.

    Clocks of machines are not compared: a lease whose beat stays the same for `EXPIRES` seconds is
    nobody's, and one of a process that has ended on this machine at once.
    """

    def __init__(self, bucket: Objects, name: str = NAME):
        self._bucket = bucket
        self._name = name
        self._owner = uuid.uuid4().hex
        self._beat = 0

    def take(self) -> None:
        """Takes the lease. Raises Taken if another process holds it."""
        if (
            not self._bucket.create(self._name, self._content())
            or self._read().get("owner") != self._owner
        ):
            self._wait_for_its_end()
            self._bucket.write(self._name, self._content())
            # Another process may have waited for the same end: who wrote last has it.
            time.sleep(_SETTLE)
        self._check()

    def renew(self) -> None:
        """Says that the holder is alive. Raises Taken if another process took the lease."""
        self._check()
        self._beat += 1
        self._bucket.write(self._name, self._content())

    def release(self) -> None:
        """Gives the lease back if it is still held."""
        if self._read().get("owner") == self._owner:
            self._bucket.delete([self._name])

    def check_free(self) -> None:
        """Raises Taken if a process holds the lease, which takes a minute if it was killed."""
        self._wait_for_its_end()

    def _wait_for_its_end(self) -> None:
        found = self._read()
        last = time.monotonic() + EXPIRES
        while found and not _has_ended(found):
            if time.monotonic() > last:
                return
            time.sleep(1.0)
            now = self._read()
            if now and now != found:
                raise Taken(_in_words(now))
            found = now

    def _check(self) -> None:
        found = self._read()
        if found.get("owner") != self._owner:
            raise Taken(_in_words(found))

    def _read(self) -> dict[str, Any]:
        content = self._bucket.read(self._name)
        try:
            found = json.loads(content or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _content(self) -> bytes:
        who = {"owner": self._owner, "host": socket.gethostname(), "process": os.getpid()}
        return json.dumps({**who, "beat": self._beat, "time": time.time()}).encode()


def _has_ended(lease: dict[str, Any]) -> bool:
    """Whether its holder was a process of this machine that is no more."""
    process = lease.get("process")
    if lease.get("host") != socket.gethostname() or not isinstance(process, int):
        return False
    import psutil  # takes a while, and few get here

    # In containers processes of two starts may have the same number.
    return process == os.getpid() or not psutil.pid_exists(process)


def _in_words(lease: dict[str, Any]) -> str:
    return f"process {lease.get('process', '?')} on {lease.get('host', 'a machine not known')}"
