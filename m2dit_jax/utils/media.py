"""Videos as files: clips are read, stories are written."""

import hashlib
import io
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from numbers import Rational
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.frame_times import evenly_in_time, evenly_spaced
from m2dit_jax.utils.picture import EXACT, Screen
from m2dit_jax.utils.video_file import VideoError, open_clip

# PyAV is imported where it is used: a run without videos does not need it.
if TYPE_CHECKING:
    import av

MAX_PIXELS = 64_000_000  # of a frame; more is an attack or a mistake
TIME_LIMIT = 60.0  # seconds for one call that reads a clip
_BT709 = 1  # primaries, transfer and matrix alike (H.273)
_PLAYER_SIDE = 256  # pixels: below it players show little, and 4:2:0 chroma smears the edges

Quality = Literal["standard", "lossless"]


@dataclass(frozen=True)
class _Coding:
    """How pictures become H.264; `matrix` and `range` are numbers of H.273 and of FFmpeg."""

    codec: str
    pixels: str
    options: dict[str, str]
    matrix: int
    range: int


_CODINGS: dict[Quality, _Coding] = {
    "standard": _Coding(
        "libx264", "yuv420p", {"crf": "12", "x264-params": "chromaloc=1"}, _BT709, 1
    ),
    "lossless": _Coding("libx264rgb", "rgb24", {"crf": "0"}, 0, 2),
}


def check_clip(path: Path | str) -> None:
    """Decodes and shows the first frame only. Raises VideoError as `read_clip` does."""
    for frame, pixel_aspect in _decoded(Path(path), TIME_LIMIT):
        Screen(Path(path), None, pixel_aspect).show(frame)
        return
    raise VideoError(f"{path}: holds no video frame")


def video_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "_H _W 3"]]:
    """Every frame as players show it, one after another. Raises VideoError as `read_clip` does."""
    yield from _shown(Path(path), None)


