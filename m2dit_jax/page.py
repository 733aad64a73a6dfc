"""Shows stories: python -m m2dit_jax.page RUN1 [RUN2 ...] [--output=FILE.html]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.report.comparison import write_comparison
from m2dit_jax.report.story import PAGE, write_page


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    parser = _parser()
    flags = parser.parse_args(argv)
    runs: list[Path] = flags.runs
    output: Path = flags.output or runs[0] / PAGE
    if flags.output is None and len(runs) > 1:
        parser.error("--output=FILE.html is needed for several stories")
    try:
        target = write_page(runs[0], output) if len(runs) == 1 else write_comparison(runs, output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    many = f"{len(runs)} stories" if len(runs) > 1 else "1 story"
    print(f"{target}: {many}, {target.stat().st_size / 1e6:.1f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m2dit page",
        description="Writes a page of one story, or of several side by side, that needs nothing "
        "else: one HTML file with all videos in it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output folder of m2dit_jax.sample"
    )
    parser.add_argument(
        "--output", type=Path, help=f"HTML file; default, for one story: {PAGE} in its folder"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
