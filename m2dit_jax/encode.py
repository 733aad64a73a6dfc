"""Encodes videos once, for training: see `m2dit encode --help`.

    m2dit encode --clips=FOLDER --output=DIR --codec=pixels|MODEL_FOLDER  # captions in .txt files
    m2dit encode --manifest=F --root=DIR --output=DIR --codec=pixels|MODEL_FOLDER
    m2dit encode --config=FILE_OR_NAME  # all that from config.data, which --config.data.* changes
    m2dit encode --preview=DIR
    m2dit encode --check=DIR
    m2dit encode --scenes-from=long.mp4 --output=manifest.jsonl

One dataset has one size and one number of frames; `m2dit_jax.data.encoded` describes it. For
several sizes, encode several times and let the training mix the datasets.
"""

# The workers that decode import this module: what is heavy is imported where it is used.
import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2dit_jax.cli import (
    bounded_float,
    bounded_int,
    count,
    filled,
    frame_count,
    make_parser,
    processes,
    run_command,
    seed_number,
    side,
)
from m2dit_jax.utils.frame_times import read_rate
from m2dit_jax.utils.machine import usable_cpus
from m2dit_jax.utils.sizes import size_text

if TYPE_CHECKING:
    from m2dit_jax.data.encode.codecs import Codec
    from m2dit_jax.data.encode.encoding import EncodeReport
    from m2dit_jax.data.encode.job import EncodeJob

