"""Which model makes the stories: the flags of the commands that make some, and what they open."""

import argparse
import sys
from pathlib import Path

from m2dit_jax.pipeline.codecs import DECODERS
from m2dit_jax.pipeline.load import load
from m2dit_jax.pipeline.pipeline import Pipeline
from m2dit_jax.weights.released import DTYPES


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


def load_pipeline(flags: argparse.Namespace) -> Pipeline:
    """The pipeline that the flags name; its weights are read when they are needed.

    Raises ValueError as `load` does.
    """
    return load(
        flags.checkpoint,
        dtype=flags.dtype,
        decoder=flags.decoder,
        model=flags.model,
        say=lambda line: print(line, file=sys.stderr),
    )
