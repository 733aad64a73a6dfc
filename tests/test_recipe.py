import jax
import pytest

from configs import base, shapes
from m2dit_jax.recipe import build_recipe


@pytest.mark.parametrize("config", [base, shapes])
def test_the_configs_can_be_built(config):
    recipe = build_recipe(config.get_config())
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    assert set(params) == {"text_encoder", "transformer"}


def test_parameters_depend_on_the_key_only(tiny_config):
    recipe = build_recipe(tiny_config)
    one, same, other = (recipe.init_params(jax.random.key(seed)) for seed in (0, 0, 1))
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), one, same)
    assert all(jax.tree.leaves(equal))
    kernel = ("transformer", "patch_embed", "kernel")
    assert (_at(one, kernel) != _at(other, kernel)).any()


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_all_impossible_fields_are_named_together(tiny_config):
    tiny_config.train.steps = 0
    tiny_config.train.caption_dropout = 1.5
    tiny_config.data.size = 10
    tiny_config.model.mask = "half"
    with pytest.raises(ValueError) as error:
        build_recipe(tiny_config)
    message = str(error.value)
    assert "config.train.steps must be at least 1, got 0" in message
    assert "config.train.caption_dropout must be between 0 and 1, got 1.5" in message
    assert "config.data.size must be a multiple of config.model.patch_size 4, got 10" in message
    assert "config.model.mask must be one of symmetric, full, independent, got 'half'" in message


def test_words_that_the_model_does_not_know(tiny_config):
    with pytest.raises(ValueError, match="unknown words: dragon"):
        build_recipe(tiny_config).tokenize(["a dragon moves left on gray"])


def test_a_missing_field_is_named(tiny_config):
    with tiny_config.unlocked():
        del tiny_config.train.ema_decay
    with pytest.raises(ValueError, match="config.train.ema_decay is missing"):
        build_recipe(tiny_config)


def test_configs_are_locked():
    with pytest.raises(AttributeError, match="steps"):
        shapes.get_config().train.stepz = 3


def test_not_a_number_is_refused(tiny_config):
    tiny_config.train.learning_rate = float("nan")
    tiny_config.sample.fps = 0.0
    with pytest.raises(ValueError, match="learning_rate must be at least 0, got nan") as error:
        build_recipe(tiny_config)
    assert "config.sample.fps must be above 0, got 0.0" in str(error.value)
