import jax
import pytest

from configs import base, pretrain_5b, shapes
from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config


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


def _encoded_config(**changes):
    config = pretrain_5b.get_config()
    config.model.layers = 2
    config.update_from_flattened_dict(changes)
    return config


def test_with_encoded_data_the_transformer_alone_is_trained():
    recipe = build_recipe(_encoded_config())
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    assert set(params) == {"transformer"}
    assert params["transformer"]["text_proj"]["kernel"].shape == (4096, 3072)
    assert recipe.tokenizer is None
    with pytest.raises(ValueError, match="the prompts were encoded before"):
        recipe.tokenize(["a dragon"])


def test_all_sizes_of_the_transformer_can_be_configured():
    changes = {
        "data.channels": 4,
        "data.text_dim": 5,
        "model.rotary": False,
        "model.added_positions": True,
        "model.base_grid": (1, 2, 3),
        "model.spatial_scale": 2.0,
    }
    transformer = make_transformer_config(Config.from_dict(_encoded_config(**changes)))
    assert (transformer.channels, transformer.text_dim) == (4, 5)
    assert (transformer.rotary, transformer.added_positions) == (False, True)
    assert (transformer.base_grid, transformer.spatial_scale) == ((1, 2, 3), 2.0)


def test_words_that_the_model_does_not_know(tiny_config):
    with pytest.raises(ValueError, match="unknown words: dragon"):
        build_recipe(tiny_config).tokenize(["a dragon moves left on gray"])
