import json

import pytest

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, Form, SceneForm, filled_in
from tests.webapp.samples import clip_in, picture_in

DEFAULTS = StoryOptions(steps=20, guidance_scale=2.0, frames=4)


def form(*scenes, **settings):
    return Form(tuple(SceneForm(scene) for scene in scenes), settings)


def test_a_form_becomes_a_storyboard_and_comes_back(tmp_path):
    clip = clip_in(tmp_path)
    filled = Form(
        (SceneForm({"prompt": "a fox", "crop": 0.2}, clip), SceneForm({"prompt": "it", "take": 2})),
        {"seed": 7, "guidance_scale": 2.5, "steps": 20, "checks": [], "spacing": ""},
    )
    storyboard = filled.to_storyboard(DEFAULTS)
    assert storyboard.given_values().keys() == {"seed", "guidance_scale", "scenes"}
    assert (storyboard.seed, storyboard.guidance_scale) == (7, 2.5)
    assert storyboard.given == (True, False) and storyboard.scenes[0].crop == 0.2
    again = Form.from_mapping(storyboard.to_mapping(), tmp_path)
    assert again.to_mapping() == filled.to_mapping(DEFAULTS) == storyboard.to_mapping()
    assert again.scenes[0].clip == clip and again.scenes[1].take == 2


def test_a_form_that_is_not_filled_in_is_kept_as_a_draft(tmp_path):
    draft = form({"prompt": " ", "seed": "many"}, {"keep": True}, steps=None, seed=0.0)
    mapping = json.loads(json.dumps(draft.to_mapping()))
    assert mapping == {"scenes": [{"seed": "many"}, {"keep": True}], "seed": 0}
    again = Form.from_mapping(mapping, tmp_path)
    assert again.scenes[0].values == {"seed": "many"} and again.scenes[1].locked
    assert again.settings == {"seed": 0}
    with pytest.raises(StoryboardError, match="found 'many', needs a whole number"):
        again.to_storyboard()


def test_numbers_that_were_typed_as_text_are_numbers():
    storyboard = form({"prompt": "a", "seed": "3", "guidance_scale": "1.5"}).to_storyboard()
    assert (storyboard.scenes[0].seed, storyboard.scenes[0].guidance_scale) == (3, 1.5)


def test_what_is_as_the_model_has_it_is_left_to_the_model():
    settings = {name: getattr(DEFAULTS, name) for name in STORY_FIELDS}
    scene = {"prompt": "a", "cut": False, "crop": 0.5, "keep": False, "take": 0}
    assert form(scene, **settings).to_mapping(DEFAULTS) == {"scenes": [{"prompt": "a"}]}
    assert form(scene).to_storyboard(DEFAULTS) == Storyboard.from_mapping({"scenes": ["a"]})


def test_a_part_of_a_clip_that_is_gone_is_forgotten():
    assert form({"prompt": "a", "crop": 0.1}).to_mapping() == {"scenes": [{"prompt": "a"}]}


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_storyboards_file_from_elsewhere_is_not_taken_over(tmp_path, kind):
    mapping = {"scenes": [{"prompt": "a", kind: "/etc/passwd"}]}
    assert Form.from_mapping(mapping, tmp_path).scenes[0] == SceneForm({"prompt": "a"})


def test_pictures_and_their_use_are_kept(tmp_path):
    image = picture_in(tmp_path)
    reference = SceneForm({"prompt": "a fox", "crop": 0.2, "use": "reference"}, image=image)
    begun = reference.filled(use="first_frame", take=1)
    storyboard = Form((reference, begun)).to_storyboard()
    assert storyboard.scenes[0].is_reference and storyboard.scenes[1].first_frame
    again = Form.from_mapping(storyboard.to_mapping(), tmp_path)
    assert again.to_mapping() == storyboard.to_mapping()
    assert [scene.given for scene in again.scenes] == [True, False]
    gone = Form((SceneForm(begun.values),)).to_mapping()["scenes"]
    assert gone == [{"prompt": "a fox", "take": 1}]


def test_fields_are_read_in_the_order_of_the_page(tmp_path):
    shown = Form((SceneForm({"take": 1}, tmp_path / "a.mp4"), SceneForm()))
    settings = [f"story {name}" for name in STORY_FIELDS]
    fields = [f"{scene} {name}" for scene in (1, 2) for name in SCENE_FIELDS]
    found = filled_in(shown, settings, fields)
    assert found.settings["steps"] == "story steps"
    assert found.scenes[1].values["frames"] == "2 frames"
    assert found.scenes[0].take == 1 and found.scenes[0].clip == tmp_path / "a.mp4"
