"""Makes storyboards of other programs' story scripts: m2dit import_stories --source=story/ ..."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2dit_jax.cli import make_parser, run_command
from m2dit_jax.stories.st_bench import read_scripts, to_storyboard
from m2dit_jax.utils.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _import(flags.source, flags.output, flags.overview))


def _import(source: Path, output: Path, overview: bool) -> None:
    """One storyboard a script; a script that is wrong is told of, and the others go on.

    Raises ValueError if none is right, or a storyboard is there already with another content.
    """
    good: dict[str, dict[str, Any]] = {}
    bad: list[str] = []
    for script in read_scripts(source):
        try:
            if script.name in good:
                raise ValueError("another story script has this name too")
            good[script.name] = to_storyboard(script, overview).to_mapping()
        except ValueError as error:
            first, *more = str(error).splitlines()
            bad.append(f"{script.name}: {first}" + (f" (and {len(more)} more)" if more else ""))
    counts = f"{len(good)} of {len(good) + len(bad)} story scripts"
    if not good:
        raise ValueError("\n".join([f"{source}: {counts} can be read", *bad]))
    output.mkdir(parents=True, exist_ok=True)
    files = {output / f"{name}.json": board for name, board in good.items()}
    for path, board in files.items():
        if path.exists() and read_json(path) != board:
            raise ValueError(f"{path}: is there already with another content; move it away")
    for path, board in files.items():
        write_json(path, board)
    scenes = sum(len(board["scenes"]) for board in good.values())
    cuts = sum(bool(scene.get("cut")) for board in good.values() for scene in board["scenes"])
    print(f"{output}: {counts}, {scenes} scenes, {cuts} of them begin with a cut")
    for problem in bad:
        print(f"left out: {problem}")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "import_stories",
        "Makes a storyboard of each story script of ST-Bench (StoryMem).",
        "--source=StoryMem/story --output=boards/",
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="folder of JSON files, or one such file"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the storyboards")
    parser.add_argument(
        "--overview",
        action="store_true",
        help="every scene sees the story's overview, as the storyboard's global_prompt (default: "
        "no)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
