"""Chosen frames of a video, exactly by their number, resized and cropped.

Frames are counted in the order in which they are shown. Their times come from the file's index, or
from its packets, so that decoding begins at the key frame before a wanted frame.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Discard
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

from m2dit_jax.data.headers_only import HeadersOnly
from m2dit_jax.data.scene_times import SceneTimes
from m2dit_jax.utils.compat import open_video
from m2dit_jax.utils.frame_times import (
    ROUNDING,
    FramesAtRate,
    are_even,
    first_frame_at,
    usual_step,
)
from m2dit_jax.utils.media import TIME_LIMIT, check_pixels
from m2dit_jax.utils.picture import Screen
from m2dit_jax.utils.video_file import READABLE, VideoError, best_stream, open_clip

_MIDDLE = (0.05, 0.95)  # shares of a clip between which stage 1 samples (reference)


@dataclass(frozen=True)
class VideoInfo:
    """Height and width are of the picture as players show it, fps is the average."""

    frames: int
    fps: float
    height: int
    width: int
    seconds: float


def probe_video(path: Path, time_limit: float = TIME_LIMIT) -> VideoInfo:
    """Length, rate and size of a video. Raises VideoError for what is no readable video."""
    with closing(Video(path, time_limit)) as video:
        return video.info()


def frames_between(
    path: Path, start: float | None, end: float | None, time_limit: float = TIME_LIMIT
) -> range:
    """Numbers of the frames from `start` on and before `end`, in seconds from the first frame.

    By the times of the frames, which need not be evenly spaced. Raises VideoError as `probe_video`.
    """
    with closing(Video(path, time_limit)) as video:
        return video.between(start, end)


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
    """The frames with these numbers, ascending, as `m2dit_jax.utils.picture` shows them.

    Raises VideoError if the video is unreadable or damaged there, too short, or takes longer than
    `time_limit` seconds.
    """
    with closing(Video(path, time_limit)) as video:
        return video.read(numbers, height, width)


class Video:
    """A video that is opened once: the times of its frames are kept, frames are sought out.

    Of an MP4 or MOV file the header is read, and what lies between the key frame before a wanted
    frame and that frame; of other files, the first call reads all of it. Every call raises
    VideoError for what is unreadable, damaged there, or takes longer than `time_limit` seconds; the
    video is then closed, and opened again by the next call.
    """

    def __init__(self, path: Path, time_limit: float = TIME_LIMIT, threads: bool = False):
        self.path = path
        self._time_limit = time_limit
        self._threads = "AUTO" if threads else "NONE"  # workers have a core each
        self._container: Any = None
        self._times: list[int] | None = None
        self._even: bool | None = None
        self._shown_size: tuple[int, int] | None = None

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def frame_count(self) -> int:
        """Number of frames."""
        with self._at_work():
            return len(self._all_times())

    def info(self) -> VideoInfo:
        """Length, rate and size; the size is that of the first frame that `read` last gave.

        If there is none, the first frame is decoded.
        """
        with self._at_work():
            times = self._all_times()
            if self._shown_size is None:
                self._rewind()
                self._note_size(next(self._decode()))
            assert self._shown_size is not None
            height, width = self._shown_size
            seconds = (times[-1] - times[0]) * self._unit
            if len(times) > 1:
                seconds *= len(times) / (len(times) - 1)  # the last frame lasts as well
            fps = len(times) / seconds if seconds > 0 else float(self._stream.average_rate or 1)
            return VideoInfo(len(times), fps, height, width, seconds or 1 / fps)

    def between(self, start: float | None, end: float | None) -> range:
        """Numbers of the frames from `start` on and before `end`, in seconds from the first.

        A frame up to a millisecond before one of them counts as at it, see `first_frame_at`.
        """
        with self._at_work():
            count = len(self._all_times())
            first = 0 if start is None else self._first_at(start)
            return range(first, count if end is None else self._first_at(end))

    def part(self, times: SceneTimes) -> range:
        """Numbers of the frames of a scene.

        Raises VideoError for frames that the video does not have, or that the seconds contradict.
        """
        part = self.between(times.start, times.end)
        count = self.frame_count()
        first = self._agreed(times.first_frame, times.start, part.start, "first_frame", "start")
        after = self._agreed(times.end_frame, times.end, part.stop, "end_frame", "end")
        if first >= count > 0 and times.first_frame is not None:
            raise VideoError(f"{self.path}: has {count} frames, first_frame is {first}")
        if after > count:
            raise VideoError(f"{self.path}: has {count} frames, end_frame is {after}")
        return range(first, after)

    def _agreed(
        self, frame: int | None, seconds: float | None, by_seconds: int, name: str, said: str
    ) -> int:
        """The number of a frame, which goes before the one that the seconds name."""
        if frame is not None and seconds is not None and frame != by_seconds:
            raise VideoError(
                f"{self.path}: {name} is {frame}, but {said} {seconds:g} s is frame {by_seconds}; "
                "needs one of them, or the same in both"
            )
        return by_seconds if frame is None else frame

    def at_rate(self, part: range, fps: Fraction | None) -> Sequence[int]:
        """Frames that `part` has at so many a second, as numbers counted from its first.

        They are the nearest in time, and come several times where the video has fewer. None: the
        frames themselves, or at the usual rate of the video where its rate is variable.
        """
        with self._at_work():
            times = self._all_times()
            if not part or (fps is None and self._is_even()):
                return range(len(part))
            step = usual_step(times) if fps is None else 1 / (fps * self._tick)
            return FramesAtRate(times[part.start : part.stop], step)

    def usual_fps(self) -> float | None:
        """The rate that `at_rate` takes where that is variable; None where it is constant."""
        with self._at_work():
            times = self._all_times()
            return None if self._is_even() else float(1 / (usual_step(times) * self._tick))

    def time_at(self, number: int) -> Fraction:
        """Seconds from the first frame to the frame of this number, or to the end of the last."""
        with self._at_work():
            times = self._all_times()
            if number < len(times):
                return (times[number] - times[0]) * self._tick
            last = times[-1] - times[-2] if len(times) > 1 else 1 / (self._rate() * self._tick)
            return (times[-1] - times[0] + last) * self._tick

    def small_frames(self, width: int) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
        """Number and blue, green and red of every frame, at most `width` pixels wide, as stored."""
        with self._at_work():
            numbers = {time: number for number, time in enumerate(self._all_times())}
            self._rewind()
            for frame in self._decode():
                if frame.pts in numbers:
                    scale = min(1, width / frame.width)
                    size = (max(round(side * scale), 1) for side in (frame.width, frame.height))
                    columns, rows = size
                    yield (
                        numbers[frame.pts],
                        frame.reformat(
                            columns, rows, "bgr24", interpolation=Interpolation.AREA
                        ).to_ndarray(),
                    )

    def _first_at(self, seconds: float) -> int:
        times = self._all_times()
        moment = times[0] + Fraction(seconds) / self._tick
        return first_frame_at(times, moment, ROUNDING / self._tick)

    def _is_even(self) -> bool:
        if self._even is None:
            self._even = are_even(self._all_times())
        return self._even

    def _rate(self) -> Fraction:
        return Fraction(self._stream.average_rate or 1)

    def read(
        self, numbers: Sequence[int], height: int, width: int
    ) -> UInt8[np.ndarray, "F {height} {width} 3"]:
        """The frames with these numbers, ascending, resized and cropped as by `read_frames`."""
        with self._at_work():
            screen = Screen(self.path, (height, width), self._stream.sample_aspect_ratio)
            times = self._all_times()
            if numbers[-1] >= len(times):
                raise VideoError(f"{self.path}: has {len(times)} frames, needs {numbers[-1] + 1}")
            wanted = [times[number] for number in numbers]
            found = {}
            for frame in self._frames_at(sorted(set(wanted))):
                if not found:
                    self._note_size(frame)
                found[frame.pts] = screen.show(frame)
        return np.stack([found[pts] for pts in wanted])

    # --- the file

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._deadline = time.monotonic() + self._time_limit
        try:
            if self._container is None:
                self._open()
            yield
        except VideoError:
            self.close()
            raise
        except (FFmpegError, OSError, EOFError, ValueError) as error:
            self.close()
            raise self._unreadable(error) from error

    def _open(self) -> None:
        self._container, self._stream = open_clip(self.path, self._time_limit)
        self._stream.thread_type = self._threads
        for stream in self._container.streams:
            if stream.index != self._stream.index:
                stream.discard = Discard.all  # sound is not even read
        self._tick = Fraction(self._stream.time_base or 1)
        # AVI has no times of presentation: B-frames carry wrong ones. Then frames are counted.
        self._counted = "avi" in self._container.format.name
        if self._counted:
            self._tick = 1 / self._rate()
        self._unit = float(self._tick)
        codec = self._stream.codec_context
        check_pixels(self.path, codec.width, codec.height)

    def _all_times(self) -> list[int]:
        """Time stamps of all frames, in the order in which they are shown."""
        if self._times is None:
            times, keys = self._indexed() or self._demuxed()
            if not times:
                raise VideoError(f"{self.path}: holds no frames")
            self._times, self._keys = sorted(times), sorted(keys)
        return self._times

    def _indexed(self) -> tuple[list[int], list[int]] | None:
        """Times of all frames and of key frames by the header alone; None where it cannot tell."""
        if "mp4" not in self._container.format.name:
            return None
        try:
            with (
                HeadersOnly(self.path) as headers,
                open_video(headers, READABLE, self._time_limit) as container,
            ):
                stream = container.streams.video[best_stream(container, self.path)]
                packets = [
                    (packet.pts, packet.dts)
                    for packet in self._packets(container, stream)
                    if packet.pts is not None and not packet.is_discard
                ]
                # The packets themselves, being zeros, do not say what they are.
                is_key = {entry.timestamp for entry in stream.index_entries if entry.is_keyframe}
        except (FFmpegError, OSError, EOFError, ValueError) as error:
            if isinstance(error, VideoError):  # out of time
                raise
            return None
        times = [pts for pts, _ in packets]
        keys = [pts for pts, dts in packets if dts in is_key]
        return (times, keys) if _are_good(times, keys) else None

    def _demuxed(self) -> tuple[list[int], list[int]]:
        """The same by reading the whole file, and decoding it where its packets do not tell."""
        self._rewind()
        times, keys = [], []
        for packet in () if self._counted else self._packets(self._container, self._stream):
            if packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        # Some containers have no times or wrong ones: then decoding tells.
        if not _are_good(times, keys):
            self._rewind()
            times = [frame.pts for frame in self._decode() if frame.pts is not None]
            keys = times[:1]
        return times, keys

    def _frames_at(self, wanted: Sequence[int]) -> Iterator[av.VideoFrame]:
        """The frames with these ascending time stamps."""
        position, frames, chosen = None, iter(()), frozenset(wanted)
        for pts in wanted:
            # The first frame that can be decoded is a key frame; others may need those before it.
            key = self._keys[max(bisect_right(self._keys, pts) - 1, 0)]
            if position is None or key > position:
                if self._counted:
                    self._rewind()
                else:
                    self._container.seek(key, stream=self._stream, backward=True)
                frames = self._decode(chosen)
            frame = self._until(frames, pts)
            if frame is None:  # the container is bad at seeking
                self._rewind()
                frames = self._decode(chosen)
                frame = self._until(frames, pts)
            if frame is None:
                raise VideoError(f"{self.path}: damaged at {pts * self._unit:.2f} s")
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

    def _decode(self, chosen: frozenset[int] | None = None) -> Iterator[av.VideoFrame]:
        """All frames from here on; if some are chosen, only these and those they depend on."""
        found = 0
        if chosen is None:
            self._stream.codec_context.skip_frame = "DEFAULT"
        for packet in self._packets(self._container, self._stream):
            if chosen is not None and not self._counted:
                needed = packet.pts is None or packet.pts in chosen
                self._stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                if self._counted:
                    frame.pts = found
                found += 1
                check_pixels(self.path, frame.width, frame.height)
                yield frame
        if not found and chosen is None:  # after a seek there may be none: then the start is tried
            raise VideoError(f"{self.path}: holds no frames")

    def _note_size(self, frame: av.VideoFrame) -> None:
        self._shown_size = Screen(self.path, None, self._stream.sample_aspect_ratio).shown_size(
            frame
        )

    def _packets(self, container: Any, stream: Any) -> Iterator[av.Packet]:
        for packet in container.demux(stream):
            if time.monotonic() > self._deadline:
                raise VideoError(f"{self.path}: took longer than {self._time_limit:g} s")
            yield packet

    def _rewind(self) -> None:
        start = self._stream.start_time or 0
        self._container.seek(min(start, 0), stream=self._stream, backward=True)

    def _unreadable(self, error: BaseException) -> VideoError:
        if time.monotonic() > self._deadline:
            return VideoError(f"{self.path}: took longer than {self._time_limit:g} s")
        reason = getattr(error, "strerror", None) or error
        return VideoError(f"{self.path}: not a readable video ({reason})")


def _are_good(times: Sequence[int], keys: Sequence[int]) -> bool:
    return bool(times and keys) and len(set(times)) == len(times)


def _check_length(frames: int, wanted: int) -> None:
    if frames < wanted:
        raise ValueError(f"a clip of {frames} frames, needs {wanted}")
