"""The form as Gradio is told it, without a browser."""

import inspect

import pytest

from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, SceneForm
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.shelf import Shelf


def test_every_input_is_told_to_be_open(tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio", reason="optional extra: gradio, of the extra app")
    # Needs Gradio itself.
    from m2dit_jax.webapp.interface import build_interface

    shelf = Shelf(tmp_path / "out")
    clip = shelf.clips / "a.mp4"
    clip.touch()
    scenes = (SceneForm(), SceneForm({"prompt": "a fox"}, clip))
    # Scenes are rendered when a page is opened; here at once, among the other components.
    monkeypatch.setattr(gr, "render", lambda inputs: lambda show: show(scenes))
    blocks = build_interface(shelf, Runner(lambda *_: None)).blocks.values()
    inputs = [b for b in blocks if "interactive" in inspect.signature(type(b).__init__).parameters]
    texts = [b for b in inputs if isinstance(b, gr.Textbox)]
    assert len(texts) == len(STORY_FIELDS) + len(scenes) * len(SCENE_FIELDS)
    kinds = {type(b) for b in inputs}
    assert kinds == {gr.Textbox, gr.Dropdown, gr.UploadButton, gr.Button}
    assert [(b.label, b.interactive) for b in inputs if b.interactive is not True] == []
