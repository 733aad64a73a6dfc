"""Servers of S3 and of Google Cloud Storage on this machine, with a bucket each."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

BUCKET = "stories"
_GS = """
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", {port}, in_memory=True, default_bucket="{bucket}").run()
"""


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment for s3://stories at a server that ends with the context."""
    pytest.importorskip("s3fs", reason="optional extra: s3")
    pytest.importorskip("moto", reason="optional extra: moto, a server of S3 for tests")
    with _started(["-m", "moto.server", "-p", "{port}"]) as port:
        address = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"))
        yield {
            **{"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"},
            **{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        }


@contextmanager
def gs_server() -> Iterator[dict[str, str]]:
    """The environment for gs://stories at a server that ends with the context."""
    pytest.importorskip("gcsfs", reason="optional extra: gs")
    pytest.importorskip(
        "gcp_storage_emulator", reason="optional extra: gcp-storage-emulator, for tests"
    )
    with _started(["-c", _GS.replace("{bucket}", BUCKET)]) as port:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


SERVERS = {"s3": s3_server, "gs": gs_server}


@contextmanager
def _started(arguments: list[str]) -> Iterator[int]:
    """A Python process that listens on the port that stands for {port}."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(each.replace("{port}", str(port)) for each in arguments)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ.copy(), **quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "it did not start"
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def faulty(port: int) -> Iterator[int]:
    """The port of a proxy whose connections are dropped, slow, or cut within an answer by turns."""
    faults = itertools.cycle(["", "drop", "slow", "cut", "", "cut"])

    def take(client: socket.socket) -> None:
        fault = next(faults)
        if fault == "drop":
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", port))
        if fault == "slow":
            time.sleep(0.3)
        left = 700 if fault == "cut" else 10**9
        for way in ((client, server, 10**9), (server, client, left)):
            threading.Thread(target=_pass_on, args=way, daemon=True).start()

    with _proxy(take) as address:
        yield address


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """The port of a proxy that keeps each request so long before the server gets it."""

    def take(client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", port))
        for way in ((client, server, 10**12, seconds), (server, client, 10**12)):
            threading.Thread(target=_pass_on, args=way, daemon=True).start()

    with _proxy(take) as address:
        yield address


@contextmanager
def _proxy(take: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port at which each connection is handed to `take`."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return  # closed
            take(client)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def _pass_on(source: socket.socket, target: socket.socket, left: int, wait: float = 0.0) -> None:
    """Sends so many bytes from one to the other, each time after a wait, and ends both."""
    with source, target, suppress(OSError):
        while left > 0 and (content := source.recv(min(left, 65_536))):
            time.sleep(wait)
            target.sendall(content)
            left -= len(content)
        for each in (source, target):
            each.shutdown(socket.SHUT_RDWR)