def read_clip(
    path: Path | str, frames: int, height: int, width: int, crop: float = 0.5
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """`frames` frames of the clip, evenly spread in time from its first to its last.

    The picture is as players show it, scaled to cover height x width and cropped at `crop`, 0.5 is
    around its centre: see `m2dit_jax.utils.picture`. Raises VideoError when the file is no readable
    video, was cut off, has fewer frames than asked for, frames of more than MAX_PIXELS or of
    colours that cannot be shown rightly, or takes longer than TIME_LIMIT seconds to decode.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"needs sizes of 1 or more, found {frames=} {height=} {width=}")
    path = Path(path)
    # Decoded twice rather than kept: a long clip in full size does not fit in memory
    times = _ascending([frame.pts for frame, _ in _decoded(path, TIME_LIMIT)])
    if len(times) < frames:
        raise VideoError(f"{path}: has {len(times)} frames, needs at least {frames}")
    chosen = evenly_in_time(times, frames)
    kept = sorted(set(chosen))
    pictures = _shown(path, (height, width), set(kept), TIME_LIMIT, crop)
    found = dict(zip(kept, pictures, strict=True))
    return np.stack([found[number] for number in chosen])


def fit_clip(
    clip: UInt8[np.ndarray, "F H W 3"], frames: int, height: int, width: int, crop: float = 0.5
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """Frames in memory, chosen, scaled and cropped as `read_clip` does with those of a file.

    Raises VideoError when there are fewer frames than asked for.
    """
    if len(clip) < frames:
        raise VideoError(f"the clip has {len(clip)} frames, needs at least {frames}")
    chosen = clip[evenly_spaced(len(clip), frames)]
    if clip.shape[1:3] == (height, width):
        return chosen
    import av

    screen = Screen(Path("clip"), (height, width), place=crop)
    return np.stack(
        [screen.show(av.VideoFrame.from_ndarray(image, format="rgb24")) for image in chosen]
    )


def write_mp4(
    path: Path | str,
    frames: Iterable[UInt8[np.ndarray, "_H _W 3"]],
    fps: float | int,
    quality: Quality = "standard",
) -> None:
    """Writes H.264 with the colour tags of BT.709; the same frames give the same bytes.

    The frames, of one size, may come one after another. `fps` is in frames per second. A video
    smaller than 256 pixels is enlarged by a whole number, each pixel to a block; so is one with an
    odd side, which 4:2:0 does not allow. "standard" is 4:2:0, which every player shows; "lossless"
    keeps every pixel as RGB, in files several times as large that few browsers and phones show.
    Raises ValueError when there is no frame or fps is not positive.
    """
    import av

    rate, images = _frame_rate(fps), (_enlarged(frame) for frame in frames)
    first = next(images, None)
    if first is None:
        raise ValueError("needs at least one frame, found none")
    coding = _CODINGS[quality]
    graph = _to_coded(first.shape[0], first.shape[1], coding)
    # The header first: players of web pages begin before all is there
    header_first = {"movflags": "+faststart"}
    with (
        atomic_write(Path(path)) as part,
        av.open(str(part), "w", format="mp4", container_options=header_first) as container,
    ):
        stream: Any = container.add_stream(coding.codec, rate=rate, options=dict(coding.options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = coding.pixels
        stream.codec_context.thread_count = 1  # x264's result depends on the number of threads
        # In the file too, else a player guesses the colours from the size of the picture
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        stream.codec_context.colorspace = coding.matrix
        stream.codec_context.color_range = coding.range
        for number, image in enumerate(chain([first], images)):
            graph.push(av.VideoFrame.from_ndarray(image, format="rgb24"))
            frame = graph.pull()
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_gif(path: Path | str, frames: UInt8[np.ndarray, "F H W 3"], fps: float | int) -> None:
    """Writes the GIF of `gif_bytes`. Raises ValueError as it does."""
    content = gif_bytes(frames, fps)
    with atomic_write(Path(path)) as part:
        part.write_bytes(content)


def gif_bytes(frames: UInt8[np.ndarray, "F H W 3"], fps: float | int) -> bytes:
    """An endless GIF, enlarged as by write_mp4, at no more than 50 frames per second.

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
    content = io.BytesIO()
    images[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
    )
    return content.getvalue()


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


def _shown(
    path: Path,
    size: tuple[int, int] | None,
    chosen: set[int] | None = None,
    time_limit: float = math.inf,
    crop: float = 0.5,
) -> Iterator[UInt8[np.ndarray, "_H _W 3"]]:
    """The pictures of these frames, or of all."""
    screen = None
    for number, (frame, pixel_aspect) in enumerate(_decoded(path, time_limit)):
        if chosen is None or number in chosen:
            screen = screen or Screen(path, size, pixel_aspect, crop)
            yield screen.show(frame)


def _decoded(
    path: Path, time_limit: float = math.inf
) -> "Iterator[tuple[av.VideoFrame, Rational | None]]":
    """The frames, one after another, and the shape of their pixels. Raises VideoError.

    `time_limit` is in seconds, from the first frame to the last.
    """
    from av.error import FFmpegError

    deadline = time.monotonic() + time_limit
    timeout = time_limit if math.isfinite(time_limit) else None
    try:
        container, stream = open_clip(path, timeout)
        with container:
            check_pixels(path, stream.codec_context.width, stream.codec_context.height)
            for frame in container.decode(stream):
                if time.monotonic() > deadline:
                    raise TimeoutError
                check_pixels(path, frame.width, frame.height)
                if frame.is_corrupt:
                    raise VideoError(f"{path}: damaged at {frame.time} s")
                yield frame, stream.sample_aspect_ratio
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


# --- writing


def _to_coded(height: int, width: int, coding: _Coding) -> Any:
    """FFmpeg's filters from RGB to what the encoder takes, exactly rounded.

    The encoder's own conversion rounds down: clips that are written and read again get darker.
    """
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    nodes = [graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/1000")]
    if coding.matrix:
        # Chroma in the middle of its four pixels, where FFmpeg's scaler takes it to be in reading
        colours = "out_color_matrix=bt709:out_range=limited:out_chroma_loc=center"
        nodes.append(graph.add("scale", f"{colours}:flags=bicubic+{EXACT}"))
    nodes += [graph.add("format", coding.pixels), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


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
