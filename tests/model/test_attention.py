import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.model import attention as attention_module
from m2dit_jax.model.attention import IMPLEMENTATIONS, attention
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import MASKS

LAYOUTS = (Layout(1, 2, 3), Layout(2, 1, 1), Layout(3, 5, 7), Layout(4, 3, 2))


def heads(layout: Layout, seed: int = 0) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    return [jax.random.normal(key, (2, layout.tokens, 2, 8)) for key in keys]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("implementation", ["grouped", "chunked"])
def test_fast_paths_equal_dense_forward_and_gradient(layout, mask, implementation, monkeypatch):
    # Small enough that most layouts need several chunks, some of them padded.
    monkeypatch.setattr(attention_module, "LOGITS_BYTES", 64)
    monkeypatch.setattr(attention_module, "LEAST_QUERIES", 2)

    def weighted_sum(qkv, implementation):
        out = attention(*qkv, layout, mask, implementation)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(weights * out), out

    value_and_grad = jax.jit(
        jax.value_and_grad(weighted_sum, has_aux=True), static_argnames="implementation"
    )
    qkv = heads(layout)
    (_, dense), dense_grads = value_and_grad(qkv, implementation="dense")
    (_, fast), fast_grads = value_and_grad(qkv, implementation=implementation)
    chex.assert_trees_all_close(fast, dense, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(fast_grads, dense_grads, atol=1e-5, rtol=0)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.sampled_from(MASKS))
def test_grouped_equals_dense_for_any_counts(scenes, text, video, mask):
    layout = Layout(scenes, text, video)
    outputs = [attention(*heads(layout), layout, mask, name) for name in ("dense", "grouped")]
    chex.assert_trees_all_close(*outputs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_token_reads_exactly_what_the_mask_allows(implementation):
    layout = Layout(scenes=2, text=1, video=1)  # t0 t1 v0 v1
    query, key, _ = heads(layout)
    value = jnp.broadcast_to(jnp.eye(4, 8)[None, :, None], query.shape)
    out = attention(query, key, value, layout, "symmetric", implementation)
    reads = np.asarray(out[0, :, 0, :4] > 0, int)
    np.testing.assert_array_equal(reads, [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]])


def test_unknown_implementation_is_named():
    layout = Layout(1, 1, 1)
    with pytest.raises(ValueError, match="'flash'.*dense, grouped, chunked"):
        attention(*heads(layout), layout, "symmetric", "flash")
