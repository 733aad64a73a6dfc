"""Encodes videos once, for training: see `m2dit encode --help`.

    m2dit encode --clips=FOLDER --output=DIR --codec=pixels|MODEL_FOLDER  # captions in .txt files
    m2dit encode --manifest=F --root=DIR --output=DIR --codec=pixels|MODEL_FOLDER
    m2dit encode --config=FILE_OR_NAME  # all that from config.data, which --config.data.* changes
    m2dit encode ... --part=2/4  # on one of four hosts; then once: m2dit encode ... --join
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
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2dit_jax.cli import run_command
from m2dit_jax.encode_flags import DEFAULTS, encode_parser
from m2dit_jax.utils.frame_times import read_rate
from m2dit_jax.utils.machine import usable_cpus
from m2dit_jax.utils.sizes import size_text

if TYPE_CHECKING:
    from m2dit_jax.data.encode.codecs import Codec
    from m2dit_jax.data.encode.job import EncodeJob

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
    parser = encode_parser()
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
    from m2dit_jax.data.encode.encoding import encode_dataset, encode_part, join_parts
    from m2dit_jax.data.encode.job import check, finished_shards
    from m2dit_jax.data.encode.summary import part_summary, summary
    from m2dit_jax.data.encoded import FINISHED

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
    if flags.part and not (job.output / FINISHED).exists():
        print(part_summary(job, flags.part, encode_part(job, flags.part)))
        return 0
    report = (join_parts if flags.join else encode_dataset)(job)
    print(summary(job, report))
    print(f"{time.perf_counter() - started:.1f} s")
    return 0 if report.dataset is not None else 1


def _make_job(flags: argparse.Namespace) -> "EncodeJob":
    """Checks the flags, the cheapest check first."""
    from m2dit_jax.data.clip_folder import manifest_beside, tell_long_captions
    from m2dit_jax.data.encode.job import EncodeJob
    from m2dit_jax.data.manifest import read_manifest

    values = {name: _given(flags, name) for name in DEFAULTS}
    if flags.clips is not None:
        flags.manifest, flags.root = manifest_beside(flags.output, flags.clips), flags.clips
        if flags.codec == "pixels" and flags.text_length is not None:
            tell_long_captions(flags.clips, flags.text_length)
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
    if {"part", "join"} <= given:
        problems.append("--part cannot go with --join")
    if needed - given:
        names = _names(needed - given).replace("--manifest", "--manifest or --clips")
        problems.append(f"{mode} needs {names}")
    if given - allowed:
        problems.append(f"{_names(given - allowed)} cannot go with {mode}")
    if problems:
        raise ValueError("; ".join(problems))


def _names(flags: set[str]) -> str:
    return ", ".join(f"--{name.replace('scenes_from', 'scenes-from')}" for name in sorted(flags))


if __name__ == "__main__":
    sys.exit(main())
