"""Colour tags of video, and the mathematics for what a screen of sRGB cannot show as it stands.

Tags are numbers of ITU-T H.273: `matrix` makes RGB of luma and chroma, `primaries` say which red,
green and blue are meant, `transfer` says how much light a level stands for.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from m2dit_jax.utils.video_file import VideoError

if TYPE_CHECKING:
    import av

# Video without tags is BT.709 from this size on and BT.601 below, as players take it.
UNTAGGED_HD = (720, 1280)  # rows, columns: one of them is enough
REFERENCE_WHITE = 203.0  # nits of PQ that are white (BT.2408)
# Of the brightest light of an HLG scene, what is white: 75 % of its signal (BT.2408).
HLG_WHITE = 0.265

_UNKNOWN = (0, 2, 3)  # reserved, unspecified, reserved
_MATRICES = {0, 1, 4, 5, 6, 7, 9}  # those of swscale; 0 is RGB
_PQ, _HLG = 16, 18
# The rest differ from sRGB by less than screens do; players show them as they are.
_SHOWN_AS_IS = {1, 4, 5, 6, 7, 11, 12, 13, 14, 15}
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_LIMITED, _FULL = 1, 2

# x, y of red, green, blue and white (H.273). D65 stands for DCI's white as well.
_D65 = (0.3127, 0.3290)
_CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


@dataclass(frozen=True)
class Colours:
    """The colour tags of a frame, none of them unknown.

    `range` is 1 for limited levels (black is 16 of 255), 2 for full ones.
    """

    matrix: int
    range: int
    transfer: int
    primaries: int

    @property
    def needs_display(self) -> bool:
        """True where `to_display` must follow: HDR and wide gamuts."""
        return self.transfer in (_PQ, _HLG) or self.primaries in _WIDE


def colours_of(frame: "av.VideoFrame") -> Colours:
    """The frame's colour tags, filled in by the players' rules where there are none.

    Raises VideoError for tags that cannot be shown rightly, with the tag and what to do.
    """
    matrix, transfer, primaries = frame.colorspace, frame.color_trc, frame.color_primaries
    if transfer in _UNKNOWN:
        transfer = 1
    if frame.format.is_rgb:
        matrix = 0
    elif matrix == 0 or matrix in _UNKNOWN:
        if primaries == 9 or transfer in (_PQ, _HLG):
            matrix = 9
        else:
            rows, columns = UNTAGGED_HD
            matrix = 1 if frame.height >= rows or frame.width >= columns else 6
    if primaries in _UNKNOWN:
        primaries = 9 if matrix == 9 or transfer in (_PQ, _HLG) else 1
    if matrix not in _MATRICES:
        raise _cannot_show("colour matrix", matrix)
    if transfer not in _SHOWN_AS_IS | {_PQ, _HLG}:
        raise _cannot_show("transfer", transfer)
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    return Colours(matrix, _FULL if full or matrix == 0 else _LIMITED, transfer, primaries)


def to_display(
    coded: UInt16[np.ndarray, "H W 3"], transfer: int, primaries: int
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB as an sRGB screen shows it, of RGB with this transfer and these primaries.

    Levels are 0..65535. HDR's reference white is white: 203 nits of PQ, 75 % of HLG's signal
    (BT.2408). What is brighter, or outside of the screen's gamut, is clipped, so that everything
    below comes out exactly. HLG is shown as by a screen of 334 nits, for which BT.2100's system
    gamma is 1.
    """
    light = np.clip(_light_of(transfer)[coded] @ _to_bt709(primaries).T, 0, 1)
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * levels + 0.5).astype(np.uint8)


@lru_cache(maxsize=4)
def _light_of(transfer: int) -> Float[np.ndarray, "65536"]:
    """Light of every level; 1 is white."""
    level = np.arange(65536) / 65535
    if transfer == _PQ:  # SMPTE ST 2084
        root = level ** (32 / 2523)
        nits = 10000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (
            8192 / 1305
        )
        light = nits / REFERENCE_WHITE
    elif transfer == _HLG:  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
        light = scene / HLG_WHITE
    else:
        light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


@lru_cache(maxsize=4)
def _to_bt709(primaries: int) -> Float[np.ndarray, "3 3"]:
    """Matrix from linear RGB of these primaries to that of BT.709, which are those of sRGB."""
    if primaries not in _CHROMATICITIES:
        return np.eye(3, dtype=np.float32)
    matrix = np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries)
    return matrix.astype(np.float32)


def _to_xyz(primaries: int) -> Float[np.ndarray, "3 3"]:
    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([xyz(*point) for point in _CHROMATICITIES[primaries]]).T
    return columns * np.linalg.solve(columns, xyz(*_D65))


def _cannot_show(what: str, tag: int) -> VideoError:
    return VideoError(
        f"its {what} (number {tag} of H.273) cannot be shown rightly; convert it first, such as "
        "with ffmpeg -i VIDEO -vf zscale=p=bt709:t=bt709:m=bt709:r=limited -pix_fmt yuv420p NEW.mp4"
    )
