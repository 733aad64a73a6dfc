"""Decoding in strips is decoding."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.models.wan.vae_config import WanVaeConfig
from m2dit_jax.models.wan.vae_strips import decode_in_strips

_COMMON = {"z_dim": 2, "num_res_blocks": 1, "latents_mean": (0.1, 0.2), "latents_std": (1.5, 0.5)}
CONFIGS = {
    "plain": WanVaeConfig(base_dim=2, dim_mult=(1, 1), temperal_downsample=(True,), **_COMMON),
    "residual": WanVaeConfig(
        **{"base_dim": 2, "dim_mult": (1, 1, 1), "temperal_downsample": (False, True)},
        **{"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2},
        **_COMMON,
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_strips_are_exact(config):
    vae = WanVae(config, rngs=nnx.Rngs(0))
    # So high that inner strips have no border of the picture in their windows.
    latents = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 17, 2, 2), np.float32))
    pieces = list(decode_in_strips(vae, latents, rows=2))
    whole = vae.decode(latents)
    assert len(pieces) == 3
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)
    assert np.abs(whole).max() > 0.01


def test_less_than_one_row_is_refused():
    vae = WanVae(CONFIGS["plain"], rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="rows 0"):
        next(decode_in_strips(vae, jnp.zeros((1, 1, 2, 2, 2)), rows=0))
