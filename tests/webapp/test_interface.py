"""The page as Gradio is told it, without a browser."""

import inspect

import pytest

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.options import declared
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, Form, SceneForm
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.shelf import Shelf
from tests.webapp.samples import clip_in

DEFAULTS = StoryOptions(frames=4, height=32, width=32, steps=20, sampler="dpm")


@pytest.fixture
def gr():
    return pytest.importorskip("gradio", reason="optional extra: gradio, of the extra app")


@pytest.fixture
def desk(tmp_path):
    return Desk(Shelf(tmp_path / "out"), Runner(lambda *_: None), AppModel("fake", DEFAULTS))


@pytest.fixture
def page(gr, desk, monkeypatch):
    """All components of a page with three scenes: a given one, a locked one, an empty one."""
    # Needs Gradio itself.
    from m2dit_jax.webapp.interface import build_interface

    locked = SceneForm({"prompt": "a fox", "keep": True, "take": 2})
    form = Form((SceneForm({"prompt": "b"}, clip_in(desk.shelf.clips)), locked, SceneForm()))
    # Scenes are rendered when a page is opened; here at once, among the other components.
    monkeypatch.setattr(gr, "render", lambda inputs, triggers: lambda show: show(form))
    return list(build_interface(desk).blocks.values())


def test_every_input_is_told_to_be_open_but_for_the_prompt_of_a_locked_scene(gr, page):
    inputs = [b for b in page if "interactive" in inspect.signature(type(b).__init__).parameters]
    fields = [b for b in inputs if not isinstance(b, gr.Button | gr.UploadButton)]
    assert len(fields) == 1 + len(STORY_FIELDS) + 3 * len(SCENE_FIELDS)  # 1: the list of stories
    closed = [b.label for b in inputs if b.interactive is not True]
    assert closed == ["Scene 2, take 2, locked"]


def test_settings_show_the_models_own_defaults_in_fields_of_their_kind(gr, page):
    fields = {b.elem_id: b for b in page if str(getattr(b, "elem_id", "")).startswith("story-")}
    assert set(fields) == {f"story-{name}" for name in STORY_FIELDS}
    for name, option in declared(StoryOptions).items():
        field, default = fields[f"story-{name}"], getattr(DEFAULTS, name)
        assert (field.value or None) == (default or None), name
        if option.choices and not option.many:
            assert isinstance(field, gr.Dropdown)
            assert set(option.choices) <= {value for _, value in field.choices}
        elif option.kind is bool:
            assert isinstance(field, gr.Checkbox)
        elif option.most == 1:
            assert isinstance(field, gr.Slider) and (field.minimum, field.maximum) == (0, 1)
        elif option.kind in (int, float) and option.default is not None:
            # A number out of range is refused by the check, at its field: the draft is not lost.
            assert isinstance(field, gr.Number) and field.maximum is None


def test_problems_stand_at_their_fields_and_open_what_hides_them(gr, desk):
    from m2dit_jax.webapp.events import PageEvents

    events = PageEvents(desk)
    form = Form((SceneForm(),))
    settings = [getattr(DEFAULTS, name) for name in STORY_FIELDS]
    values = [
        0 if name == "steps" else value for name, value in zip(STORY_FIELDS, settings, strict=True)
    ]
    fields = {name: "" for name in SCENE_FIELDS} | {"crop": 0.5, "cut": False, "frames": "x"}
    answer = events.generate(form, None, 1, (), *values, *fields.values())
    marked = [
        update["info"]
        for update in answer
        if isinstance(update, dict) and update.get("elem_classes")
    ]
    assert [text.partition(",")[0] for text in marked] == [
        *("found 0", "missing", "found 'x'"),
    ]
    assert "Scene 1, prompt: missing" in answer[1]
    assert desk.open("story-001").form.scenes[0].values == {"frames": "x"}
    assert desk.runner.of(desk.shelf.folder("story-001")) is None
    ahead = events.look_ahead(form, "story-001", (), *values, *fields.values())
    marked = [
        update["info"]
        for update in ahead
        if isinstance(update, dict) and update.get("elem_classes")
    ]
    assert [text.partition(",")[0] for text in marked] == ["found 0", "found 'x'"]
    assert "no prompt yet" in ahead[0]
