"""The app's server is for the user of this machine, and gives out files of its output alone."""

import errno
import os
import shutil
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from m2dit_jax.utils.disks import describe
from m2dit_jax.webapp.hosts import Hosts
from m2dit_jax.webapp.shelf import MAX_CLIP_BYTES, Shelf

# Gradio's own scripts need eval and inline code; nothing may come from, or go to, other hosts.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_API = "/gradio_api/"
# Parts of Gradio's API that the form does not use: calls by name, its description, its history.
_CLOSED = (
    *("api", "call", "custom_component", "deep_link", "dev", "info", "mcp", "monitoring"),
    *("openapi.json", "process_recording", "run", "run-history", "runs", "stream", "vibe-editor"),
)
_JOIN = f"{_API}queue/join"
_FORM_BYTES = 1_000_000  # what an upload may be larger than its file

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware before Gradio, whose own routes also fetch addresses for the browser.

    Uploads as they came are not given out: one may be a page with a script in it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], shelf: Shelf, hosts: Hosts):
        self.app = app
        self.shelf = shelf
        self.hosts = hosts
        self._coming = 0  # bytes of uploads that have begun

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the form needs none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        # A page's addresses would be made from what these claim.
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if not name.startswith(b"x-forwarded") and name != b"forwarded"
        ]
        size = 0
        if not self.hosts.answers_to(headers):
            refused = 403, "this server answers only to its own name; see --allowed_host"
        elif not self.allows(scope["path"]):
            refused = 403, "no file of this app's output"
        elif scope["path"].rstrip("/") == f"{_API}upload":
            size, refused = self._upload_size(headers)
        else:
            refused = None
        if refused:
            await _refuse(send, *refused)
            return

        failed: list[Message] = []  # what Gradio's server says of an error, before it raises it

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            if failed or message.get("status") == 500:
                failed.append(message)
            else:
                await send(message)

        self._coming += size
        try:
            await self.app(scope, receive, send_with_policy)
        except KeyError:
            if scope["path"].rstrip("/") != _JOIN:
                raise
            # A field that was just drawn anew tells of its end: nobody waits for an answer.
            failed.clear()
            await _refuse(send, 410, "this part of the form is no longer there")
        finally:
            self._coming -= size
            for message in failed:
                await send(message)

    def allows(self, path: str) -> bool:
        """Whether a request's path, decoded, asks for no file or description that is not shown."""
        if "/proxy=" in path or path.removeprefix(_API).split("/")[0] in _CLOSED:
            return False
        _, asked, name = path.partition("/file=")
        if not asked:
            return "/file/" not in path
        try:
            # After links: one in the folder could lead out of it.
            return Path(name).is_absolute() and self.shelf.shows(Path(name).resolve())
        except (ValueError, OSError):  # a null character, a name too long
            return False

    def _upload_size(self, headers: dict[str, str]) -> tuple[int, tuple[int, str] | None]:
        """The bytes of an upload, as they are announced, and why it is refused if it is."""
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return 0, (411, "an upload needs a content-length")
        size = int(length)
        if size > MAX_CLIP_BYTES + _FORM_BYTES:
            return 0, (413, f"a clip may have {MAX_CLIP_BYTES / 1e6:.0f} MB at most")
        if not self.shelf.has_room_for(size + self._coming):
            return 0, (413, f"{self.shelf.output} holds too many uploads already")
        if shutil.disk_usage(self.shelf.uploads).free < size + self._coming:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.shelf.uploads))
            return 0, (507, describe(full))
        return size, None


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
