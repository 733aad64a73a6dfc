"""Videos as files: clips are read, stories are written."""

import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.utils.compat import open_video
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.frame_times import evenly_in_time, evenly_spaced

# PyAV is imported where it is used: a run without videos does not need it.
if TYPE_CHECKING:
    import av

# The containers people keep clips in. Without the list FFmpeg also reads playlists and scripts,
# which can name other files and addresses.
READABLE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif",
}
MAX_PIXELS = 64_000_000  # of a frame; more is an attack or a mistake
TIME_LIMIT = 60.0  # seconds for one call that reads a clip
_PLAYER_SIDE = 256  # pixels: below it players show little, and 4:2:0 chroma smears the edges


class VideoError(ValueError):
    """A video file that cannot be read as it was meant to be."""


def check_clip(path: Path | str) -> None:
    """Decodes the first frame only. Raises VideoError when there is none, or it is too large."""
    for _ in _decoded(Path(path), TIME_LIMIT):
        return
    raise VideoError(f"{path}: holds no video frame")


def video_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "_H _W 3"]]:
    """Every frame, one after another, in its own size. Raises VideoError if it cannot be read."""
    for frame in _decoded(Path(path)):
        yield _upright(frame)


def read_clip(
    path: Path | str, frames: int, height: int, width: int
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """`frames` frames of the clip, evenly spread in time from its first to its last.

    The picture is scaled to cover height x width and cropped around its centre. Scaling down by a
    whole number averages whole pixels, so that a small video enlarged by write_mp4 comes back.
    Raises VideoError when the file is no readable video, has fewer frames than asked for, frames of
    more than MAX_PIXELS, or takes longer than TIME_LIMIT seconds to decode.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"needs sizes of 1 or more, found {frames=} {height=} {width=}")
    path = Path(path)
    # Decoded twice rather than kept: a long clip in full size does not fit in memory
    times = _ascending([frame.pts for frame in _decoded(path, TIME_LIMIT)])
    if len(times) < frames:
        raise VideoError(f"{path}: has {len(times)} frames, needs at least {frames}")
    chosen = evenly_in_time(times, frames)
    kept = set(chosen)
    found = {
        number: _cover(_upright(frame), height, width)
        for number, frame in enumerate(_decoded(path, TIME_LIMIT))
        if number in kept
    }
    return np.stack([found[number] for number in chosen])


def fit_clip(
    clip: UInt8[np.ndarray, "F H W 3"], frames: int, height: int, width: int
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """Frames in memory, chosen, scaled and cropped as `read_clip` does with those of a file.

    Raises VideoError when there are fewer frames than asked for.
    """
    if len(clip) < frames:
        raise VideoError(f"the clip has {len(clip)} frames, needs at least {frames}")
    return np.stack([_cover(clip[i], height, width) for i in evenly_spaced(len(clip), frames)])


def write_mp4(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "_H _W 3"]], fps: float | int
) -> None:
    """Writes H.264 that any player shows; the same frames give the same bytes.

    The frames, of one size, may come one after another. `fps` is in frames per second. A video
    smaller than 256 pixels is enlarged by a whole number, each pixel to a block; so is one with an
    odd side, which 4:2:0 does not allow.
    Raises ValueError when there is no frame or fps is not positive.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    rate, images = _frame_rate(fps), (_enlarged(frame) for frame in frames)
    first = next(images, None)
    if first is None:
        raise ValueError("needs at least one frame, found none")
    with atomic_write(Path(path)) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # x264's result depends on the number of threads
        # In the file too, else a player guesses the matrix from the size of the picture
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        for image in chain([first], images):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_gif(path: Path | str, frames: UInt8[np.ndarray, "F H W 3"], fps: float | int) -> None:
    """Writes an endless GIF, enlarged as by write_mp4, at no more than 50 frames per second.

    Raises ValueError when there is no frame or fps is not positive.
    """
    images = [Image.fromarray(_enlarged(frame)) for frame in frames]
    if not images:
        raise ValueError("needs at least one frame, found none")
    # GIF counts whole hundredths of a second: rounding the times of the frames, not their
    # durations, keeps the length of the whole right. Browsers slow down what is below 2.
    rate = min(_frame_rate(fps), Fraction(50))
    times = [round(100 * number / rate) for number in range(len(images) + 1)]
    durations = [10 * (end - start) for start, end in pairwise(times)]
    with atomic_write(Path(path)) as part:
        images[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
        )


def frames_digest(videos: UInt8[np.ndarray, "..."]) -> str:
    """SHA-256, in hex, of the shape and the pixels: equal exactly where the videos are."""
    digest = hashlib.sha256(repr(videos.shape).encode())
    digest.update(np.ascontiguousarray(videos).tobytes())
    return digest.hexdigest()


def enlargement(height: int, width: int) -> int:
    """The factor by which written videos are larger than their frames.

    It is the smallest whole number that makes the short side 256 pixels and both sides even.
    """
    factor = -(-_PLAYER_SIDE // min(height, width))
    return factor + 1 if factor % 2 and (height % 2 or width % 2) else factor


# --- reading


def _ascending(times: list[int | None]) -> list[int]:
    """The time stamps; the numbers of the frames where a container has none, or wrong ones."""
    known = [time for time in times if time is not None]
    good = len(known) == len(times) and all(a < b for a, b in pairwise(known))
    return known if good else list(range(len(times)))


def _decoded(path: Path, time_limit: float = math.inf) -> "Iterator[av.VideoFrame]":
    """The frames of the first video stream, one after another. Raises VideoError.

    `time_limit` is in seconds, from the first frame to the last.
    """
    from av.error import FFmpegError

    deadline = time.monotonic() + time_limit
    timeout = time_limit if math.isfinite(time_limit) else None
    try:
        if not path.is_file():
            raise VideoError(f"{path}: no such file")
        with open_video(path, READABLE, timeout) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no video")
            stream = container.streams.video[0]
            check_pixels(path, stream.codec_context.width, stream.codec_context.height)
            for frame in container.decode(stream):
                if time.monotonic() > deadline:
                    raise TimeoutError
                check_pixels(path, frame.width, frame.height)
                if frame.is_corrupt:
                    raise VideoError(f"{path}: damaged at {frame.time} s")
                yield frame
    except (FFmpegError, OSError) as error:
        if time.monotonic() > deadline:
            raise VideoError(
                f"{path}: took longer than {time_limit:g} s to decode, needs a shorter clip"
            ) from error
        raise VideoError(f"{path}: not a readable video ({error.strerror})") from error


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raises VideoError for a frame of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: a frame has {width * height} pixels, may have {MAX_PIXELS} at most"
        )


def _upright(frame: "av.VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
    """The picture as players show it: phones film sideways and note the angle."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _cover(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    found_height, found_width = image.shape[:2]
    scale = min(found_height / height, found_width / width)
    left, top = (found_width - scale * width) / 2, (found_height - scale * height) / 2
    whole = scale == int(scale)
    if whole:  # from the middle of a pixel the average would take halves of its neighbours
        left, top = int(left), int(top)
    resized = Image.fromarray(image).resize(
        (width, height),
        Image.Resampling.BOX if whole else Image.Resampling.LANCZOS,
        box=(left, top, left + scale * width, top + scale * height),
    )
    return np.asarray(resized)


# --- writing


def _frame_rate(fps: float | int) -> Fraction:
    # 1001 keeps the film rates exact, such as 24000/1001
    rate = Fraction(fps).limit_denominator(1001) if np.isfinite(fps) else Fraction(0)
    if rate <= 0:
        raise ValueError(f"needs a frame rate above 0.001, found {fps}")
    return rate


def _enlarged(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The frame as it is written, see `enlargement`."""
    if frame.size == 0:
        raise ValueError(f"needs at least one pixel, found the shape {frame.shape}")
    factor = enlargement(*frame.shape[:2])
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)
