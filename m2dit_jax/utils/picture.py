"""Pictures of video frames as players show them, in a wanted size.

The one place where decoded frames become RGB: colours, HDR, alpha, fields, the shape of pixels,
the display matrix, size and crop. FFmpeg's filters do the work, in one pass over the frame.
"""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.utils.colours import Colours, colours_of, to_display
from m2dit_jax.utils.video_file import VideoError

# PyAV is imported where it is used: a run without videos does not need it.
if TYPE_CHECKING:
    import av

# Without these flags swscale rounds down (1 level darker with every reading) and takes the
# colours of every second pixel; with them nothing is slower.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp"
_SEARCH = 64  # places tried for the ends of a crop
_CLOSE = 0.02  # pixels of the result: as exact as anyone sees

Turn = tuple[bool, bool, bool]  # transpose, then mirror left to right, then top to bottom


@dataclass(frozen=True)
class Span:
    """A crop along one side: `length` pixels from `start` on become `resized`, `offset` on kept."""

    start: int
    length: int
    resized: int
    offset: int


class Screen:
    """Shows frames of a video as RGB of one size, covering it and cropped.

    Without a size the picture keeps its own: its rows, and its columns times the shape of a pixel.
    `place` is that of the part that is kept: 0 the left or the top, 0.5 the middle, 1 the right or
    the bottom of the picture as players show it.
    `path` is for messages; `pixel_aspect` is the width of a pixel over its height, as PyAV's
    streams have it: a Fraction, or from version 19 on a type of its own. Scaling down by a whole
    number averages whole pixels; else the filter is bicubic, widened where it scales down.
    What is transparent is black. Interlaced frames are deinterlaced, each for itself.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        pixel_aspect: Rational | None = None,
        place: float = 0.5,
    ):
        self._path = path
        self._size = size
        self._aspect = _plausible(pixel_aspect)
        self._place = place
        self._graphs: dict[Any, Any] = {}

    def show(self, frame: "av.VideoFrame") -> UInt8[np.ndarray, "H W 3"]:
        """The picture. Raises VideoError for colours that cannot be shown rightly."""
        try:
            colours, turn = colours_of(frame), turn_of(frame)
        except VideoError as error:
            raise VideoError(f"{self._path}: {error}") from error
        # The numbers as found out; and no transfer or primaries, for swscale refuses rare ones
        frame.colorspace, frame.color_range = colours.matrix, colours.range
        frame.color_trc = frame.color_primaries = 2
        height, width = self._size or self.shown_size(frame)
        if turn[0]:
            height, width = width, height
        places = _stored_places(self._place, turn)
        key = (frame.format.name, frame.width, frame.height, colours, frame.interlaced_frame, turn)
        if key not in self._graphs:
            self._graphs[key] = _graph(frame, colours, height, width, self._aspect, places)
        graph, top, left = self._graphs[key]
        graph.push(frame)
        if frame.interlaced_frame:  # its filter waits for a next frame, or the end: it ends here
            graph.push(None)
            del self._graphs[key]
        picture = graph.pull().to_ndarray()[top : top + height, left : left + width]
        if colours.needs_display:
            picture = to_display(picture, colours.transfer, colours.primaries)
        return np.ascontiguousarray(turned(picture, turn))

    def shown_size(self, frame: "av.VideoFrame") -> tuple[int, int]:
        """Height and width of the whole picture as players show it, in pixels."""
        height, width = frame.height, max(round(frame.width * self._aspect), 1)
        return (width, height) if turn_of(frame)[0] else (height, width)


def turn_of(frame: "av.VideoFrame") -> Turn:
    """The display matrix as one of its eight upright forms; other angles to the nearest one."""
    # By name: what iterating gives, data or its types, depends on PyAV's version.
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None or data.buffer_size < 36:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    # A pixel (x, y) is shown at (a x + c y, b x + d y).
    if max(abs(a), abs(d)) >= max(abs(b), abs(c)):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def turned(picture: UInt8[np.ndarray, "H W 3"], turn: Turn) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The picture after the display matrix."""
    transpose, mirror, flip = turn
    picture = picture.swapaxes(0, 1) if transpose else picture
    picture = picture[:, ::-1] if mirror else picture
    return picture[::-1] if flip else picture


