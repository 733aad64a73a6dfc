import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from configs import base, bench_medium
from m2dit_jax.benchmarking.flops import attention_pairs, text_encoder_flops, transformer_flops
from m2dit_jax.benchmarking.phases import latent_shape, story_layout
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import MASKS, scene_mask
from m2dit_jax.recipe import build_recipe, make_transformer_config


def _product_flops(jaxpr):
    """Of all products of matrices in a traced program."""
    flops = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            flops += 2 * math.prod(lengths) * equation.outvars[0].aval.size
        flops += sum(_product_flops(inner) for inner in jaxprs_in_params(equation.params))
    return flops


@pytest.mark.parametrize("mask", MASKS)
def test_pairs_are_those_of_the_mask(mask):
    layout = Layout(scenes=3, text=2, video=5)
    assert attention_pairs(layout, mask) == scene_mask(layout, mask).sum()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("module", [base, bench_medium])
def test_transformer_flops_are_those_of_its_products(module, mask):
    config = module.get_config()
    config.model.mask = mask
    recipe = build_recipe(config)
    ours, layout = make_transformer_config(config), story_layout(recipe)
    latents = jnp.zeros((1, layout.scenes, *latent_shape(config)))
    text_embeds = jnp.zeros((1, layout.scenes, layout.text, ours.text_dim))
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    traced = jax.make_jaxpr(lambda params, *inputs: nnx.merge(recipe.graphdef, params)(*inputs))(
        params, latents, text_embeds, jnp.zeros((1, layout.scenes), jnp.int32)
    )
    assert transformer_flops(ours, layout) == _product_flops(traced.jaxpr)


def test_text_encoder_flops_are_those_of_its_products():
    recipe = build_recipe(base.get_config())
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    traced = jax.make_jaxpr(
        lambda params, ids: nnx.merge(recipe.graphdef, params).encode_text(ids)
    )(params, jnp.zeros((1, 3, 8), jnp.int32))
    counted = text_encoder_flops(recipe.config.text_encoder, prompts=3, length=8)
    assert counted == _product_flops(traced.jaxpr)
