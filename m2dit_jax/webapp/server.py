"""The app's server: Gradio, kept to this machine and to its output folder."""

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from m2dit_jax.utils.extras import how_to_install
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.guard import Guard
from m2dit_jax.webapp.hosts import Hosts
from m2dit_jax.webapp.shelf import MAX_CLIP_BYTES

_PORTS = range(7860, 7960)
_START_SECONDS = 30


def start_server(desk: Desk, host: str, port: int | None, allowed_hosts: Sequence[str] = ()) -> str:
    """Starts it in threads that end with the program; returns its address.

    It answers to loopback's names, to `host` and to `allowed_hosts`. Without a port the first free
    one from 7860 on is taken. Raises ValueError, with what to install, if Gradio is missing,
    OSError if the port is taken.
    """
    # Read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(desk.shelf.uploads)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio.themes  # pyright: ignore[reportMissingImports]
        import uvicorn  # pyright: ignore[reportMissingImports]
        from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"the app needs Gradio: {how_to_install('app')} ({error.name or error} is missing)"
        ) from error
    # Needs Gradio itself.
    from m2dit_jax.webapp.interface import SCRIPT, STYLE, build_interface

    listening = _listen(host, port)
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),  # no description of an API, neither here nor in Gradio's own
        build_interface(desk).queue(api_open=False),
        path="/",
        app_kwargs={"openapi_url": None},
        allowed_paths=[str(desk.shelf.output)],
        max_file_size=MAX_CLIP_BYTES,
        css=STYLE,
        head=f"<script>{SCRIPT}</script>",
        theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    # Around all of Gradio, which by itself lets pages of an origin in that the host's name equals.
    guarded: Any = Guard(app, desk.shelf, Hosts(host, allowed_hosts))
    server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise OSError(f"--host={host}: the server did not start")
        time.sleep(0.01)
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port is not None:
        try:
            return socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise OSError(f"--host={host} --port={port}: {error}") from error
    for number in _PORTS:
        with suppress(OSError):
            return socket.create_server((host, number), family=family)
    raise OSError(f"--host={host}: no free port from {_PORTS[0]} to {_PORTS[-1]}, or no such host")
