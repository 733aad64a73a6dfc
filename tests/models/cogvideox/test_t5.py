import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.models.cogvideox.t5 import (
    TextEncoder,
    TextEncoderConfig,
    relative_position_buckets,
)

CONFIG = TextEncoderConfig(vocab_size=11, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2)


def test_buckets_by_hand():
    # 8 buckets: 4 a direction, of which distances 0 and 1 have their own; up to 16 the rest.
    buckets = relative_position_buckets(6, num_buckets=8, max_distance=16)
    np.testing.assert_array_equal(buckets[0], [0, 5, 6, 6, 6, 6])  # keys to the right
    np.testing.assert_array_equal(buckets[:, 0], [0, 1, 2, 2, 2, 2])  # keys to the left
    far = relative_position_buckets(40, num_buckets=8, max_distance=16)
    assert far.max() == 7
    assert far[39, 0] == 3


def test_order_of_words_matters_and_prompts_are_encoded_apart():
    encoder = TextEncoder(CONFIG, rngs=nnx.Rngs(0))
    ids = jnp.array([[3, 4, 5, 1], [4, 3, 5, 1], [3, 4, 5, 1]])
    out = encoder(ids)
    assert out.shape == (3, 4, 8)
    np.testing.assert_allclose(out[0], out[2], atol=1e-6)
    assert np.abs(out[0, 2] - out[1, 2]).max() > 1e-3
    np.testing.assert_allclose(encoder(ids[:1])[0], out[0], atol=1e-5)


def test_output_is_normalised():
    encoder = TextEncoder(CONFIG, rngs=nnx.Rngs(0))
    out = encoder(jax.random.randint(jax.random.key(0), (2, 5), 0, 11))
    np.testing.assert_allclose(jnp.mean(out**2, axis=-1), 1.0, rtol=1e-3)


def test_the_last_product_of_a_block_does_not_overflow_in_float16():
    encoder = TextEncoder(CONFIG, rngs=nnx.Rngs(0))
    for block in encoder.blocks:  # hidden values of some 10,000, as T5-XXL has
        block.wi_0.kernel[...] = 400 * jnp.abs(block.wi_0.kernel[...])
        block.wi_1.kernel[...] = 400 * block.wi_1.kernel[...]
        assert block.norm2.scale is not None
        block.norm2.scale[...] = jnp.abs(block.norm2.scale[...])
    ids = jnp.array([[3, 4, 5, 1]])
    graphdef, params = nnx.split(encoder)
    half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.float16), params))
    x = half.embed(ids).astype(jnp.float32)
    hidden = half.blocks[0].norm2(x).astype(jnp.float16)
    gate = jax.nn.gelu(half.blocks[0].wi_0(hidden), approximate=True)
    assert not np.isfinite(gate * half.blocks[0].wi_1(hidden)).all()  # as it was computed before
    np.testing.assert_allclose(half(ids), encoder(ids), atol=0.05)
