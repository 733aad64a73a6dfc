from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.chunks import attend_in_chunks, attend_rows
from m2dit_jax.models.attention.dispatch import dense
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS

LAYOUT = Layout(scenes=2, text=2, video=(4, 2), padding=1)
ROWS = np.array([10, 3, 0, 6, 8])  # padding, both scenes, text and video, in no order
# Compiles in a tenth of the time: these programs are only run once.


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


@pytest.mark.parametrize("mask", STATIC_MASKS)
def test_traced_rows_are_those_of_dense(mask, chunk_size):
    query, key, value = heads(LAYOUT.tokens)

    def dense_rows(query, key, value, rows):
        everything = jnp.zeros_like(key).at[:, rows].set(query)
        return dense(everything, key, value, LAYOUT, mask)[:, rows]

    chex.assert_trees_all_close(
        output_and_gradient(
            lambda *qkv_rows: attend_rows(*qkv_rows, LAYOUT, mask), query[:, ROWS], key, value, ROWS
        ),
        output_and_gradient(dense_rows, query[:, ROWS], key, value, ROWS),
        atol=1e-5,
        rtol=0,
    )


def test_chunks_of_queries_equal_the_whole(chunk_size):
    query, key, value = heads(7)
    chex.assert_trees_all_close(
        output_and_gradient(attend_in_chunks, query[:, :5], key, value),
        output_and_gradient(jax.nn.dot_product_attention, query[:, :5], key, value),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("by_rows", [True, False])
def test_memory_does_not_grow_with_the_queries(by_rows, monkeypatch):
    monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 2**16)
    monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 8)
    layout = Layout(scenes=2, text=4, video=1020)
    attend = attend_in_chunks
    if by_rows:
        rows = jnp.arange(layout.tokens)
        attend = partial(attend_rows, rows=rows, layout=layout, mask="symmetric")
    shape = jax.ShapeDtypeStruct((1, layout.tokens, 1, 8), jnp.float32)
    gradient = jax.jit(jax.grad(lambda *qkv: jnp.sum(attend(*qkv) ** 2), (0, 1, 2)))
    memory = gradient.lower(shape, shape, shape).compile().memory_analysis()
    all_logits = 4 * layout.tokens**2
    assert memory is not None
    assert memory.temp_size_in_bytes < all_logits / 10
