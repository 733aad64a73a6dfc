"""Records of finished shards, by which an interrupted encoding goes on where it stopped.

`progress/` in the folder holds `settings.json` and, for each finished shard, a record of what is
known about it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from m2dit_jax.data.encode.inputs import Stamps
from m2dit_jax.data.encoded import (
    FINISHED,
    PROGRESS,
    EncodedDataset,
    Skipped,
    Statistics,
    shard_name,
)
from m2dit_jax.data.encoded_writing import Shard, shard_digest
from m2dit_jax.utils.digests import is_same, is_sealed, seal
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.remote.places import remote_file

SETTINGS = "settings.json"


class UnknownText(TypedDict):
    """A caption of which the tokenizer does not know some characters."""

    place: str
    share: float  # of its characters
    characters: list[str]


class ShardRecord(TypedDict):
    """Counts, skipped scenes and digest of a finished shard."""

    shard: Shard
    scene_counts: list[int]
    skipped: list[Skipped]
    cut_captions: int
    statistics: Statistics
    videos: NotRequired[Stamps]  # that its scenes come from; earlier versions did not keep it
    unknown: NotRequired[list[UnknownText]]  # records of older versions have none


def record_path(output: Path, number: int) -> Path:
    """The file of a shard's record."""
    return output / PROGRESS / f"{number:05d}.json"


def write_record(output: Path, number: int, record: ShardRecord) -> None:
    """Says that a shard is finished; whole or not at all."""
    write_json(record_path(output, number), seal(record))


def read_record(output: Path, number: int, total: int) -> ShardRecord | None:
    """None if the shard is not finished, or if it or its record is damaged: it is made again."""
    path = output / shard_name(number, total)
    try:
        text = record_path(output, number).read_text(encoding="utf-8")
        record = json.loads(text)
        if not is_sealed(record):
            return None
        shard = Shard(**record["shard"])
        if not path.is_file() and (there := remote_file(path)) is not None:
            return record if there.size == shard["bytes"] else None
        known = shard_digest(shard)
        if known is None:  # of an earlier version
            return record if path.stat().st_size == shard["bytes"] else None
        return record if is_same(path, known) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def settings_there(output: Path) -> dict[str, Any] | None:
    """The settings that a finished or begun dataset was made with; None if nothing would be lost.

    Raises ValueError if they are damaged.
    """
    begun = output / PROGRESS / SETTINGS
    if (output / FINISHED).exists():
        return EncodedDataset(output).settings
    if begun.is_file() and any(_records_of(output)):
        try:
            settings = json.loads(begun.read_text(encoding="utf-8"))
            if not isinstance(settings, dict):
                raise ValueError(f"holds no object, but {type(settings).__name__}")
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{begun}: is damaged ({error}); delete it to go on with the same settings as "
                "before, or the folder to begin anew"
            ) from error
        return settings
    return None


def _records_of(output: Path) -> Iterator[Path]:
    return (output / PROGRESS).glob("[0-9]*.json")
