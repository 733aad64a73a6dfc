"""Encodes videos once, for training: see `m2dit encode --help`.

    m2dit encode --clips=FOLDER --output=DIR --codec=pixels|MODEL_FOLDER  # captions in .txt files
    m2dit encode --manifest=F --root=DIR --output=DIR --codec=pixels|MODEL_FOLDER
    m2dit encode --config=FILE_OR_NAME  # all that from config.data, which --config.data.* changes
    m2dit encode ... --part=2/4  # on one of four hosts; then once: m2dit encode ... --join
    m2dit encode ... --engine=ray  # all that by itself, on a Ray cluster
    m2dit encode --preview=DIR
    m2dit encode --check=DIR
    m2dit encode --scenes-from=long.mp4 --output=manifest.jsonl

One dataset has one size and one number of frames; `m2dit_jax.data.encoded` describes it. --sizes
makes a dataset of each size, which the training mixes.
"""

# The workers that decode import this module: what is heavy is imported where it is used.
import argparse
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2dit_jax.cli import run_command
from m2dit_jax.encode_flags import DEFAULTS, open_output
from m2dit_jax.encode_flags import encode_parser as _parser
from m2dit_jax.utils.errors import WorkFailed
from m2dit_jax.utils.frame_times import read_rate
from m2dit_jax.utils.machine import usable_cpus
from m2dit_jax.utils.remote.bucket import is_remote
from m2dit_jax.utils.remote.places import named_place, read_place
from m2dit_jax.utils.sizes import size_text

if TYPE_CHECKING:
    from m2dit_jax.data.encode.codecs import Codec
    from m2dit_jax.data.encode.job import EncodeJob
    from m2dit_jax.data.manifest import Manifest

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
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = _read_flags(arguments)
    return run_command(
        lambda: _run(flags, arguments),
        on_interrupt="interrupted; the same command goes on with what is finished",
    )


