from dataclasses import replace

import pytest

from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
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
