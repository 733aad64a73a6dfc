from dataclasses import replace

import pytest

from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.json_configs import (
    noise_schedule,
    sampler_name,
    schedule_json,
    text_encoder_config,
    transformer_config,
    transformer_json,
    vae_config,
)
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.cogvideox.vae import VaeConfig

T5 = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


def test_missing_keys_of_a_transformer_mean_cogvideox_2b():
    config = transformer_config({})
    assert (config.layers, config.heads, config.head_dim) == (30, 30, 64)
    assert (config.text_dim, config.time_dim, config.channels) == (4096, 512, 16)
    assert (config.patch_size, config.patch_size_t) == (2, 1)
    assert (config.rotary, config.added_positions) == (False, True)
    assert config.base_grid == (13, 30, 45)  # of 49 frames of 480x720
    assert (config.spatial_scale, config.temporal_scale, config.norm_eps) == (1.875, 1.0, 1e-5)


def test_a_rotary_transformer_has_no_added_positions_but_a_base_grid():
    config = transformer_config({"use_rotary_positional_embeddings": True, "num_layers": 42})
    assert (config.rotary, config.added_positions) == (True, False)
    assert config.base_grid == (13, 30, 45)
    assert config.layers == 42


def test_patches_in_time_with_rotary_positions_have_no_base_grid():
    config = transformer_config({"use_rotary_positional_embeddings": True, "patch_size_t": 2})
    assert config.base_grid is None
    assert config.patch_size_t == 2


def test_patches_in_time_with_added_positions_shorten_the_base_grid():
    config = transformer_config({"patch_size_t": 2, "sample_frames": 81})
    assert config.base_grid == (10, 30, 45)  # of 21 latent frames


def test_every_key_of_a_transformer_is_read():
    json = {
        "num_attention_heads": 3,
        "attention_head_dim": 32,
        "in_channels": 5,
        "out_channels": 5,
        "time_embed_dim": 7,
        "text_embed_dim": 11,
        "num_layers": 13,
        "sample_width": 24,
        "sample_height": 16,
        "sample_frames": 17,
        "patch_size": 4,
        "temporal_compression_ratio": 8,
        "norm_eps": 1e-3,
        "spatial_interpolation_scale": 1.5,
        "temporal_interpolation_scale": 2.5,
    }
    config = transformer_config(json)
    assert (config.heads, config.head_dim, config.channels) == (3, 32, 5)
    assert (config.time_dim, config.text_dim, config.layers) == (7, 11, 13)
    assert config.base_grid == (3, 4, 6)
    assert (config.norm_eps, config.spatial_scale, config.temporal_scale) == (1e-3, 1.5, 2.5)
    assert config.patch_size == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("flip_sin_to_cos", False, "must be True, got False"),
        ("freq_shift", 1, "must be 0, got 1"),
        ("attention_bias", False, "must be True, got False"),
        ("activation_fn", "geglu", "must be 'gelu-approximate', got 'geglu'"),
        ("timestep_activation_fn", "relu", "must be 'silu', got 'relu'"),
        ("norm_elementwise_affine", False, "must be True, got False"),
        ("use_learned_positional_embeddings", True, "must be False, got True"),
        ("ofs_embed_dim", 512, "must be None, got 512"),
        ("attn_msk_version", 1, "must be 2, got 1"),
        ("patch_bias", False, "must be true, got false"),
        ("in_channels", 32, "32 and out_channels 16 differ: only text-to-video"),
    ],
)
def test_transformers_of_other_kinds_are_refused(key, value, message):
    with pytest.raises(ValueError, match=f"^transformer config: {key} {message}"):
        transformer_config({key: value})


def test_patches_in_time_have_their_bias_whatever_the_config_says():
    assert transformer_config({"patch_size_t": 2, "patch_bias": False}).patch_size_t == 2


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError, match="freq_shift must be 0, got 2; .*ofs_embed_dim must be"):
        transformer_config({"freq_shift": 2, "ofs_embed_dim": 4})


def test_text_encoder():
    assert text_encoder_config(T5) == TextEncoderConfig(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64
    )
    changed = text_encoder_config(
        T5
        | {
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 20,
            "layer_norm_epsilon": 1e-3,
        }
    )
    assert changed.relative_attention_num_buckets == 8
    assert changed.relative_attention_max_distance == 20
    assert changed.layer_norm_epsilon == 1e-3


def test_a_text_encoder_without_gates_is_refused():
    with pytest.raises(ValueError, match="text_encoder config: .* 'gated-gelu', got 'relu'"):
        text_encoder_config(T5 | {"feed_forward_proj": "relu"})


@pytest.mark.parametrize("key", sorted(T5.keys() - {"feed_forward_proj"}))
def test_sizes_of_a_text_encoder_have_no_default(key):
    with pytest.raises(ValueError, match=f"text_encoder config: {key} is missing"):
        text_encoder_config({name: value for name, value in T5.items() if name != key})


