from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention import dispatch as attention_module
from m2dit_jax.models.attention.causal import hide_generated
from m2dit_jax.models.attention.cudnn import cudnn
from m2dit_jax.models.attention.dispatch import IMPLEMENTATIONS, attention
from m2dit_jax.models.attention.splash import splash
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import HIDE_GENERATED, given_tokens, segment_table

EQUAL_PADDED = Layout(3, 3, 4, padding=3)
UNEQUAL = Layout(3, 2, (5, 1, 4), padding=2)
WITH_GLOBAL = Layout(3, 2, (0, 3, 4), padding=1, global_text=True)
# Stories of one batch differ in what is given.
GIVEN = jnp.array([[True, False, True], [False, True, False]])


@pytest.fixture(autouse=True)
def every_implementation_here(monkeypatch):
    here = {"splash": partial(splash, interpret=True), "cudnn": partial(cudnn, backend="xla")}
    monkeypatch.setattr(attention_module, "IMPLEMENTATIONS", IMPLEMENTATIONS | here)
    # So that there are several chunks.
    monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 64)
    monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 2)


def heads(layout: Layout) -> list[jax.Array]:
    random = np.random.default_rng(0)
    shape = (2, layout.tokens, 2, 8)
    # Large, so that a key that is hidden by too little would be seen.
    return [jnp.asarray(3 * random.normal(size=shape), jnp.float32) for _ in range(3)]


def output_and_gradient(name, layout, mask="causal", given=GIVEN):
    def weighted_sum(qkv):
        out = attention(*qkv, layout, mask, name, given)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(weights * out), out

    (_, out), gradient = jax.jit(jax.value_and_grad(weighted_sum, has_aux=True))(heads(layout))
    return out, gradient


@pytest.mark.parametrize("mask", HIDE_GENERATED)
@pytest.mark.parametrize("layout", [EQUAL_PADDED, UNEQUAL, WITH_GLOBAL])
@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != "dense"])
def test_all_equal_dense_forward_and_gradient(name, layout, mask):
    given = GIVEN.at[:, 0].set(True) if layout.global_text else GIVEN
    chex.assert_trees_all_close(
        output_and_gradient(name, layout, mask, given),
        output_and_gradient("dense", layout, mask, given),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("given", [False, True])
def test_with_none_or_all_given_it_is_the_symmetric_mask(given):
    chex.assert_trees_all_close(
        output_and_gradient("by_head", UNEQUAL, given=jnp.full((2, 3), given)),
        output_and_gradient("dense", UNEQUAL, "symmetric"),
        # The gradients, of up to 9, are sums of products: a few last digits of float32 are 1.2e-5
        # with jax 0.12. A key that is wrongly seen changes them by 1 and more.
        atol=5e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_given_scenes_are_exactly_untouched_by_generated_ones(dtype):
    query, key, value = (x.astype(dtype) for x in heads(UNEQUAL))
    of_given = given_tokens(UNEQUAL, GIVEN)[:, :, None, None]
    run = jax.jit(partial(attention, layout=UNEQUAL, mask="causal", implementation="grouped"))
    out = run(query, key, value, given=GIVEN)
    assert bool(jnp.isfinite(out).all())
    other = run(query, key, jnp.where(of_given, value, value + 100), given=GIVEN)
    changed = jnp.any(out != other, axis=(2, 3))
    np.testing.assert_array_equal(~changed, of_given[:, :, 0, 0])


@pytest.mark.parametrize("mask", HIDE_GENERATED)
def test_a_story_reads_exactly_what_its_table_allows(mask):
    one_hot = jnp.asarray(np.eye(UNEQUAL.tokens, dtype=np.float32)[None, :, None])
    value = jnp.broadcast_to(one_hot, (2, *one_hot.shape[1:]))
    alike = jnp.zeros_like(value)
    run = jax.jit(partial(attention, layout=UNEQUAL, mask=mask, implementation="grouped"))
    reads = np.asarray(run(alike, alike, value, given=GIVEN))[:, :, 0] > 0
    segments = UNEQUAL.segments()
    for story, given in zip(reads, GIVEN, strict=True):
        table = np.asarray(segment_table(UNEQUAL, mask, np.asarray(given)))
        np.testing.assert_array_equal(story, table[segments][:, segments])


def test_features_fill_what_a_gpu_kernel_takes():
    x = jnp.ones((1, 2, 1, 64), jnp.bfloat16)
    seen = jnp.ones((1, 2), bool)
    assert all(y.shape[3] % 8 == 0 for y in hide_generated(x, x, x, seen, seen))


def test_not_told_what_is_given():
    with pytest.raises(ValueError, match="'causal' needs to know which scenes are `given`"):
        attention(*heads(UNEQUAL), UNEQUAL, "causal", "grouped")
