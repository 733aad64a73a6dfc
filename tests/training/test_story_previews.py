import jax
import numpy as np
import pytest
from PIL import Image

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.pipeline.load import of_pixels_run
from m2dit_jax.training.data import open_training_data
from m2dit_jax.training.story_previews import Previews, choose_stories


def _params(recipe):
    params = recipe.init_params(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)


def _previews(recipe, params, axes=None):
    data = open_training_data(recipe)
    mesh = make_mesh(axes or {"data": 1, "fsdp": 1, "context": 1})
    shapes = with_shardings(jax.eval_shape(lambda: params), mesh)
    stories = choose_stories(recipe, data, None)
    previews = Previews(recipe, mesh, stories, data.empty_prompt, None, shapes)
    placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, shapes)
    return previews, previews.latents(placed)


@pytest.mark.slow
def test_a_preview_shows_what_the_pipeline_will(tiny_config, tmp_path):
    recipe = build_recipe(tiny_config)
    params = _params(recipe)
    previews, latents = _previews(recipe, params)
    assert len(previews.stories) == 4 and previews.stories[0].title == "held-out story 0"
    pipeline = of_pixels_run(recipe, lambda: params, 0)
    made = pipeline.sample_many([list(story.captions) for story in previews.stories], range(4))
    np.testing.assert_allclose(latents, made.latents, atol=2e-3)

    _, captions, video = previews.write(tmp_path / "previews", 20, latents)
    assert f"1. {previews.stories[0].captions[0]}" in captions
    assert "**held-out story 3**" in captions and video.ndim == 4 and video.dtype == np.uint8
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["stories_000020.gif", "stories_000020.png"]
    Image.open(tmp_path / "previews" / "stories_000020.png").verify()


def test_storyboards_are_previewed_by_their_first_scenes(tiny_config):
    tiny_config.train.preview_storyboards = "lone_actor"
    tiny_config.data.text_length = 12
    recipe = build_recipe(tiny_config)
    (story,) = choose_stories(recipe, open_training_data(recipe), None)
    assert story.title == "lone_actor" and len(story.captions) == 2
    np.testing.assert_array_equal(story.prompts, recipe.tokenize(story.captions))


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("lone_aktor", "config.train.preview_storyboards: .*nearest is lone_actor"),
        ("short.yaml", "short.yaml has 1 scenes, a story of this model 2"),
    ],
)
def test_what_cannot_be_previewed_is_named(board, message, tiny_config, tmp_path, monkeypatch):
    (tmp_path / "short.yaml").write_text("scenes: [{prompt: a red cross moves left on gray}]")
    monkeypatch.chdir(tmp_path)
    tiny_config.train.preview_storyboards = board
    recipe = build_recipe(tiny_config)
    with pytest.raises(ValueError, match=message):
        choose_stories(recipe, open_training_data(recipe), None)


def _on_a_mesh(config):
    recipe = build_recipe(config)
    return _previews(recipe, _params(recipe), {"data": 2, "fsdp": 2, "context": 2})[1]


@pytest.mark.slow
def test_on_a_mesh_it_is_the_same(tiny_config, on_eight_devices):
    tiny_config.model.heads = 2
    recipe = build_recipe(tiny_config)
    _, alone = _previews(recipe, _params(recipe))
    sharded = on_eight_devices(_on_a_mesh, tiny_config)
    np.testing.assert_allclose(sharded, alone, atol=2e-3)
