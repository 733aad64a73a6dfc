"""Encodes the stories of a manifest shard by shard; what is finished is never done again.

Until the dataset is finished, `progress/` in its folder holds `settings.json` and, for each
finished shard, a file with what is known about it. Which stories a shard holds, and what is drawn
for each, depends on manifest and settings alone: so the bytes are the same however often the work
was interrupted and by however many workers it is done. (On the same kind of device, that is; and
a scene that takes nearly as long as the time limit may be skipped once and not the next time.)
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m2dit_jax.data.encode.inputs import changed_since, write_videos
from m2dit_jax.data.encode.job import EncodeJob
from m2dit_jax.data.encode.parts import Part, begun_parts, writing_all, writing_part
from m2dit_jax.data.encode.records import SETTINGS, ShardRecord, UnknownText
from m2dit_jax.data.encode.shard_work import clear_leftovers, drop_changed, encode_shards
from m2dit_jax.data.encoded import (
    EMPTY_CAPTION,
    FINISHED,
    PROGRESS,
    SKIPPED,
    STATISTICS,
    EncodedDataset,
    EncodedError,
    Skipped,
    Statistics,
    count_kinds,
    read_skipped,
    shard_name,
)
from m2dit_jax.data.encoded_writing import finish_dataset, write_empty_caption
from m2dit_jax.utils.disks import writing
from m2dit_jax.utils.errors import WorkFailed
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.finite import check_finite


@dataclass(frozen=True)
class EncodeReport:
    """The result of encoding a manifest; `dataset` is None if nothing could be encoded."""

    dataset: EncodedDataset | None
    skipped: list[Skipped]
    cut_captions: int
    unknown: list[UnknownText]
    was_finished: bool = False
    changed: Sequence[str] = ()
    """Videos that a dataset which was finished before was made of, and that are others now."""


def encode_dataset(job: EncodeJob) -> EncodeReport:
    """Does what is left of a checked job; progress goes to stderr.

    Raises ValueError if weights are damaged, another run writes to the same output, a video changes
    meanwhile, or the disk is full, and NotFinite if the networks make numbers that are none.
    """
    if (job.output / FINISHED).exists():
        shutil.rmtree(job.output / PROGRESS, ignore_errors=True)
        dataset = EncodedDataset(job.output)
        try:
            skipped = read_skipped(job.output)
        except EncodedError as error:  # the dataset is whole without it
            print(error, file=sys.stderr)
            skipped = {"items": [], "cut_captions": 0}
        return EncodeReport(
            dataset,
            skipped["items"],
            skipped["cut_captions"],
            skipped.get("unknown", []),
            was_finished=True,
            changed=_changed_since(job),
        )
    job.codec.load()
    numbers = range(len(job.shards))
    with writing_all(job.output), writing(job.output):
        empty_caption = _empty_caption(job)
        _encode(job, numbers)
        return _finish(job, empty_caption)


def encode_part(job: EncodeJob, part: Part) -> list[ShardRecord]:
    """Does what is left of a part of a checked job, of a dataset that is not finished.

    Returns the records of its shards. Raises as `encode_dataset`.
    """
    job.codec.load()
    numbers = part.shards(len(job.shards))
    with writing_part(job.output, part), writing(job.output):
        empty_caption = _empty_caption(job) if part.number == 1 else None
        _encode(job, numbers)
        if empty_caption is not None:
            write_empty_caption(job.output, empty_caption)
    return [record for number in numbers if (record := job.record(number)) is not None]


def join_parts(job: EncodeJob) -> EncodeReport:
    """Makes a dataset of what all parts have encoded.

    Raises WorkFailed, naming the parts, if something is missing, and ValueError if a part is still
    at work.
    """
    if (job.output / FINISHED).exists():
        return encode_dataset(job)
    numbers = range(len(job.shards))
    with writing_all(job.output), writing(job.output):
        drop_changed(job, numbers)
        missing = [number for number in numbers if job.record(number) is None]
        lacks_caption = lacks_empty_caption(job)
        if missing or lacks_caption:
            raise WorkFailed(_missing_lines(job, missing, lacks_caption))
        return _finish(job, None)


def lacks_empty_caption(job: EncodeJob) -> bool:
    """Whether the first part has yet to write the embedding of the empty caption."""
    return job.info.codec == "vae" and not (job.output / EMPTY_CAPTION).is_file()


def _encode(job: EncodeJob, numbers: Sequence[int]) -> None:
    """Encodes what is left of these shards."""
    drop_changed(job, numbers)
    clear_leftovers(job, numbers)
    write_json(job.output / PROGRESS / SETTINGS, job.settings)
    encode_shards(job, numbers)
    # Again, for the work may have taken days.
    if changed := drop_changed(job, numbers):
        raise ValueError(
            f"{job.root / changed[0]}: changed while it was encoded"
            + (f", as did {len(changed) - 1} more videos" if len(changed) > 1 else "")
            + "; the same command encodes its shards anew"
        )


def _empty_caption(job: EncodeJob) -> Any:
    embeds = job.codec.empty_caption()
    if embeds is not None:
        check_finite(f"{job.output}: the embedding of the empty caption", embeds)
    return embeds


def _missing_lines(job: EncodeJob, missing: Sequence[int], lacks_caption: bool) -> str:
    """The shards that are missing, and the parts that make them."""
    begun, total = begun_parts(job.output), len(job.shards)
    lines = [f"{job.output}: {len(missing)} of {total} shards are missing"]
    if not begun:
        return f"{lines[0]}; no part was begun: the same command with --part=1/N begins the first"
    of = Counter(part.of for part in begun).most_common(1)[0][0]
    for number in range(1, of + 1):
        part = Part(number, of)
        shards = [str(shard) for shard in missing if shard in part.shards(total)]
        if number == 1 and lacks_caption:
            shards.append("the empty caption")
        if shards:
            where = f"begun on {begun[part]}" if part in begun else "not begun"
            more = f" and {len(shards) - 10} more" if len(shards) > 10 else ""
            lines.append(f"  --part={part} ({where}): {', '.join(shards[:10])}{more}")
    lines.append("the same command with that --part instead of --join makes them, on any host")
    return "\n".join(lines)


def _changed_since(job: EncodeJob) -> list[str]:
    try:
        return changed_since(job.output, job.root, job.hashed)
    except ValueError as error:  # the dataset is whole without it
        print(error, file=sys.stderr)
        return []


# -- the end


def _finish(job: EncodeJob, empty_caption: Any) -> EncodeReport:
    numbers = range(len(job.shards))
    # Without the names of a million videos, which would fill the memory.
    records = [{**record, "videos": {}} for record in _records(job)]
    skipped = [item for record in records for item in record["skipped"]]
    cut_captions = sum(record["cut_captions"] for record in records)
    unknown = [item for record in records for item in record.get("unknown", [])]
    counts = [count for record in records for count in record["scene_counts"]]
    summary = {
        "counts": count_kinds(skipped),
        "cut_captions": cut_captions,
        "unknown": unknown,
        "items": skipped,
    }
    if not counts:
        # As if nothing had begun: who repairs the videos may use the same command.
        for number in numbers:
            (job.output / shard_name(number, len(numbers))).unlink(missing_ok=True)
        shutil.rmtree(job.output / PROGRESS)
        write_json(job.output / SKIPPED, summary)
        return EncodeReport(None, skipped, cut_captions, unknown)
    write_videos(job.output, (record.get("videos", {}) for record in _records(job)))
    finish_dataset(
        job.output,
        job.info,
        job.settings,
        [record["shard"] for record in records],
        counts,
        _sum_statistics(record["statistics"] for record in records),
        summary,
        empty_caption,
    )
    return EncodeReport(EncodedDataset(job.output), skipped, cut_captions, unknown)


def _records(job: EncodeJob) -> Iterator[ShardRecord]:
    records = (job.record(number) for number in range(len(job.shards)))
    return (record for record in records if record is not None)


def _sum_statistics(parts: Iterable[Statistics]) -> Statistics:
    total = {name: Counter() for name in STATISTICS}
    for part in parts:
        for name, counts in part.items():
            total[name].update(counts)
    return {name: dict(sorted(counts.items())) for name, counts in total.items()}


# ---
