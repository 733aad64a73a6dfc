from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.webapp.model import AppModel, describe_model
from tests.engines import random_engine


def test_a_small_model_is_known_by_its_words_and_has_examples_that_it_can_make(
    tiny_config, tmp_path
):
    pipeline = random_engine(tiny_config)
    model = describe_model(pipeline, "runs/tiny")
    assert model.defaults == pipeline.defaults and model.fixed_size and model.global_text
    assert {"a", "it", "cross", "navy"} <= set(model.words)
    made = model.defaults.frames
    assert made in model.frames and model.frames[-1] <= 2 * made
    first, second = (Storyboard.from_mapping(model.example(n)) for n in (0, 1))
    assert first != second and first == Storyboard.from_mapping(model.example(0))
    for storyboard in (first, second):
        notes, lines = model.look_ahead(storyboard, tmp_path / "none")
        assert notes == () and all(line.endswith("to be made: new") for line in lines)
        assert len(lines) == model.defaults.window


def test_a_model_that_takes_any_text_has_an_example_too():
    model = AppModel("released", StoryOptions())
    assert len(Storyboard.from_mapping(model.example(0)).scenes) == 3
    assert not any("words" in line for line in model.facts())