def test_missing_keys_of_a_vae_mean_that_of_cogvideox():
    config = vae_config({})
    assert config.block_out_channels == (128, 256, 256, 512)
    assert (config.latent_channels, config.layers_per_block) == (16, 3)
    assert config.scaling_factor == 1.15258426
    assert (config.spatial_compression, config.temporal_compression_ratio) == (8, 4)


def test_every_key_of_a_vae_is_read():
    json = {
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": [8, 16],
        "latent_channels": 3,
        "layers_per_block": 4,
        "norm_eps": 1e-3,
        "norm_num_groups": 2,
        "temporal_compression_ratio": 2,
        "scaling_factor": 0.7,
    }
    expected = json | {"block_out_channels": (8, 16)}
    assert vae_config(json) == VaeConfig(**expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "relu"),
        ("use_quant_conv", True),
        ("use_post_quant_conv", True),
        ("shift_factor", 0.1),
        ("latents_mean", [0.0]),
        ("latents_std", [1.0]),
    ],
)
def test_vaes_of_other_kinds_are_refused(key, value):
    with pytest.raises(ValueError, match=f"^vae config: {key} must be "):
        vae_config({key: value})


def test_missing_keys_of_a_scheduler_mean_that_of_cogvideox_2b():
    assert noise_schedule({}) == NoiseSchedule(snr_shift=3.0)


def test_every_key_of_a_scheduler_is_read():
    json = {
        "num_train_timesteps": 500,
        "beta_start": 0.001,
        "beta_end": 0.02,
        "snr_shift_scale": 1.0,
        "rescale_betas_zero_snr": False,
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    assert noise_schedule(json) == NoiseSchedule(
        500, 0.001, 0.02, 1.0, False, "leading", 1, final_alpha_is_one=False
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_schedule", "linear"),
        ("trained_betas", [0.1]),
    ],
)
def test_schedulers_of_other_kinds_are_refused(key, value):
    with pytest.raises(ValueError, match=f"^scheduler config: {key} must be "):
        noise_schedule({key: value})


def test_the_output_may_be_the_clean_latents():
    assert noise_schedule({"prediction_type": "sample"}).prediction == "x0"
    with pytest.raises(ValueError, match="prediction_type: found 'epsilon', needs one of v_pred"):
        noise_schedule({"prediction_type": "epsilon"})


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="timestep_spacing: found 'karras', needs one of trailing"):
        noise_schedule({"timestep_spacing": "karras"})


def test_the_sampler_is_that_of_the_class():
    assert sampler_name({"_class_name": "CogVideoXDDIMScheduler"}) == "ddim"
    assert sampler_name({"_class_name": "CogVideoXDPMScheduler"}) == "dpm"


@pytest.mark.parametrize("json", [{}, {"_class_name": "EulerDiscreteScheduler"}])
def test_other_samplers_are_refused(json):
    with pytest.raises(ValueError, match="must be one of CogVideoXDDIMScheduler, CogVideoXDPM"):
        sampler_name(json)


@pytest.mark.parametrize(
    "json",
    [
        {},  # 2B
        {"use_rotary_positional_embeddings": True, "num_layers": 42},  # 5B
        {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "sample_frames": 81},  # 1.5
    ],
)
def test_a_transformer_has_a_config_json_that_means_the_same(json):
    config = transformer_config(json)
    assert transformer_json(config, json, 13, 60, 90) == json  # to the key
    wider = replace(config, heads=7, text_dim=8, mask="causal", remat="full")
    written = transformer_json(wider, json | {"max_text_seq_length": 5}, 13, 60, 90)
    assert written["max_text_seq_length"] == 5 and written["num_attention_heads"] == 7
    assert transformer_config(written) == replace(config, heads=7, text_dim=8)
    if config.base_grid is not None:
        moved = replace(config, base_grid=(2, 3, 4))
        written = transformer_json(moved, json, 13, 60, 90)
        assert [written[f"sample_{n}"] for n in ("frames", "height", "width")] == [5, 6, 8]


@pytest.mark.parametrize(
    "changes",
    [{"rotary": True}, {"base_grid": None}, {"patch_size_t": 2}],
)
def test_a_transformer_that_diffusers_does_not_have_is_refused(changes):
    config = replace(transformer_config({}), **changes)
    with pytest.raises(ValueError, match="diffusers has no such transformer"):
        transformer_json(config, {}, 13, 60, 90)


def test_a_schedule_is_written_over_another():
    base = {"_class_name": "CogVideoXDPMScheduler", "snr_shift_scale": 3.0, "steps_offset": 0}
    assert schedule_json(noise_schedule(base), base) == base
    ours = NoiseSchedule(snr_shift=24.0, timesteps=500)
    written = schedule_json(ours, base)
    assert noise_schedule(written) == ours and sampler_name(written) == "dpm"
