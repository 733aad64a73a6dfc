from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.base import get_config
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.flops import (
    attention_pairs,
    forward_flops,
    generated_flops,
    repeated_flops,
    text_encoder_flops,
)
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS, scene_mask
from m2dit_jax.tools.planning.compiled_flops import compiled_flops
from m2dit_jax.tools.planning.hlo import parse

FIVE_B = TransformerConfig(
    channels=16, patch_size=2, layers=42, heads=48, head_dim=64, text_dim=4096, time_dim=512
)
TINY = TransformerConfig(
    channels=4, patch_size=2, layers=2, heads=2, head_dim=16, text_dim=24, time_dim=16
)


@pytest.mark.parametrize("mask", STATIC_MASKS)
@pytest.mark.parametrize("video", [5, (2, 7, 4)])
def test_pairs_are_those_of_the_mask(mask, video):
    layout = Layout(3, 2, video, frame=1)
    assert attention_pairs(layout, mask) == int(np.asarray(scene_mask(layout, mask)).sum())
    padded = Layout(3, 2, video, padding=3, frame=1)
    assert attention_pairs(padded, mask) == attention_pairs(layout, mask)


def test_blocks_with_different_masks_are_added_up():
    layout, mixed = Layout(3, 2, 6, frame=2), replace(TINY, mask="block_diagonal", layers=3)
    blocks = [attention_pairs(layout, m) for m in ("symmetric", "opening_frame", "opening_frame")]
    assert forward_flops(mixed, layout).attention == sum(blocks) * 4 * TINY.width


def test_a_story_of_5b_is_1_95_petaflop():
    flops = forward_flops(FIVE_B, Layout(3, 226, 13 * 30 * 45))
    assert flops.total == pytest.approx(1.95e15, rel=2e-3)
    assert flops.attention / flops.total == pytest.approx(0.74, abs=5e-3)


@pytest.mark.parametrize(("given", "share"), [(2, 0.333), (1, 0.667)])
def test_what_a_cache_leaves_of_a_step_of_5b(given, share):
    layout = Layout(3, 226, 13 * 30 * 45)
    left = generated_flops(FIVE_B, layout, given).total
    assert left / forward_flops(FIVE_B, layout).total == pytest.approx(share, abs=2e-3)


def test_pairs_with_a_cache_are_those_of_the_generated_rows():
    layout, given = Layout(3, 2, 5), np.array([True, False, True])
    rows = np.repeat(np.tile(given, 2), [2] * 3 + [5] * 3)
    pairs = int(np.asarray(scene_mask(layout, "causal", given))[~rows].sum())
    attention = generated_flops(TINY, layout, 2).attention
    assert attention == pairs * 2 * 2 * TINY.width * TINY.layers


def test_a_cache_of_all_scenes_leaves_nothing():
    with pytest.raises(ValueError, match="1 to 2 given scenes of 3 .*, got 3 given"):
        generated_flops(TINY, Layout(3, 2, 5), 3)


def test_the_closed_form_is_what_the_transformer_computes():
    graphdef, params = nnx.split(nnx.eval_shape(lambda: M2DiT(TINY, rngs=nnx.Rngs(0))))
    shapes = ((1, 2, 3, 4, 6, 4), jnp.float32), ((1, 2, 5, 24), jnp.float32), ((1, 2), jnp.int32)
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    lowered = jax.jit(lambda p, *xs: nnx.merge(graphdef, p)(*xs)).lower(params, *arguments)
    counted = compiled_flops(parse(lowered.compile().as_text() or ""), None, "").products
    # Text goes through the patches' two layers too, which the closed form does not ask for.
    patches_of_text = 2 * 2 * (2 * 5) * (4 * 2 * 2) * TINY.width
    assert counted == forward_flops(TINY, Layout(2, 5, 3 * 2 * 3)).total + patches_of_text


def test_what_remat_and_kernels_repeat():
    forward = forward_flops(TINY, Layout(2, 5, 18))
    blocks = forward.linear + forward.attention
    assert repeated_flops(forward, "none", "grouped") == 0
    assert repeated_flops(forward, "full", "grouped") == blocks
    assert repeated_flops(forward, "full", "cudnn") == blocks + forward.attention // 2
    assert repeated_flops(forward, "attention", "dense") == forward.linear
    with pytest.raises(ValueError, match="unknown remat 'some'"):
        repeated_flops(forward, "some", "grouped")


def test_text_encoder_flops_are_those_of_its_products():
    recipe = build_recipe(get_config())
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    encode = jax.jit(lambda p, ids: nnx.merge(recipe.graphdef, p).encode_text(ids))
    lowered = encode.lower(params, jax.ShapeDtypeStruct((1, 3, 8), jnp.int32))
    counted = compiled_flops(parse(lowered.compile().as_text() or ""), None, "").products
    assert counted == text_encoder_flops(recipe.config.text_encoder, prompts=3, length=8)
