"""Encodes shards of a job; what is finished is never done again."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from m2dit_jax.data.encode.inputs import Stamps, changed_videos, stamp_videos
from m2dit_jax.data.encode.job import EncodeJob
from m2dit_jax.data.encode.records import ShardRecord, UnknownText, record_path, write_record
from m2dit_jax.data.encode.remote_videos import RemoteVideos
from m2dit_jax.data.encode.scene_decoding import SceneTask, decode_scene
from m2dit_jax.data.encode.stories import (
    Result,
    count_story,
    decoding_tasks,
    encoded_stories,
    unknown_texts,
)
from m2dit_jax.data.encode.workers import Failure, WorkerPool
from m2dit_jax.data.encoded import NAME, SPLIT, STATISTICS, EncodedStory, Skipped, shard_name
from m2dit_jax.data.encoded_writing import write_shard
from m2dit_jax.utils.progress import progress_bar


def encode_shards(job: EncodeJob, numbers: Sequence[int]) -> None:
    """Writes what is missing of these shards."""
    shards = job.shards
    missing = [n for n in numbers if job.record(n) is None]
    clips = job.scenes_in(missing)
    with (
        WorkerPool(decode_scene, job.workers, job.time_limit) as pool,
        RemoteVideos() as videos,
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
            tasks = (task for story in shards[number] for task in decoding_tasks(job, story))
            return videos.fetched(number, tasks)

        tasks = (task for n in missing for task in tasks_of(n))
        # Enough that the workers do not wait while the device computes or a shard is closed.
        decoded = counted(pool.map(tasks, ahead=2 * job.workers + job.codec.batch_size))
        for number in missing:
            _encode_shard(job, number, decoded, stamps)
            videos.let_go(number)


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


def _stamp_shard(job: EncodeJob, number: int) -> Stamps:
    scenes = (scene for story in job.shards[number] for scene in job.manifest.stories[story].scenes)
    return stamp_videos(job.root, (job.relative(scene.video) for scene in scenes), job.hashed)


def drop_changed(job: EncodeJob, numbers: Sequence[int]) -> list[str]:
    """Takes those of these finished shards whose videos have changed since for unfinished.

    Says which on stderr, and returns the names of the videos.
    """
    found: dict[str, None] = {}
    for number in numbers:
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


def clear_leftovers(job: EncodeJob, numbers: Sequence[int]) -> None:
    """Deletes what a run that was killed had not finished of these shards."""
    total = len(job.shards)
    names = {shard_name(number, total): number for number in numbers}
    for path in [*job.output.glob(f"{NAME}-{SPLIT}.*"), *job.output.glob(".*.part")]:
        number = names.get(_whole_name(path.name))
        of_all = number is None and len(numbers) == total
        if of_all or (
            number is not None and (path.name not in names or job.record(number) is None)
        ):
            path.unlink()


def _whole_name(name: str) -> str:
    """The name of a file, also of one that is being written: see `atomic_write`."""
    return name[1:].rsplit(".", 2)[0] if name.endswith(".part") else name
