"""Whatever stands in vae/config.json, it is a network that can be, or refused in one line."""

import math

import pytest

from m2dit_jax.models.wan.vae_config import VaeJson, vae_config

ODD = [None, "2", {}, -1, 10**30, math.nan, [None]]
MAY_BE_NONE = ("decoder_base_dim", "patch_size")


@pytest.mark.parametrize("name", VaeJson.model_fields)
def test_odd_values_are_refused_with_the_field_s_name(name):
    for value in ODD:
        if value is None and name in MAY_BE_NONE:
            continue
        with pytest.raises(ValueError, match=name) as error:
            vae_config({name: value})
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_defaults_are_wan_2_1():
    config = vae_config({})
    assert (config.spatial_compression, config.temporal_compression_ratio) == (8, 4)
    assert (config.latent_channels, config.colours, config.scaling_factor) == (16, 3, 1.0)


@pytest.mark.parametrize(
    ("json", "message"),
    [
        ({"attn_scales": [0.5]}, "attn_scales must be"),
        ({"patch_size": 2}, "in_channels: found 3, needs 3 x patch_size"),
        ({"temperal_downsample": [True]}, "temperal_downsample needs one entry less"),
        ({"z_dim": 3}, "latents_mean needs z_dim 3 numbers, found 16"),
        ({"latents_std": [0.0] * 16}, "latents_std must be positive"),
        ({"base_dim": 3, "dim_mult": [1, 1, 1, 1]}, "3 features cannot be halved"),
        ({"is_residual": True, "dim_mult": [1, 3, 3, 3]}, "have no path of means"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial: found 16"),
    ],
)
def test_what_does_not_go_together_is_told(json, message):
    with pytest.raises(ValueError, match=message):
        vae_config(json)
