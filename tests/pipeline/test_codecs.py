from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.cogvideox.vae_strips import decode_in_strips
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.models.wan.vae_config import WanVaeConfig
from m2dit_jax.models.wan.vae_strips import decode_in_strips as decode_wan_in_strips
from m2dit_jax.pipeline.codecs import VaeCodec
from m2dit_jax.pipeline.memory import NetworkSet
from m2dit_jax.utils.errors import NotFinite
from m2dit_jax.weights.released import ReleasedModel


@pytest.fixture(scope="module")
def vae(golden):
    return ReleasedModel(golden / "pipe_5b").vae("float32")


@pytest.fixture
def networks(vae):
    return NetworkSet({"VAE": lambda: vae}, resident=True)


def codec(patch):
    def shape(frames, height, width):
        return latent_frames(frames, 4, patch), height // 8, width // 8, 4

    return VaeCodec(shape, "whole", "float32", decode_in_strips)


@pytest.mark.parametrize(
    ("frames", "patch", "length"),
    [(9, 1, 3), (10, 1, 4), (9, 2, 4), (10, 2, 4), (13, 2, 4), (81, 2, 22), (1, 2, 2), (9, 3, 3)],
)
def test_frames_are_rounded_up_to_whole_patches_of_latent_frames(frames, patch, length):
    assert latent_frames(frames, 4, patch) == length


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "patch"), [(9, 2), (7, 1)])
def test_what_frames_are_rounded_up_to_is_cut_off_after_decoding(networks, vae, frames, patch):
    clip = np.random.default_rng(0).integers(0, 256, (1, frames, 16, 16, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), 1)
    latents = codec(patch).encode(networks, clip, keys)
    assert latents.shape == (1, 4 if patch == 2 else 3, 2, 2, 4)
    filled = patch - 1
    # What fills the first patch is the first latent frame again, as in training.
    np.testing.assert_array_equal(latents[:, :filled], latents[:, :1] if filled else latents[:, :0])

    video = codec(patch).decode(networks, np.asarray(latents), frames, "scene")
    assert video.shape == clip.shape
    model = nnx.merge(*vae)
    alone = model.decode(jnp.asarray(latents[:, filled:]) / model.config.scaling_factor)
    wanted = np.round((np.clip(alone, -1, 1) + 1) * 127.5)[:, :frames]
    assert np.abs(video.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("decoder", ["whole", "tiles"])
def test_frames_that_are_no_numbers_are_never_black(networks, decoder):
    latents = np.full((1, 1, 2, 2, 4), np.nan, np.float32)
    broken = replace(codec(1), decoder=decoder)
    with pytest.raises(NotFinite, match="^scene 3: decoded frames.* values are not finite"):
        broken.decode(networks, latents, 1, "scene 3")


def test_a_vae_of_another_family_goes_every_way_of_decoding():
    config = WanVaeConfig(
        **{"base_dim": 2, "z_dim": 2, "dim_mult": (1, 1), "num_res_blocks": 1},
        **{"temperal_downsample": (True,), "latents_mean": (0.5, 0.0), "latents_std": (2.0, 1.0)},
    )
    split = LoadedNetwork(*nnx.split(WanVae(config, rngs=nnx.Rngs(0))))
    lines = []
    networks = NetworkSet({"VAE": lambda: split}, True, lines.append)

    def wan(decoder):
        def shape(frames, height, width):
            return latent_frames(frames, 2), height // 2, width // 2, 2

        return VaeCodec(shape, decoder, "float32", decode_wan_in_strips)

    clip = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 4, 3)).astype(np.uint8)
    latents = wan("whole").encode(networks, clip, jax.random.split(jax.random.key(0), 1))
    assert latents.shape == (1, 3, 4, 2, 2)
    videos = [
        wan(decoder).decode(networks, np.asarray(latents), 4, "scene")
        for decoder in ("whole", "strips", "tiles", None)
    ]
    for video in videos:
        assert video.shape == clip.shape
        assert np.abs(video.astype(int) - videos[0]).max() <= 1
    assert "scene, chunk 3/3 decoded" in lines
