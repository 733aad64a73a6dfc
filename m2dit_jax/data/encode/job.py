"""Encodes the stories of a manifest shard by shard; what is finished is never done again.

Until the dataset is finished, `progress/` in its folder holds `settings.json` and, for each
finished shard, a file with what is known about it. Which stories a shard holds, and what is drawn
for each, depends on manifest and settings alone: so the bytes are the same however often the work
was interrupted and by however many workers it is done. (On the same kind of device, that is; and
a scene that takes nearly as long as the time limit may be skipped once and not the next time.)
"""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from m2dit_jax.data.encode.codecs import CONTENT, Codec
from m2dit_jax.data.encode.inputs import (
    Stamps,
    changed_since,
    changed_videos,
    stamp_videos,
    write_videos,
)
from m2dit_jax.data.encode.scene_decoding import DecodedScene, SceneTask, decode_scene
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
    EncodedInfo,
    EncodedStory,
    Origin,
    Shard,
    Skipped,
    Statistics,
    count_kinds,
    finish_dataset,
    read_skipped,
    shard_digest,
    shard_name,
    write_shard,
)
from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ClipScene, ManifestStory
from m2dit_jax.utils.digests import is_same, is_sealed, seal
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.finite import check_finite
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.utils.progress import progress_bar

# A shard is closed at so much; tensorflow-datasets wants no more. Where that would make more shards
# than MOST_SHARDS, they are larger: a file system and whoever copies a dataset want few files.
SHARD_BYTES, SHARD_SCENES, MOST_SHARDS = 10**9, 256, 512
_RECORD_BYTES = 2 * 10**9  # protobuf's limit is 2 GiB
# Pixels of natural video and latents become about that much smaller.
_COMPRESSED = 0.75


class UnknownText(TypedDict):
    """A caption of which the tokenizer does not know some characters."""

    place: str
    share: float  # of its characters
    characters: list[str]


class _ShardRecord(TypedDict):
    """What is known about a finished shard."""

    shard: Shard
    scene_counts: list[int]
    skipped: list[Skipped]
    cut_captions: int
    statistics: Statistics
    videos: NotRequired[Stamps]  # that its scenes come from; earlier versions did not keep it
    unknown: NotRequired[list[UnknownText]]  # records of older versions have none


