"""Decoded scenes become the encoded stories of a dataset, in the order of the manifest."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from m2dit_jax.data.encode.codecs import Codec
from m2dit_jax.data.encode.job import EncodeJob
from m2dit_jax.data.encode.records import UnknownText
from m2dit_jax.data.encode.scene_decoding import DecodedScene, SceneTask
from m2dit_jax.data.encode.workers import Failure
from m2dit_jax.data.encoded import EncodedStory, Origin, Skipped
from m2dit_jax.data.story_table import ClipScene, ManifestStory

Result = DecodedScene | Failure


def decoding_tasks(job: EncodeJob, number: int) -> Iterator[SceneTask]:
    """The scenes of a story to decode; seed and place decide what is drawn, nothing else."""
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


@dataclass(frozen=True)
class _KeptStory:
    """A story's good scenes, with their numbers."""

    story: ManifestStory
    scenes: list[tuple[int, DecodedScene]]


def _kept_stories(
    job: EncodeJob,
    numbers: Iterable[int],
    decoded: Iterator[Result],
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


def encoded_stories(
    job: EncodeJob, numbers: Iterable[int], decoded: Iterator[Result], skipped: list[Skipped]
) -> Iterator[EncodedStory]:
    """The stories of these numbers, whose scenes come next in `decoded`, encoded.

    `skipped` learns of the scenes that are left out. The codec sees batches of scenes, whatever
    their stories.
    """
    kept = _kept_stories(job, numbers, decoded, skipped)
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


def _skipped(job: EncodeJob, scene: ClipScene, reason: str) -> Skipped:
    path = str(job.root / scene.video)
    reason = reason.replace(f"{path}: ", "").replace(path, job.relative(scene.video))
    kind = re.sub(r"\d+(\.\d+)?", "N", reason.split(" (")[0])
    return Skipped(place=scene.place, video=job.relative(scene.video), kind=kind, reason=reason)


def count_story(statistics: Mapping[str, Counter[str]], story: EncodedStory) -> None:
    for caption, origin in zip(story["captions"], story["origins"], strict=True):
        source = origin["source"]
        statistics["size"][f"{source['width']} x {source['height']}"] += 1
        statistics["fps"][f"{source['fps']:.5g}"] += 1
        statistics["seconds"][str(round(source["seconds"]))] += 1
        statistics["words"][str(len(caption.split()))] += 1


def unknown_texts(job: EncodeJob, story: EncodedStory) -> Iterator[UnknownText]:
    for caption, origin in zip(story["captions"], story["origins"], strict=True):
        lost = job.codec.lost(caption)
        if lost.share:
            yield UnknownText(
                place=origin["place"], share=round(lost.share, 3), characters=list(lost.pieces)
            )


def longest_run(good: Sequence[bool]) -> range:
    """The longest run of consecutive true values, the first of several of the same length."""
    best, start = range(0), 0
    for index, value in enumerate([*good, False]):
        if not value:
            if index - start > len(best):
                best = range(start, index)
            start = index + 1
    return best
