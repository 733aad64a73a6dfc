"""The app's server gives out files of its output folder alone, and nothing from elsewhere."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from m2dit_jax.webapp.shelf import Shelf

# Gradio's own scripts need eval and inline code; nothing may come from, or go to, other hosts.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = ((b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer"))

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class OutputOnly:
    """ASGI middleware before Gradio, whose own routes also fetch addresses for the browser.

    Uploads as they came are not given out: one may be a page with a script in it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], shelf: Shelf):
        self.app = app
        self.shelf = shelf

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.allows(scope["path"]):
            start = {"type": "http.response.start", "status": 403, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b"no file of this app's output"})
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def allows(self, path: str) -> bool:
        """Whether a request's path, decoded, asks for no file that is not shown."""
        if "/proxy=" in path:
            return False
        _, asked, name = path.partition("/file=")
        if not asked:
            return "/file/" not in path
        try:
            # After links: one in the folder could lead out of it.
            return Path(name).is_absolute() and self.shelf.shows(Path(name).resolve())
        except (ValueError, OSError):  # a null character, a name too long
            return False
