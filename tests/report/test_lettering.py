from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2dit_jax.report import lettering
from m2dit_jax.report.lettering import draw_line, lay_out, scripts_without_font, text_width


@pytest.fixture
def only_latin(monkeypatch):
    """No font but matplotlib's own, which has Latin, Greek, Cyrillic and Arabic letters."""
    lettering._fonts_for.cache_clear()
    monkeypatch.setattr(lettering, "_other_fonts", list)
    yield
    lettering._fonts_for.cache_clear()


def drawn(line, width=None):
    image = Image.new("RGB", (200, 20), "white")
    draw_line(image, (0, 0), line, 13, width=width)
    return np.asarray(image)[..., 0] < 128


def test_letters_are_drawn_with_their_accents():
    lines = ["cafe", "café", "Æ", "ß", "Лиса", "τρέχει", "الثعلب"]
    pictures = [drawn(line) for line in lines]
    assert all(picture.any() for picture in pictures)
    for i, picture in enumerate(pictures):
        assert not any((picture == other).all() for other in pictures[:i])
    np.testing.assert_array_equal(drawn("cafe\u0301").any(), True)
    assert lay_out("e\u0301Æ", 13, 200, 1) == ["e\u0301Æ"]


def test_what_has_no_font_is_named_never_drawn_as_a_box(only_latin):
    assert lay_out("狐狸 run 🦊", 13, 400, 1) == ["[2 letters] run [fox face]"]
    assert lay_out("👨\u200d👩\u200d👧 👋🏽 ❤\ufe0f", 13, 400, 1) == [
        "[man] [woman] [girl] [waving hand sign] ❤\ufe0f"
    ]
    assert scripts_without_font("狐が 走る, fox 🦊 नम") == ["CJK", "DEVANAGARI", "HIRAGANA"]
    assert scripts_without_font("fox, Лиса ☀") == []


def test_other_fonts_are_used_for_what_the_first_lacks(monkeypatch, only_latin):
    one, two, three = others = [Path("one"), Path("two"), Path("three")]
    letters = {one: "a", two: "狐", three: "狸"}
    known = lettering._letters_of
    monkeypatch.setattr(lettering, "_other_fonts", lambda: others)
    monkeypatch.setattr(
        lettering,
        "_letters_of",
        lambda font: frozenset(letters[font]) if font in letters else known(font),
    )
    assert lettering._fonts_for(frozenset("b狸"))[1:] == (three,)
    assert lettering._fonts_for(frozenset("狐狸"))[1:] == (two, three)


def test_lines_keep_breaks_and_fit_the_width():
    assert lay_out("one\ntwo  words\tmore", 13, 200, 9) == ["one", "two words more"]
    assert lay_out("", 13, 200, 9) == [""]
    long = lay_out("x" * 100 + " " + "word " * 50, 13, 100, 5)
    assert len(long) == 5 and long[-1].endswith("…")
    assert all(text_width(line, 13) <= 105 for line in long)


def test_lines_from_right_to_left_stand_at_the_right():
    columns = np.flatnonzero(drawn("الثعلب", width=180).any(0))
    assert columns.min() > 90 and 170 <= columns.max() < 180
    assert np.flatnonzero(drawn("fox", width=180).any(0)).max() < 60


@given(st.text(max_size=40))
def test_any_text_can_be_drawn(text):
    for line in lay_out(text, 13, 150, 4):
        drawn(line, width=150)
