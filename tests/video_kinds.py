"""Videos of every kind that people have, all of the same picture, written bit for bit.

`python -m tests.video_kinds PICTURE.png` writes each kind, reads it as a given clip and draws what
comes out beside what players show (docs/videos.png).
"""

import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

# Two rows of four patches, so that no turn of the picture looks like another.
PATCHES = np.array(
    [
        [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0)],
        [(191, 0, 191), (191, 0, 0), (0, 0, 191), (16, 16, 16)],
    ],
    float,
)
COEFFICIENTS = {  # K_r, K_b of H.273's matrices
    1: (0.2126, 0.0722),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
# (a, b, c, d) of the display matrix: a pixel (x, y) is shown at (a x + c y, b x + d y).
TURNS = {
    "upright": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
_TO_2020 = np.array(  # BT.2087
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


@dataclass(frozen=True)
class Kind:
    """How a video is stored; tags of 2 are none. `height` and `width` are of what is stored."""

    pixels: str = "yuv420p"
    matrix: int = 1
    full: bool = False
    transfer: int = 1
    primaries: int = 1
    tagged: bool = True
    turn: str = "upright"
    aspect: Fraction = Fraction(1)
    height: int = 96
    width: int = 192
    rate: Fraction = Fraction(24)
    container: str = "mp4"
    interlaced: bool = False


def write_kind(path: Path, kind: Kind, frames: int = 6) -> Path:
    """Writes the patches as this kind of video, losslessly."""
    codec, options = "libx264", {"qp": "0", "bf": "0"}
    if kind.container == "avi" or "12" in kind.pixels:
        codec, options = "ffv1", {}
    if kind.pixels == "gbrp":
        codec, options = "libx264rgb", {"qp": "0", "bf": "0"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=kind.rate, options=options)
        stream.height, stream.width = kind.height, kind.width
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else kind.pixels
        context = stream.codec_context
        context.sample_aspect_ratio = stream.sample_aspect_ratio = kind.aspect
        if kind.tagged:
            context.colorspace, context.color_range = kind.matrix, 2 if kind.full else 1
            context.color_trc, context.color_primaries = kind.transfer, kind.primaries
        a, b, c, d = (65536 * part for part in TURNS[kind.turn])
        if kind.turn != "upright":
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(frames):
            frame = _coded(kind)
            if codec == "libx264rgb":
                frame = frame.reformat(format="rgb24")
            frame.pts, frame.time_base = number, 1 / kind.rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(kind: Kind) -> np.ndarray:
    """The patches as players show them: [rows columns 3]."""
    a, b, c, d = TURNS[kind.turn]
    out = {}
    for y, x in np.ndindex(PATCHES.shape[:2]):
        out[b * x + d * y, a * x + c * y] = PATCHES[y, x]
    rows, columns = (sorted({place[i] for place in out}) for i in (0, 1))
    return np.array([[out[row, column] for column in columns] for row in rows])


def read_patches(picture: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The colours in the middles of the patches."""
    rows, columns = like.shape[:2]
    ys = ((np.arange(rows) + 0.5) * picture.shape[0] / rows).astype(int)
    xs = ((np.arange(columns) + 0.5) * picture.shape[1] / columns).astype(int)
    return picture[np.ix_(ys, xs)].astype(float)


def _coded(kind: Kind) -> av.VideoFrame:
    colours = PATCHES / 255
    if kind.transfer in (16, 18) or kind.primaries == 9:
        light = np.where(
            colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4
        ) @ (_TO_2020.T if kind.primaries == 9 else np.eye(3))
        colours = _from_light(light, kind.transfer)
    frame = av.VideoFrame(kind.width, kind.height, kind.pixels)
    bits = frame.format.components[0].bits
    scale = 2 ** (bits - 8)
    if kind.pixels.startswith("gbr"):
        planes = colours[..., [1, 2, 0]] * (2**bits - 1)
    else:
        red, blue = COEFFICIENTS[kind.matrix]
        luma = colours @ [red, 1 - red - blue, blue]
        chroma = [
            (colours[..., 2] - luma) / (2 - 2 * blue),
            (colours[..., 0] - luma) / (2 - 2 * red),
        ]
        if kind.full:
            levels = [luma * (2**bits - 1), *(c * (2**bits - 1) + 128 * scale for c in chroma)]
        else:
            levels = [16 * scale + 219 * scale * luma]
            levels += [128 * scale + 224 * scale * c for c in chroma]
        planes = np.stack(levels, -1)
    dtype = np.uint8 if bits == 8 else np.uint16
    for number, plane in enumerate(frame.planes):
        rows = np.arange(plane.height) * 2 // plane.height
        columns = np.arange(plane.width) * 4 // plane.width
        data = np.zeros((plane.height, plane.line_size // dtype().itemsize), dtype)
        data[:, : plane.width] = np.rint(planes[..., number][np.ix_(rows, columns)])
        plane.update(data)
    return frame


def _from_light(light: np.ndarray, transfer: int) -> np.ndarray:
    light = np.clip(light, 0, None)
    if transfer == 16:  # SMPTE ST 2084
        power = (light * 203 / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    if transfer == 18:  # ARIB STD-B67, 75 % is white
        scene = light * 0.265
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


KINDS = {
    "BT.601 limited": Kind(matrix=6),
    "BT.601 full": Kind(matrix=6, full=True),
    "BT.709 limited": Kind(),
    "BT.709 full": Kind(full=True),
    "BT.2020 SDR, 10 bits": Kind("yuv420p10le", 9, primaries=9, transfer=14, container="mkv"),
    "PQ, 10 bits": Kind("yuv420p10le", 9, transfer=16, primaries=9, container="mkv"),
    "HLG, 10 bits": Kind("yuv420p10le", 9, transfer=18, primaries=9, container="mkv"),
    "untagged, 96 rows": Kind(matrix=6, tagged=False),
    "untagged, 720 rows": Kind(tagged=False, height=720, width=640),
    "RGB": Kind("gbrp", 0, True, container="mkv"),
    "4:4:4, 12 bits": Kind("yuv444p12le", container="mkv"),
    "odd size": Kind(height=97, width=191, container="mkv", pixels="yuv444p"),
    "pixels 32:27": Kind(aspect=Fraction(32, 27)),
    "pixels 8:9": Kind(aspect=Fraction(8, 9)),
    **{turn: Kind(turn=turn) for turn in TURNS},
}


def draw(target: Path) -> None:
    """Draws what each kind comes out as, with the largest difference from what players show."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from m2dit_jax.utils.media import video_frames

    figure, axes = plt.subplots(4, 6, figsize=(15, 8.5))
    for axis in axes.flat:
        axis.axis("off")
    with tempfile.TemporaryDirectory() as folder:
        for axis, (name, kind) in zip(axes.flat, KINDS.items(), strict=False):
            path = write_kind(Path(folder) / f"clip.{kind.container}", kind)
            picture = next(iter(video_frames(path)))
            expected = shown(kind)
            worst = np.abs(read_patches(picture, expected) - expected).max()
            axis.imshow(picture)
            axis.set_title(f"{name}\n{picture.shape[1]}x{picture.shape[0]}, {worst:.0f} of 255 off")
    figure.tight_layout()
    figure.savefig(target, dpi=70)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
