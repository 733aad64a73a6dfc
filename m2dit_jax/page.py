"""Shows stories: m2dit page RUN1 [RUN2 ...] [--output=FILE.html]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import make_parser, run_command
from m2dit_jax.report.comparison import write_comparison
from m2dit_jax.report.story import PAGE, write_page
from m2dit_jax.utils.sizes import size_text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.output is None and len(flags.runs) > 1:
        parser.error("--output=FILE.html is needed for several stories")
    return run_command(lambda: _write(flags.runs, flags.output or flags.runs[0] / PAGE))


def _write(runs: Sequence[Path], output: Path) -> None:
    target = write_page(runs[0], output) if len(runs) == 1 else write_comparison(runs, output)
    many = f"{len(runs)} stories" if len(runs) > 1 else "1 story"
    print(f"{target}: {many}, {size_text(target.stat().st_size)}")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "page",
        "Writes a page of one story, or of several side by side, that needs nothing else: one\n"
        "HTML file with all videos in it.",
        "out/ other/ --output=both.html",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output folder of m2dit sample"
    )
    parser.add_argument(
        "--output", type=Path, help=f"HTML file (default, for one story: {PAGE} in its folder)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
