from pathlib import Path

from m2dit_jax.models.docs import to_markdown

PAGE = Path(__file__).parent.parent.parent / "docs" / "masks.md"


def test_the_page_of_the_docs_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), (
        "python -m m2dit_jax.models.docs > docs/masks.md"
    )


def test_frames_are_drawn_where_scenes_see_only_some():
    lines = to_markdown().splitlines()
    assert "       t0 t1 t2 a0 bc0 a1 bc1 a2 bc2 p" in lines
    assert "    v1  0  1  0  1   0  1   1  1   0 0" in lines
