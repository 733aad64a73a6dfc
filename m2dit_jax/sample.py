"""Samples a story: python -m m2dit_jax.sample --checkpoint=DIR --storyboard=FILE --output=DIR"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax import sampling
from m2dit_jax.devices import prefer_available_platform
from m2dit_jax.recipe import build_recipe
from m2dit_jax.storyboard import override, read_storyboard
from m2dit_jax.training.checkpoints import load_config, load_for_sampling


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    flags = _parser().parse_args(argv)
    prefer_available_platform()
    started = time.perf_counter()
    try:
        # From the cheapest check to the dearest; the weights come last.
        storyboard = override(
            read_storyboard(flags.storyboard),
            seed=flags.seed,
            steps=flags.steps,
            guidance_scale=flags.guidance_scale,
        )
        sampling.check_output(storyboard, flags.output)
        recipe = build_recipe(load_config(flags.checkpoint))
        plan = sampling.plan_story(storyboard, recipe)
        flags.output.mkdir(parents=True, exist_ok=True)
        config, params, step = load_for_sampling(flags.checkpoint)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2

    video = sampling.sample_story(plan, params)
    provenance = sampling.Provenance(flags.checkpoint, step, config)
    digest = sampling.write_story(flags.output, plan, video, provenance)
    names = sorted(path.name for path in flags.output.iterdir())
    print(f"{flags.output}: {', '.join(names)}")
    print(f"{len(video)} scenes, {sum(storyboard.given)} of them given, checkpoint of step {step}")
    print(f"{time.perf_counter() - started:.1f} s, frames sha256 {digest}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2dit_jax.sample",
        description="Generates the scenes of a storyboard that have no video.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    parser.add_argument("--storyboard", required=True, help="YAML or JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder, made if need be")
    parser.add_argument("--seed", type=int, help="instead of the storyboard's")
    parser.add_argument("--steps", type=int, help="DDIM steps, instead of the storyboard's")
    parser.add_argument("--guidance_scale", type=float, help="instead of the storyboard's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
