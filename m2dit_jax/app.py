"""Stories in a browser: m2dit app --checkpoint=DIR --output=DIR"""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import add_model_flags, load_pipeline, make_parser, port_number, run_command
from m2dit_jax.stories.progress import Report
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.stopping import when_stopped
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.model import describe_model
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says; 0: ended by Ctrl-C."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _serve(flags))


def _serve(flags: argparse.Namespace) -> None:
    pipeline = load_pipeline(flags)
    shelf = Shelf(flags.output, flags.checkpoint, *([flags.model] if flags.model else []))

    def make(storyboard: Storyboard, folder: Path, report: Report) -> None:
        pipeline(storyboard, folder=folder, on_step=report)

    model = describe_model(pipeline, str(flags.checkpoint))
    desk, allowed = Desk(shelf, Runner(make), model), flags.allowed_host or ()
    with shelf.in_use():
        address = start_server(desk, flags.host, flags.port, allowed)
        print(f"{address} (stories lie in {shelf.output}; Ctrl-C ends)", flush=True)
        ended = "ended; a story that was at work goes on when it is generated again"
        when_stopped(ended, {signal.SIGINT: 0})
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # where another program than the command has called
            print(ended)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "app",
        "Stories written, made and watched in a browser.",
        "--checkpoint=runs/base --output=stories/",
    )
    add_model_flags(parser)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of the stories, made if need be; its files can be read in the browser",
    )
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone); there is no "
        "password: whoever reaches another address can use the app",
    )
    group.add_argument(
        "--allowed_host",
        action="append",
        metavar="NAME",
        help="a further name that the server answers to, for a proxy or tunnel before it (may be "
        "repeated; it always answers to localhost and --host) (default: none)",
    )
    group.add_argument(
        "--port", type=port_number, help="(default: the first free one from 7860 on)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
