"""Encoded stories on disk: the schema and its reading.

A folder is a tensorflow-datasets dataset (ArrayRecord, split "train"), readable without TensorFlow:

    stories-train.array_record-00000-of-00007   the records, one a story
    features.json, dataset_info.json            tensorflow-datasets' own description; the latter is
                                                written last: without it a folder is unfinished
    metadata.json                               `EncodedInfo`, settings of the run, and of each
                                                shard the sizes and the CRC-32, see `Shard`: a
                                                hash of this file is one of the whole dataset
    empty_caption.safetensors                   "text_embeds", of the codec "vae"
    skipped.json                                what was left out, where it was and why
    videos.jsonl                                sizes and times of change of the videos, see
                                                `m2dit_jax.data.encode.inputs`
    offsets.bin                                 64-bit integers: for each shard where its records
                                                begin, and where the last one ends; older versions
                                                have none
    digests.json                                of all these files, see `m2dit_jax.utils.digests`

Rot is noticed: ArrayRecord keeps a hash of each record, which is compared when the record is read;
metadata.json and the empty caption are compared with digests.json when they are; `m2dit encode
--check=DIR` compares all files. Older versions wrote no digests.

A record, with S scenes, which follow one another without a gap; S may differ between stories:

    name          text          of the story
    captions      S texts       one a scene, as in the manifest
    origins       S texts       JSON objects: where the scene comes from, see `Origin`
    pixels        [S F H W 3]   uint8, of the codec "pixels"
    mean, logvar  [S f h w C]   bfloat16, of the codec "vae": the VAE's posterior, unscaled (the
                                transformer sees draws times `scaling_factor`), logvar in -30..20
    text_embeds   [S T E]       bfloat16, of the codec "vae"

tensorflow-datasets alone knows no bfloat16: for it these arrays are uint16, the same bits, so that
one who reads with it says `.view(ml_dtypes.bfloat16)`; `EncodedDataset` does. bfloat16 is what the
released networks compute in, and half of float32's size.

A dataset has one size and one number of frames. Several sizes, or single clips beside stories, are
several datasets, which a training mixes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import BFloat16, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file

from m2dit_jax.data.encoded_record import BFLOAT16, parse_story
from m2dit_jax.data.shards import ShardReaders
from m2dit_jax.utils import digests
from m2dit_jax.utils.remote.places import opened_place, remote_file

NAME, SPLIT = "stories", "train"
CODECS = ("pixels", "vae")
KINDS = ("clips", "stories")
FORMAT = "1.0.0"  # of the schema above
FINISHED = "dataset_info.json"
OFFSETS = "offsets.bin"  # see `ShardReaders`
METADATA, EMPTY_CAPTION, SKIPPED = "metadata.json", "empty_caption.safetensors", "skipped.json"
VIDEOS = "videos.jsonl"  # see `encode.inputs`
PROGRESS = "progress"  # a folder, see `encode.records`
# What is counted over the scenes: sizes, frame rates and whole seconds of the videos that they come
# from, words of their captions.
STATISTICS = ("size", "fps", "seconds", "words")
Statistics = dict[str, dict[str, int]]


class EncodedError(ValueError):
    """A folder that is no finished and intact output of the encode command."""


@dataclass(frozen=True)
class EncodedInfo:
    """What holds for all scenes of a dataset.

    `frames`, `height` and `width` are of the scenes that were encoded, in pixels; the shapes, of a
    VAE dataset, are those of one scene's mean and one caption's embeddings, and `scaling_factor`
    is what the transformer's latents are multiplied by.
    """

    codec: str  # one of CODECS
    kind: str  # one of KINDS: scenes that have nothing to do with one another, or stories
    frames: int
    height: int
    width: int
    latent_shape: tuple[int, int, int, int] | None = None  # f h w C
    text_shape: tuple[int, int] | None = None  # T E
    scaling_factor: float | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS or self.kind not in KINDS:
            raise ValueError(
                f"codec {self.codec!r} must be one of {CODECS}, kind {self.kind!r} of {KINDS}"
            )
        of_vae = (self.latent_shape, self.text_shape, self.scaling_factor)
        if any((value is not None) != (self.codec == "vae") for value in of_vae):
            raise ValueError(
                "latent_shape, text_shape and scaling_factor belong to the codec vae, found "
                f"{of_vae} with {self.codec}"
            )

    @cached_property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name of each array of a story, with shape and dtype for one scene."""
        if self.latent_shape is None or self.text_shape is None:
            return {"pixels": ((self.frames, self.height, self.width, 3), np.dtype(np.uint8))}
        return {
            "mean": (self.latent_shape, BFLOAT16),
            "logvar": (self.latent_shape, BFLOAT16),
            "text_embeds": (self.text_shape, BFLOAT16),
        }

    @property
    def scene_nbytes(self) -> int:
        """Of all arrays of one scene."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.arrays.values())


class Origin(TypedDict):
    """Where a scene comes from."""

    scene: int  # its number in the story of the manifest, from 1
    place: str  # in the manifest, for people to read
    video: str  # path relative to the root
    start: float | None  # seconds in the video; None is its begin
    end: float | None  # None is its end
    source: dict[str, Any]  # of the whole video: frames, fps, height, width (upright), seconds
    frames: list[int]  # numbers of the frames that were taken, from 0
    metadata: dict[str, Any]  # all else that the manifest said about the scene
    first_frame: NotRequired[int]  # where the manifest says it in numbers of frames, from 0
    end_frame: NotRequired[int]  # the one after the last
    fps: NotRequired[float]  # at which frames were counted, where not at the video's constant rate


class EncodedStory(TypedDict):
    """One story; the arrays, which may be read-only, are those of the dataset's codec."""

    name: str
    captions: list[str]
    origins: list[Origin]
    pixels: NotRequired[UInt8[np.ndarray, "S F H W 3"]]
    mean: NotRequired[BFloat16[np.ndarray, "S f h w C"]]
    logvar: NotRequired[BFloat16[np.ndarray, "S f h w C"]]
    text_embeds: NotRequired[BFloat16[np.ndarray, "S T E"]]


