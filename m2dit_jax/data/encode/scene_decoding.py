"""One scene out of its video; what the worker processes do, so that imports are few."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.data.scene_times import SceneTimes
from m2dit_jax.data.video import Video, longest_stride_frames, middle_frames
from m2dit_jax.utils.video_file import VideoError

SAMPLINGS = {"middle": middle_frames, "longest": longest_stride_frames}


@dataclass(frozen=True)
class SceneTask:
    """What to decode: `frames` frames of height x width pixels, between `start` and `end` seconds.

    `first_frame` and `end_frame` are numbers of frames that go before the seconds. `sampling` is a
    key of SAMPLINGS, `stride` in frames; `draw`, in 0..1, decides what is drawn. `fps` is the rate
    of the frames that these count; None: the video's own.
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
    first_frame: int | None = None
    end_frame: int | None = None
    fps: Fraction | None = None


@dataclass(frozen=True)
class DecodedScene:
    """Pixels, the numbers of their frames in the video, and what the video is like.

    `fps` is the rate at which frames were counted if it is not the constant one of the video.
    """

    pixels: UInt8[np.ndarray, "F H W 3"]
    numbers: list[int]
    source: dict[str, Any]
    fps: float | None = None


def decode_scene(task: SceneTask) -> DecodedScene:
    """Raises VideoError if the video, or the part of it, is unreadable or too short."""
    video = _opened(task.path)
    part = video.part(SceneTimes(task.start, task.end, task.first_frame, task.end_frame))
    counted = video.at_rate(part, task.fps)
    if len(counted) < task.frames:
        what = "video" if len(part) == video.frame_count() else "part"
        rate = "" if task.fps is None else f" at {float(task.fps):g} a second"
        raise VideoError(
            f"{task.path}: the {what} has {len(counted)} frames{rate}, needs {task.frames}"
        )
    chosen = SAMPLINGS[task.sampling](len(counted), task.frames, task.stride, task.draw)
    numbers = [part[counted[number]] for number in chosen]
    pixels = video.read(numbers, task.height, task.width)
    fps = video.usual_fps() if task.fps is None else float(task.fps)
    return DecodedScene(pixels, numbers, asdict(video.info()), fps)


_OPEN: OrderedDict[tuple[Path, int, int], Video] = OrderedDict()
_MOST_OPEN = 4  # of a worker; scenes that follow one another mostly come from one video


def _opened(path: Path) -> Video:
    """The video, which stays open for the next scene out of it unless the file changes."""
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
    key = path, status.st_size, status.st_mtime_ns
    video = _OPEN.pop(key) if key in _OPEN else Video(path)
    _OPEN[key] = video
    while len(_OPEN) > _MOST_OPEN:
        _OPEN.popitem(last=False)[1].close()
    return video
