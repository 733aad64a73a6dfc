"""Stories in a browser: python -m m2dit_jax.app --checkpoint=DIR --output=DIR"""

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from m2dit_jax import sampling
from m2dit_jax.app.runs import Progress, Runner
from m2dit_jax.app.server import start_server
from m2dit_jax.app.shelf import Shelf
from m2dit_jax.devices import prefer_available_platform
from m2dit_jax.page import write_page
from m2dit_jax.released import DTYPES
from m2dit_jax.released_stories import DECODERS
from m2dit_jax.sample import _open_checkpoint
from m2dit_jax.storyboard import Storyboard


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    flags = _parser().parse_args(argv)
    prefer_available_platform()
    try:
        maker = _open_checkpoint(flags)
        shelf = Shelf(flags.output, flags.checkpoint, *([flags.model] if flags.model else []))

        def make(storyboard: Storyboard, folder: Path, report: Callable[[Progress], None]) -> None:
            _make_story(storyboard, maker, folder, report)

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


def _make_story(
    storyboard: Storyboard,
    maker: sampling.StoryMaker,
    folder: Path,
    report: Callable[[Progress], None],
) -> None:
    sampling.check_output(storyboard, folder)
    plan = sampling.plan_story(storyboard, maker)
    sampling.write_story(folder, plan, maker.make(plan, folder), maker.provenance())
    write_page(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2dit_jax.app",
        description="Stories written, made and watched in a browser.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="workdir of a training run, or folder of a released model, as it is or converted",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of the stories, made if need be; its files can be read in the browser",
    )
    parser.add_argument("--model", type=Path, help="as for m2dit_jax.sample")
    parser.add_argument("--dtype", choices=DTYPES, help="as for m2dit_jax.sample")
    parser.add_argument("--decoder", choices=DECODERS, help="as for m2dit_jax.sample")
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
