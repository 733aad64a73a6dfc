import pytest

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.webapp.gallery import gallery_view, model_view
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.shelf import Shelf
from tests.webapp.samples import clip_in


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "out")


def test_earlier_stories_are_links_the_newest_first(shelf):
    assert "None yet" in gallery_view(shelf)
    made, drafted, damaged = shelf.new(), shelf.new(), shelf.new()
    clip_in(shelf.folder(made), "story.mp4")
    shelf.keep_draft(made, {"scenes": [{"prompt": "a <fox>"}, {}]})
    shelf.keep_draft(drafted, {"scenes": [{}]})
    (shelf.folder(damaged) / "draft.json").write_text("{")
    html = gallery_view(shelf)
    places = [html.index(f"href='?story={name}'") for name in (damaged, drafted, made)]
    assert places == sorted(places)
    assert "a &lt;fox&gt;" in html and "2 scenes</small>" in html
    assert html.count("<video") == 1 and html.count("not made yet") == 2


def test_it_is_said_what_the_model_can_do():
    defaults = StoryOptions(frames=3, height=16, width=32, fps=4.0)
    model = AppModel(
        "runs/<base>", defaults, words=("a", "fox"), frames=range(3, 7, 3), fixed_size=True
    )
    html = model_view(model)
    assert "runs/&lt;base&gt;" in html and "<code>fox</code>" in html
    assert "3 frames of 32 x 16 pixels, 4 a second" in html
    assert "3 to 6 frames, in steps of 3" in html and "cannot be changed" in html
    assert "words" not in model_view(AppModel("released", defaults))
