import pytest

from m2dit_jax.webapp import edits
from m2dit_jax.webapp.board import Form, SceneForm

ABC = Form(tuple(SceneForm({"prompt": prompt}) for prompt in "abc"), {"seed": 1})


def prompts(form):
    return "".join(scene.prompt or "-" for scene in form.scenes)


@pytest.mark.parametrize(
    ("edit", "scene", "result"),
    [
        (edits.add_scene, 3, "abc-"),
        (edits.add_scene, 0, "-abc"),
        (edits.remove, 1, "ac"),
        (edits.move_up, 0, "abc"),
        (edits.move_up, 2, "acb"),
        (edits.move_down, 0, "bac"),
        (edits.move_down, 2, "abc"),
        (edits.duplicate, 1, "abbc"),
    ],
)
def test_scenes_come_go_and_move(edit, scene, result):
    assert prompts(edit(ABC, scene)) == result
    assert edit(ABC, scene).settings == {"seed": 1} and prompts(ABC) == "abc"


def test_the_last_scene_leaves_an_empty_one():
    assert prompts(edits.remove(Form((SceneForm({"prompt": "a"}),)), 0)) == "-"


def test_scenes_are_locked_and_given_ones_are_not(tmp_path):
    given = edits.give_clip(edits.lock(ABC, 2), 2, tmp_path)
    assert [scene.locked for scene in given.scenes] == [False, False, False]
    others = edits.lock_others(given, 1)
    assert [scene.locked for scene in others.scenes] == [True, False, False]
    assert not edits.lock(others, 0).scenes[0].locked
    assert edits.give_clip(given, 2, None).scenes[2].clip is None


def test_another_take_is_made_of_one_scene_and_a_copy_is_no_take():
    changed = edits.take(edits.lock(ABC, 1), 1, 2)
    assert [scene.take for scene in changed.scenes] == [0, 2, 0]
    assert not changed.scenes[1].locked
    assert edits.duplicate(changed, 1).scenes[2].take == 0


def test_a_scene_begins_with_a_picture_or_is_one(tmp_path):
    begun = edits.give_picture(edits.take(ABC, 0, 2), 0, tmp_path).scenes[0]
    assert begun.image == tmp_path and not begun.given and begun.take == 0
    form = edits.add_reference(edits.add_reference(ABC, tmp_path / "a"), tmp_path / "b")
    assert prompts(form) == "--abc" and edits.count_references(form) == 2
    assert [scene.image for scene in form.scenes[:3]] == [tmp_path / "a", tmp_path / "b", None]
    assert [scene.given for scene in edits.lock_others(form, 3).scenes] == [True] * 2 + [False] * 3
    assert edits.lock_others(form, 3).to_mapping()["scenes"][0] == {"image": str(tmp_path / "a")}
    other = edits.use_picture(form, 0, "first_frame")
    assert edits.count_references(other) == 0 and not other.scenes[0].given
    assert edits.give_clip(other, 0, None).to_mapping()["scenes"][0] == {}
