"""Samples a story: python -m m2dit_jax.sample --checkpoint=DIR --storyboard=FILE --output=DIR"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.pipeline.checkpoint_flags import add_checkpoint_flags, open_checkpoint
from m2dit_jax.pipeline.make_story import explain_story, make_story
from m2dit_jax.pipeline.sampling_flags import add_sampling_flags
from m2dit_jax.stories.gate import CHECKS
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.devices import prefer_available_platform

OVERRIDES = (
    *("seed", "frames", "height", "width", "fps", "sampler", "steps", "guidance_scale"),
    *("dynamic_guidance", "as_reference", "noise_given", "negative_prompt", "global_prompt"),
    *("guidance_start", "guidance_end", "reuse_uncond", "given_guidance_scale"),
    *("cache_tolerance", "window", "new_scenes", "anchor", "retries", "checks"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    flags = _parser().parse_args(argv)
    prefer_available_platform()
    started = time.perf_counter()
    try:
        # From the cheapest check to the dearest; the weights come last.
        storyboard = Storyboard.read(flags.storyboard).override(
            **{name: getattr(flags, name) for name in OVERRIDES}
        )
        maker = open_checkpoint(flags)
        if flags.explain:
            print("\n".join(explain_story(storyboard, maker, flags.output)))
            return 0
        digest = make_story(storyboard, maker, flags.output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is finished", file=sys.stderr)
        return 130

    names = sorted(path.name for path in flags.output.iterdir() if not _is_scene(path))
    print(f"{flags.output}: {', '.join(names)}")
    print(f"{len(storyboard.scenes)} scenes, {sum(storyboard.given)} of them given")
    print(f"{time.perf_counter() - started:.1f} s, frames sha256 {digest}")
    return 0


def _is_scene(path: Path) -> bool:
    """A long story's would fill the terminal."""
    return path.name.startswith("scene_")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2dit_jax.sample",
        description="Generates the scenes of a storyboard that have no video.",
        allow_abbrev=False,
    )
    add_checkpoint_flags(parser)
    parser.add_argument("--storyboard", required=True, help="YAML or JSON file")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder, made if need be; scenes that it has, made from the same inputs, are kept",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="only say for each scene whether it would be made, and why",
    )
    settings = parser.add_argument_group("instead of the storyboard's, or of the model's default")
    settings.add_argument("--seed", type=int)
    settings.add_argument("--frames", type=int, help="of a scene")
    settings.add_argument("--height", type=int, help="in pixels")
    settings.add_argument("--width", type=int, help="in pixels")
    settings.add_argument("--fps", type=float)
    yes_or_no = argparse.BooleanOptionalAction
    settings.add_argument("--as_reference", action=yes_or_no, help="with the reference's defects")
    settings.add_argument(
        "--noise_given", action=yes_or_no, help="given scenes get the noise of timestep 0"
    )
    settings.add_argument("--negative_prompt")
    settings.add_argument("--global_prompt", help="text that every scene sees")
    settings.add_argument("--window", type=int, help="scenes that go through the model at once")
    settings.add_argument(
        "--new_scenes", type=int, help="of these to be generated, where enough others are known"
    )
    settings.add_argument(
        "--anchor", action=yes_or_no, help="the story's first scene is always given"
    )
    settings.add_argument(
        "--checks", nargs="*", help=f"that a scene must pass: {', '.join(CHECKS)}"
    )
    settings.add_argument(
        "--retries", type=int, help="how often a scene that fails a check is drawn again"
    )
    add_sampling_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
