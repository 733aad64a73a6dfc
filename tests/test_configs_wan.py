from dataclasses import replace

import jax
import pytest

from configs import wan_1_3b, wan_1_3b_finetune, wan_a14b
from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.models.wan.family import WAN
from m2dit_jax.models.wan.transformer_config import CHOICES

# What differs in the released transformer/config.json from diffusers' defaults.
RELEASED = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}


@pytest.fixture(scope="module")
def recipe():
    return build_recipe(wan_1_3b.get_config())


def test_the_model_is_the_released_one(recipe):
    ours = make_transformer_config(recipe.config)
    choices = {name: getattr(ours, name) for name in CHOICES}
    assert replace(WAN.transformer.config(RELEASED), **choices) == ours
    size = WAN.scene_size(RELEASED, WAN.vae.config({}))
    assert recipe.scene_size() == (size.frames, size.height, size.width)
    assert recipe.latent_shape() == (21, 60, 104, 16)
    assert recipe.config.data.text_length == size.text_length
    assert recipe.config.sample.fps == WAN.sampling(RELEASED, WAN.vae.config({}), False).fps
    assert recipe.schedule.shift == 3.0


def test_the_docstring_has_the_number_of_parameters_and_tokens(recipe):
    shapes = jax.eval_shape(recipe.init_params, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    layout = recipe.story_layout()
    video = layout.real_tokens - layout.text_tokens
    for figure in (f"{count:,} parameters", f"{video:,} video tokens"):
        assert figure in (wan_1_3b.__doc__ or "")


def test_one_of_two_transformers_is_the_released_one():
    recipe = build_recipe(wan_a14b.get_config())
    released = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
    ours = make_transformer_config(recipe.config)
    choices = {name: getattr(ours, name) for name in CHOICES}
    assert replace(WAN.transformer.config(released), **choices) == ours
    vae = WAN.vae.config({})
    size, defaults = WAN.scene_size(released, vae), WAN.sampling(released, vae, True)
    assert recipe.scene_size() == (size.frames, size.height, size.width)
    sample = recipe.config.sample
    assert (sample.steps, sample.guidance_scale) == (defaults.steps, defaults.guidance_scale)
    shapes = jax.eval_shape(recipe.init_params, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert f"{count:,} parameters" in (wan_a14b.__doc__ or "")


def test_the_second_stage_differs_in_given_scenes_alone():
    one, two = wan_1_3b.get_config(), wan_1_3b_finetune.get_config()
    two.train.given_probability = one.train.given_probability
    assert two.to_dict() == one.to_dict()
