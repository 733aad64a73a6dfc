"""Stories in a browser: python -m m2dit_jax.app --checkpoint=DIR --output=DIR"""

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import add_model_flags, load_pipeline
from m2dit_jax.stories.progress import Report
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.devices import prefer_available_platform
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    flags = _parser().parse_args(argv)
    prefer_available_platform()
    try:
        pipeline = load_pipeline(flags)
        shelf = Shelf(flags.output, flags.checkpoint, *([flags.model] if flags.model else []))

        def make(storyboard: Storyboard, folder: Path, report: Report) -> None:
            pipeline(storyboard, folder=folder, on_step=report)

        address, _ = start_server(shelf, Runner(make), flags.host, flags.port)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{address} (stories lie in {shelf.output}; Ctrl-C ends)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("ended; a story that was at work goes on when it is generated again")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m2dit app",
        description="Stories written, made and watched in a browser.",
        allow_abbrev=False,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of the stories, made if need be; its files can be read in the browser",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: this machine alone. There is no password: whoever "
        "reaches another address can use the app",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
