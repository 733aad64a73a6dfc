from concurrent.futures import ThreadPoolExecutor

import pytest

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.files import write_json
from m2dit_jax.webapp.board import Form, SceneForm
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.shelf import Shelf

FOXES = Form((SceneForm({"prompt": "a fox"}), SceneForm({"prompt": "it runs"})), {"steps": 3})


@pytest.fixture
def desk(tmp_path):
    def look_ahead(storyboard, folder):
        return ["a note"], [f"scene 1: {folder.name}, {storyboard.steps} steps"]

    model = AppModel("fake", StoryOptions(), look_ahead=look_ahead)
    return Desk(Shelf(tmp_path / "out"), Runner(lambda *_: None), model)


def test_what_is_typed_lies_on_disk_at_once_and_once(desk):
    page = desk.new_page()
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(lambda _: desk.keep(None, page, FOXES), range(5)))
    assert set(names) == set(desk.shelf.names()) == {"story-001"}
    assert desk.keep(None, desk.new_page(), FOXES) == "story-002"
    opened = desk.open("story-001")
    assert opened.form.to_mapping() == FOXES.to_mapping() and opened.made == ()


def test_the_storyboard_is_written_when_generate_is_pressed_and_the_draft_in_any_case(desk):
    unfinished = Form((SceneForm({"prompt": "a"}), SceneForm({"seed": "many"})))
    with pytest.raises(StoryboardError, match="prompt: missing"):
        desk.generate(None, 1, unfinished)
    assert desk.open("story-001").form.scenes[1].values == {"seed": "many"}
    name, run = desk.generate("story-001", 1, FOXES)
    assert (name, run.ended.wait(10), run.state) == ("story-001", True, "done")
    assert (desk.shelf.folder(name) / "form.json").is_file()
    assert desk.open(name).run is run


def test_it_is_said_what_would_be_made(desk):
    ahead = desk.look_ahead(None, FOXES)
    assert (ahead.lines, ahead.notes, ahead.problems) == (
        ("scene 1: new, 3 steps",),
        ("a note",),
        (),
    )
    (problem,) = desk.look_ahead(None, Form()).problems
    assert problem.is_missing_prompt and problem.scene == 0
    assert desk.shelf.names() == []  # nothing was written


def test_what_only_a_file_can_have_is_said_to_be_missing(desk):
    name = desk.keep(None, desk.new_page(), FOXES)
    assert desk.open(name).problem == ""
    scenes = [{"prompt": "a fox", "video": "/elsewhere/fox.mp4"}, {"prompt": "it", "lora": ["b"]}]
    write_json(desk.shelf.folder(name) / "draft.json", {"scenes": scenes, "lora": ["a"]})
    opened = desk.open(name)
    assert not opened.form.scenes[0].given
    assert "The form lacks lora, video of scene 1, lora of scene 2, which" in opened.problem


def test_a_story_that_cannot_be_read_shows_an_example_and_why(desk):
    name = desk.shelf.new()
    (desk.shelf.folder(name) / "draft.json").write_text("{")
    opened = desk.open(name)
    assert "draft.json: is no storyboard" in opened.problem
    assert opened.form == desk.example(0)
    with pytest.raises(ValueError, match="there is none of that name"):
        desk.open("story-009")