def _read_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; one that is not given is None."""
    parser = _parser()
    flags, others = parser.parse_known_args(arguments)
    flags.text_length = None  # until a config says it
    flags.fields = [argument for argument in others if argument.startswith("--config.data.")]
    if unknown := [argument for argument in others if argument not in flags.fields]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return flags


def _run(flags: argparse.Namespace, arguments: list[str]) -> int:
    if flags.sizes and (flags.height or flags.width):
        raise ValueError("--height and --width cannot go with --sizes")
    _fill_from_config(flags)
    _check_mode(flags)
    if flags.engine:
        return _encode_on_ray(flags, arguments)
    if flags.preview:
        return _preview(flags.preview)
    if flags.check:
        return _check(flags.check)
    if flags.scenes_from:
        return _scenes_from(flags.scenes_from, flags.root, flags.output)
    return _encode(flags)


def _encode(flags: argparse.Namespace) -> int:
    from m2dit_jax.data.encode.job import check

    jobs = _make_jobs(flags)
    for job in jobs:
        check(job)
    encoded, missing = [], []
    while jobs:
        job = jobs.pop(0)  # which lets its model go before the next one is loaded
        try:
            if _encode_job(flags, job):
                encoded.append(job.output)
        except WorkFailed as error:
            missing.append(str(error))
    if missing:
        raise WorkFailed("\n".join(missing))
    return _end(flags, encoded)


def _end(flags: argparse.Namespace, encoded: Sequence[object]) -> int:
    """The exit status, with what was encoded."""
    if flags.sizes and encoded:
        print(f"--config.data.paths={','.join(map(str, encoded))} trains on all sizes")
    return 0 if encoded else 1


def _encode_job(flags: argparse.Namespace, job: "EncodeJob") -> bool:
    """Whether there is a dataset, or a part of one."""
    from m2dit_jax.data.encode.encoding import encode_dataset, encode_part, join_parts
    from m2dit_jax.data.encode.summary import begin_line, part_summary, summary
    from m2dit_jax.data.encoded import FINISHED

    started = time.perf_counter()
    print(begin_line(job), file=sys.stderr)
    if flags.part and not (job.output / FINISHED).exists():
        print(part_summary(job, flags.part, encode_part(job, flags.part)))
        return True
    report = (join_parts if flags.join else encode_dataset)(job)
    print(summary(job, report))
    print(f"{time.perf_counter() - started:.1f} s")
    return report.dataset is not None


def _encode_on_ray(flags: argparse.Namespace, arguments: list[str]) -> int:
    from m2dit_jax.data.encode.ray_encoding import encode_on_ray

    output = flags.address or str(flags.output)
    on_gpus = flags.codec != "pixels"
    return _end(flags, encode_on_ray(partial(_jobs_of, arguments), output, flags.workers, on_gpus))


def _jobs_of(arguments: list[str], output: Path, workers: int) -> list["EncodeJob"]:
    """The jobs of a command, as another process makes them."""
    flags = _read_flags(arguments)
    flags.output, flags.workers = output, workers
    _fill_from_config(flags)
    return _make_jobs(flags)


def _make_jobs(flags: argparse.Namespace) -> list["EncodeJob"]:
    """A job for each size. Checks the flags, the cheapest check first."""
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
    codecs = _open_codecs(flags)
    if flags.codec != "pixels" and (line := _unused(named_place(flags.codec))):
        print(line, file=sys.stderr)
    manifest = read_manifest(flags.manifest, root, values["min_scenes"])
    # Stage 1 of the reference learns from single clips, stage 2 from stories.
    sampling = flags.sampling or {"clips": "middle", "stories": "longest"}[manifest.kind]
    return [
        EncodeJob(
            part,
            root,
            output,
            codec,
            sampling,
            workers=workers,
            fps=fps,
            hashed=bool(flags.hash),
            **values,
        )
        for part, output, codec in _by_size(flags, manifest, root, codecs)
    ]


def _by_size(
    flags: argparse.Namespace, manifest: "Manifest", root: Path, codecs: Sequence["Codec"]
) -> list[tuple["Manifest", Path, "Codec"]]:
    """The stories of each size, with the folder that they go to."""
    from m2dit_jax.data.encode.sizes import choose_sizes, of_size
    from m2dit_jax.data.encoded import FINISHED, PROGRESS

    if not flags.sizes:
        return [(manifest, flags.output, codecs[0])]
    if (flags.output / FINISHED).exists() or (flags.output / PROGRESS).exists():
        raise ValueError(
            f"{flags.output}: is a dataset of one size; --sizes needs another --output"
        )
    chosen = choose_sizes(manifest, root, flags.output, flags.sizes)
    parts = [of_size(manifest, chosen, number) for number in range(len(flags.sizes))]
    return [
        (part, flags.output / str(size), codec)
        for part, size, codec in zip(parts, flags.sizes, codecs, strict=True)
        if part is not None
    ]


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


def _open_codecs(flags: argparse.Namespace) -> list["Codec"]:
    """One for each size."""
    codecs = []
    for size in flags.sizes or [(flags.height, flags.width)]:
        flags.height, flags.width = size
        codecs.append(_open_codec(flags))
    return codecs


def _open_codec(flags: argparse.Namespace) -> "Codec":
    """Raises ValueError if sizes are missing or the folder holds no model."""
    sizes = {name: getattr(flags, name) for name in ("frames", "height", "width")}
    from m2dit_jax.data.encode.codecs import PixelsCodec, VaeCodec

    if flags.codec != "pixels":
        return VaeCodec(
            named_place(flags.codec), **sizes, batch_size=flags.batch_size, dtype=flags.dtype
        )
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
            setattr(flags, name, _value_of_config(flags, name, kind, str(getattr(data, field))))


def _value_of_config(
    flags: argparse.Namespace, name: str, kind: Callable[[str], Any], text: str
) -> Any:
    if kind is not Path or not is_remote(text):
        return kind(text)
    return open_output(flags, text) if name == "output" else read_place(text)


def _check_mode(flags: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together."""
    no_flags = ("fields", "text_length", "address")
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
    if "engine" in given and {"part", "join"} & given:
        problems.append("--part and --join cannot go with --engine, which sees to both")
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
