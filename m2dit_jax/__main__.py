"""The commands by one name: `m2dit train ...` is `python -m m2dit_jax.train ...`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from m2dit_jax import __version__
from m2dit_jax.utils import stopping

# Modules of the package with a `main(argv)` that returns the exit status, and what they do.
COMMANDS = {
    "train": "train a model; the same command goes on after an interruption",
    "sample": "make the scenes of a storyboard and write them as videos, with a page",
    "evaluate": "score a checkpoint or finished videos, or compare attention masks",
    "encode": "decode and encode videos once, for training to read",
    "convert": "convert a released model between diffusers' files and Orbax",
    "parity": "compare with values of the PyTorch reference",
    "plan": "say what a step needs on a machine that is not there, and whether it fits",
    "benchmark": "time the forward pass, the training step and the sampling step",
    "benchmark_loader": "time the input pipeline of training",
    "benchmark_video": "time the decoding and resizing of videos",
    "import_stories": "make storyboards of the story scripts of ST-Bench",
    "page": "write the page of finished stories anew, or several side by side",
    "app": "write, make and watch stories in a browser",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; 2, after a message, if there is no such command.

    Only the module of the chosen command is imported.
    """
    if argv is None:
        stopping.listen()  # the script `m2dit`, too
    arguments = sys.argv[1:] if argv is None else list(argv)
    # What follows the command is its own, --help included.
    flags = _parser().parse_args(arguments[:1])
    command = flags.command.replace("-", "_")
    if command not in COMMANDS:
        nearest = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0)[0]
        print(
            f"m2dit: there is no command {flags.command!r}; the nearest is {nearest!r}, and "
            "m2dit --help lists all",
            file=sys.stderr,
        )
        return 2
    return import_module(f"m2dit_jax.{command}").main(arguments[1:])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="m2dit",
        usage="m2dit COMMAND ...",
        description="Mask²DiT in JAX: text to multi-scene video.",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()),
                "",
                "`m2dit COMMAND --help` lists the flags of a command, and",
                "`python -m m2dit_jax.COMMAND` is the same command.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("--version", action="version", version=f"m2dit_jax {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
