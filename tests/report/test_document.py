import tracemalloc
from pathlib import Path

import pytest
from markupsafe import Markup

from m2dit_jax.report.document import flat, shown, write_document


def write_video_page(folder: Path, path: Path) -> Path:
    """A page of the one video."""
    target = folder / "page.html"
    context = {"label": "<a>", "poster": "", "attributes": {"id": "x"}, "path": path}
    write_document(target, "video.html", **context)
    return target


def test_a_video_of_any_size_is_written_piece_by_piece(tmp_path):
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    page = write_video_page(tmp_path, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    assert page.stat().st_size > 50_000_000 * 4 / 3


def test_a_video_that_vanishes_leaves_the_page_as_it_was(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(OSError, match=r"gone\.mp4"):
        write_video_page(tmp_path, tmp_path / "gone.mp4")
    assert page.read_text() == "old" and list(tmp_path.iterdir()) == [page]


def test_texts_are_escaped_in_attributes_too(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"abc")
    page = write_video_page(tmp_path, tmp_path / "a.mp4").read_text()
    assert 'aria-label="&lt;a&gt;" id="x"' in page
    assert 'src="data:video/mp4;base64,YWJj"' in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "the model's default"), (True, "yes"), ("", "none"), ([], "none"), (3, "3")),
        *((0.123456, "0.1235"), ([1, 2.5], "1, 2.5"), (Markup(""), "")),
    ],
)
def test_values_are_shown_in_words(value, text):
    assert shown(value) == text


def test_nested_fields_get_dotted_names():
    assert flat({"a": {"b": {"c": 1}, "d": 2}, "e": {}}) == {"a.b.c": 1, "a.d": 2}