@dataclass(frozen=True)
class EncodeJob:
    """What to encode and how; `check` says whether it can be done.

    `sampling` is "middle" or "longest", see `m2dit_jax.data.video`; `stride`, in frames, is what
    "middle" takes and the most that "longest" takes. `fps` is the rate of the frames that these
    count; None: each video's own. Of a story that lost scenes the longest run
    of consecutive good ones is kept (the first of several), if it has `min_scenes`.
    """

    manifest: Manifest
    root: Path
    output: Path
    codec: Codec
    sampling: str
    stride: int
    seed: int
    min_scenes: int
    shard_scenes: int | None  # a shard is closed at so many; None: see SHARD_BYTES
    workers: int
    time_limit: float | int  # seconds for the decoding of one scene
    fps: Fraction | None = None
    hashed: bool = False  # whether the content of the videos is hashed

    @cached_property
    def info(self) -> EncodedInfo:
        """What will hold for all scenes."""
        return self.codec.info(self.manifest.kind)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the bytes of the dataset depend on, but for the videos themselves."""
        return {
            "manifest": self.manifest.source.name,
            "manifest_sha256": self._manifest_digest(),
            "kind": self.manifest.kind,
            "codec": self.info.codec,
            "frames": self.info.frames,
            "height": self.info.height,
            "width": self.info.width,
            "sampling": self.sampling,
            "stride": self.stride,
            "seed": self.seed,
            "min_scenes": self.min_scenes,
            "shard_scenes": self.shard_scenes or SHARD_SCENES,
            **({"most_shards": MOST_SHARDS} if self._has_few_shards else {}),
            **({} if self.fps is None else {"fps": str(self.fps)}),
            **self.codec.settings(),
        }

    @cached_property
    def scene_counts(self) -> Sequence[int]:
        """Number of scenes of each story of the manifest."""
        return self.manifest.scene_counts

    def scenes_in(self, shards: Iterable[int]) -> int:
        """Number of scenes of the manifest in these shards."""
        return sum(sum(self.scene_counts[n] for n in self.shards[shard]) for shard in shards)

    @cached_property
    def _has_few_shards(self) -> bool:
        """Whether MOST_SHARDS holds: not for a given number of scenes, nor in older datasets."""
        begun = _settings_there(self.output)
        return self.shard_scenes is None and (begun is None or "most_shards" in begun)

    @cached_property
    def shards(self) -> list[range]:
        """Numbers of the stories of each shard."""
        limit = min(
            self.shard_scenes or SHARD_SCENES, max(SHARD_BYTES // self.info.scene_nbytes, 1)
        )
        if self._has_few_shards:
            limit = max(limit, -(-sum(self.scene_counts) // MOST_SHARDS))
        bounds, scenes = [0], 0
        for number, count in enumerate(self.scene_counts):
            if scenes and scenes + count > limit:
                bounds.append(number)
                scenes = 0
            scenes += count
        bounds.append(len(self.manifest.stories))
        return [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]

    def relative(self, video: Path) -> str:
        """Path of a video as the dataset knows it, whatever the root is called."""
        return self._relative(video)

    @cached_property
    def _relative(self) -> Callable[[Path], str]:
        return lru_cache(4096)(lambda video: relative_path(video, self.root))

    def _manifest_digest(self) -> str:
        digest = hashlib.sha256()
        for story in self.manifest.stories:
            scenes = [
                [self.relative(s.video), s.caption, s.start, s.end, dict(s.metadata), *_frames(s)]
                for s in story.scenes
            ]
            digest.update(json.dumps([story.name, scenes]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class EncodeReport:
    """What has become of a manifest; `dataset` is None if nothing could be encoded."""

    dataset: EncodedDataset | None
    skipped: list[Skipped]
    cut_captions: int
    unknown: list[UnknownText]
    was_finished: bool = False
    changed: Sequence[str] = ()
    """Videos that a dataset which was finished before was made of, and that are others now."""


def relative_path(video: Path, root: Path) -> str:
    """With slashes; a path that is not under the root stays as it is."""
    for base in (root, root.absolute(), root.resolve()):
        if video.is_relative_to(base):
            return video.relative_to(base).as_posix()
    return video.as_posix()


def check(job: EncodeJob) -> None:
    """Raises ValueError if the job cannot be done or does not fit what the output holds."""
    shard_scenes = 1 if job.shard_scenes is None else job.shard_scenes
    if min(job.stride, job.min_scenes, shard_scenes) < 1 or job.seed < 0:
        raise ValueError(
            "stride, min_scenes and shard_scenes must be at least 1 and seed at least 0, found "
            f"{job.stride}, {job.min_scenes}, {job.shard_scenes} and {job.seed}"
        )
    size = job.info.scene_nbytes
    longest = max(range(len(job.scene_counts)), key=job.scene_counts.__getitem__)
    if job.scene_counts[longest] * size > _RECORD_BYTES:
        raise ValueError(
            f"{job.manifest.source}: story {job.manifest.stories[longest].name!r} has "
            f"{job.scene_counts[longest]} scenes, {_RECORD_BYTES // size} are the most at "
            f"{size / 1e6:.1f} MB a scene; split it"
        )
    _check_output(job)
    _check_disk(job)


def finished_shards(job: EncodeJob) -> int:
    """How many an earlier run of the same job has written."""
    records = [_read_record(job, n) for n in range(len(job.shards))]
    return sum(record is not None for record in records)


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
    with _locked(job.output):
        _drop_changed(job)
        _clear_leftovers(job)
        write_json(job.output / PROGRESS / "settings.json", job.settings)
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

_Result = DecodedScene | Failure


@dataclass(frozen=True)
class _KeptStory:
    """A story's good scenes, with their numbers."""

    story: ManifestStory
    scenes: list[tuple[int, DecodedScene]]


