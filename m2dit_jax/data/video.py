"""Chosen frames of a video, exactly by their number, resized and cropped.

Frames are counted in the order in which they are shown. Their times come from the packets, which
is quick, so that decoding begins at the key frame before a wanted frame.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

from m2dit_jax.utils.compat import open_video
from m2dit_jax.utils.media import READABLE, VideoError

MAX_PIXELS = 64_000_000  # of a frame; more is an attack or a mistake
TIME_LIMIT = 60.0  # seconds for one call
_MIDDLE = (0.05, 0.95)  # shares of a clip between which stage 1 samples (reference)


@dataclass(frozen=True)
class VideoInfo:
    """Height and width are of the upright picture, fps is the average."""

    frames: int
    fps: float
    height: int
    width: int
    seconds: float


def probe_video(path: Path, time_limit: float = TIME_LIMIT) -> VideoInfo:
    """Reads the packets, decodes one frame. Raises VideoError for what is no readable video."""
    with _Reader(path, time_limit) as reader:
        times = reader.times()
        first = next(reader.decode())
        height, width = first.height, first.width
        if round(first.rotation / 90) % 2:
            height, width = width, height
        seconds = (times[-1] - times[0]) * reader.unit
        if len(times) > 1:
            seconds *= len(times) / (len(times) - 1)  # the last frame lasts as well
        fps = len(times) / seconds if seconds > 0 else float(reader.stream.average_rate or 1)
        return VideoInfo(len(times), fps, height, width, seconds or 1 / fps)


def frames_between(
    path: Path, start: float | None, end: float | None, time_limit: float = TIME_LIMIT
) -> range:
    """Numbers of the frames from `start` on and before `end`, in seconds from the first frame.

    By the times of the frames, which need not be evenly spaced. Raises VideoError as `probe_video`.
    """
    with _Reader(path, time_limit) as reader:
        times = reader.times()
        seconds = [(pts - times[0]) * reader.unit + 1e-6 for pts in times]
    first = 0 if start is None else bisect_left(seconds, start)
    return range(first, len(times) if end is None else bisect_left(seconds, end))


def middle_frames(frames: int, wanted: int, stride: int, draw: float) -> list[int]:
    """Every `stride`-th frame from a drawn place within the middle 5 to 95 % of a clip.

    Where these are too few, they are spread evenly over the middle, or over the whole clip. `draw`
    is in 0..1. Stage 1 of the reference. Raises ValueError if the clip is shorter than wanted.
    """
    _check_length(frames, wanted)
    low, high = int(_MIDDLE[0] * frames), max(int(_MIDDLE[1] * frames), 1)
    span = (wanted - 1) * stride + 1
    if high - low >= span:
        start = low + int(draw * (high - low - span + 1))
        return [start + stride * i for i in range(wanted)]
    if high - low < wanted:
        low, high = 0, frames
    return np.linspace(low, high - 1, wanted).astype(int).tolist()


def longest_stride_frames(frames: int, wanted: int, max_stride: int, draw: float) -> list[int]:
    """Frames from a drawn place on, as far apart as fits and at most `max_stride`.

    `draw` is in 0..1. Stage 2 of the reference. Raises ValueError if the clip is too short.
    """
    _check_length(frames, wanted)
    stride = max_stride if wanted == 1 else min(max_stride, (frames - 1) // (wanted - 1))
    span = (wanted - 1) * stride + 1
    start = int(draw * (frames - span + 1))
    return [start + stride * i for i in range(wanted)]


def read_frames(
    path: Path, numbers: Sequence[int], height: int, width: int, time_limit: float = TIME_LIMIT
) -> UInt8[np.ndarray, "F {height} {width} 3"]:
    """The frames with these numbers, ascending, short side resized and the middle cropped.

    Raises VideoError if the video is unreadable or damaged there, too short, or takes longer than
    `time_limit` seconds.
    """
    with _Reader(path, time_limit) as reader:
        times = reader.times()
        if numbers[-1] >= len(times):
            raise VideoError(f"{path}: has {len(times)} frames, needs {numbers[-1] + 1}")
        wanted = [times[number] for number in numbers]
        found = {
            frame.pts: _cover(frame, height, width)
            for frame in reader.frames_at(sorted(set(wanted)))
        }
    return np.stack([found[pts] for pts in wanted])


class _Reader:
    """An open video, its first video stream, and the time until which it may be read."""

    def __init__(self, path: Path, time_limit: float):
        self.path = path
        self._deadline = time.monotonic() + time_limit
        self._time_limit = time_limit

    def __enter__(self) -> "_Reader":
        try:
            if not self.path.is_file():
                raise VideoError(f"{self.path}: no such file")
            self._container = open_video(self.path, READABLE, self._time_limit)
        except (FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{self.path}: holds no video")
        self.stream = self._container.streams.video[0]
        self.stream.thread_type = "NONE"  # workers have a core each
        self.unit = float(self.stream.time_base or 1)
        # AVI has no times of presentation: B-frames carry wrong ones. Then frames are counted.
        self._counted = "avi" in self._container.format.name
        if self._counted:
            self.unit = float(1 / (self.stream.average_rate or 1))
        pixels = self.stream.codec_context.width * self.stream.codec_context.height
        if pixels > MAX_PIXELS:
            self._container.close()
            raise VideoError(
                f"{self.path}: a frame has {pixels} pixels, may have {MAX_PIXELS} at most"
            )
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._container.close()
        if isinstance(error, FFmpegError | OSError | EOFError):
            raise self._unreadable(error) from error

    def times(self) -> list[int]:
        """Time stamps of all frames, in the order in which they are shown."""
        times, self._keys = [], []
        for packet in () if self._counted else self._packets():
            if packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe:
                    self._keys.append(packet.pts)
        # Some containers have no times or wrong ones: then decoding tells.
        if not times or len(set(times)) != len(times) or not self._keys:
            self._rewind()
            times = [frame.pts for frame in self.decode() if frame.pts is not None]
            self._keys = times[:1]
        if not times:
            raise VideoError(f"{self.path}: holds no frames")
        self._keys.sort()
        self._rewind()
        return sorted(times)

    def frames_at(self, wanted: Sequence[int]) -> Iterator[av.VideoFrame]:
        """The frames with these ascending time stamps."""
        position, frames, chosen = None, iter(()), frozenset(wanted)
        for pts in wanted:
            # The first frame that can be decoded is a key frame; others may need those before it.
            key = self._keys[max(bisect_right(self._keys, pts) - 1, 0)]
            if position is None or key > position:
                if self._counted:
                    self._rewind()
                else:
                    self._container.seek(key, stream=self.stream, backward=True)
                frames = self.decode(chosen)
            frame = self._until(frames, pts)
            if frame is None:  # the container is bad at seeking
                self._rewind()
                frames = self.decode(chosen)
                frame = self._until(frames, pts)
            if frame is None:
                raise VideoError(f"{self.path}: damaged at {pts * self.unit:.2f} s")
            position = pts
            yield frame

    def _until(self, frames: Iterator[av.VideoFrame], pts: int) -> av.VideoFrame | None:
        """The frame of that time, None if a later one comes first or there are no more."""
        for frame in frames:
            if frame.pts == pts:
                return None if frame.is_corrupt else frame
            if frame.pts is not None and frame.pts > pts:
                return None
        return None

    def decode(self, chosen: frozenset[int] | None = None) -> Iterator[av.VideoFrame]:
        """All frames from here on; if some are chosen, only these and those they depend on."""
        found = 0
        for packet in self._packets():
            if chosen is not None and not self._counted:
                needed = packet.pts is None or packet.pts in chosen
                self.stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                if self._counted:
                    frame.pts = found
                found += 1
                if frame.width * frame.height > MAX_PIXELS:
                    raise VideoError(f"{self.path}: a frame of {frame.width}x{frame.height}")
                yield frame
        if not found and chosen is None:  # after a seek there may be none: then the start is tried
            raise VideoError(f"{self.path}: holds no frames")

    def _packets(self) -> Iterator[av.Packet]:
        for packet in self._container.demux(self.stream):
            if time.monotonic() > self._deadline:
                raise VideoError(f"{self.path}: took longer than {self._time_limit:g} s")
            yield packet

    def _rewind(self) -> None:
        start = self.stream.start_time or 0
        self._container.seek(min(start, 0), stream=self.stream, backward=True)

    def _unreadable(self, error: BaseException) -> VideoError:
        if time.monotonic() > self._deadline:
            return VideoError(f"{self.path}: took longer than {self._time_limit:g} s")
        reason = getattr(error, "strerror", None) or error
        return VideoError(f"{self.path}: not a readable video ({reason})")


def _cover(
    frame: av.VideoFrame, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """The frame upright, the short side resized (anti-aliased), the middle cropped."""
    turns = round(frame.rotation / 90)
    target = (height, width) if turns % 2 == 0 else (width, height)
    scale = max(target[0] / frame.height, target[1] / frame.width)
    rows = max(round(frame.height * scale), target[0])
    columns = max(round(frame.width * scale), target[1])
    # Colours and size in one pass, four times as fast as one after the other; swscale widens its
    # filter where it makes pictures smaller. To planes: that is three times as fast as rgb24 of an
    # odd width, and keeps the colours sharp at even widths too, where rgb24 halves them.
    small = frame.reformat(
        width=columns,
        height=rows,
        format="gbrp",
        interpolation=Interpolation.BICUBIC,
        threads=1,  # workers have a core each
    ).to_ndarray()
    top, left = (rows - target[0]) // 2, (columns - target[1]) // 2
    cut = small[top : top + target[0], left : left + target[1]]
    return np.ascontiguousarray(np.rot90(cut, turns))


def _check_length(frames: int, wanted: int) -> None:
    if frames < wanted:
        raise ValueError(f"a clip of {frames} frames, needs {wanted}")
