import numpy as np
import pytest

from m2dit_jax.report import lettering
from m2dit_jax.report.sheets import contact_sheet, stories_sheet


def grey(levels: list[int], height: int, width: int) -> np.ndarray:
    """Frames of one grey level each."""
    frames = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(frames, (len(levels), height, width, 3))


def test_contact_sheet_has_a_row_a_scene_and_a_column_a_frame():
    videos = np.stack([grey([0, 60, 120], 16, 16), grey([200, 150, 100], 16, 16)])
    sheet = np.asarray(contact_sheet(videos, ["a fox", "a hen"]))
    # 112 pixel tiles 8 apart, right of a text column of 260
    centres = sheet[8 + 56 : 8 + 56 + 121 : 120, 8 + 260 + 8 + 56 :: 120, 0]
    np.testing.assert_array_equal(centres, [[0, 60, 120], [200, 150, 100]])
    assert (sheet[8:26, 8:268] < 100).any()  # the prompt


def test_contact_sheet_marks_given_scenes():
    videos = np.zeros((2, 1, 16, 16, 3), np.uint8)
    sheet = np.asarray(contact_sheet(videos, ["a", "b"], given=[False, True])).astype(int)
    red = sheet[..., 0] - sheet[..., 1] > 100
    assert not red[:128].any()
    assert red[128:].any()


def test_contact_sheet_chooses_eight_frames():
    levels = [10 * number for number in range(15)]
    sheet = np.asarray(contact_sheet(grey(levels, 128, 128)[None], ["a"]))
    centres = sheet[64, 8 + 260 + 8 + 56 :: 120, 0]
    np.testing.assert_array_equal(centres, [0, 20, 40, 60, 80, 100, 120, 140])


def test_long_prompts_end_in_dots_and_do_not_reach_the_frames():
    videos = np.zeros((1, 1, 16, 16, 3), np.uint8)
    sheet = np.asarray(contact_sheet(videos, ["so very long " * 100 + "x" * 300]))
    assert sheet.shape[0] == 8 + 10 * 18 + 8 + 8
    assert (sheet[:, 269:275] == 255).all()
    same = contact_sheet(videos, ["so very long " * 200])
    np.testing.assert_array_equal(sheet, np.asarray(same))


def test_a_last_line_says_which_scripts_have_no_font(monkeypatch):
    monkeypatch.setattr("m2dit_jax.report.lettering._other_fonts", list)
    lettering._fonts_for.cache_clear()
    videos = np.zeros((1, 1, 16, 16, 3), np.uint8)
    with_note, without = (
        np.asarray(contact_sheet(videos, [text])).astype(int) for text in ("狐 runs", "fox runs")
    )
    lettering._fonts_for.cache_clear()
    assert with_note.shape[0] == without.shape[0] + round(1.65 * 13)
    red = with_note[..., 0] - with_note[..., 1] > 100
    assert red[without.shape[0] - 8 :].any() and not red[: without.shape[0] - 8].any()


def test_stories_of_different_sizes_on_one_sheet():
    long, short = np.zeros((3, 2, 16, 16, 3), np.uint8), np.zeros((1, 4, 32, 64, 3), np.uint8)
    stories = [(long, ["a", "b", "c"], [True, False, False]), (short, ["d"], [False])]
    sheet = stories_sheet(stories, titles=["step 10", "step 20"])
    assert sheet.size == (8 + 260 + 4 * (8 + 256) + 8, 8 + 2 * 28 + 3 * 120 + 136 + 2 * 8)


def test_sheet_parts_must_fit_together():
    videos = np.zeros((2, 1, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        contact_sheet(videos, ["a"])
    with pytest.raises(ValueError, match="needs a title for each story, found 2 for 1"):
        stories_sheet([(videos, ["a", "b"], [True, False])], ["x", "y"])