def _encode_shards(job: EncodeJob) -> None:
    """Writes what is missing."""
    shards = job.shards
    missing = [n for n in range(len(shards)) if _read_record(job, n) is None]
    clips = job.scenes_in(missing)
    with (
        WorkerPool(decode_scene, job.workers, job.time_limit) as pool,
        progress_bar(clips, "encode", "clips") as progress,
    ):
        failures = 0

        def counted(results: Iterator[_Result]) -> Iterator[_Result]:
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
            return (task for story in shards[number] for task in _tasks(job, story))

        tasks = (task for n in missing for task in tasks_of(n))
        # Enough that the workers do not wait while the device computes or a shard is closed.
        decoded = counted(pool.map(tasks, ahead=2 * job.workers + job.codec.batch_size))
        for number in missing:
            _encode_shard(job, number, decoded, stamps)


def _encode_shard(
    job: EncodeJob,
    number: int,
    decoded: Iterator[_Result],
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
            unknown.extend(_unknown(job, story))
            _count(statistics, story)
            yield story

    kept = _kept_stories(job, shards[number], decoded, skipped)
    path = job.output / shard_name(number, len(shards))
    shard = write_shard(path, job.info, counted(_encoded_stories(job, kept)))
    record = _ShardRecord(
        shard=shard,
        scene_counts=counts,
        skipped=skipped,
        cut_captions=cut_captions,
        unknown=unknown,
        statistics={name: dict(counter) for name, counter in statistics.items()},
        videos=stamps.pop(number),
    )
    write_json(_record_path(job, number), seal(record))


def _tasks(job: EncodeJob, number: int) -> Iterator[SceneTask]:
    """Of one story; what is drawn depends on the seed and the scene's place only."""
    info = job.info
    for index, scene in enumerate(job.manifest.stories[number].scenes):
        yield SceneTask(
            path=job.root / scene.video,
            start=scene.start,
            end=scene.end,
            frames=info.frames,
            height=info.height,
            width=info.width,
            sampling=job.sampling,
            stride=job.stride,
            draw=float(np.random.default_rng([job.seed, number, index]).random()),
            first_frame=scene.first_frame,
            end_frame=scene.end_frame,
            fps=job.fps,
        )


def _kept_stories(
    job: EncodeJob,
    numbers: Iterable[int],
    decoded: Iterator[_Result],
    skipped: list[Skipped],
) -> Iterator[_KeptStory]:
    """The longest run of good scenes of each story; `skipped` learns of all others."""
    for number in numbers:
        story = job.manifest.stories[number]
        results = list(islice(decoded, len(story.scenes)))
        good = longest_run([not isinstance(result, Failure) for result in results])
        if len(good) < job.min_scenes:
            good = range(0)
        for index, (scene, result) in enumerate(zip(story.scenes, results, strict=True)):
            if isinstance(result, Failure):
                skipped.append(_skipped(job, scene, result.reason))
            elif index not in good:
                reason = "is good, but not in the longest run of good scenes of its story"
                skipped.append(_skipped(job, scene, reason))
        scenes = [(i, result) for i in good if not isinstance(result := results[i], Failure)]
        if scenes:
            yield _KeptStory(story, scenes)


def _encoded_stories(job: EncodeJob, kept: Iterator[_KeptStory]) -> Iterator[EncodedStory]:
    """The codec sees batches of scenes, whatever their stories."""
    waiting: deque[_KeptStory] = deque()

    def scenes() -> Iterator[tuple[np.ndarray, str]]:
        for story in kept:
            waiting.append(story)
            for index, scene in story.scenes:
                yield scene.pixels, story.story.scenes[index].caption

    arrays = _encoded_scenes(job.codec, scenes())
    for first in arrays:
        story = waiting.popleft()
        rows = [first, *islice(arrays, len(story.scenes) - 1)]
        stacked: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in first}
        yield EncodedStory(
            name=story.story.name,
            captions=[story.story.scenes[index].caption for index, _ in story.scenes],
            origins=[
                _origin(job, index, story.story.scenes[index], scene)
                for index, scene in story.scenes
            ],
            **stacked,
        )


