"""Samples a story: m2dit sample --checkpoint=DIR --storyboard=FILE --output=DIR

Without a file: --prompt="a red cross" --prompt="it moves up", one for each scene.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import (
    add_model_flags,
    add_option_flags,
    load_pipeline,
    make_parser,
    options_given,
    run_command,
)
from m2dit_jax.config.files import find_storyboard
from m2dit_jax.stories.progress import progress_printer
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(
        lambda: _sample(flags),
        on_interrupt="interrupted; the same command goes on with what is finished",
    )


def _sample(flags: argparse.Namespace) -> None:
    started = time.perf_counter()
    # From the cheapest check to the dearest; the weights come last.
    if flags.storyboard is None:
        storyboard = Storyboard.from_prompts(flags.prompt, "--prompt")
    else:
        storyboard = Storyboard.read(find_storyboard(flags.storyboard))
    storyboard = storyboard.override(options_given(flags, StoryOptions), "--")
    pipeline = load_pipeline(flags)
    if flags.explain:
        print("\n".join(pipeline.explain(storyboard, flags.output)))
        return
    story = pipeline(storyboard, folder=flags.output, on_step=progress_printer())
    names = sorted(path.name for path in flags.output.iterdir() if not _is_scene(path))
    print(f"{flags.output}: {', '.join(names)}")
    print(f"{len(storyboard.scenes)} scenes, {sum(storyboard.given)} of them given")
    print(f"{time.perf_counter() - started:.1f} s, frames sha256 {story.digest}")


def _is_scene(path: Path) -> bool:
    """A long story's would fill the terminal."""
    return path.name.startswith("scene_")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "sample",
        "Generates the scenes of a storyboard that have no video.",
        "--checkpoint=runs/base --storyboard=lone_actor --output=out/",
        '--checkpoint=runs/base --prompt="a red cross" --prompt="it moves up" --output=out/',
    )
    add_model_flags(parser)
    group = parser.add_argument_group("story")
    scenes = group.add_mutually_exclusive_group(required=True)
    scenes.add_argument(
        "--storyboard",
        help="YAML or JSON file, or the name of one that is shipped (default: none)",
    )
    scenes.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what a scene shows, instead of a storyboard; given again for each scene (default: "
        "none)",
    )
    group.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder, made if need be; scenes that it has, made from the same inputs, are kept",
    )
    group.add_argument(
        "--explain",
        action="store_true",
        help="only say for each scene whether it would be made, and why (default: no)",
    )
    add_option_flags(parser, StoryOptions, "settings, instead of the storyboard's or the model's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
