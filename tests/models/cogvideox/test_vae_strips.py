"""Decoding in strips is the decoding of the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.cogvideox.vae import CausalVae, VaeConfig
from m2dit_jax.models.cogvideox.vae_strips import decode_in_strips


@pytest.fixture(scope="module")
def vae():
    config = VaeConfig(
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=3,
        temporal_compression_ratio=2,
    )
    vae = CausalVae(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state = nnx.state(vae, nnx.Param)
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), state)
    nnx.update(vae, noisy)
    return vae


LATENTS = np.random.default_rng(1).standard_normal((2, 3, 4, 3, 3), np.float32)


@pytest.mark.slow
def test_strips_make_the_same_video(vae):
    chunks = list(decode_in_strips(vae, LATENTS, rows=2))
    assert [chunk.shape for chunk in chunks] == [(2, 1, 8, 6, 3), (2, 4, 8, 6, 3)]
    whole = vae.decode(jnp.asarray(LATENTS))
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), whole, atol=2e-5)


def test_a_smaller_last_strip_and_the_other_chunk_rule(vae):
    (strips,) = decode_in_strips(vae, LATENTS[:1, :2], rows=3, chunk_rule="diffusers")
    whole = vae.decode(jnp.asarray(LATENTS[:1, :2]), "diffusers")
    np.testing.assert_allclose(strips, whole, atol=2e-5)


def test_bfloat16(vae):
    half = nnx.clone(vae)
    nnx.update(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(half, nnx.Param)))
    whole = half.decode(jnp.asarray(LATENTS[:, :1]))
    (strips,) = decode_in_strips(half, LATENTS[:, :1], rows=4)
    assert strips.dtype == np.float32
    assert np.sqrt(np.mean((strips - whole) ** 2)) < 0.02 * np.std(whole)


def test_strips_need_rows(vae):
    with pytest.raises(ValueError, match="rows 0 must be positive"):
        next(decode_in_strips(vae, LATENTS, rows=0))
