"""Contact sheets: many scenes as one picture."""

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.report.lettering import (
    draw_line,
    lay_out,
    scripts_without_font,
    text_width,
)
from m2dit_jax.utils.frame_times import evenly_spaced

Videos = Iterable[UInt8[np.ndarray, "_F _H _W 3"]]

# In pixels.
_GAP = 8
_TEXT_WIDTH = 260
_TILE_SIDE = 112
_SHOWN_FRAMES = 8
_MAX_LINES = 10
_LINE_HEIGHT = 18
_TEXT_SIZE = 13
_TITLE_SIZE = 17


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
    stories: Sequence[tuple[Videos, Sequence[str], Sequence[bool]]],
    titles: Sequence[str] = (),
) -> Image.Image:
    """Several stories (videos, prompts, given) one below the other, each under its title.

    The stories may differ in their numbers of scenes and frames and in the size of these. Letters
    without a font are named in words, and a last line says which scripts have none.
    Raises ValueError when a story's parts do not have the same number of scenes, or a title is
    missing.
    """
    titles = titles or [""] * len(stories)
    if len(titles) != len(stories) or not stories:
        raise ValueError(f"needs a title for each story, found {len(titles)} for {len(stories)}")
    parts: list[Image.Image] = []
    for title, (videos, prompts, given) in zip(titles, stories, strict=True):
        if title:
            parts.append(_line(title, _TITLE_SIZE))
        # A row is small, whatever the video is that it is made from.
        parts += [
            _scene_row(*scene) for scene in zip(videos, prompts, map(bool, given), strict=True)
        ]
        parts.append(Image.new("RGB", (1, _GAP), "white"))
    texts = [*titles, *(prompt for _, prompts, _ in stories for prompt in prompts)]
    if scripts := scripts_without_font("".join(texts)):
        note = f"no font here for {', '.join(scripts)}: m2dit_jax[fonts] or the system's fonts help"
        parts.append(_line(note, _TEXT_SIZE, "firebrick"))
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


def _scene_row(video: UInt8[np.ndarray, "F H W 3"], prompt: str, given: bool) -> Image.Image:
    tiles = [_tile(video[number]) for number in evenly_spaced(len(video), _SHOWN_FRAMES)]
    lines = lay_out(prompt, _TEXT_SIZE, _TEXT_WIDTH, _MAX_LINES)
    text_height = _LINE_HEIGHT * (len(lines) + given)
    row = Image.new(
        "RGB",
        (
            _TEXT_WIDTH + sum(_GAP + tile.width for tile in tiles),
            max(text_height, *(tile.height for tile in tiles)) + _GAP,
        ),
        "white",
    )
    for number, line in enumerate(lines):
        draw_line(row, (0, number * _LINE_HEIGHT), line, _TEXT_SIZE, width=_TEXT_WIDTH)
    if given:
        draw_line(row, (0, len(lines) * _LINE_HEIGHT), "given", _TEXT_SIZE, "firebrick")
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


def _line(text: str, size: int, colour: str = "black") -> Image.Image:
    [line] = lay_out(" ".join(text.split()), size, sys.maxsize, 1)
    image = Image.new("RGB", (max(text_width(line, size), 1), round(1.65 * size)), "white")
    draw_line(image, (0, 0), line, size, colour)
    return image
