import json

import numpy as np
import pytest

from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.evaluation.video_stories import (
    VideoStory,
    asked_between,
    find_stories,
    frame_rate,
    read_board,
    read_scenes,
    shrunk,
)
from m2dit_jax.utils.media import VideoError, write_mp4

VIDEO = np.concatenate(list(ShapesSource(0, 3, 4, 32, True, 1)[0]["video"]))  # 3 scenes of 4


@pytest.mark.parametrize(
    ("cuts", "asked"),
    [
        ([None, None, None], (True, True)),
        ([None, False, None], (False, True)),
        ([None, True, None], (True, False)),
        ([True, None, None], (False, False)),
        ([True, True, False], (True, False)),
        ([None], ()),
    ],
)
def test_where_cuts_are_asked_for(cuts, asked):
    assert asked_between(cuts) == asked


def test_a_board_says_how_long_scenes_are(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text("frames: 5\nscenes:\n  - prompt: a\n  - {prompt: b, frames: 7, cut: true}\n")
    board = read_board(path)
    assert board.lengths == (5, 7) and board.asked == (True,)
    path.write_text("scenes:\n  - {prompt: a, frames: many}\n")
    with pytest.raises(ValueError, match=r"board.yaml:2: frames: found 'many', needs a whole"):
        read_board(path)
    path.write_text("scenes:\n  - prompt: a\n    cut: 1\n")
    with pytest.raises(ValueError, match=r"board.yaml:3: cut: found 1, needs true or false"):
        read_board(path)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_mp4(path, VIDEO, 4)
    return path


@pytest.mark.parametrize(
    ("lengths", "found", "note"),
    [
        ((4, 6, 2), [4, 6, 2], ""),
        ((8, 8, 8), [4, 4, 4], "scenes of 24 frames scaled to 12"),
        ((1, 2, 3), [2, 4, 6], "scenes of 6 frames scaled to 12"),
        ((None, 4, 4), [4, 4, 4], "equally long"),
    ],
)
def test_a_film_is_divided_by_its_storyboard(film, lengths, found, note):
    story = VideoStory("film", (film,), ("a", "b", "c"), None, (True, True), lengths)
    scenes, said = read_scenes(story)
    assert [len(scene) for scene in scenes] == found
    assert (note in said) if note else said == ""


def test_a_film_that_is_too_short(film):
    story = VideoStory("film", (film,), ("a", "b"), None, (True,), (1, 11))
    with pytest.raises(VideoError, match="has 12 frames, needs at least 2 for each of 2 scenes"):
        read_scenes(story)


def test_a_film_needs_a_storyboard(film, tmp_path):
    with pytest.raises(ValueError, match="of one film, needs --storyboard"):
        find_stories(film)
    board = tmp_path / "board.yaml"
    board.write_text("scenes:\n  - prompt: a\n  - prompt: b\n")
    (story,), problems = find_stories(film, board)
    assert story.videos == (film,) and story.lengths == (None, None) and problems == []


def test_the_cuts_of_a_finished_story_are_those_of_its_storyboard(tmp_path):
    prompts = ("a", "b", "c")
    for name in ("story", *prompts):
        (tmp_path / f"{name}.mp4").write_bytes(b"not read here")
    scenes = [{"given": False, "prompt": p, "video": f"{p}.mp4"} for p in prompts]
    board = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "cut": True}]
    story = {"storyboard": {"scenes": board}, "scenes": scenes}
    (tmp_path / "story.json").write_text(json.dumps(story))
    assert find_stories(tmp_path)[0][0].asked == (False, True)
    del board[2]["cut"]
    (tmp_path / "story.json").write_text(json.dumps(story))
    assert find_stories(tmp_path)[0][0].asked == (True, True)


def test_rates_and_sizes(film):
    assert frame_rate(film) == 4
    assert shrunk(VIDEO[0], 16).shape == (16, 16, 3)
    np.testing.assert_array_equal(shrunk(VIDEO[0], 99), VIDEO[0])
