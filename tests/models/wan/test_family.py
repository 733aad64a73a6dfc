import math

import jax
import pytest

from m2dit_jax.models.families import family_of, network_of
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.wan.family import NEGATIVE_PROMPT, WAN
from m2dit_jax.weights.networks import torch_parts

# Of the released models, what differs from diffusers' defaults, which are 14B's (and A14B's).
SIZES = {
    "1.3B": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "TI2V 5B": {
        "num_attention_heads": 24,
        "num_layers": 30,
        "ffn_dim": 14336,
        "in_channels": 48,
        "out_channels": 48,
    },
    "14B": {},
}
VAE_2_2 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "in_channels": 12,
    "out_channels": 12,
    "is_residual": True,
    "patch_size": 2,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}


def count(network, json):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network.abstract(json)))


@pytest.mark.parametrize(
    "name, parameters",
    [("1.3B", 1_418_996_800), ("TI2V 5B", 4_999_787_712), ("14B", 14_288_491_584)],
)
def test_released_transformers_have_their_number_of_parameters(name, parameters):
    json = SIZES[name]
    assert count(WAN.transformer, json) == parameters
    parts = torch_parts(WAN.transformer, json, WAN.transformer.abstract(json))
    assert sum(math.prod(part.shape) for part in parts.values()) == parameters
    width = WAN.transformer.config(json).width
    channels = json.get("in_channels", 16)
    assert parts["patch_embedding.weight"].shape == (width, channels, 1, 2, 2)
    assert parts["blocks.29.scale_shift_table"].shape == (1, 6, width)


def test_the_released_text_encoder_has_its_number_of_parameters():
    assert count(WAN.text_encoder, UMT5_XXL) == 5_680_910_336


@pytest.mark.parametrize(
    "name, vae, size, fps",
    [
        ("1.3B", {}, (512, 81, 480, 832), 16),
        ("14B", {}, (512, 81, 720, 1280), 16),
        ("TI2V 5B", VAE_2_2, (512, 121, 704, 1280), 24),
    ],
)
def test_sizes_and_frame_rates_are_those_of_the_release(name, vae, size, fps):
    json, vae_config = SIZES[name], WAN.vae.config(vae)
    assert WAN.scene_size(json, vae_config) == size
    assert WAN.sampling(json, vae_config, False)[:3] == (fps, 50, 5.0)
    assert WAN.sampling(json, vae_config, False).negative_prompt == NEGATIVE_PROMPT
    shape = WAN.latent_shape(WAN.transformer.config(json), vae_config, *size[1:])
    side = vae_config.spatial_compression
    assert shape == ((size[1] + 3) // 4, size[2] // side, size[3] // side, vae_config.z_dim)


def test_sizes_divide_or_the_nearest_that_do_are_named():
    transformer, vae = WAN.transformer.config(SIZES["TI2V 5B"]), WAN.vae.config(VAE_2_2)
    with pytest.raises(
        ValueError, match=r"height 720 is not a multiple of 32, the nearest are 704 and 736"
    ):
        WAN.latent_shape(transformer, vae, 121, 720, 1280)


def test_the_two_transformers_of_a14b_are_those_of_14b_with_settings_of_their_own():
    assert WAN.network("transformer_2") is WAN.transformer
    defaults = WAN.sampling(SIZES["14B"], WAN.vae.config({}), True)
    assert (defaults.fps, defaults.steps) == (16, 40)
    assert (defaults.guidance_scale, defaults.guidance_scale_2) == (4.0, 3.0)


def test_networks_are_known_by_their_classes():
    for name, network in WAN.networks.items():
        assert network_of({"_class_name": network.class_name}) == (WAN, name)
    assert family_of({"architectures": ["UMT5EncoderModel"]}) is WAN


def test_operations_of_a_story_are_counted():
    """Of 1.3B, 3 scenes of 81 frames of 480x832: self-attention of all to all is most of it."""
    config = WAN.transformer.config(SIZES["1.3B"])
    video = 21 * 30 * 52
    flops = config.forward_flops(Layout(3, 512, video, frame=30 * 52))
    pairs = (3 * video) ** 2 + 3 * video * 512
    assert flops.attention == 30 * 4 * pairs * 1536
    per_token = 6 * 1536**2 + 2 * 1536 * 8960
    assert flops.linear == 30 * 2 * (3 * video * per_token + 3 * 512 * 2 * 1536**2)
    assert 0 < flops.rest < 0.01 * flops.total
