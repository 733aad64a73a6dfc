import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.models.placement import ONE_DEVICE
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.training.data import open_training_data
from m2dit_jax.training.run import prepare
from m2dit_jax.training.validation import BANDS, Validation, story_losses

BANDS_OF_1000 = ["000_249", "250_499", "500_749", "750_999"]


def _recipe(config, **changes):
    config.update_from_flattened_dict(changes)
    return build_recipe(config)


def _params(recipe):
    """Not the initialisation, in which the last layer is zero."""
    params = recipe.init_params(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)


def _validation(recipe, stories, params, axes=None):
    data = open_training_data(recipe)
    mesh = make_mesh(axes or {"data": 1, "fsdp": 1, "context": 1})
    shapes = with_shardings(jax.eval_shape(lambda: params), mesh)
    validation = Validation(recipe, mesh, data.held_out(stories), 1.0, shapes)
    return validation(jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, shapes))


def test_there_is_a_loss_for_each_task_and_band(tiny_config):
    recipe = _recipe(tiny_config)
    values = _validation(recipe, 3, _params(recipe))
    for task in ("generation", "extension"):
        bands = [values.pop(f"validation/{task}/timesteps_{band}") for band in BANDS_OF_1000]
        assert len(set(bands)) == BANDS and all(0 < loss < 10 for loss in bands)
        assert values.pop(f"validation/{task}/loss") == pytest.approx(np.mean(bands))
    assert not values


def test_a_batch_that_is_filled_up_counts_each_story_once(tiny_config):
    """Five stories in batches of four, and of one."""
    recipe = _recipe(tiny_config)
    params = _params(recipe)
    by_four = _validation(recipe, 5, params)
    by_one = _validation(_recipe(tiny_config, **{"train.accumulate": 4}), 5, params)
    assert by_four == pytest.approx(by_one, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_the_loss_is_that_of_the_generated_scenes(tiny_config, prediction):
    tiny_config.diffusion.prediction = prediction
    recipe = _recipe(tiny_config)
    story = open_training_data(recipe).held_out(1)[0].sample
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], story)
    params = jax.tree.map(jnp.zeros_like, _params(recipe))  # the output is zero
    given = jnp.array([True, False])
    losses = story_losses(
        recipe, 1.0, ONE_DEVICE, params, batch, jnp.array([0]), jnp.int32(2), given
    )
    timestep = int((2 + 0.6180339887) * 250)
    latents = np.asarray(batch.video, np.float64) / 127.5 - 1
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 1)
    noise = np.asarray(jax.random.normal(key, latents.shape[1:]))
    alpha = recipe.schedule.alphas_cumprod()[timestep]
    v = np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * latents[0]
    # An x0 of zero is a v of sqrt(alpha / (1 - alpha)) times the noisy latents.
    noisy = np.sqrt(alpha) * latents[0] + np.sqrt(1 - alpha) * noise
    found = 0 if prediction == "v" else np.sqrt(alpha / (1 - alpha)) * noisy
    np.testing.assert_allclose(losses, [np.mean((found - v)[1] ** 2)], rtol=1e-4)


def _on_a_mesh(config, stories):
    recipe = build_recipe(Config.from_dict(config))
    return _validation(recipe, stories, _params(recipe), {"data": 2, "fsdp": 2, "context": 2})


@pytest.mark.slow
def test_on_a_mesh_it_is_the_same(tiny_config, on_eight_devices):
    recipe = _recipe(tiny_config, **{"model.heads": 2})
    alone = _validation(recipe, 5, _params(recipe))
    sharded = on_eight_devices(_on_a_mesh, tiny_config.to_dict(), 5)
    assert sharded == pytest.approx(alone, rel=1e-4)


def test_real_video_needs_held_out_stories(tiny_config, tmp_path):
    tiny_config.update_from_flattened_dict(
        {"data.source": "pixels", "data.height": 8, "data.width": 8, "train.validate_every": 2}
    )
    with pytest.raises(ValueError, match="validate_every needs held-out stories: config.data.held"):
        prepare(Config.from_dict(tiny_config), tmp_path)
