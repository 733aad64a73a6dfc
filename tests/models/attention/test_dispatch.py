from functools import lru_cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.cudnn import cudnn
from m2dit_jax.models.attention.dispatch import CHOICES, IMPLEMENTATIONS, attention, resolve
from m2dit_jax.models.attention.splash import splash
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS, scene_mask

EQUAL = Layout(3, 5, 6, frame=2)
PADDED = Layout(2, 3, 5, padding=3, frame=1)
UNEQUAL = Layout(3, 2, (6, 2, 4), padding=2, frame=2)
WITH_GLOBAL = Layout(3, 2, (0, 3, 4), padding=1, global_text=True, frame=1)
# Compiles in a tenth of the time: these programs are only run once.

# What runs on a CPU: the kernel interpreted, and cuDNN's groups without cuDNN.
HERE = IMPLEMENTATIONS | {
    "splash": partial(splash, interpret=True),
    "cudnn": partial(cudnn, backend="xla"),
}
FAST = tuple(name for name in HERE if name != "dense")


def heads(layout: Layout) -> list[jax.Array]:
    random = np.random.default_rng(0)
    shape = (2, layout.tokens, 2, 8)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for _ in range(3)]


def output_and_gradient(name: str, layout: Layout, mask: str):
    def weighted_sum(qkv):
        out = HERE[name](*qkv, layout, mask)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(weights * out), out

    (_, out), gradient = jax.jit(jax.value_and_grad(weighted_sum, has_aux=True))(heads(layout))
    return out, gradient


dense_output_and_gradient = lru_cache(partial(output_and_gradient, "dense"))


@pytest.mark.parametrize(
    "layout, mask",
    [
        *((layout, mask) for layout in (EQUAL, PADDED, UNEQUAL) for mask in STATIC_MASKS),
        *((WITH_GLOBAL, mask) for mask in STATIC_MASKS if mask != "independent"),
    ],
)
@pytest.mark.parametrize("name", FAST)
def test_all_equal_dense_forward_and_gradient(name, layout, mask, monkeypatch):
    # Small enough that most layouts need several chunks, some of them padded.
    monkeypatch.setattr(attention_chunks, "LOGITS_BYTES", 64)
    monkeypatch.setattr(attention_chunks, "LEAST_QUERIES", 2)
    chex.assert_trees_all_close(
        output_and_gradient(name, layout, mask),
        dense_output_and_gradient(layout, mask),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("mask", STATIC_MASKS)
def test_splash_over_several_blocks_equals_dense(mask):
    layout = Layout(2, 20, (150, 70), padding=3, frame=10)  # 263 tokens in blocks of 128
    chex.assert_trees_all_close(
        output_and_gradient("splash", layout, mask),
        dense_output_and_gradient(layout, mask),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("mask", STATIC_MASKS)
@pytest.mark.parametrize("name", HERE)
def test_a_token_reads_exactly_what_the_table_allows(name, mask):
    layout = Layout(scenes=2, text=1, video=(2, 1), padding=1, frame=1)  # t0 t1 v0 v0 v1 p
    query, key, _ = heads(layout)
    one_hot = np.eye(6, 8, dtype=np.float32)[None, :, None]
    value = jnp.asarray(np.broadcast_to(one_hot, query.shape))
    out = jax.jit(partial(HERE[name], layout=layout, mask=mask))(query, key, value)
    np.testing.assert_array_equal(np.asarray(out)[0, :, 0, :6] > 0, scene_mask(layout, mask))


@pytest.mark.parametrize("name", HERE)
def test_padding_neither_changes_real_tokens_nor_gets_gradient(name):
    end = PADDED.real_tokens

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def both(qkv):
        real = HERE[name](*qkv, PADDED, "symmetric")[:, :end]
        return jnp.sum(real**2), real

    qkv = heads(PADDED)
    (_, real), gradient = both(qkv)
    is_real = (np.arange(PADDED.tokens) < end)[:, None, None]
    other_padding = [jnp.asarray(np.where(is_real, x, np.float32(100))) for x in qkv]
    (_, same_real), same_gradient = both(other_padding)
    np.testing.assert_array_equal(same_real, real)
    chex.assert_trees_all_equal(same_gradient, gradient)
    for of_input in gradient:
        assert np.any(np.asarray(of_input)[:, :end])
        assert not np.any(np.asarray(of_input)[:, end:])


CPU, TPU = Target("cpu"), Target("tpu")
A100, H100 = Target("gpu", (8, 0)), Target("gpu", (9, 0))
T4, MI300 = Target("gpu", (7, 5), "Tesla T4"), Target("gpu", None, "AMD Instinct MI300X")
LONG = (1, 53_328, 6, 64)
SHORT = (1, 60, 2, 16)


@pytest.mark.parametrize(
    "target, shape, dtype, chosen",
    [
        (TPU, LONG, jnp.bfloat16, "splash"),
        (TPU, LONG, jnp.float32, "splash"),
        (TPU, SHORT, jnp.bfloat16, "grouped"),
        (H100, LONG, jnp.bfloat16, "cudnn"),
        (A100, SHORT, jnp.float16, "cudnn"),
        (H100, LONG, jnp.float32, "chunked"),
        (H100, (1, 53_328, 6, 60), jnp.bfloat16, "chunked"),
        (H100, (1, 53_328, 6, 256), jnp.bfloat16, "chunked"),
        # Before Ampere, and AMD's, which JAX calls "gpu" too.
        (T4, LONG, jnp.float16, "chunked"),
        (T4, SHORT, jnp.float16, "grouped"),
        (MI300, LONG, jnp.bfloat16, "chunked"),
        (CPU, SHORT, jnp.float32, "by_head"),
        (CPU, LONG, jnp.float32, "chunked"),
    ],
)
def test_auto_chooses_by_device_length_and_dtype(target, shape, dtype, chosen):
    assert resolve("auto", shape, dtype, target) == chosen


@pytest.mark.parametrize("target", [T4, MI300])
def test_cudnn_where_there_is_none_is_refused(target):
    with pytest.raises(ValueError, match=f"'cudnn': {target.name}.*8.0.*'chunked'"):
        resolve("cudnn", LONG, jnp.bfloat16, target)


def test_auto_is_for_this_machine_and_names_stay_as_they_are():
    layout = Layout(2, 1, 2)
    qkv = heads(layout)
    here = resolve("auto", qkv[0].shape, jnp.float32)
    run = jax.jit(attention, static_argnums=(3, 4, 5))
    np.testing.assert_array_equal(
        run(*qkv, layout, "symmetric", "auto"), run(*qkv, layout, "symmetric", here)
    )
    for name in IMPLEMENTATIONS:
        assert resolve(name, LONG, jnp.float32, CPU) == name


def test_unknown_implementation_is_named():
    layout = Layout(1, 1, 1)
    with pytest.raises(ValueError, match=f"'flash'.*{', '.join(CHOICES)}"):
        attention(*heads(layout), layout, "symmetric", "flash")
