"""Samples a story: python -m m2dit_jax.sample --checkpoint=DIR --storyboard=FILE --output=DIR"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax import sampling
from m2dit_jax.devices import prefer_available_platform
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.released import DTYPES
from m2dit_jax.released_stories import DECODERS, ReleasedStories, is_released
from m2dit_jax.storyboard import override, read_storyboard
from m2dit_jax.trained_latents import TrainedLatents
from m2dit_jax.trained_stories import TrainedStories
from m2dit_jax.training.checkpoints import load_config

OVERRIDES = (
    *("seed", "frames", "height", "width", "fps", "sampler", "steps", "guidance_scale"),
    *("dynamic_guidance", "as_reference", "noise_given"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2, after a message, if the user's input is wrong."""
    flags = _parser().parse_args(argv)
    prefer_available_platform()
    started = time.perf_counter()
    try:
        # From the cheapest check to the dearest; the weights come last.
        storyboard = override(
            read_storyboard(flags.storyboard), **{name: getattr(flags, name) for name in OVERRIDES}
        )
        sampling.check_output(storyboard, flags.output)
        maker = _open_checkpoint(flags)
        plan = sampling.plan_story(storyboard, maker)
        flags.output.mkdir(parents=True, exist_ok=True)
        for note in plan.notes:
            print(note, file=sys.stderr)
        video = maker.make(plan, flags.output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is finished", file=sys.stderr)
        return 130

    digest = sampling.write_story(flags.output, plan, video, maker.provenance())
    names = sorted(path.name for path in flags.output.iterdir())
    print(f"{flags.output}: {', '.join(names)}")
    print(f"{len(video)} scenes, {sum(storyboard.given)} of them given")
    print(f"{time.perf_counter() - started:.1f} s, frames sha256 {digest}")
    return 0


def _open_checkpoint(flags: argparse.Namespace) -> sampling.StoryMaker:
    """Raises ValueError if it is neither a workdir nor the folder of a released model."""
    path = flags.checkpoint
    if is_released(path):
        return ReleasedStories(path, flags.dtype, flags.decoder)
    config = load_config(path)
    if config.data.source == "latents":
        model = flags.model or Path(config.train.init_from)
        return TrainedLatents(path, model, flags.dtype, flags.decoder)
    for name in ("model", "dtype", "decoder"):
        if getattr(flags, name) is not None:
            raise ValueError(
                f"--{name}={getattr(flags, name)}: only for models with a VAE, {path} has none"
            )
    return TrainedStories(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2dit_jax.sample",
        description="Generates the scenes of a storyboard that have no video.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="workdir of a training run, or folder of a released model, as it is or converted",
    )
    parser.add_argument("--storyboard", required=True, help="YAML or JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder, made if need be")
    parser.add_argument(
        "--model",
        type=Path,
        help="for a run on latents: the folder of the released model that its videos were encoded "
        "with; default: config.train.init_from",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of a released model's weights; default: as they are"
    )
    parser.add_argument(
        "--decoder",
        choices=DECODERS,
        help="how a released model's VAE decodes; default: whole, large scenes in strips",
    )
    settings = parser.add_argument_group("instead of the storyboard's, or of the model's default")
    settings.add_argument("--seed", type=int)
    settings.add_argument("--frames", type=int, help="of a scene")
    settings.add_argument("--height", type=int, help="in pixels")
    settings.add_argument("--width", type=int, help="in pixels")
    settings.add_argument("--fps", type=float)
    settings.add_argument("--sampler", help=", ".join(SAMPLERS))
    settings.add_argument("--steps", type=int)
    settings.add_argument("--guidance_scale", type=float, help="1 is no guidance")
    yes_or_no = argparse.BooleanOptionalAction
    settings.add_argument("--dynamic_guidance", action=yes_or_no, help="grows over the steps")
    settings.add_argument("--as_reference", action=yes_or_no, help="with the reference's defects")
    settings.add_argument(
        "--noise_given", action=yes_or_no, help="given scenes get the noise of timestep 0"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
