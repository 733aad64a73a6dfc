import json

import pytest

from m2dit_jax import import_stories
from m2dit_jax.evaluation.video_stories import read_board
from m2dit_jax.stories.storyboard import Storyboard

GOOD = {
    "story_overview": "A fox goes home.",
    "scenes": [
        {"scene_num": 1, "video_prompts": ["A fox wakes.", "It runs."], "cut": [True, False]}
    ],
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "story"
    folder.mkdir()
    (folder / "fox.json").write_text(json.dumps(GOOD))
    (folder / "bad.json").write_text(json.dumps(GOOD | {"scenes": [{"cut": []}]}))
    return folder


def test_one_bad_script_does_not_stop_the_others(source, tmp_path, capsys):
    flags = [f"--source={source}", f"--output={tmp_path / 'boards'}"]
    assert import_stories.main(flags) == 0
    said = capsys.readouterr().out
    assert "1 of 2 story scripts, 2 scenes, 1 of them begin with a cut" in said
    assert "left out: bad: scenes[0].video_prompts: found nothing, needs a list" in said
    board = tmp_path / "boards" / "fox.json"
    assert len(Storyboard.read(board).scenes) == 2 and not (tmp_path / "boards/bad.json").exists()
    # The one cut is before the first scene: none is asked for where the two meet.
    assert read_board(board).asked == (False,)
    assert import_stories.main(flags) == 0
    assert import_stories.main([*flags, "--overview"]) == 2
    assert "fox.json: is there already with another content" in capsys.readouterr().err


def test_nothing_but_bad_scripts_is_an_error(source, tmp_path, capsys):
    flags = [f"--source={source / 'bad.json'}", f"--output={tmp_path / 'boards'}"]
    assert import_stories.main(flags) == 2
    assert "0 of 1 story scripts can be read\nbad: scenes[0]" in capsys.readouterr().err
    assert not (tmp_path / "boards").exists()
