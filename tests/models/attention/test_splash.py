from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import splash as attention_splash
from m2dit_jax.models.attention.splash import SceneMask, splash
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS, scene_mask

LAYOUT = Layout(scenes=2, text=3, video=(5, 2), padding=2, frame=1)
TOKENS = 24


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_blocks_of_the_mask(variant):
    mask = SceneMask(LAYOUT, variant, TOKENS, LAYOUT, TOKENS)
    expected = np.zeros((TOKENS, TOKENS), bool)
    expected[: LAYOUT.tokens, : LAYOUT.tokens] = scene_mask(LAYOUT, variant)
    expected[LAYOUT.tokens :, LAYOUT.tokens :] = True
    for row in range(0, TOKENS, 4):
        for column in range(0, TOKENS, 3):
            block = (slice(row, row + 4), slice(column, column + 3))
            np.testing.assert_array_equal(mask[block], expected[block])


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_what_the_kernel_computes_is_the_mask(variant):
    mask = SceneMask(LAYOUT, variant, TOKENS, LAYOUT, TOKENS)
    computed = mask.mask_function(mask.q_sequence[:, None], jnp.arange(TOKENS)[None, :])
    np.testing.assert_array_equal(computed, mask[:TOKENS, :TOKENS])


@pytest.mark.parametrize("tokens", [LAYOUT.tokens, TOKENS])
@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_queries_may_be_a_part_of_each_segment(variant, tokens):
    part = LAYOUT.share(2)
    mask = SceneMask(LAYOUT, variant, tokens, part, 16)
    segments = LAYOUT.segments()
    row_of_segment = [int(np.flatnonzero(segments == each)[0]) for each in part.segments()]
    block = mask[: part.tokens, : LAYOUT.tokens]
    np.testing.assert_array_equal(block, np.asarray(scene_mask(LAYOUT, variant))[row_of_segment])
    # Rows that fill up the queries see something, or their softmax would be of nothing.
    assert mask[part.tokens : 16, :tokens].any(1).all()


def test_mask_is_made_once_for_equal_layouts():
    qkv = [jnp.ones((1, LAYOUT.tokens, 1, 8))] * 3
    attention_splash._make_kernel.cache_clear()
    for _ in range(2):  # each is traced anew: what the first trace cached must not belong to it
        layout = replace(LAYOUT)
        jax.eval_shape(lambda *qkv, of=layout: splash(*qkv, of, "symmetric", interpret=True), *qkv)
    info = attention_splash._make_kernel.cache_info()
    assert (info.misses, info.hits) == (1, 1)


def test_blocks_that_nobody_sees_are_left_out():
    layout = Layout(scenes=4, text=1, video=(124, 128, 128, 128))
    mask = SceneMask(layout, "independent", layout.tokens, layout, layout.tokens)
    kernel: Any = attention_splash._make_kernel(mask, 1, 128, 128, True)
    blocks = kernel.fwd_mask_info.block_mask
    # The first block of queries holds all texts and sees everything. The others see their own
    # scene and the block of their text.
    np.testing.assert_array_equal(np.count_nonzero(blocks[0], axis=1), [4, 2, 2, 2])


def test_lowers_for_an_absent_tpu_forward_and_backward():
    layout = Layout(scenes=2, text=16, video=(2500, 1700), padding=3)

    def loss(query, key, value):
        return jnp.sum(splash(query, key, value, layout, "symmetric"))

    shape = jax.ShapeDtypeStruct((1, layout.tokens, 1, 64), jnp.bfloat16)
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(shape, shape, shape)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3  # forward, dq, dk and dv
