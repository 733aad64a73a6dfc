from m2dit_jax.stories.gate import Verdict
from m2dit_jax.stories.inputs import changes
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import StoryWalk
from tests.stories.fake_engine import FakeEngine


def all_inputs(prompts, model="weights", **fields):
    mapping = {"scenes": [{"prompt": prompt} for prompt in prompts], **fields}
    walk = StoryWalk(plan_story(Storyboard.from_mapping(mapping), FakeEngine()), model)
    while group := walk.next_group():
        for scene, identity in walk.identities(group).items():
            walk.settle(scene, group, identity, Verdict(), False)
    return [walk.outcomes[scene].identity.inputs for scene in sorted(walk.outcomes)]


def test_every_reason_is_told():
    old, new = all_inputs("abcdef"), all_inputs("abzdef")
    assert changes(old[2], new[2]) == ["its prompt: 'c' -> 'z'"]
    assert changes(old[0], new[0]) == ["scene 3's prompt: 'c' -> 'z'"]
    assert changes(old[3], new[3]) == [
        *("scene 1, which is given to it, is another", "scene 3, which is given to it, is another"),
        "scene 3's prompt: 'c' -> 'z'",
    ]
    assert changes(old[4], new[4]) == [
        *("scene 1, which is given to it, is another", "scene 4, which is given to it, is another")
    ]
    assert changes(old[5], old[5]) == []


def test_settings_and_models_are_told():
    old = all_inputs("ab")
    assert changes(old[0], all_inputs("ab", steps=5)[0]) == ["steps: 2 -> 5"]
    assert changes(old[0], all_inputs("ab", model="x")[0]) == ["the model is another"]
    assert changes(old[1], all_inputs("ab", seed=4)[1]) == [
        *("scene 1's seed: [0, 0] -> [4, 0]", "its seed: [0, 1] -> [4, 1]")
    ]
    assert changes(old[0], all_inputs("abc")[0]) == [*("made beside scenes [1, 2] -> [1, 2, 3]",)]
    assert changes({"clip": "x"}, old[0]) == ["it was given before"]
