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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.data.encode.inputs import (
    Stamps,
    changed_since,
    changed_videos,
    stamp_videos,
    write_videos,
)
from m2dit_jax.data.encode.job import EncodeJob
from m2dit_jax.data.encode.records import (
    SETTINGS,
    ShardRecord,
    UnknownText,
    record_path,
    write_record,
)
from m2dit_jax.data.encode.scene_decoding import SceneTask, decode_scene
from m2dit_jax.data.encode.stories import (
    Result,
    count_story,
    decoding_tasks,
    encoded_stories,
    unknown_texts,
)
from m2dit_jax.data.encode.workers import Failure, WorkerPool
from m2dit_jax.data.encoded import (
    FINISHED,
    NAME,
    PROGRESS,
    SKIPPED,
    SPLIT,
    STATISTICS,
    EncodedDataset,
    EncodedError,
    EncodedStory,
    Skipped,
    Statistics,
    count_kinds,
    read_skipped,
    shard_name,
)
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.utils.disks import writing
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.finite import check_finite
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.utils.progress import progress_bar


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
    with _locked(job.output), writing(job.output):
        _drop_changed(job)
        _clear_leftovers(job)
        write_json(job.output / PROGRESS / SETTINGS, job.settings)
        empty_caption = job.codec.empty_caption()
        if empty_caption is not None:
            check_finite(f"{job.output}: the embedding of the empty caption", empty_caption)
        _encode_shards(job)
        # Again, for the work may have taken days.
        if changed := _drop_changed(job):
            raise ValueError(
                f"{job.root / changed[0]}: changed while it was encoded"
                + (f", as did {len(changed) - 1} more videos" if len(changed) > 1 else "")
                + "; the same command encodes its shards anew"
            )
        return _finish(job, empty_caption)


def _changed_since(job: EncodeJob) -> list[str]:
    try:
        return changed_since(job.output, job.root, job.hashed)
    except ValueError as error:  # the dataset is whole without it
        print(error, file=sys.stderr)
        return []


# --- the work


def _encode_shards(job: EncodeJob) -> None:
    """Writes what is missing."""
    shards = job.shards
    missing = [n for n in range(len(shards)) if job.record(n) is None]
    clips = job.scenes_in(missing)
    with (
        WorkerPool(decode_scene, job.workers, job.time_limit) as pool,
        progress_bar(clips, "encode", "clips") as progress,
    ):
        failures = 0

        def counted(results: Iterator[Result]) -> Iterator[Result]:
            nonlocal failures
            for result in results:
                if isinstance(result, Failure):
                    failures += 1
                    progress.set_postfix_str(f"{failures} skipped", refresh=False)
                progress.update()
                yield result

        stamps: dict[int, Stamps] = {}

        def tasks_of(number: int) -> Iterator[SceneTask]:
            # Before the first of them is read: a change from then on is noticed in the end.
            stamps[number] = _stamp_shard(job, number)
            return (task for story in shards[number] for task in decoding_tasks(job, story))

        tasks = (task for n in missing for task in tasks_of(n))
        # Enough that the workers do not wait while the device computes or a shard is closed.
        decoded = counted(pool.map(tasks, ahead=2 * job.workers + job.codec.batch_size))
        for number in missing:
            _encode_shard(job, number, decoded, stamps)


def _encode_shard(
    job: EncodeJob,
    number: int,
    decoded: Iterator[Result],
    stamps: dict[int, Stamps],
) -> None:
    shards = job.shards
    counts: list[int] = []
    skipped: list[Skipped] = []
    cut_captions = 0
    unknown: list[UnknownText] = []
    statistics = {name: Counter() for name in STATISTICS}

    def counted(stories: Iterable[EncodedStory]) -> Iterator[EncodedStory]:
        nonlocal cut_captions
        for story in stories:
            counts.append(len(story["captions"]))
            cut_captions += sum(map(job.codec.is_cut, story["captions"]))
            unknown.extend(unknown_texts(job, story))
            count_story(statistics, story)
            yield story

    path = job.output / shard_name(number, len(shards))
    stories = encoded_stories(job, shards[number], decoded, skipped)
    shard = write_shard(path, job.info, counted(stories))
    record = ShardRecord(
        shard=shard,
        scene_counts=counts,
        skipped=skipped,
        cut_captions=cut_captions,
        unknown=unknown,
        statistics={name: dict(counter) for name, counter in statistics.items()},
        videos=stamps.pop(number),
    )
    write_record(job.output, number, record)


# --- the end


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
            (job.output / shard_name(number, len(numbers))).unlink()
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


# --- what an interrupted run has left


def _stamp_shard(job: EncodeJob, number: int) -> Stamps:
    scenes = (scene for story in job.shards[number] for scene in job.manifest.stories[story].scenes)
    return stamp_videos(job.root, (job.relative(scene.video) for scene in scenes), job.hashed)


def _drop_changed(job: EncodeJob) -> list[str]:
    """Takes finished shards whose videos have changed since for unfinished, and says which.

    Returns the names of the videos.
    """
    found: dict[str, None] = {}
    for number in range(len(job.shards)):
        record = job.record(number)
        changed = record and changed_videos(job.root, record.get("videos", {}), job.hashed)
        if changed:
            record_path(job.output, number).unlink()
            print(
                f"shard {number + 1} of {len(job.shards)} is encoded anew: {changed[0]} has changed"
                + (f", and {len(changed) - 1} more" if len(changed) > 1 else ""),
                file=sys.stderr,
            )
            found |= dict.fromkeys(changed)
    return list(found)


def _clear_leftovers(job: EncodeJob) -> None:
    """Deletes what a run that was killed had not finished."""
    total = len(job.shards)
    done = {shard_name(n, total) for n in range(total) if job.record(n) is not None}
    for path in [*job.output.glob(f"{NAME}-{SPLIT}.*"), *job.output.glob(".*.part")]:
        if path.name not in done:
            path.unlink()


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Raises ValueError if another process is at work in the same folder."""
    (output / PROGRESS).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(output / PROGRESS / "lock"))
        except InUse as error:
            raise ValueError(
                f"{output}: another process is writing to it ({error.holder})"
            ) from None
        yield
