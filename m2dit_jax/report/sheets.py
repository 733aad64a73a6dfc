"""Contact sheets: many scenes as one picture."""

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from m2dit_jax.utils.media import evenly_spaced

Videos = Iterable[UInt8[np.ndarray, "_F _H _W 3"]]

# In pixels.
_GAP = 8
_TEXT_WIDTH = 260
_TILE_SIDE = 112
_SHOWN_FRAMES = 8
_MAX_LINES = 10
_LINE_HEIGHT = 18
_FONT = ImageFont.load_default(14)
_TITLE_FONT = ImageFont.load_default(18)


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


def _scene_row(video: UInt8[np.ndarray, "F H W 3"], prompt: str, given: bool) -> Image.Image:
    tiles = [_tile(video[number]) for number in evenly_spaced(len(video), _SHOWN_FRAMES)]
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
    """The text without accents and long dashes, which the built-in font would draw as boxes."""
    letters = unicodedata.normalize("NFKD", text.translate({ord("–"): "-", ord("—"): "-"}))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _wrapped(text: str) -> list[str]:
    """Lines no wider than the text column; the last one shown ends in "…" if some are left out."""
    # By pixels rather than letters; textwrap breaks words too long for a line beforehand.
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
