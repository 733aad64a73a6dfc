"""Writes an encoded dataset: its shards one by one, then all that belongs beside them."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import BFloat16
from safetensors.numpy import save_file

from m2dit_jax.data.encoded import (
    EMPTY_CAPTION,
    FINISHED,
    FORMAT,
    METADATA,
    NAME,
    OFFSETS,
    PROGRESS,
    SKIPPED,
    SPLIT,
    VIDEOS,
    EncodedInfo,
    EncodedStory,
    Statistics,
    shard_name,
)
from m2dit_jax.data.encoded_record import record_features, serialize_story
from m2dit_jax.data.record_offsets import record_offsets
from m2dit_jax.utils import digests
from m2dit_jax.utils.files import atomic_write

# Latents become a fifth smaller, at 350 MB/s to write and 470 to read on one core of an AMD EPYC;
# higher levels gain nothing.
_WRITER_OPTIONS = "group_size:1,zstd:1"


class Shard(TypedDict):
    """A finished shard: how many stories, the bytes of their records and of the file.

    `crc32` is that of each chunk of the file, as in digests.json, and `offsets` are those of
    `record_offsets`; older versions wrote none.
    """

    stories: int
    record_bytes: int
    bytes: int
    crc32: NotRequired[list[str]]
    offsets: NotRequired[list[int]]


def shard_digest(shard: Shard) -> digests.FileDigest | None:
    """The digest of a shard's file, None if it has none."""
    known = shard.get("crc32")
    return None if known is None else digests.FileDigest(shard["bytes"], tuple(known))


def write_shard(path: Path, info: EncodedInfo, stories: Iterable[EncodedStory]) -> Shard:
    """Writes all stories, or nothing; the same stories give the same bytes.

    Raises ValueError for a story that does not fit the schema.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    count = nbytes = 0
    with atomic_write(path) as part:
        part.touch()  # a place that cannot be written to is an OSError here, a crash there
        writer = ArrayRecordWriter(str(part), _WRITER_OPTIONS)
        try:
            for story in stories:
                record = serialize_story(info.arrays, story)
                writer.write(record)
                count, nbytes = count + 1, nbytes + len(record)
        finally:
            writer.close()
        with part.open("rb") as written:  # before its name says that it is whole
            os.fsync(written.fileno())
        _check_count(part, count)
        digest = digests.digest_file(part)
        offsets = record_offsets(part, count)
    return Shard(
        stories=count,
        record_bytes=nbytes,
        bytes=digest.bytes,
        crc32=list(digest.crc32),
        offsets=offsets,
    )


def _check_count(shard: Path, count: int) -> None:
    """Raises OSError if not all records are there: the writer says nothing of some full disks."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(shard))
        found = reader.num_records()
        reader.close()
    except Exception as error:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(shard)) from error
    if found != count:
        raise OSError(errno.EIO, f"{found} of {count} records were written", str(shard))


def finish_dataset(
    path: Path,
    info: EncodedInfo,
    settings: Mapping[str, Any],
    shards: Sequence[Shard],
    scene_counts: Sequence[int],
    statistics: Statistics,
    skipped: Mapping[str, Any],
    empty_caption: BFloat16[np.ndarray, "T E"] | None = None,
) -> None:
    """Writes all that belongs to a dataset beside its shards, which are there already.

    From then on it is finished; the folder PROGRESS, if there is one, is deleted.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    metadata = {
        "format": FORMAT,
        "info": asdict(info),
        "settings": settings,
        "scene_counts": scene_counts,
        "statistics": statistics,
        "shards": [{k: value for k, value in each.items() if k != "offsets"} for each in shards],
    }
    if all("offsets" in each for each in shards):
        _write_offsets(path / OFFSETS, [each.get("offsets", []) for each in shards])
    write_json(path / SKIPPED, skipped)
    if empty_caption is not None:
        write_empty_caption(path, empty_caption)
    write_json(path / METADATA, metadata)

    template = tfds.core.ShardedFileTemplate(
        dataset_name=NAME, data_dir=epath.Path(path), split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard["stories"] for shard in shards],
        num_bytes=sum(shard["record_bytes"] for shard in shards),
        filename_template=template,
    )
    # It writes into the folder piece by piece, hence in another one.
    staging = path / PROGRESS / "tfds"
    staging.mkdir(parents=True, exist_ok=True)
    for number in range(len(shards)):
        (staging / shard_name(number, len(shards))).touch()
    tfds.folder_dataset.write_metadata(
        data_dir=staging,
        features=record_features(info.arrays),
        split_infos=[split],
        version=FORMAT,
        description="Stories encoded by python -m m2dit_jax.encode.",
        check_data=False,  # would need TensorFlow
    )
    described = ("features.json", FINISHED)
    small = [
        name
        for name in (METADATA, SKIPPED, VIDEOS, OFFSETS, EMPTY_CAPTION)
        if (path / name).is_file()
    ]
    known = {shard_name(n, len(shards)): shard_digest(each) for n, each in enumerate(shards)}
    digests.write_digests(
        path,
        {name: digest for name, digest in known.items() if digest is not None}
        | digests.digest_files(path, small)
        | digests.digest_files(staging, described),
    )
    for name in described:
        (staging / name).replace(path / name)
    shutil.rmtree(path / PROGRESS)


def _write_offsets(path: Path, offsets: Sequence[Sequence[int]]) -> None:
    with atomic_write(path) as part:
        np.array([place for each in offsets for place in each], "<i8").tofile(part)


def write_empty_caption(path: Path, embeds: BFloat16[np.ndarray, "T E"]) -> None:
    """Writes the embeddings of "" of a dataset."""
    with atomic_write(path / EMPTY_CAPTION) as part:
        save_file({"text_embeds": embeds}, part)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, the same content in the same bytes."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with atomic_write(path) as part:
        # Names of files need not be UTF-8: what Python reads of them can only be written escaped.
        part.write_bytes(text.encode(errors="backslashreplace"))
