"""Which model makes the stories: the flags of the commands that make some, and what they open."""

import argparse
from pathlib import Path

from m2dit_jax.pipeline.maker import StoryMaker
from m2dit_jax.pipeline.released_stories import DECODERS, ReleasedStories, is_released
from m2dit_jax.pipeline.trained_latents import TrainedLatents
from m2dit_jax.pipeline.trained_stories import TrainedStories
from m2dit_jax.weights.released import DTYPES
from m2dit_jax.weights.run_folder import load_config


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --model, --dtype and --decoder."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="workdir of a training run, or folder of a released model, as it is or converted",
    )
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


def open_checkpoint(flags: argparse.Namespace) -> StoryMaker:
    """The model that the flags name; its weights are read when they are needed.

    Raises ValueError if it is neither a workdir nor the folder of a released model.
    """
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
