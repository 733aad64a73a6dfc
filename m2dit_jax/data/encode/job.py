"""A job names what to encode and how; `check` says whether it can be done."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from m2dit_jax.data.encode.codecs import CONTENT, Codec
from m2dit_jax.data.encode.records import SETTINGS, ShardRecord, read_record, settings_there
from m2dit_jax.data.encoded import FINISHED, PROGRESS, SKIPPED, EncodedInfo
from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ClipScene
from m2dit_jax.utils.disks import check_room
from m2dit_jax.utils.remote.objects import address_of
from m2dit_jax.utils.sizes import size_text

# A shard is closed at so much; tensorflow-datasets wants no more. Where that would make more shards
# than MOST_SHARDS, they are larger: a file system and whoever copies a dataset want few files.
SHARD_BYTES, SHARD_SCENES, MOST_SHARDS = 10**9, 256, 512
_RECORD_BYTES = 2 * 10**9  # protobuf's limit is 2 GiB
# Pixels of natural video and latents become about that much smaller.
_COMPRESSED = 0.75


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
        begun = settings_there(self.output)
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

    def record(self, shard: int) -> ShardRecord | None:
        """The record of a finished shard, None if the shard is to be made."""
        return read_record(self.output, shard, len(self.shards))


def relative_path(video: Path, root: Path) -> str:
    """The video's name below the root, with slashes; elsewhere its whole path, or its address."""
    if (address := address_of(video)) is not None:
        return address
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
            f"{size_text(size)} a scene; split it"
        )
    _check_output(job)
    _check_disk(job)


def finished_shards(job: EncodeJob) -> int:
    """How many an earlier run of the same job has written."""
    records = [job.record(n) for n in range(len(job.shards))]
    return sum(record is not None for record in records)


def _check_output(job: EncodeJob) -> None:
    """Raises ValueError if the output is anything but free or begun with the same settings."""
    if not job.output.exists():
        return
    if not job.output.is_dir():
        raise ValueError(f"{job.output}: is a file, needs a folder")
    there = settings_there(job.output)
    if there is None:
        others = {path.name for path in job.output.iterdir()} - {PROGRESS, SKIPPED}
        # With settings nothing would be lost. Looked at last: another part may begin right now.
        if others and not (job.output / PROGRESS / SETTINGS).is_file():
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


def _check_disk(job: EncodeJob) -> None:
    shards = job.shards
    left = [n for n in range(len(shards)) if job.record(n) is None]
    if (job.output / FINISHED).exists():
        left = []
    scenes = job.scenes_in(left)
    check_room(job.output, int(_COMPRESSED * scenes * job.info.scene_nbytes))


def _frames(scene: ClipScene) -> list[int | None]:
    """The numbers of frames that a scene gives; empty where there are none, as in older formats."""
    frames = [scene.first_frame, scene.end_frame]
    return [] if frames == [None, None] else frames