def _stored_places(place: float, turn: Turn) -> tuple[float, float]:
    """The place of a crop along the rows and along the columns of the picture as it is stored."""
    transpose, mirror, flip = turn
    across, down = 1 - place if mirror else place, 1 - place if flip else place
    return (down, across) if transpose else (across, down)


def span(found: int, wanted: int, ratio: Fraction, place: float = 0.5) -> Span:
    """A part of `wanted * ratio` of `found` pixels, resized to `wanted`; 0.5 is the middle one.

    The scaler takes whole pixels only, of which the first is even (chroma is kept for pairs): the
    crop before it and the crop after it are chosen so that together they are closest to the exact
    place and scale.
    """
    room = float(found - ratio * wanted)
    left = room * place
    if room < 1e-9:
        return Span(0, found, wanted, 0)
    if ratio.denominator == 1:  # whole blocks of pixels
        return Span(int(left), wanted * int(ratio), wanted, 0)
    scale = float(ratio)
    right = left + scale * wanted
    starts = np.arange(int(left) // 2 * 2, -1, -2)[:_SEARCH, None]
    ends = np.arange(min(int(np.ceil(right)), found), found + 1)[None, :_SEARCH]
    lengths = ends - starts
    resized = np.maximum(np.rint(lengths / scale), wanted)
    steps = lengths / resized
    offsets = np.clip(np.rint((left - starts) / steps), 0, resized - wanted)
    error_left = np.abs(starts + offsets * steps - left) / scale
    error_right = np.abs(starts + (offsets + wanted) * steps - right) / scale
    errors = np.maximum(error_left, error_right)
    limit = max(_CLOSE, errors.min())
    best = np.unravel_index(np.where(errors <= limit, lengths, np.inf).argmin(), lengths.shape)
    return Span(*(int(part[best]) for part in (starts + 0 * ends, lengths, resized, offsets)))


def _plausible(pixel_aspect: Rational | None) -> Fraction:
    """The shape of a pixel; 1 where the file has none, or one that nobody can have meant."""
    if pixel_aspect is None or not Fraction(1, 10) <= pixel_aspect <= 10:
        return Fraction(1)
    return Fraction(pixel_aspect)


def _graph(
    frame: "av.VideoFrame",
    colours: Colours,
    height: int,
    width: int,
    aspect: Fraction,
    places: tuple[float, float],
) -> tuple[Any, int, int]:
    """FFmpeg's filters for such frames, and the top and left of the wanted part of their result."""
    from av.filter import Graph

    whole = min(Fraction(frame.height, height), frame.width * aspect / width)
    across = span(frame.width, width, whole / aspect, places[0])
    down = span(frame.height, height, whole, places[1])
    downscaled = whole > 1 and whole.denominator == 1 and aspect == 1
    method = "area" if downscaled else "bicubic"
    depth = "16le" if colours.needs_display else ""
    filters = []
    if frame.interlaced_frame:  # within the frame: those before it are often not decoded
        filters.append(("estdif", "mode=frame:deint=interlaced"))
    alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    if alpha:
        # With 8 bits premultiplying rounds down.
        filters += [("scale", f"flags=bicubic+{EXACT}"), ("format", "gbrap16le")]
        filters.append(("premultiply", "inplace=1"))
    elif across.start % 2 or down.start % 2:  # blocks that begin between the pixels of chroma
        filters += [("scale", f"flags=bicubic+{EXACT}"), ("format", f"gbrp{depth}")]
    if (across.length, down.length) != (frame.width, frame.height):
        filters.append(
            ("crop", f"{across.length}:{down.length}:{across.start}:{down.start}:exact=1")
        )
    filters.append(("scale", f"{across.resized}:{down.resized}:flags={method}+{EXACT}"))
    filters.append(("format", f"gbrp{depth}"))
    graph = Graph()
    graph.threads = 1  # workers have a core each
    source = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
        f":colorspace={colours.matrix}:range={colours.range}"
    )
    nodes = [graph.add("buffer", source), *(graph.add(*filter) for filter in filters)]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph, down.offset, across.offset
