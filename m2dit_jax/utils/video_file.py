"""Video files as they are opened: which may be, the right stream, and whether all is there."""

from pathlib import Path
from typing import Any

from m2dit_jax.utils.compat import open_video
from m2dit_jax.utils.file_ends import bytes_missing

# The containers people keep clips in. Without the list FFmpeg also reads playlists and scripts,
# which can name other files and addresses.
READABLE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif",
}
_TAIL = 1024  # bytes; so many zeros at the end may be a download that was never filled
_SLACK = 0.5  # seconds by which a whole file may end before its header says


class VideoError(ValueError):
    """A video file that cannot be read as it was meant to be."""


def open_clip(path: Path, timeout: float | None = None) -> tuple[Any, Any]:
    """The opened container and its video stream; a file that was cut off is refused.

    `timeout` is in seconds for opening and each reading. Raises VideoError with the reason, and
    FFmpeg's errors for what is no video at all.
    """
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    container = open_video(path, READABLE, timeout)
    try:
        _check_whole(path, container)
        stream = container.streams.video[best_stream(container, path)]
    except BaseException:
        container.close()
        raise
    return container, stream


def best_stream(container: Any, path: Path) -> int:
    """Place, among the video streams, of the one that players show: no cover, no thumbnails.

    The stream marked as default comes first, then the one with the most pixels. Raises VideoError
    if there is none, or none of a known codec.
    """
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = {i: s for i, s in enumerate(container.streams.video) if not s.disposition & still}
    if not moving:
        cover = ", only a cover picture" if container.streams.video else ""
        raise VideoError(f"{path}: holds no video{cover}")
    known = {i: s for i, s in moving.items() if s.codec_context is not None}
    if not known:
        raise VideoError(
            f"{path}: its video is in a codec that this FFmpeg does not know; convert it first, "
            "such as to H.264"
        )

    def rank(place: int) -> tuple[bool, int]:
        codec = known[place].codec_context
        return bool(known[place].disposition & Disposition.default), codec.width * codec.height

    return max(known, key=rank)


def _check_whole(path: Path, container: Any) -> None:
    """Raises VideoError for a file that ends before its own header says, as cut downloads do."""
    there = path.stat().st_size
    missing = bytes_missing(path)
    if not missing and not _ends_in_zeros(path, there):
        return
    promised = container.duration / 1e6 if container.duration else None
    found = _seconds(container)
    if not missing and (promised is None or promised - found < _SLACK):
        return
    seconds = f"{found:.2f} s can be read" + (
        f" of {promised:.2f} s" if promised and promised > found else ""
    )
    size = f"{there} bytes and lacks {missing or 'its end'}" if missing else "zeros at its end"
    raise VideoError(f"{path}: not a readable video (cut off: {seconds}, has {size})")


def _seconds(container: Any) -> float:
    """Seconds of video that the file's packets reach."""
    from av.error import FFmpegError

    ends = [0.0]
    if not container.streams.video:
        return 0.0
    try:
        for packet in container.demux(container.streams.video):
            place = packet.pts if packet.pts is not None else packet.dts
            if place is not None and not packet.is_corrupt:
                place += (packet.duration or 0) - (packet.stream.start_time or 0)
                ends.append(float(place * packet.time_base))
    except (FFmpegError, OSError, EOFError):
        pass  # as far as it goes
    return max(ends)


def _ends_in_zeros(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(max(size - _TAIL, 0))
        return not any(file.read(_TAIL))