class Skipped(TypedDict):
    """A scene that is not in the dataset."""

    place: str  # in the manifest
    video: str
    kind: str  # the reason without numbers and names, to count by
    reason: str


def dataset_folders(paths: str) -> list[Path]:
    """The folders that a field such as `config.data.paths` names, with commas between them.

    Of addresses in buckets, local copies, whose records are fetched when they are read. Raises
    ValueError and OSError as `opened_place`.
    """
    return [opened_place(path.strip(), is_shard) for path in paths.split(",") if path.strip()]


class EncodedDataset:
    """Random access to the stories of a finished folder; picklable, for grain's workers.

    `dataset[i]` reads and parses one record. Raises EncodedError, naming the folder or file, if the
    folder is no output of the encode command, is unfinished or damaged; OSError for what cannot be
    read.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not (self.path / FINISHED).is_file() or not (self.path / METADATA).is_file():
            if (self.path / PROGRESS).is_dir():
                raise EncodedError(
                    f"{self.path}: is unfinished; the encode command that began it goes on with it"
                )
            raise EncodedError(f"{self.path}: is no output of python -m m2dit_jax.encode")
        metadata = _read_metadata(self.path / METADATA)
        try:
            self.info = _info_from_mapping(metadata["info"])
            # How the dataset was made; for people and for comparison with another run.
            self.settings: dict[str, Any] = metadata["settings"]
            # Scenes of each story.
            self.scene_counts: tuple[int, ...] = tuple(metadata["scene_counts"])
            # How many scenes have which value, for each of STATISTICS.
            self.statistics: Statistics = metadata["statistics"]
            shards = metadata["shards"]
            counts = [shard["stories"] for shard in shards]
            paths = [self.path / shard_name(number, len(shards)) for number in range(len(shards))]
            for path, shard in zip(paths, shards, strict=True):
                if shard["stories"]:
                    _check_intact(path, shard["bytes"])
            # Of all shards.
            self.nbytes = sum(shard["bytes"] for shard in shards)
            self._records = ShardReaders(paths, counts, _read_offsets(self.path), self.nbytes)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, EncodedError):
                raise
            raise EncodedError(f"{self.path / METADATA}: is damaged ({error!r})") from error
        if len(self._records) != len(self.scene_counts):
            raise EncodedError(
                f"{self.path / METADATA}: is damaged: {len(self._records)} stories in the shards, "
                f"{len(self.scene_counts)} counts of scenes"
            )
        _check_digests(self.path, METADATA)

    @property
    def is_remote(self) -> bool:
        """Whether records come from a bucket."""
        return self._records.is_remote

    def __len__(self) -> int:
        return len(self.scene_counts)

    def __getitem__(self, index: int) -> EncodedStory:
        """Raises IndexError beyond the end, EncodedError if the record is damaged.

        OSError, naming the file, if it cannot be opened or read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"story {index} of {len(self)}")
        try:
            return parse_story(self.info.arrays, self._records[index])
        except OSError as error:
            path = self._records.path(index)
            message = f"story {index} cannot be read: {error.strerror}"
            raise OSError(error.errno, message, str(path)) from error
        except Exception as error:  # array_record, protobuf and json raise many kinds
            raise EncodedError(
                f"{self.path}: story {index} is damaged, in {self._records.path(index).name} "
                f"({error}); copy that file again, or encode into another folder"
            ) from error

    def __repr__(self) -> str:
        return f"EncodedDataset({str(self.path)!r}, {len(self)} stories)"

    @cached_property
    def empty_caption(self) -> BFloat16[np.ndarray, "T E"]:
        """Embeddings of "", which stands for no caption; ValueError if the codec is not "vae"."""
        if self.info.codec != "vae":
            raise ValueError(f"{self.path}: the codec {self.info.codec} keeps no text embeddings")
        path = self.path / EMPTY_CAPTION
        try:
            embeds = load_file(path)["text_embeds"]
        except FileNotFoundError as error:
            raise EncodedError(f"{path}: is missing") from error
        except (KeyError, SafetensorError) as error:
            raise EncodedError(f"{path}: is damaged ({error})") from error
        if embeds.shape != self.info.text_shape or embeds.dtype != BFLOAT16:
            raise EncodedError(
                f"{path}: holds {embeds.dtype} {embeds.shape}, needs bfloat16 "
                f"{self.info.text_shape}"
            )
        _check_digests(self.path, EMPTY_CAPTION)
        return embeds

    def skipped(self) -> list[Skipped]:
        """What was left out, in the order of the manifest. Raises EncodedError if damaged."""
        return read_skipped(self.path)["items"]

    def check(self) -> int:
        """Compares all files with their digests; how many bytes that were, 0 if there are none.

        Raises EncodedError with each file that differs.
        """
        _check_digests(self.path)
        known = digests.read_digests(self.path) or {}
        return sum(each.bytes for each in known.values())


