import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.wan.umt5 import Umt5, text_tokens
from tests.models.random_weights import with_random_weights

CONFIG = TextEncoderConfig(vocab_size=11, d_model=6, d_kv=4, d_ff=8, num_layers=2, num_heads=2)


def test_a_prompt_ends_with_its_last_token_that_is_no_padding():
    ids = jnp.array([[5, 0, 1, 0, 0], [1, 0, 0, 0, 0], [4, 3, 2, 5, 1]])
    np.testing.assert_array_equal(text_tokens(ids).sum(1), [3, 1, 5])


def test_nothing_depends_on_padding_and_behind_the_end_there_are_zeros():
    model = with_random_weights(Umt5(CONFIG, rngs=nnx.Rngs(0)))
    short = model(jnp.array([[7, 3, 1], [4, 1, 0]]))
    long = model(jnp.array([[7, 3, 1, 0, 0, 0], [4, 1, 0, 0, 0, 0]]))
    np.testing.assert_allclose(long[:, :3], short, atol=1e-5)
    np.testing.assert_array_equal(long[0, 3:], 0)
    np.testing.assert_array_equal(long[1, 2:], 0)
    assert jnp.abs(long[1, :2]).min() > 0


def test_each_block_has_positions_of_its_own():
    model = with_random_weights(Umt5(CONFIG, rngs=nnx.Rngs(0)))
    ids = jnp.array([[7, 3, 4, 1]])
    before = model(ids)
    for block in model.blocks:
        table = block.relative_bias.embedding
        kept = table[...]
        table[...] = kept + jnp.arange(32.0)[:, None]
        assert jnp.abs(model(ids) - before).max() > 1e-3
        table[...] = kept
