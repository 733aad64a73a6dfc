"""The promises of Wan's VAE: chunks, caches, statistics; test_parity_wan has the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from m2dit_jax.models.family import NetworkSpec
from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.models.wan.vae_config import WanVaeConfig, vae_config
from m2dit_jax.models.wan.vae_keys import VAE
from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.mapping import expected_parts, leaves_from_tensors, tensors_from_leaves

SPEC = NetworkSpec(
    "AutoencoderKLWan", "diffusion_pytorch_model", vae_config, WanVae, VAE, lambda json: (1, 1, 1)
)
PLAIN = WanVaeConfig(
    **{"base_dim": 4, "z_dim": 2, "dim_mult": (1, 1), "num_res_blocks": 1},
    **{"temperal_downsample": (True,), "latents_mean": (0.5, -0.2), "latents_std": (2.0, 0.7)},
)
RESIDUAL = WanVaeConfig(
    **{"base_dim": 2, "z_dim": 2, "dim_mult": (2, 2), "num_res_blocks": 1, "is_residual": True},
    **{"temperal_downsample": (True,), "latents_mean": (0.5, -0.2), "latents_std": (2.0, 0.7)},
    **{"in_channels": 12, "out_channels": 12, "patch_size": 2, "decoder_base_dim": 4},
)
RELEASED = {
    "2.1": ({}, 126_892_531),
    "2.2": (
        {
            **{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True},
            **{"in_channels": 12, "out_channels": 12, "patch_size": 2},
            **{"latents_mean": [0.0] * 48, "latents_std": [1.0] * 48},
            **{"scale_factor_spatial": 16},
        },
        704_688_668,
    ),
}


def with_params(config, make_leaf):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: WanVae(config, rngs=nnx.Rngs(0))))
    shapes = traverse_util.flatten_dict(nnx.to_pure_dict(state))
    values = {path: make_leaf(path, like.shape) for path, like in shapes.items()}
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(values))
    return nnx.merge(graphdef, state)


def random_vae(config):
    rng = np.random.default_rng(0)

    def make_leaf(path, shape):
        noise = rng.standard_normal(shape, np.float32)
        if path[-1] == "kernel":
            return jnp.asarray(noise / np.sqrt(np.prod(shape[:-1])))
        return jnp.asarray(0.1 * noise + (path[-1] == "scale"))

    return with_params(config, make_leaf)


@pytest.fixture(scope="module", params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def small_vae(request):
    return random_vae(request.param)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("config", [PLAIN, RESIDUAL], ids=["plain", "residual"])
def test_weights_go_to_pytorch_and_back_bitwise(config):
    _, abstract = SPEC.shapes(config)
    parts = expected_parts(VAE, abstract, (1, 1, 1))
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(part.shape).astype(np.float32) for name, part in parts.items()
    }
    leaves = leaves_from_tensors(parts, {name: _tensor(x) for name, x in tensors.items()})
    stored = {name: Leaf((_tensor(leaf.read()),), leaf.stacked) for name, leaf in leaves.items()}
    back = tensors_from_leaves(parts, stored)
    for name, x in tensors.items():
        np.testing.assert_array_equal(back[name].read(), x)


def _tensor(x):
    return Tensor(x.shape, x.dtype, lambda: x)


@pytest.mark.parametrize("version", RELEASED)
def test_released_shapes(version):
    json_config, count = RELEASED[version]
    _, abstract = SPEC.shapes(vae_config(json_config))
    leaves = jax.tree.leaves(abstract)
    assert sum(leaf.size for leaf in leaves) == count
    assert len(expected_parts(VAE, abstract, (1, 1, 1))) == len(leaves)


def test_encoded_and_decoded_shapes_agree(small_vae):
    side = small_vae.config.spatial_compression
    mean, logvar = jax.eval_shape(small_vae.encode, jnp.zeros((2, 5, 2 * side, side, 3)))
    assert mean.shape == logvar.shape == (2, 3, 2, 1, 2)
    assert jax.eval_shape(small_vae.decode, mean).shape == (2, 5, 2 * side, side, 3)


def test_chunks_change_nothing(small_vae):
    latents, video = normal(1, 4, 3, 2, 2), normal(1, 7, 8, 8, 3)
    np.testing.assert_allclose(
        small_vae.decode_raw(latents), small_vae.decode_raw(latents, chunk=2), atol=1e-5
    )
    for one, other in zip(
        small_vae.encode_raw(video), small_vae.encode_raw(video, chunk=3), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_later_latents_do_not_change_earlier_frames_but_earlier_ones_later(small_vae):
    latents = normal(1, 4, 3, 2, 2)
    video = small_vae.decode(latents)
    later = small_vae.decode(latents.at[:, 2:].add(1.0))
    np.testing.assert_array_equal(video[:, :3], later[:, :3])
    assert np.abs(video[:, 3:] - later[:, 3:]).max() > 1e-3
    earlier = small_vae.decode(latents.at[:, :1].add(1.0))
    assert np.abs(video[:, 1:] - earlier[:, 1:]).max() > 1e-3


def test_latents_are_normalised(small_vae):
    video = normal(1, 3, 8, 8, 3)
    raw_mean, raw_logvar = small_vae.encode_raw(video)
    mean, logvar = small_vae.encode(video)
    np.testing.assert_allclose(mean, (raw_mean - jnp.array([0.5, -0.2])) / jnp.array([2, 0.7]))
    np.testing.assert_allclose(
        jnp.exp(logvar / 2), jnp.exp(raw_logvar / 2) / jnp.array([2, 0.7]), rtol=1e-5
    )
    np.testing.assert_allclose(small_vae.unscale(mean), raw_mean, atol=1e-6)
    latents = normal(1, 2, 3, 2, 2)
    np.testing.assert_array_equal(
        small_vae.decode(latents), small_vae.decode_raw(small_vae.unscale(latents))
    )


def test_shapes_that_do_not_fit_are_refused():
    vae = random_vae(PLAIN)
    with pytest.raises(ValueError, match="1 frame more than a multiple of 2: 2"):
        vae.encode(jnp.zeros((1, 2, 4, 4, 3)))
    with pytest.raises(ValueError, match="multiples of 2: 4x3"):
        vae.encode(jnp.zeros((1, 1, 4, 3, 3)))
    with pytest.raises(ValueError, match="must have 2 channels, not 3"):
        vae.decode(jnp.zeros((1, 1, 4, 4, 3)))


def test_memory_of_decoding_grows_with_the_picture():
    vae = random_vae(PLAIN)
    assert vae.decoding_bytes(5, 60, 90, "gpu") == 2 * vae.decoding_bytes(5, 30, 90, "gpu") > 0
