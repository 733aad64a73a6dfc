import re

import jax
import pytest

from configs import base, pretrain_5b, shapes
from m2dit_jax.config.recipe import build_recipe, check_config, make_transformer_config


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
    assert (
        "config.model.mask must be one of symmetric, full, independent, causal, got 'half'"
        in message
    )


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
    transformer = make_transformer_config(_encoded_config(**changes))
    assert (transformer.channels, transformer.text_dim) == (4, 5)
    assert (transformer.rotary, transformer.added_positions) == (False, True)
    assert (transformer.base_grid, transformer.spatial_scale) == ((1, 2, 3), 2.0)


def test_what_another_source_reads_is_not_checked(tiny_config):
    check_config(_encoded_config(**{"data.size": -1, "text_encoder.d_model": -1}))
    tiny_config.data.height = tiny_config.data.text_dim = -1
    check_config(tiny_config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.source": "films"},
            "config.data.source must be one of shapes, pixels, latents, got 'films'",
        ),
        (
            {"data.height": 488},
            "config.data.height must be a multiple of 8 x config.model.patch_size 2 with "
            "config.data.source 'latents', got 488",
        ),
        ({"data.width": 0}, "config.data.width must be at least 1, got 0"),
        ({"data.channels": 0}, "config.data.channels must be at least 1, got 0"),
        ({"data.text_dim": 0}, "config.data.text_dim must be at least 1, got 0"),
        ({"data.frames": 48}, "config.data.frames must be 4k + 1, with k + 1 a multiple of"),
        ({"model.patch_size_t": 2}, "config.model.patch_size_t 2, with config.data.source 'lat"),
        ({"train.eval_every": 5}, "config.train.eval_every must be 0 with config.data.source"),
        ({"model.base_grid": (13, 30)}, "config.model.base_grid must be empty or three numbers"),
        ({"model.base_grid": (13, 30, 0)}, "got (13, 30, 0)"),
        ({"model.spatial_scale": 0.0}, "config.model.spatial_scale must be above 0, got 0.0"),
        (
            {"train.compute_dtype": "float16"},
            "config.train.compute_dtype must be one of float32, bfloat16, got 'float16'",
        ),
        ({"model.patch_size": 0}, "config.model.patch_size must be at least 1, got 0"),
    ],
)
def test_what_encoded_data_cannot_have(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_config(_encoded_config(**changes))


def test_shapes_do_not_start_from_released_weights(tiny_config):
    tiny_config.train.init_from = "models/CogVideoX-5b"
    with pytest.raises(ValueError, match="config.train.init_from must be empty with config.data"):
        check_config(tiny_config)


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