def _encoded_scenes(
    codec: Codec, scenes: Iterator[tuple[np.ndarray, str]]
) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each scene; while one batch is computed, the one before is handed on."""
    computing: deque[tuple[int, dict[str, Any]]] = deque()

    def fetch() -> Iterator[dict[str, np.ndarray]]:
        count, batch = computing.popleft()
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        for row in range(count):
            yield {name: array[row] for name, array in arrays.items()}

    while some := list(islice(scenes, codec.batch_size)):
        # The last batch of a shard is filled up: one compilation, and the same sums in the same
        # order wherever the work is taken up again.
        full = some + [some[-1]] * (codec.batch_size - len(some))
        clips, captions = zip(*full, strict=True)
        computing.append((len(some), codec.encode(np.stack(clips), captions)))
        if len(computing) > 1:
            yield from fetch()
    while computing:
        yield from fetch()


def _frames(scene: ClipScene) -> list[int | None]:
    """The numbers of frames that a scene gives; empty where there are none, as in older formats."""
    frames = [scene.first_frame, scene.end_frame]
    return [] if frames == [None, None] else frames


def _origin(job: EncodeJob, index: int, scene: ClipScene, decoded: DecodedScene) -> Origin:
    origin = Origin(
        scene=index + 1,
        place=scene.place,
        video=job.relative(scene.video),
        start=scene.start,
        end=scene.end,
        source=decoded.source,
        frames=decoded.numbers,
        metadata=dict(scene.metadata),
    )
    if scene.first_frame is not None:
        origin["first_frame"] = scene.first_frame
    if scene.end_frame is not None:
        origin["end_frame"] = scene.end_frame
    if decoded.fps is not None:
        origin["fps"] = decoded.fps
    return origin


def _count(statistics: Mapping[str, Counter[str]], story: EncodedStory) -> None:
    for caption, origin in zip(story["captions"], story["origins"], strict=True):
        source = origin["source"]
        statistics["size"][f"{source['width']} x {source['height']}"] += 1
        statistics["fps"][f"{source['fps']:.5g}"] += 1
        statistics["seconds"][str(round(source["seconds"]))] += 1
        statistics["words"][str(len(caption.split()))] += 1


def _unknown(job: EncodeJob, story: EncodedStory) -> Iterator[UnknownText]:
    for caption, origin in zip(story["captions"], story["origins"], strict=True):
        lost = job.codec.lost(caption)
        if lost.share:
            yield UnknownText(
                place=origin["place"], share=round(lost.share, 3), characters=list(lost.pieces)
            )


def longest_run(good: Sequence[bool]) -> range:
    """Of consecutive true values; the first of several of the same length."""
    best, start = range(0), 0
    for index, value in enumerate([*good, False]):
        if not value:
            if index - start > len(best):
                best = range(start, index)
            start = index + 1
    return best


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


def _records(job: EncodeJob) -> Iterator[_ShardRecord]:
    records = (_read_record(job, number) for number in range(len(job.shards)))
    return (record for record in records if record is not None)


def _sum_statistics(parts: Iterable[Statistics]) -> Statistics:
    total = {name: Counter() for name in STATISTICS}
    for part in parts:
        for name, counts in part.items():
            total[name].update(counts)
    return {name: dict(sorted(counts.items())) for name, counts in total.items()}


def _skipped(job: EncodeJob, scene: ClipScene, reason: str) -> Skipped:
    path = str(job.root / scene.video)
    reason = reason.replace(f"{path}: ", "").replace(path, job.relative(scene.video))
    kind = re.sub(r"\d+(\.\d+)?", "N", reason.split(" (")[0])
    return Skipped(place=scene.place, video=job.relative(scene.video), kind=kind, reason=reason)


# --- what an interrupted run has left


def _record_path(job: EncodeJob, number: int) -> Path:
    return job.output / PROGRESS / f"{number:05d}.json"


def _read_record(job: EncodeJob, number: int) -> _ShardRecord | None:
    """None if the shard is not finished, or if it or its record is damaged: it is made again."""
    path = job.output / shard_name(number, len(job.shards))
    try:
        text = _record_path(job, number).read_text(encoding="utf-8")
        record = json.loads(text)
        if not is_sealed(record):
            return None
        shard = Shard(**record["shard"])
        known = shard_digest(shard)
        if known is None:  # of an earlier version
            return record if path.stat().st_size == shard["bytes"] else None
        return record if is_same(path, known) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _check_output(job: EncodeJob) -> None:
    """Raises ValueError if the output is anything but free or begun with the same settings."""
    if not job.output.exists():
        return
    if not job.output.is_dir():
        raise ValueError(f"{job.output}: is a file, needs a folder")
    there = _settings_there(job.output)
    if there is None:
        if (job.output / PROGRESS / "settings.json").is_file():
            return  # nothing would be lost
        others = {path.name for path in job.output.iterdir()} - {PROGRESS, SKIPPED}
        if others:
            raise ValueError(
                f"{job.output}: is not empty and no output of this command "
                f"({', '.join(sorted(others)[:5])})"
            )
        return
    ours = job.settings
    different = [
        f"  {name}: {there.get(name)!r} there, {ours.get(name)!r} now"
        for name in {**there, **ours}
        if there.get(name) != ours.get(name)
        and not (name == CONTENT and name not in there)  # of an older version
    ]
    if different:
        raise ValueError(
            "\n".join([f"{job.output}: was begun with other settings;", *different])
            + "\nneeds another --output, or the same settings"
        )


def _settings_there(output: Path) -> dict[str, Any] | None:
    """The settings that a finished or begun dataset was made with; None if nothing would be lost.

    Raises ValueError if they are damaged.
    """
    begun = output / PROGRESS / "settings.json"
    if (output / FINISHED).exists():
        return EncodedDataset(output).settings
    if begun.is_file() and any(_shard_records(output)):
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


def _shard_records(output: Path) -> Iterator[Path]:
    return (output / PROGRESS).glob("[0-9]*.json")


def _stamp_shard(job: EncodeJob, number: int) -> Stamps:
    scenes = (scene for story in job.shards[number] for scene in job.manifest.stories[story].scenes)
    return stamp_videos(job.root, (job.relative(scene.video) for scene in scenes), job.hashed)


def _drop_changed(job: EncodeJob) -> list[str]:
    """Takes finished shards whose videos have changed since for unfinished, and says which.

    Returns the names of the videos.
    """
    found: dict[str, None] = {}
    for number in range(len(job.shards)):
        record = _read_record(job, number)
        changed = record and changed_videos(job.root, record.get("videos", {}), job.hashed)
        if changed:
            _record_path(job, number).unlink()
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
    done = {shard_name(n, total) for n in range(total) if _read_record(job, n) is not None}
    for path in [*job.output.glob(f"{NAME}-{SPLIT}.*"), *job.output.glob(".*.part")]:
        if path.name not in done:
            path.unlink()


def _check_disk(job: EncodeJob) -> None:
    shards = job.shards
    left = [n for n in range(len(shards)) if _read_record(job, n) is None]
    if (job.output / FINISHED).exists():
        left = []
    scenes = job.scenes_in(left)
    needed = _COMPRESSED * scenes * job.info.scene_nbytes
    place = job.output.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"{job.output}: needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )


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
