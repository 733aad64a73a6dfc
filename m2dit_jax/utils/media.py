"""Pixels in and out of files: clips read, stories written, pictures of many scenes at once."""

import hashlib
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from m2dit_jax.utils.files import atomic_write

# The containers people keep clips in. Without the list FFmpeg also reads playlists and scripts,
# which can name other files and addresses.
READABLE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif",
}
_PLAYER_SIDE = 256  # pixels: below it players show little, and 4:2:0 chroma smears the edges

Videos = Iterable[UInt8[np.ndarray, "_F _H _W 3"]]


class VideoError(ValueError):
    """A video file that cannot be read as it was meant to be."""


def check_clip(path: Path | str) -> None:
    """Decodes the first frame only. Raises VideoError when there is none."""
    for _ in _decoded(Path(path)):
        return
    raise VideoError(f"{path}: holds no video frame")


def video_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "_H _W 3"]]:
    """Every frame, one after another, in its own size. Raises VideoError if it cannot be read."""
    for frame in _decoded(Path(path)):
        yield _upright(frame)


def read_clip(
    path: Path | str, frames: int, height: int, width: int
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """`frames` frames of the clip, evenly spread from its first to its last.

    The picture is scaled to cover height x width and cropped around its centre. Scaling down by a
    whole number averages whole pixels, so that a small video enlarged by write_mp4 comes back.
    Raises VideoError when the file is no readable video or has fewer frames than asked for.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"needs sizes of 1 or more, found {frames=} {height=} {width=}")
    path = Path(path)
    # decoded twice rather than kept: a long clip in full size does not fit in memory
    found = sum(1 for _ in _decoded(path))
    if found < frames:
        raise VideoError(f"{path}: has {found} frames, needs at least {frames}")
    chosen = set(_spread(found, frames))
    return np.stack(
        [
            _cover(_upright(frame), height, width)
            for number, frame in enumerate(_decoded(path))
            if number in chosen
        ]
    )


def fit_clip(
    clip: UInt8[np.ndarray, "F H W 3"], frames: int, height: int, width: int
) -> UInt8[np.ndarray, "{frames} {height} {width} 3"]:
    """Frames in memory, chosen, scaled and cropped as `read_clip` does with those of a file.

    Raises VideoError when there are fewer frames than asked for.
    """
    if len(clip) < frames:
        raise VideoError(f"the clip has {len(clip)} frames, needs at least {frames}")
    return np.stack([_cover(clip[i], height, width) for i in _spread(len(clip), frames)])


def write_mp4(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "_H _W 3"]], fps: float | int
) -> None:
    """Writes H.264 that any player shows; the same frames give the same bytes.

    The frames, of one size, may come one after another. `fps` is in frames per second. A video
    smaller than 256 pixels is enlarged by a whole number, each pixel to a block; so is one with an
    odd side, which 4:2:0 does not allow.
    Raises ValueError when there is no frame or fps is not positive.
    """
    rate, images = _frame_rate(fps), (_enlarged(frame) for frame in frames)
    first = next(images, None)
    if first is None:
        raise ValueError("needs at least one frame, found none")
    with atomic_write(Path(path)) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # x264's result depends on the number of threads
        # said in the file too, else a player guesses the matrix from the size of the picture
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


def contact_sheet(
    videos: Videos,
    prompts: Sequence[str],
    given: Sequence[bool] = (),
    title: str = "",
) -> Image.Image:
    """One story as a picture: a row for each scene, its prompt at the left of its frames.

    At most 8 frames of a scene are shown. An empty `given` stands for no given scene. The videos
    may come one after another.
    """
    given = given if len(given) else [False] * len(prompts)
    return stories_sheet([(videos, prompts, given)], [title])


def stories_sheet(
    stories: Sequence[
        tuple[Iterable[UInt8[np.ndarray, "_F _H _W 3"]], Sequence[str], Sequence[bool]]
    ],
    titles: Sequence[str] = (),
) -> Image.Image:
    """Several stories (videos, prompts, given) one below the other, each under its title.

    The stories may differ in their numbers of scenes and frames and in the size of these.
    Raises ValueError when a story's parts do not have the same number of scenes, or a title is
    missing.
    """
    titles = titles or [""] * len(stories)
    if len(titles) != len(stories) or not stories:
        raise ValueError(f"needs a title for each story, found {len(titles)} for {len(stories)}")
    parts: list[Image.Image] = []
    for title, (videos, prompts, given) in zip(titles, stories, strict=True):
        if title:
            parts.append(_title(title))
        # A row is small, whatever the video is that it is made from.
        parts += [
            _scene_row(*scene) for scene in zip(videos, prompts, map(bool, given), strict=True)
        ]
        parts.append(Image.new("RGB", (1, _GAP), "white"))
    sheet = Image.new(
        "RGB",
        (max(part.width for part in parts) + 2 * _GAP, sum(p.height for p in parts) + _GAP),
        "white",
    )
    top = _GAP
    for part in parts:
        sheet.paste(part, (_GAP, top))
        top += part.height
    return sheet


def frames_digest(videos: UInt8[np.ndarray, "..."]) -> str:
    """SHA-256, in hex, of the shape and the pixels: equal exactly where the videos are."""
    digest = hashlib.sha256(repr(videos.shape).encode())
    digest.update(np.ascontiguousarray(videos).tobytes())
    return digest.hexdigest()


def enlargement(height: int, width: int) -> int:
    """By how much written videos are larger than their frames.

    It is the smallest whole number that makes the short side 256 pixels and both sides even.
    """
    factor = -(-_PLAYER_SIDE // min(height, width))
    return factor + 1 if factor % 2 and (height % 2 or width % 2) else factor


# --- reading


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    """The frames of the first video stream, one after another. Raises VideoError."""
    try:
        if not path.is_file():
            raise VideoError(f"{path}: no such file")
        with av.open(
            str(path.absolute()), options=dict(READABLE), metadata_errors="ignore"
        ) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no video")
            for frame in container.decode(container.streams.video[0]):
                if frame.is_corrupt:
                    raise VideoError(f"{path}: damaged at {frame.time} s")
                yield frame
    except (FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not a readable video ({error.strerror})") from error


def _upright(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as players show it: phones film sideways and note the angle."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _spread(found: int, wanted: int) -> list[int]:
    """`wanted` of `found` indices, evenly from the first to the last."""
    return np.linspace(0, found - 1, wanted).round().astype(int).tolist()


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
    """See `enlargement`."""
    if frame.size == 0:
        raise ValueError(f"needs at least one pixel, found the shape {frame.shape}")
    factor = enlargement(*frame.shape[:2])
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


# --- contact sheets, sizes in pixels

_GAP = 8
_TEXT_WIDTH = 260
_TILE_SIDE = 112
_SHOWN_FRAMES = 8
_MAX_LINES = 10
_LINE_HEIGHT = 18
_FONT = ImageFont.load_default(14)
_TITLE_FONT = ImageFont.load_default(18)


def _scene_row(video: UInt8[np.ndarray, "F H W 3"], prompt: str, given: bool) -> Image.Image:
    shown = range(len(video))
    if len(video) > _SHOWN_FRAMES:
        shown = _spread(len(video), _SHOWN_FRAMES)
    tiles = [_tile(video[number]) for number in shown]
    lines = _wrapped(prompt)
    text_height = _LINE_HEIGHT * (len(lines) + given)
    row = Image.new(
        "RGB",
        (
            _TEXT_WIDTH + sum(_GAP + tile.width for tile in tiles),
            max(text_height, *(tile.height for tile in tiles)) + _GAP,
        ),
        "white",
    )
    draw = ImageDraw.Draw(row)
    for number, line in enumerate(lines):
        draw.text((0, number * _LINE_HEIGHT), line, "black", _FONT)
    if given:
        draw.text((0, len(lines) * _LINE_HEIGHT), "given", "firebrick", _FONT)
    left = _TEXT_WIDTH + _GAP
    for tile in tiles:
        row.paste(tile, (left, 0))
        left += tile.width + _GAP
    return row


def _tile(image: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    """The frame with a short side of about 112 pixels; small ones keep their sharp pixels."""
    height, width = image.shape[:2]
    factor = _TILE_SIDE / min(height, width)
    if factor >= 1:
        factor = round(factor)
        resample = Image.Resampling.NEAREST
    else:
        resample = Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((round(width * factor), round(height * factor)), resample)


def _title(text: str) -> Image.Image:
    text = _drawable(text)
    image = Image.new("RGB", (int(_TITLE_FONT.getlength(text)) + 1, 28), "white")
    ImageDraw.Draw(image).text((0, 0), text, "black", _TITLE_FONT)
    return image


def _drawable(text: str) -> str:
    """Without accents and long dashes, which the built-in font lacks and would draw as boxes."""
    letters = unicodedata.normalize("NFKD", text.translate({ord("–"): "-", ord("—"): "-"}))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _wrapped(text: str) -> list[str]:
    """Lines no wider than the text column; the last one shown ends in "…" if some are left out."""
    # by pixels rather than letters; a word too long for a line is broken by textwrap beforehand
    words = [
        piece
        for word in _drawable(text).split()
        for piece in textwrap.wrap(word, _TEXT_WIDTH // 14)
    ]
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if _FONT.getlength(longer) <= _TEXT_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _MAX_LINES:
        lines = lines[:_MAX_LINES]
        lines[-1] = lines[-1][:-1] + "…"
    return lines