DEFAULTS = {
    "stride": 3,
    "seed": 0,
    "min_scenes": 1,
    "shard_scenes": None,
    "time_limit": 120.0,
}
# Flags, where a config has their values, and of which type.
_CONFIG_FIELDS = (
    *(("manifest", "manifest", Path), ("root", "root", Path), ("output", "paths", Path)),
    *(("codec", "codec", str), ("frames", "frames", int)),
    *(("height", "height", int), ("width", "width", int)),
    ("fps", "fps", str),
)
# Flags that go with the modes other than encoding.
_PREVIEW, _CHECK = {"preview"}, {"check"}
_SCENES_FROM = {"scenes_from", "output", "root"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says.

    1: not a single scene could be encoded, or the model makes numbers that are none.
    """
    parser = _parser()
    flags, others = parser.parse_known_args(argv)
    flags.text_length = None  # until a config says it
    flags.fields = [argument for argument in others if argument.startswith("--config.data.")]
    if unknown := [argument for argument in others if argument not in flags.fields]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return run_command(
        lambda: _run(flags),
        on_interrupt="interrupted; the same command goes on with what is finished",
    )


def _run(flags: argparse.Namespace) -> int:
    _fill_from_config(flags)
    _check_mode(flags)
    if flags.preview:
        return _preview(flags.preview)
    if flags.check:
        return _check(flags.check)
    if flags.scenes_from:
        return _scenes_from(flags.scenes_from, flags.root, flags.output)
    return _encode(flags)


def _encode(flags: argparse.Namespace) -> int:
    from m2dit_jax.data.encode.encoding import encode_dataset
    from m2dit_jax.data.encode.job import check, finished_shards

    started = time.perf_counter()
    job = _make_job(flags)
    check(job)
    total = len(job.shards)
    scenes = sum(job.scene_counts)
    print(
        f"{job.manifest.source}: {len(job.manifest.stories)} stories, {scenes} scenes\n"
        f"writing to {job.output}: {finished_shards(job)} of {total} shards are there",
        file=sys.stderr,
    )
    report = encode_dataset(job)
    print(_summary(job, report))
    print(f"{time.perf_counter() - started:.1f} s")
    return 0 if report.dataset is not None else 1


def _make_job(flags: argparse.Namespace) -> "EncodeJob":
    """Checks the flags, the cheapest check first."""
    from m2dit_jax.data.encode.job import EncodeJob
    from m2dit_jax.data.manifest import read_manifest

    values = {name: _given(flags, name) for name in DEFAULTS}
    if flags.clips is not None:
        flags.manifest, flags.root = _manifest_of(flags.clips, flags.output), flags.clips
        if flags.codec == "pixels" and flags.text_length is not None:
            _tell_long_captions(flags.clips, flags.text_length)
    root = flags.root or flags.manifest.parent
    if not root.is_dir():
        raise ValueError(f"--root={root}: no such folder")
    workers = flags.workers or usable_cpus()
    fps = _read_fps(flags.fps)
    codec = _open_codec(flags)
    if flags.codec != "pixels" and (line := _unused(Path(flags.codec))):
        print(line, file=sys.stderr)
    manifest = read_manifest(flags.manifest, root, values["min_scenes"])
    # Stage 1 of the reference learns from single clips, stage 2 from stories.
    sampling = flags.sampling or {"clips": "middle", "stories": "longest"}[manifest.kind]
    return EncodeJob(
        manifest,
        root,
        flags.output,
        codec,
        sampling,
        workers=workers,
        fps=fps,
        hashed=bool(flags.hash),
        **values,
    )


def _manifest_of(clips: Path, output: Path) -> Path:
    """Writes the manifest of a folder of clips beside the dataset and returns its path.

    Raises ValueError if another manifest has that name.
    """
    from m2dit_jax.data.clip_folder import read_clip_folder
    from m2dit_jax.data.manifest import to_jsonl, write_jsonl

    manifest, path = read_clip_folder(clips), output.parent / f"{output.name}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(manifest, path, clips)
    elif path.read_text(encoding="utf-8", errors="replace") != to_jsonl(manifest, clips):
        raise ValueError(
            f"{path}: lists other clips or captions than {clips} has now; needs another --output, "
            "or that file and the dataset removed"
        )
    return path


def _tell_long_captions(clips: Path, text_length: int) -> None:
    """Says how many captions a model of pixels, which reads bytes, would cut off."""
    from m2dit_jax.data.clip_folder import read_clip_folder

    stories = read_clip_folder(clips).stories
    lengths = [len(scene.caption.encode()) + 1 for story in stories for scene in story.scenes]
    if count := sum(length > text_length for length in lengths):
        print(
            f"{count} captions are longer than the {text_length - 1} bytes that the model reads "
            f"and are cut there; for all of them --config.data.text_length={max(lengths)}",
            file=sys.stderr,
        )


def _read_fps(text: str | None) -> Fraction | None:
    """The rate, None for each video's own."""
    if text is None:
        return None
    try:
        return read_rate(text)
    except ValueError as error:
        raise ValueError(f"--fps: {error}") from error


def _unused(model: Path) -> str:
    from m2dit_jax.weights.model_folder import unused_line

    return unused_line(model)


def _open_codec(flags: argparse.Namespace) -> "Codec":
    """Raises ValueError if sizes are missing or the folder holds no model."""
    sizes = {name: getattr(flags, name) for name in ("frames", "height", "width")}
    from m2dit_jax.data.encode.codecs import PixelsCodec, VaeCodec

    if flags.codec != "pixels":
        return VaeCodec(Path(flags.codec), **sizes, batch_size=flags.batch_size, dtype=flags.dtype)
    missing = [f"--{name}" for name, value in sizes.items() if value is None]
    if missing:
        raise ValueError(f"--codec=pixels needs {', '.join(missing)}, or a --config that has them")
    for name in ("batch_size", "dtype"):
        if getattr(flags, name) is not None:
            raise ValueError(f"--{name}={getattr(flags, name)}: not with --codec=pixels")
    return PixelsCodec(**sizes)


def _summary(job: "EncodeJob", report: "EncodeReport") -> str:
    from m2dit_jax.data.encoded import count_kinds
    from m2dit_jax.weights.tokenizers import LITTLE

    lines = []
    if report.dataset is None:
        lines.append(f"{job.output}: nothing could be encoded")
    else:
        info, counts = report.dataset.info, report.dataset.scene_counts
        size = sum(path.stat().st_size for path in job.output.iterdir() if path.is_file())
        lines.append(
            f"{job.output}: {len(counts)} stories, {sum(counts)} scenes of {info.frames} frames "
            f"of {info.height}x{info.width}, codec {info.codec}, {len(job.shards)} shards, "
            f"{size_text(size)}" + (" (was finished before)" if report.was_finished else "")
        )
    if report.skipped:
        lines.append(f"skipped {len(report.skipped)} scenes, each named in skipped.json:")
        for kind, count in count_kinds(report.skipped).items():
            example = next(item for item in report.skipped if item["kind"] == kind)
            lines.append(f"  {count} x {kind}; for example {example['place']}: {example['video']}")
    if report.changed:
        lines.append(
            f"{len(report.changed)} videos have changed since, for example {report.changed[0]}: "
            "the dataset holds what they were; another --output encodes them as they are"
        )
    if report.dataset is not None and job.fps is None:
        lines += _rates(report.dataset.statistics["fps"])
    if report.cut_captions:
        lines.append(f"{report.cut_captions} captions are longer than the model reads and were cut")
    if report.unknown:
        worst = max(report.unknown, key=lambda item: item["share"])
        little = sum(item["share"] >= LITTLE for item in report.unknown)
        lines.append(
            f"{len(report.unknown)} captions have characters that the model does not know, each "
            f"named in skipped.json; {little} lose half of theirs or more; for example "
            f"{worst['place']}: {worst['share']:.0%} of it, {', '.join(worst['characters'])[:80]}"
        )
    return "\n".join(lines)


def _rates(counts: Mapping[str, int]) -> list[str]:
    """A line about videos whose rates differ."""
    from m2dit_jax.data.encoded import different_rates

    rates = different_rates(counts)
    if rates is None:
        return []
    return [
        f"the videos have {rates[0]} to {rates[1]} frames a second, and each was taken at its own: "
        "the same motion is faster in some; --fps takes all of them at one rate"
    ]


def _preview(path: Path) -> int:
    from m2dit_jax.data.preview import write_preview

    print(write_preview(path))
    return 0


def _check(path: Path) -> int:
    from m2dit_jax.data.encoded import EncodedDataset

    dataset, started = EncodedDataset(path), time.perf_counter()
    size = dataset.check()
    seconds = time.perf_counter() - started
    if size:
        print(f"{path}: whole: {len(dataset)} stories, {size_text(size)} read in {seconds:.1f} s")
    else:
        print(f"{path}: has no digests.json to compare with, as datasets of older versions")
    return 0


def _scenes_from(video: Path, root: Path | None, output: Path) -> int:
    from m2dit_jax.data.manifest import write_jsonl
    from m2dit_jax.data.shots import cut_into_shots

    if output.exists():  # captions may have been written into it
        raise ValueError(f"{output}: exists; needs a name that is free")
    root = root or video.parent
    try:
        manifest = cut_into_shots(video, root)
    except ImportError as error:  # it says what to install
        raise ValueError(error) from error
    write_jsonl(manifest, output, root)
    shots = sum(len(story.scenes) for story in manifest.stories)
    print(f"{output}: {shots} shots of {video}; each needs a caption before it can be encoded")
    return 0


def _given(flags: argparse.Namespace, name: str) -> Any:
    value = getattr(flags, name)
    return DEFAULTS[name] if value is None else value


def _fill_from_config(flags: argparse.Namespace) -> None:
    """Fills in what the command line leaves out and `config.data` says."""
    if flags.config is None:
        if flags.fields:
            raise ValueError(f"{flags.fields[0]}: needs --config=FILE_OR_NAME, whose field it is")
        return
    from m2dit_jax.train import read_flags

    arguments = read_flags([f"--config={flags.config}", *flags.fields])
    assert arguments is not None  # help was not asked for
    data = arguments.config.data
    flags.text_length = data.text_length
    for name, field, kind in _CONFIG_FIELDS:
        if flags.clips is not None and name in ("manifest", "root"):
            continue
        if getattr(flags, name) is None and getattr(data, field):
            setattr(flags, name, kind(getattr(data, field)))


def _check_mode(flags: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together."""
    no_flags = ("fields", "text_length")
    given = {n for n, value in vars(flags).items() if value is not None and n not in no_flags}
    mode, allowed, needed = "encoding", given, {"manifest", "output", "codec"}
    if "clips" in given:
        mode, needed = "--clips", {"clips", "output", "codec"}
        allowed = given - {"manifest", "root"}
    if "preview" in given:
        mode, allowed, needed = "--preview", _PREVIEW, _PREVIEW
    elif "check" in given:
        mode, allowed, needed = "--check", _CHECK, _CHECK
    elif "scenes_from" in given:
        mode, allowed, needed = "--scenes-from", _SCENES_FROM, {"scenes_from", "output"}
    problems = []
    if needed - given:
        names = _names(needed - given).replace("--manifest", "--manifest or --clips")
        problems.append(f"{mode} needs {names}")
    if given - allowed:
        problems.append(f"{_names(given - allowed)} cannot go with {mode}")
    if problems:
        raise ValueError("; ".join(problems))


def _names(flags: set[str]) -> str:
    return ", ".join(f"--{name.replace('scenes_from', 'scenes-from')}" for name in sorted(flags))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "encode",
        "Decodes and encodes videos into a dataset to train from. What is finished is never done\n"
        "again: after an interruption the same command goes on.",
        "--clips=foxes/ --output=data/foxes --codec=pixels --frames=16 --height=64 --width=64",
        "--config=real_clips --clips=foxes/",
        "--config=finetune_5b --config.data.frames=25",
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--clips",
        type=Path,
        metavar="FOLDER",
        help="videos with captions beside them, fox_1.mp4 and fox_1.txt: those in one folder are "
        "the scenes of a story, by name; the manifest is written to OUTPUT.jsonl (default: none)",
    )
    what.add_argument(
        "--manifest",
        type=Path,
        help="instead: CSV of clips, JSON or JSON Lines of stories (default: config.data.manifest)",
    )
    what.add_argument("--root", type=Path, help="folder of the videos (default: the manifest's)")
    what.add_argument(
        "--output", type=Path, help="folder, made if need be (default: config.data.paths)"
    )
    what.add_argument(
        "--codec",
        type=filled,
        help="pixels, or the folder of a released model (default: config.data.codec)",
    )
    what.add_argument(
        "--config",
        metavar="FILE_OR_NAME",
        help="of a training, for what is not given: manifest, root, output, codec, sizes; its "
        "fields are changed by --config.data.frames=8 and the like (default: none)",
    )
    size = parser.add_argument_group("size of a scene")
    size.add_argument("--frames", type=frame_count, help="of a scene (default: the model's)")
    size.add_argument("--height", type=side, help="in pixels (default: the model's)")
    size.add_argument("--width", type=side, help="in pixels (default: the model's)")
    frames = parser.add_argument_group("which frames are taken")
    frames.add_argument(
        "--sampling",
        choices=("middle", "longest"),
        help="middle: every STRIDE-th, somewhere in the middle 90 per cent (default for clips); "
        "longest: every n-th, n as large as fits, at most STRIDE (default for stories)",
    )
    frames.add_argument("--stride", type=count, help=_default("stride", "in frames"))
    frames.add_argument(
        "--fps",
        help="rate at which frames are counted, such as 24 or 24000/1001: those nearest in time "
        "are taken (default: the rate that each video has)",
    )
    frames.add_argument("--seed", type=seed_number, help=_default("seed", "of what is drawn"))
    rest = parser.add_argument_group("how")
    rest.add_argument(
        "--min_scenes",
        type=count,
        help=_default("min_scenes", "shorter stories, or what broken scenes left, are skipped"),
    )
    rest.add_argument("--batch_size", type=count, help="scenes at once (default: one a device)")
    rest.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the networks (default: as stored, but float16 as bfloat16, on CPUs as float32)",
    )
    rest.add_argument(
        "--workers", type=processes, help="processes that decode (default: one a core)"
    )
    rest.add_argument(
        "--time_limit",
        type=bounded_float(0.001, 1e6),
        help=_default("time_limit", "seconds to decode a scene"),
    )
    rest.add_argument(
        "--hash",
        action="store_true",
        default=None,
        help="read all of each video to notice whether it has changed (default: by size and time "
        "of change)",
    )
    rest.add_argument(
        "--shard_scenes",
        type=bounded_int(1, 10**9),
        help="most scenes in a shard (default: 256, or 1 GB, or more for at most 512 shards)",
    )
    others = parser.add_argument_group("instead of encoding")
    others.add_argument(
        "--preview", type=Path, help="write a page about this encoded dataset (default: none)"
    )
    others.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="read this encoded dataset whole: is it damaged? (default: none)",
    )
    others.add_argument(
        "--scenes-from",
        type=Path,
        help="cut a long video into shots: a manifest to be captioned (default: none)",
    )
    return parser


def _default(name: str, text: str) -> str:
    return f"{text} (default: {DEFAULTS[name]:g})"


if __name__ == "__main__":
    sys.exit(main())
