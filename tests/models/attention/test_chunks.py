import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.chunks import attend_in_chunks


@pytest.fixture(params=["whole", "chunks"])
def chunk_size(request, monkeypatch):
    if request.param == "chunks":  # of two queries, the last one filled up
        monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 1)
        monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 2)


def heads(tokens: int) -> list[jax.Array]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=(2, tokens, 2, 8)), jnp.float32) for _ in range(3)]


def output_and_gradient(attend, *arguments):
    def weighted_sum(*arguments):
        out = attend(*arguments)
        return jnp.sum(jnp.cos(jnp.arange(out.size)).reshape(out.shape) * out), out

    both = jax.value_and_grad(weighted_sum, (0, 1, 2), has_aux=True)
    return jax.jit(both)(*arguments)


def test_chunks_of_queries_equal_the_whole(chunk_size):
    query, key, value = heads(7)
    chex.assert_trees_all_close(
        output_and_gradient(attend_in_chunks, query[:, :5], key, value),
        output_and_gradient(jax.nn.dot_product_attention, query[:, :5], key, value),
        atol=1e-5,
        rtol=0,
    )


def test_memory_does_not_grow_with_the_queries(monkeypatch):
    monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 2**16)
    monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 8)
    tokens = 2048
    shape = jax.ShapeDtypeStruct((1, tokens, 1, 8), jnp.float32)
    gradient = jax.jit(jax.grad(lambda *qkv: jnp.sum(attend_in_chunks(*qkv) ** 2), (0, 1, 2)))
    memory = gradient.lower(shape, shape, shape).compile().memory_analysis()
    all_logits = 4 * tokens**2
    assert memory is not None
    assert memory.temp_size_in_bytes < all_logits / 10
