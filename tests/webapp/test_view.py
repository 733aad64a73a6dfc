import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2dit_jax.stories.progress import StoryProgress
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.webapp.board import SceneForm
from m2dit_jax.webapp.problems import Problem
from m2dit_jax.webapp.runs import Run, Runner
from m2dit_jax.webapp.view import finished_view, given_view, outlook_view, state_view, story_view
from tests.webapp.samples import picture_in

CLIP = np.zeros((2, 16, 16, 3), np.uint8)


def story(*prompts):
    return Storyboard.from_mapping({"scenes": [{"prompt": prompt} for prompt in prompts]})


def state(**progress):
    """The words about a story of two scenes at work."""
    run = Run(story("a", "b"), Path())
    run.begin()
    if progress:
        run.report(StoryProgress(**({"scenes": 2, "finished": ()} | progress)))
    return re.sub("<[^>]*>", "", state_view(run))


def test_finished_scenes_show_while_others_are_at_work(tmp_path):
    shown, go_on = threading.Event(), threading.Event()

    def make(storyboard, folder, report):
        write_mp4(folder / "scene_1.mp4", CLIP, 4)
        report(StoryProgress(2, finished=(0,), at_work=(1,), step=3, steps=4))
        shown.set()
        assert go_on.wait(10)

    # Of an earlier story in the same folder: not shown as one of this.
    write_mp4(tmp_path / "scene_2.mp4", CLIP, 4)
    run = Runner(make).start(story("a <fox>", "b"), tmp_path)
    assert shown.wait(10)
    html, words = story_view(run), state_view(run)
    go_on.set()
    assert run.ended.wait(10)
    assert "Scene 2 of 2: step 3 of 4." in words and "<progress max=2 value=1.750>" in words
    assert html.count("<video") == 1 and "scene_1.mp4?v=" in html and "at work</div>" in html
    assert "a &lt;fox&gt;" in html
    assert "Finished in 0 s." in state_view(run)


def test_it_is_said_what_takes_so_long():
    assert state() == "Reading the model and the prompts, for 0 s."
    assert state(at_work=(0, 1), steps=4).startswith(
        "Scenes 1 and 2 of 2: compiling, then the first"
    )
    late = {"at_work": (1,), "steps": 4, "step": 2, "seconds_left": 200.0}
    assert state(**late) == "Scene 2 of 2: step 2 of 4, about 3 min left."
    assert state(finished=(0, 1)) == "All scenes are made; the files are being written."
    assert state_view(None) == ""


def test_players_are_not_written_anew_while_only_steps_pass(tmp_path):
    run = Run(story("a", "b"), tmp_path)
    run.begin()
    views = []
    for step in (1, 2):
        run.report(StoryProgress(2, (), (0, 1), step, 4))
        views.append(story_view(run))
    assert views[0] == views[1]


def test_takes_are_side_by_side(tmp_path):
    for name in ("scene_1", "first", "second"):
        write_mp4(tmp_path / f"{name}.mp4", CLIP, 4)
    takes = {0: {0: tmp_path / "first.mp4", 2: tmp_path / "second.mp4"}}
    html = finished_view(tmp_path, [{"prompt": "a"}], takes)
    assert html.count("<video") == 3 and "take 0" in html and "take 2" in html
    assert "take 0" not in finished_view(tmp_path, [{"prompt": "a"}], {0: {0: takes[0][0]}})


def test_scenes_of_which_the_same_is_true_share_a_line():
    lines = ["scene 1: kept", *(f"scene {n}: to be made: new" for n in (2, 3, 4, 6))]
    html = outlook_view((), lines, ["storyboard: scenes[1].prompt: lost <b>"])
    assert "Generate makes 4 of 5 scenes." in html
    assert "<b>Scene 1</b>: kept" in html and "<b>Scenes 2 to 4 and 6</b>: to be made" in html
    assert "Scene 2, prompt: lost &lt;b&gt;" in html
    assert "All scenes are made." in outlook_view((), ["scene 1: kept"], ())
    assert outlook_view((), (), ()) == ""


def test_prompts_that_are_still_to_be_written_are_no_mistakes():
    missing = [Problem(n, "prompt", "missing, needs a text") for n in (0, 2)]
    html = outlook_view([*missing, Problem(None, "steps", "found 0")], (), ())
    assert (
        "Scenes 1 and 3: no prompt yet" in html
        and "missing" not in html
        and "steps: found 0" in html
    )


@pytest.mark.parametrize(
    ("size", "crop", "frame"),
    [
        ((32, 32), 0.5, "left:25.00%;top:0.00%;width:50.00%;height:100.00%"),
        ((32, 32), 1, "left:50.00%;top:0.00%;width:50.00%;height:100.00%"),
        ((16, 64), 0, "left:0.00%;top:0.00%;width:100.00%;height:50.00%"),
        ((64, 128), 0.3, "left:0.00%;top:0.00%;width:100.00%;height:100.00%"),
    ],
)
def test_the_part_of_a_clip_that_is_kept_is_framed(tmp_path, size, crop, frame):
    write_mp4(tmp_path / "wide.mp4", np.zeros((2, 256, 512, 3), np.uint8), 4)
    scene = SceneForm({"crop": crop}, tmp_path / "wide.mp4")
    assert frame in given_view(scene, size)
    picture = picture_in(tmp_path, "wide.png", 256, 512)
    assert frame in given_view(replace(scene, clip=None, image=picture), size)


def test_a_picture_says_what_it_is_for(tmp_path):
    reference = SceneForm({}, image=picture_in(tmp_path))
    assert "<img " in given_view(reference, (16, 16))
    assert "no part of the video" in given_view(reference, (16, 16))
    assert "begins with it" in given_view(reference.filled(use="first_frame"), (16, 16))
