"""The flags of the encode command."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from m2dit_jax.cli import (
    bounded_float,
    bounded_int,
    count,
    filled,
    frame_count,
    make_parser,
    processes,
    seed_number,
    side,
)
from m2dit_jax.utils.remote.mirror import Sharing
from m2dit_jax.utils.remote.places import written_file_or_folder, written_place

if TYPE_CHECKING:
    from m2dit_jax.data.encode.parts import Part
    from m2dit_jax.data.encode.sizes import Size

DEFAULTS = {
    "stride": 3,
    "seed": 0,
    "min_scenes": 1,
    "shard_scenes": None,
    "time_limit": 120.0,
}


def encode_parser() -> argparse.ArgumentParser:
    """The parser; a flag that is not given is None."""
    parser = make_parser(
        "encode",
        "Decodes and encodes videos into a dataset to train from. What is finished is never done\n"
        "again: after an interruption the same command goes on.",
        "--clips=foxes/ --output=data/foxes --codec=pixels --frames=16 --height=64 --width=64",
        "--config=real_clips --clips=foxes/",
        "--config=finetune_5b --config.data.frames=25",
    )
    parser.open_output = open_output
    parser.set_defaults(address=None)  # an output that the workers of an engine open
    _what_flags(parser)
    _size_flags(parser)
    _frame_flags(parser)
    _how_flags(parser)
    _host_flags(parser)
    _other_flags(parser)
    return parser


def _what_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what")
    group.add_argument(
        "--clips",
        type=Path,
        metavar="FOLDER",
        help="videos with captions beside them, fox_1.mp4 and fox_1.txt: those in one folder are "
        "the scenes of a story, by name; the manifest is written to OUTPUT.jsonl (default: none)",
    )
    group.add_argument(
        "--manifest",
        type=Path,
        help="instead: CSV of clips, JSON or JSON Lines of stories (default: config.data.manifest)",
    )
    group.add_argument("--root", type=Path, help="folder of the videos (default: the manifest's)")
    group.add_argument(
        "--output", type=Path, help="folder, made if need be (default: config.data.paths)"
    )
    group.add_argument(
        "--codec",
        type=filled,
        help="pixels, or the folder of a released model (default: config.data.codec)",
    )
    group.add_argument(
        "--config",
        metavar="FILE_OR_NAME",
        help="of a training, for what is not given: manifest, root, output, codec, sizes; its "
        "fields are changed by --config.data.frames=8 and the like (default: none)",
    )


def _size_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("size of a scene")
    group.add_argument("--frames", type=frame_count, help="of a scene (default: the model's)")
    group.add_argument("--height", type=side, help="in pixels (default: the model's)")
    group.add_argument("--width", type=side, help="in pixels (default: the model's)")
    group.add_argument(
        "--sizes",
        type=_sizes,
        metavar="HxW,HxW",
        help="instead: several, such as 480x720,720x480; each story goes to the one of which least "
        "is cut off, in a dataset OUTPUT/HxW (default: one size)",
    )


def _frame_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which frames are taken")
    group.add_argument(
        "--sampling",
        choices=("middle", "longest"),
        help="middle: every STRIDE-th, somewhere in the middle 90 per cent (default for clips); "
        "longest: every n-th, n as large as fits, at most STRIDE (default for stories)",
    )
    group.add_argument("--stride", type=count, help=_default("stride", "in frames"))
    group.add_argument(
        "--fps",
        help="rate at which frames are counted, such as 24 or 24000/1001: those nearest in time "
        "are taken (default: the rate that each video has)",
    )
    group.add_argument("--seed", type=seed_number, help=_default("seed", "of what is drawn"))


def _how_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument(
        "--min_scenes",
        type=count,
        help=_default("min_scenes", "shorter stories, or what broken scenes left, are skipped"),
    )
    group.add_argument("--batch_size", type=count, help="scenes at once (default: one a device)")
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the networks (default: as stored, but float16 as bfloat16, on CPUs as float32)",
    )
    group.add_argument(
        "--workers", type=processes, help="processes that decode (default: one a core)"
    )
    group.add_argument(
        "--time_limit",
        type=bounded_float(0.001, 1e6),
        help=_default("time_limit", "seconds to decode a scene"),
    )
    group.add_argument(
        "--hash",
        action="store_true",
        default=None,
        help="read all of each video to notice whether it has changed (default: by size and time "
        "of change)",
    )
    group.add_argument(
        "--shard_scenes",
        type=bounded_int(1, 10**9),
        help="most scenes in a shard (default: 256, or 1 GB, or more for at most 512 shards)",
    )


def _host_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on several hosts")
    group.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="encode one of N parts, I from 1 on; auto: as arrays of SLURM, indexed jobs of "
        "Kubernetes and TPU pods say it (default: all)",
    )
    group.add_argument(
        "--join",
        action="store_true",
        default=None,
        help="make a dataset of the parts, or say which are missing (default: by itself where "
        "there are no parts)",
    )
    group.add_argument(
        "--engine",
        choices=("ray",),
        help="do all that on the Ray cluster of RAY_ADDRESS, or one that this machine becomes; "
        "each worker takes WORKERS CPUs and a GPU (default: on this host alone)",
    )


def _other_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of encoding")
    group.add_argument(
        "--preview", type=Path, help="write a page about this encoded dataset (default: none)"
    )
    group.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="read this encoded dataset whole: is it damaged? (default: none)",
    )
    group.add_argument(
        "--scenes-from",
        type=Path,
        help="cut a long video into shots: a manifest to be captioned (default: none)",
    )


def open_output(flags: argparse.Namespace, address: str) -> Path:
    """The local folder, or file, for an --output in a bucket; shards do not stay there."""
    from m2dit_jax.data.encoded import is_shard

    if flags.engine:
        flags.address = address  # opened by the workers
        return Path(address)
    if flags.scenes_from:
        return written_file_or_folder(address)
    return written_place(address, Sharing(flags.part.name if flags.part else "", is_shard))


def _sizes(text: str) -> "tuple[Size, ...]":
    from m2dit_jax.data.encode.sizes import read_sizes

    try:
        return read_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _part(text: str) -> "Part":
    from m2dit_jax.data.encode.parts import read_part

    try:
        return read_part(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--part: ")) from error


def _default(name: str, text: str) -> str:
    return f"{text} (default: {DEFAULTS[name]:g})"
