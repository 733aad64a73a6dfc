import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention.by_head import attend_by_head

ONE_HEAD = 4 * 5 * 7  # bytes of its logits


@pytest.fixture
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    lengths = (5, 7, 7, 5)  # queries, keys, values, cotangents
    return [jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(keys, lengths, strict=True)]


def _with_gradients(attend, inputs):
    @jax.jit
    def compute(query, key, value, cotangent):
        out, gradients = jax.vjp(attend, query, key, value)
        return out, gradients(cotangent)

    return compute(*inputs)


# 6 heads of 2 x 3: all at once, one at a time, in groups that leave a rest.
@pytest.mark.parametrize("cache_bytes", [2**20, 1, 4 * ONE_HEAD])
def test_it_is_attention_with_its_gradients(cache_bytes, inputs, monkeypatch):
    monkeypatch.setattr("m2dit_jax.models.attention.by_head.CACHE_BYTES", cache_bytes)
    out, gradients = _with_gradients(attend_by_head, inputs)
    expected, expected_gradients = _with_gradients(jax.nn.dot_product_attention, inputs)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_large_logits_do_not_overflow(inputs):
    query, key, value, _ = inputs
    out = attend_by_head(1e4 * query, key, value)
    np.testing.assert_allclose(
        out, jax.nn.dot_product_attention(1e4 * query, key, value), atol=1e-5
    )


def test_bfloat16_is_kept_and_its_logits_are_float32(inputs):
    out, gradients = _with_gradients(attend_by_head, [x.astype(jnp.bfloat16) for x in inputs])
    expected = jax.nn.dot_product_attention(*inputs[:3])
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in gradients} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03)