def read_skipped(folder: Path) -> dict[str, Any]:
    """The contents of a dataset's skipped.json. Raises EncodedError if they are damaged."""
    path = folder / SKIPPED
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["items"], list) or not isinstance(
            content.get("cut_captions", 0), int
        ):
            raise TypeError("needs a list of items and a number of cut captions")
        if not all(
            {"place", "video", "kind", "reason"} <= item.keys() for item in content["items"]
        ):
            raise TypeError("an item lacks its place, video, kind or reason")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EncodedError(
            f"{path}: is damaged ({error!r}); it only says what was left out of the dataset"
        ) from error
    _check_digests(folder, SKIPPED)
    return content


def count_kinds(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How many were skipped for each kind of reason, the most frequent first."""
    return dict(Counter(item["kind"] for item in skipped).most_common())


def different_rates(counts: Mapping[str, int]) -> tuple[str, str] | None:
    """Lowest and highest of frame rates, if they are a tenth apart or more.

    `counts` is what the statistics have under "fps".
    """
    rates = sorted(counts, key=float)
    if not rates or float(rates[-1]) < 1.1 * float(rates[0]):
        return None
    return rates[0], rates[-1]


def shard_name(number: int, shards: int) -> str:
    """File name, as tensorflow-datasets wants it."""
    return f"{NAME}-{SPLIT}.array_record-{number:05d}-of-{shards:05d}"


def is_shard(name: str) -> bool:
    """Whether a file of a dataset is a shard, by its name, which may have folders before it."""
    return name.rpartition("/")[2].startswith(f"{NAME}-{SPLIT}.array_record-")


# --- opening


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncodedError(f"{path}: is damaged ({error})") from error
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != FORMAT:
        raise EncodedError(f"{path}: has the format {found!r}, needs {FORMAT!r}")
    return metadata


def _read_offsets(path: Path) -> list[int] | None:
    """None if there are none. Raises EncodedError if they are damaged."""
    if not (path / OFFSETS).is_file():
        return None
    _check_digests(path, OFFSETS)
    return np.fromfile(path / OFFSETS, "<i8").tolist()


def _info_from_mapping(mapping: Mapping[str, Any]) -> EncodedInfo:
    names = {field.name for field in fields(EncodedInfo)}
    if set(mapping) != names:
        raise ValueError(f"info needs {sorted(names)}, has {sorted(mapping)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in mapping.items()
    }
    return EncodedInfo(**values)


def _check_digests(folder: Path, *names: str) -> None:
    """Raises EncodedError if these files, by default all, are not those that were written."""
    found = digests.differences(folder, names or None)
    if found:
        raise EncodedError(
            f"{folder}: is damaged: {digests.summary(found)}; copy it again, or {digests.way_out()}"
        )


def _check_intact(path: Path, nbytes: int) -> None:
    """Raises EncodedError unless a file of that size is there."""
    there = None if path.is_file() else remote_file(path)
    found = path.stat().st_size if path.is_file() else there and there.size
    if found != nbytes:
        state = "is missing" if found is None else f"has {found} bytes"
        raise EncodedError(f"{path}: {state}, needs {nbytes} bytes")
