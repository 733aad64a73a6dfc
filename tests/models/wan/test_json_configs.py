import pytest

from m2dit_jax.models.wan.json_configs import (
    text_encoder_config,
    transformer_config,
    transformer_json,
)
from m2dit_jax.models.wan.transformer_config import WanConfig, config_of_fields

SMALL = {
    "patch_size": [2, 3, 3],
    "num_attention_heads": 5,
    "attention_head_dim": 6,
    "in_channels": 7,
    "out_channels": 7,
    "text_dim": 8,
    "freq_dim": 10,
    "ffn_dim": 11,
    "num_layers": 12,
    "cross_attn_norm": False,
    "eps": 0.5,
}
UMT5 = dict(vocab_size=9, d_model=8, d_kv=4, d_ff=6, num_layers=1, num_heads=2)


def test_missing_keys_of_a_transformer_mean_wan_14b():
    assert transformer_config({}) == WanConfig(
        channels=16,
        patch_size=2,
        layers=40,
        heads=40,
        head_dim=128,
        hidden=13824,
        text_dim=4096,
        time_dim=256,
    )


def test_every_key_of_a_transformer_is_read():
    assert transformer_config(SMALL) == WanConfig(
        channels=7,
        patch_size=3,
        patch_size_t=2,
        layers=12,
        heads=5,
        head_dim=6,
        hidden=11,
        text_dim=8,
        time_dim=10,
        cross_norm=False,
        norm_eps=0.5,
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"qk_norm": "layer_norm"}, "qk_norm must be 'rms_norm_across_heads'"),
        ({"image_dim": 1280}, "image_dim must be None"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim must be None"),
        ({"in_channels": 36}, "in_channels 36 and out_channels 16 differ: only text-to-video"),
        ({"patch_size": [1, 2, 4]}, "as many rows as columns, got 2 and 4"),
        ({"patch_size": [2, 2]}, "patch_size"),
        ({"attention_head_dim": 7}, "attention_head_dim: rotary positions need"),
        ({"num_layers": 0}, "num_layers"),
    ],
)
def test_transformers_of_other_kinds_are_refused(change, message):
    with pytest.raises(ValueError, match=f"transformer config: .*{message}"):
        transformer_config(change)


@pytest.mark.parametrize("json", [SMALL, {}])
def test_a_transformer_has_a_config_json_that_means_the_same(json):
    config = transformer_config(json)
    base = {"num_layers": 40, "_class_name": "WanTransformer3DModel"}
    assert transformer_config(transformer_json(config, base, 1, 2, 3)) == config
    assert transformer_json(config, json, 1, 2, 3) == json


def test_a_text_encoder_pads_with_token_0():
    assert text_encoder_config(UMT5 | {"pad_token_id": 0}).d_model == 8
    with pytest.raises(ValueError, match="pad_token_id must be 0, got 1"):
        text_encoder_config(UMT5 | {"pad_token_id": 1})


def test_a_training_config_has_four_times_the_width_and_no_positions_of_cogvideox():
    fields = dict(channels=3, patch_size=2, layers=1, heads=2, head_dim=8, text_dim=6, time_dim=8)
    assert config_of_fields(**fields).hidden == 64
    assert config_of_fields(**fields, hidden=5).hidden == 5
    with pytest.raises(ValueError, match=r"wrong: config.model.added_positions, .*base_grid$"):
        config_of_fields(**fields, added_positions=True, base_grid=(1, 2, 3))
