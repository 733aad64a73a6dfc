import numpy as np
from PIL import Image

from m2dit_jax.stories.gate import Verdict
from m2dit_jax.stories.inputs import changes
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import StoryWalk
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.utils.options import declared
from tests.stories.fake_engine import FakeEngine

OWN = {"frames": 3, "guidance_scale": 4, "seed": 9, "negative_prompt": "x"}


def all_inputs(prompts, model="weights", **fields):
    mapping = {"scenes": [{"prompt": prompt} for prompt in prompts], **fields}
    outcomes = walk_through(
        StoryWalk(plan_story(Storyboard.from_mapping(mapping), FakeEngine()), model)
    )
    return [outcomes[scene].identity.inputs for scene in sorted(outcomes)]


def walk_through(walk):
    """The outcomes of a story whose scenes all pass."""
    while group := walk.next_group():
        for scene, identity in walk.identities(group).items():
            walk.settle(scene, group, identity, Verdict(), False)
    return walk.outcomes


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


def test_keys_are_those_of_folders_that_were_made_before():
    mapping = {
        "scenes": [{"prompt": "a"}, {"prompt": "b", **OWN}, *({"prompt": p} for p in "cde")],
        **{"seed": 7, "negative_prompt": "y", "noise_given": True, "given_guidance_scale": 1.5},
        **{"cache_tolerance": 0.1, "fps": 12},
    }
    plan = plan_story(Storyboard.from_mapping(mapping), FakeEngine())
    outcomes = walk_through(StoryWalk(plan, "weights"))
    assert [outcomes[scene].identity.key[:16] for scene in sorted(outcomes)] == [
        *("047188be17ededdd", "42603afbdaddb58e", "24779d1612176737"),
        *("59a87ec63cec341a", "91a54c430711e0df"),
    ]


def test_an_option_that_came_later_counts_where_it_is_not_at_its_default():
    plain, set_so = all_inputs("ab"), all_inputs("ab", guidance_rescale=0.7, spacing="leading")
    assert not {"guidance_rescale", "spacing", "clip_x0"} & plain[0].keys()
    assert all_inputs("ab", guidance_rescale=0.0, clip_x0=0.0) == plain
    there, back = changes(plain[0], set_so[0]), changes(set_so[0], plain[0])
    assert there == ["spacing: None -> 'leading'", "guidance_rescale: 0.0 -> 0.7"]
    assert back == ["spacing: 'leading' -> None", "guidance_rescale: 0.7 -> 0.0"]


# What a change of each option reaches. Each affects every scene, the frames of the written video
# alone, or which scenes are made together.
CHANGED = {
    **{"sampler": "dpm", "steps": 5, "dynamic_guidance": True, "as_reference": True},
    **{"guidance_start": 0.5, "guidance_end": 0.5, "reuse_uncond": 2, "given_guidance_scale": 2},
    **{"cache_tolerance": 0.5, "height": 8, "width": 8, "noise_given": True, "global_prompt": "z"},
    **{"seed": 1, "negative_prompt": "z", "frames": 3, "guidance_scale": 3},
    **{"window": 4, "new_scenes": 2, "anchor": False},
    **{"fps": 9, "video_quality": "lossless", "retries": 1, "checks": ["finite"]},
    **{"spacing": "log_snr", "guidance_rescale": 0.7, "clip_x0": 1},
    "guidance_scale_2": 3,
}


def test_a_changed_option_makes_a_scene_anew_exactly_if_it_affects_it():
    assert CHANGED.keys() == StoryOptions.model_fields.keys()
    before = all_inputs("abcde")
    for name, value in CHANGED.items():
        affects = declared(StoryOptions)[name].affects
        after = all_inputs("abcde", **{name: value})
        assert (after != before) == (affects in ("latents", "scene", "windows")), name
        assert all((name in inputs) == (affects == "latents") for inputs in after), name


def test_takes_count_where_they_are_not_the_first():
    def inputs(take):
        scenes = [{"prompt": "a"}, {"prompt": "b", "take": take}]
        plan = plan_story(Storyboard.from_mapping({"scenes": scenes}), FakeEngine())
        outcomes = walk_through(StoryWalk(plan, "weights"))
        return [outcomes[scene].identity.inputs for scene in sorted(outcomes)]

    assert inputs(0) == all_inputs("ab")
    assert changes(inputs(0)[1], inputs(2)[1]) == ["its take: 0 -> 2"]
    assert changes(inputs(2)[0], inputs(1)[0]) == ["scene 2's take: 2 -> 1"]


def test_files_are_told_without_their_hashes(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / "grey.png")

    def inputs(image):
        scenes = [{"prompt": "a", "image": image, "use": "first_frame"} if image else "a"]
        plan = plan_story(Storyboard.from_mapping({"scenes": scenes}, tmp_path), FakeEngine())
        return walk_through(StoryWalk(plan, "weights"))[0].identity.inputs

    plain, black, grey = map(inputs, (None, "black.png", "grey.png"))
    assert changes(plain, black) == ["its image: none -> one"]
    assert changes(black, plain) == ["its image: one -> none"]
    assert changes(black, grey) == ["its image: another"]


def test_a_scene_that_is_given_now_has_not_failed(tmp_path):
    write_mp4(tmp_path / "clip.mp4", np.full((2, 4, 4, 3), 90, np.uint8), 4)
    scenes = [{"prompt": "a", "video": "clip.mp4"}, {"prompt": "b"}]
    plan = plan_story(Storyboard.from_mapping({"scenes": scenes}, tmp_path), FakeEngine())
    given = walk_through(StoryWalk(plan, "weights"))[1].identity.inputs
    made = all_inputs("ab")[1]
    assert changes(made, given) == ["scene 1 is given to it now, and was made with it before"]
    assert changes(given, made) == ["scene 1 is made with it now, and was given to it before"]
