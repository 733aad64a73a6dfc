"""One scene out of its video; what the worker processes do, so that imports are few."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.data.video import (
    VideoError,
    frames_between,
    longest_stride_frames,
    middle_frames,
    probe_video,
    read_frames,
)

SAMPLINGS = {"middle": middle_frames, "longest": longest_stride_frames}


@dataclass(frozen=True)
class SceneTask:
    """What to decode: `frames` frames of height x width pixels, between `start` and `end` seconds.

    `sampling` is a key of SAMPLINGS, `stride` in frames; `draw`, in 0..1, decides what is drawn.
    """

    path: Path
    start: float | None
    end: float | None
    frames: int
    height: int
    width: int
    sampling: str
    stride: int
    draw: float


@dataclass(frozen=True)
class DecodedScene:
    """Pixels, the numbers of their frames in the video, and what the video is like."""

    pixels: UInt8[np.ndarray, "F H W 3"]
    numbers: list[int]
    source: dict[str, Any]


def decode_scene(task: SceneTask) -> DecodedScene:
    """Raises VideoError if the video, or the part of it, is unreadable or too short."""
    video = probe_video(task.path)
    part = frames_between(task.path, task.start, task.end)
    if len(part) < task.frames:
        what = "video" if len(part) == video.frames else "part"
        raise VideoError(f"{task.path}: the {what} has {len(part)} frames, needs {task.frames}")
    chosen = SAMPLINGS[task.sampling](len(part), task.frames, task.stride, task.draw)
    numbers = [part[number] for number in chosen]
    pixels = read_frames(task.path, numbers, task.height, task.width)
    return DecodedScene(pixels, numbers, asdict(video))
