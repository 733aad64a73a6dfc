from dataclasses import replace

import numpy as np
import pytest

from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.media import frames_digest
from m2dit_jax.utils.options import OptionError
from tests.stories.fake_engine import FakeEngine

SCENES = [{"prompt": "a"}, {"prompt": "b", "frames": 3, "guidance_scale": 4.0, "seed": 9}]


def plan(engine=None, **fields):
    return plan_story(Storyboard.from_mapping({"scenes": SCENES, **fields}), engine or FakeEngine())


def test_scenes_have_their_own_settings_or_the_storys():
    told = plan(seed=5)
    assert [told.frames(0), told.frames(1)] == [2, 3]
    assert [told.seed(0), told.seed(1)] == [[5, 0], [9]]
    assert told.options([0, 1]).guidance_scale == (2.0, 4.0)
    assert told.options([1]).guidance_scale == 4.0
    assert told.options([0]).needs_negative


def test_checks_are_those_asked_for_or_with_retries_the_models():
    assert plan().checks == ()
    assert plan(retries=2).checks == FakeEngine().default_checks
    assert plan(retries=2, checks=["cut"]).checks == ("cut",)


def test_a_small_window_needs_no_other_field():
    assert plan(window=1).windows.new_scenes == 1
    with pytest.raises(StoryboardError, match="new_scenes 2 cannot be with a window of 1"):
        plan(window=1, new_scenes=2)


def test_every_problem_is_told_before_any_work():
    engine = FakeEngine()
    engine.facts = replace(engine.facts, mask="independent")
    scenes = [{"prompt": "a", "frames": 9}]
    with pytest.raises(StoryboardError) as error:
        plan(engine, global_prompt="b", steps=2000, scenes=scenes)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and engine.log == []
    assert "scenes[0].frames" in lines[0] and "9 frames are too many" in lines[0]
    assert "global_prompt: under the attention mask 'independent'" in lines[1]
    assert "steps: found 2000, needs a number from 1 to 1000" in lines[2]


def test_a_clip_may_be_given_as_frames():
    clip = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), np.uint8)
    scenes = Scene(prompt="a", video=clip), Scene(prompt="b")
    story = plan_story(Storyboard(scenes=scenes), FakeEngine())
    given = story.clip(0)
    assert given.shape == (2, 4, 4, 3) and story.clip_digests == (frames_digest(given), None)
    assert Storyboard(scenes=scenes) == Storyboard(scenes=[scenes[0].replace(), scenes[1]])
    other = scenes[0].replace(video=clip + 1), scenes[1]
    assert Storyboard(scenes=other) != Storyboard(scenes=scenes)
    with pytest.raises(ValueError, match=r"scenes\[0\].video: frames in memory have no path"):
        story.to_mapping()
    mapping = story.to_mapping({0: "/clips/a.mp4"})
    assert [scene.get("video") for scene in mapping["scenes"]] == ["/clips/a.mp4", None]


def test_a_part_of_a_clip_is_chosen():
    clip = np.random.default_rng(0).integers(0, 256, (2, 4, 12, 3), np.uint8)

    def given(**crop):
        scenes = Scene(prompt="a", video=clip, **crop), Scene(prompt="b")
        return plan_story(Storyboard(scenes=scenes), FakeEngine())

    for crop, first in ((0, 0), (0.25, 2), (1, 8)):
        np.testing.assert_array_equal(given(crop=crop).clip(0), clip[:, :, first : first + 4])
    assert given(crop=0.5).clip_digests == given().clip_digests != given(crop=1).clip_digests
    assert given(crop=1).storyboard.to_mapping({0: "a.mp4"})["scenes"][0]["crop"] == 1


def test_nothing_is_cropped_where_no_clip_is():
    with pytest.raises(OptionError, match=r"crop: found 0.2, needs a scene with a video"):
        Scene(prompt="a", crop=0.2)


def test_a_clip_of_frames_that_is_too_short_or_no_video_is_named():
    scenes = Scene(prompt="a", video=np.zeros((1, 4, 4, 3), np.uint8)), Scene(prompt="b")
    with pytest.raises(StoryboardError, match=r"scenes\[0\].video: the clip has 1 frames, needs a"):
        plan_story(Storyboard(scenes=scenes), FakeEngine())
    with pytest.raises(OptionError, match=r"video: found an array float32 \[1, 4, 4, 3\], needs"):
        Scene(prompt="a", video=np.zeros((1, 4, 4, 3), np.float32))


def test_what_a_story_leaves_out_is_the_models_and_what_that_leaves_out_the_declared():
    defaults = StoryOptions(steps=7, noise_given=True, new_scenes=3)
    board = Storyboard(scenes=[Scene(prompt="a")], steps=9, window=2)
    assert board.filled(defaults) == StoryOptions(steps=9, noise_given=True, window=2, new_scenes=2)
