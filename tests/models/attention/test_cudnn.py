import jax
import jax.numpy as jnp
import pytest

from m2dit_jax.models.attention.cudnn import cudnn
from m2dit_jax.models.layout import Layout

LAYOUT = Layout(scenes=2, text=1, video=2)


@pytest.mark.parametrize(
    "dtype, head_dim", [(jnp.float32, 64), (jnp.bfloat16, 60), (jnp.bfloat16, 256)]
)
def test_what_cudnn_does_not_take_is_named(dtype, head_dim):
    x = jnp.ones((1, LAYOUT.tokens, 1, head_dim), dtype)
    with pytest.raises(ValueError, match=f"got {x.dtype} and {head_dim}: use .*'auto'"):
        cudnn(x, x, x, LAYOUT, "symmetric")


@pytest.mark.parametrize("mask", ["symmetric", "full"])
def test_all_lengths_that_cudnn_sees_are_even(mask, monkeypatch):
    seen = []
    attend = jax.nn.dot_product_attention

    def spy(query, key, value, **options):
        seen.append((query.shape[1], key.shape[1]))
        return attend(query, key, value, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    layout = Layout(scenes=2, text=2, video=(3, 4), padding=1)
    x = jax.ShapeDtypeStruct((1, layout.tokens, 1, 8), jnp.float32)
    jax.eval_shape(lambda *qkv: cudnn(*qkv, layout, mask, backend="xla"), x, x, x)
    assert seen
    assert all(queries % 2 == 0 and keys % 2 == 0 for queries, keys in seen)
