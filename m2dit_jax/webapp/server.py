"""The app's server: Gradio, kept to this machine and to its output folder."""

import os
from typing import Any

from m2dit_jax.utils.extras import how_to_install
from m2dit_jax.webapp.guard import OutputOnly
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.shelf import MAX_CLIP_BYTES, Shelf


def start_server(shelf: Shelf, runner: Runner, host: str, port: int | None) -> tuple[str, Any]:
    """Starts it in threads of its own; returns its address and what has a `close`.

    Without a port the first free one from 7860 on is taken. Raises ValueError, with what to
    install, if Gradio is missing, OSError if the port is taken.
    """
    # Read when Gradio is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(shelf.uploads)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio.themes  # pyright: ignore[reportMissingImports]
        from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"the app needs Gradio: {how_to_install('app')} ({error.name or error} is missing)"
        ) from error
    # Needs Gradio itself.
    from m2dit_jax.webapp.interface import STYLE, build_interface

    blocks = build_interface(shelf, runner)
    _, address, _ = blocks.queue(api_open=False).launch(
        server_name=host,
        server_port=port,
        share=False,
        allowed_paths=[str(shelf.output)],
        max_file_size=MAX_CLIP_BYTES,
        app_kwargs={"middleware": [Middleware(OutputOnly, shelf=shelf)]},
        css=STYLE,
        theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address, blocks
