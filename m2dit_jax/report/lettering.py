"""Text of any script in pictures: laid out by matplotlib, with a font for each letter.

Letters that no font here has are named in words: an empty box says nothing.
"""

import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_PACKAGES = ("noto_cjk_sans_otc",)  # of the extra "fonts": they hold font files alone
_JOINERS = {"\u200c", "\u200d", "\ufe0e", "\ufe0f"}  # they only join or choose other letters
_TONES = range(0x1F3FB, 0x1F400)  # skins of the figure before
_BASELINE = 0.8  # of a line's height, from its top


def lay_out(text: str, size: int, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words where that is possible.

    Line breaks of the text are kept. Of more than `most` lines the last one shown ends in "…".
    `size` is that of the font, in pixels.
    """
    paragraphs = _drawable(text).splitlines() or [""]
    lines = [line for part in paragraphs for line in _filled_lines(part, size, width)]
    if len(lines) > most:
        lines = lines[:most]
        lines[-1] = lines[-1][:-1] + "…"
    return lines


def scripts_without_font(text: str) -> list[str]:
    """The scripts, by Unicode's names such as "CJK", of which letters cannot be drawn here."""
    letters = (code for code in _missing(text) if unicodedata.category(code).startswith("L"))
    return sorted(set(map(_script, letters)))


def text_width(line: str, size: int) -> int:
    """Width in pixels."""
    return -(-_set(line, size).get_width_height()[0] // 64) if line else 0


def draw_line(
    image: Image.Image,
    place: tuple[int, int],
    line: str,
    size: int,
    colour: str = "black",
    width: int | None = None,
) -> None:
    """Draws a line with its top left corner at `place`, a line being 1.3 times `size` high.

    Within `width`, lines that begin in a script from right to left stand at the right.
    """
    if not line.strip():
        return
    font = _set(line, size)
    font.draw_glyphs_to_bitmap(antialiased=True)
    ink = np.asarray(font.get_image())
    bottom = round(1.3 * size * _BASELINE) + -(-font.get_descent() // 64)
    left = width - ink.shape[1] if width is not None and _is_right_to_left(line) else 0
    corner = place[0] + max(left, 0), place[1] + bottom - ink.shape[0]
    image.paste(colour, corner, Image.fromarray(ink))


def _filled_lines(paragraph: str, size: int, width: int) -> Iterator[str]:
    line = ""
    for word in paragraph.split():
        longer = f"{line} {word}".strip()
        if text_width(longer, size) <= width:
            line = longer
            continue
        if line:
            yield line
        line = ""
        for letter in _letters(word):  # most words are shorter than a line
            if line and text_width(line + letter, size) > width:
                yield line
                line = ""
            line += letter
    yield line


def _letters(word: str) -> list[str]:
    """Letters with the marks that stand on them."""
    found: list[str] = []
    for code in word:
        if found and (unicodedata.category(code).startswith("M") or code in _JOINERS):
            found[-1] += code
        else:
            found.append(code)
    return found


# --- letters without a font


def _drawable(text: str) -> str:
    """The text with what no font has in words."""
    text = "".join(map(_plain, text))
    missing = _missing(text)
    if not missing:
        return text
    every = "".join(map(re.escape, sorted(missing)))
    joiners = "".join(_JOINERS)
    return re.sub(f"[{every}{joiners}]*[{every}][{every}{joiners}]*", _in_words, text)


def _missing(text: str) -> frozenset[str]:
    letters = frozenset(map(_plain, text)) - _JOINERS - {"\n", ""}
    return letters.difference(*map(_letters_of, _fonts_for(letters)))


def _plain(code: str) -> str:
    if code == "\t":
        return " "
    # Half surrogate pairs, which broken text can hold, and controls have no picture.
    return "" if unicodedata.category(code) in ("Cc", "Cs") and code != "\n" else code


def _in_words(match: re.Match[str]) -> str:
    words, letters = [], 0
    for code in match[0]:
        if code in _JOINERS or ord(code) in _TONES:
            continue
        if _is_symbol(code):
            words.append(f"[{unicodedata.name(code, f'U+{ord(code):04X}').lower()}]")
        else:
            letters += 1
    if letters:
        words.append(f"[{letters} letter{'s' if letters > 1 else ''}]")
    return " ".join(words)


def _is_symbol(code: str) -> bool:
    return unicodedata.category(code) in ("So", "Sk", "Sm", "Cn", "Co")


def _script(code: str) -> str:
    return unicodedata.name(code, f"U+{ord(code):04X}").split()[0]


def _is_right_to_left(line: str) -> bool:
    strong = (unicodedata.bidirectional(code) for code in line)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"


# --- fonts


def _set(line: str, size: int) -> Any:
    from matplotlib.font_manager import get_font

    font = get_font(_fonts_for(frozenset(line)))
    font.set_size(size, 72)
    font.set_text(line)
    return font


@cache
def _fonts_for(letters: frozenset[str]) -> tuple[Path, ...]:
    """Matplotlib's own font, and others for the letters that it lacks, as few as possible."""
    import matplotlib

    first = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    chosen, missing = [first], letters - _letters_of(first) - _JOINERS - {"\n"}
    for font in _other_fonts() if missing else ():
        if missing & _letters_of(font):
            chosen.append(font)
            missing -= _letters_of(font)
        if not missing:
            break
    return tuple(chosen)


@cache
def _other_fonts() -> list[Path]:
    """Fonts of packages, then those of the system, upright ones without serifs first."""
    from matplotlib.font_manager import findSystemFonts

    def is_unusual(path: Path) -> tuple[bool, bool, str]:
        name = path.name.lower()
        special = any(part in name for part in ("bold", "italic", "oblique", "mono", "light"))
        return special, "sans" not in name, name

    specs = filter(None, map(importlib.util.find_spec, _PACKAGES))
    folders = (Path(spec.origin).parent for spec in specs if spec.origin)
    own = [path for folder in folders for path in sorted(folder.glob("*.[to]t[cf]"))]
    return own + sorted(map(Path, findSystemFonts()), key=is_unusual)


@cache
def _letters_of(font: Path) -> frozenset[str]:
    """The letters of a font; none if it cannot be drawn from, such as one of coloured pictures."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(font)
        return frozenset(map(chr, face.get_charmap())) if face.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()
