import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import cross as module
from m2dit_jax.models.attention.cached import ATTEND
from m2dit_jax.models.attention.cross import cross_attention
from m2dit_jax.models.attention.cudnn import attend_even, cudnn
from m2dit_jax.models.attention.dispatch import attention
from m2dit_jax.models.attention.splash import attend_padded, splash
from m2dit_jax.models.layout import Layout

EQUAL = Layout(3, 0, 4, padding=2, frame=2)
UNEQUAL = Layout(3, 0, (2, 4, 2), frame=2)
WITH_GLOBAL = Layout(3, 0, (0, 4, 2), padding=1, global_text=True, frame=2)
TEXT = 3


def inputs(layout, heads=2):
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = layout.tokens, layout.scenes * TEXT, layout.scenes * TEXT
    return [
        jax.random.normal(key, (2, length, heads, 8))
        for key, length in zip(keys, lengths, strict=True)
    ]


def outcome(layout, mask, name):
    @jax.jit
    def run(*qkv):
        def weighted_sum(*qkv):
            out = cross_attention(*qkv, layout, mask, name)
            return jnp.sum(jnp.sin(out)), out

        return jax.value_and_grad(weighted_sum, (0, 1, 2), has_aux=True)(*qkv)

    return run(*inputs(layout))


def seen(layout, mask):
    """Which scenes' texts each video token gets anything of."""
    query, key, _ = inputs(layout)
    texts = np.repeat(np.eye(layout.scenes), TEXT, axis=0)
    value = jnp.broadcast_to(texts[None, :, None], (*key.shape[:3], layout.scenes))
    value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, 8 - layout.scenes)))
    out = cross_attention(query, key, value, layout, mask, "grouped")
    return np.asarray(out[0, :, 0, : layout.scenes] > 0).astype(int)


def test_video_sees_the_text_of_its_own_scene():
    np.testing.assert_array_equal(
        seen(UNEQUAL, "symmetric"), [[1, 0, 0]] * 2 + [[0, 1, 0]] * 4 + [[0, 0, 1]] * 2
    )
    np.testing.assert_array_equal(seen(UNEQUAL, "causal"), seen(UNEQUAL, "symmetric"))
    np.testing.assert_array_equal(seen(UNEQUAL, "first_frame"), seen(UNEQUAL, "symmetric"))


def test_under_the_full_mask_video_sees_all_text():
    np.testing.assert_array_equal(seen(UNEQUAL, "full"), np.ones((8, 3)))


def test_all_video_sees_global_text_and_padding_nothing():
    np.testing.assert_array_equal(
        seen(WITH_GLOBAL, "symmetric"), [[1, 1, 0]] * 4 + [[1, 0, 1]] * 2 + [[0, 0, 0]]
    )


@pytest.mark.parametrize("name", [name for name in ATTEND if name not in ("dense", "splash")])
@pytest.mark.parametrize("layout", [EQUAL, UNEQUAL, WITH_GLOBAL], ids=["equal", "unequal", "all"])
def test_every_implementation_is_the_dense_one_forward_and_backward(layout, name, monkeypatch):
    monkeypatch.setattr(
        module, "ATTEND", ATTEND | {"cudnn": lambda *qkv: attend_even(*qkv, backend="xla")}
    )
    for mask in ("symmetric", "full") if name == "grouped" else ("symmetric",):
        expected = outcome(layout, mask, "dense")
        chex.assert_trees_all_close(outcome(layout, mask, name), expected, atol=1e-5)


def test_the_kernel_for_tpus_gives_the_same(monkeypatch):
    monkeypatch.setattr(
        module, "ATTEND", ATTEND | {"splash": lambda *qkv: attend_padded(*qkv, interpret=True)}
    )
    qkv = inputs(EQUAL)
    out = jax.jit(lambda *qkv: cross_attention(*qkv, EQUAL, "symmetric", "splash"))(*qkv)
    expected = cross_attention(*qkv, EQUAL, "symmetric", "dense")
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("mask", ["symmetric", "first_frame"])
def test_video_without_text_is_a_sequence_for_every_kernel(mask):
    keys = jax.random.split(jax.random.key(1), 3)
    qkv = [jax.random.normal(key, (1, EQUAL.tokens, 2, 16)) for key in keys]
    expected = attention(*qkv, EQUAL, mask, "dense")[:, : EQUAL.real_tokens]
    kernels = {
        "splash": splash(*qkv, EQUAL, mask, interpret=True),
        "cudnn": cudnn(*qkv, EQUAL, mask, backend="xla"),
    }
    for out in kernels.values():
        np.testing.assert_allclose(out[:, : EQUAL.real_tokens], expected, atol=1e-5)
