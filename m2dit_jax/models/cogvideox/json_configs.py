"""The JSON configs of a model folder, as diffusers and transformers write them, to ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from m2dit_jax.diffusion.noising import Prediction, Schedule
from m2dit_jax.diffusion.samplers import Sampler
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.json_fields import (
    SchedulerJson,
    TextEncoderJson,
    TransformerJson,
    VaeJson,
)
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.cogvideox.vae import VaeConfig
from m2dit_jax.models.json_reading import raise_problems, read_json, same_but, shown_value

Json = Mapping[str, Any]

# The variants of the networks that exist here; a key may be missing.
_TRANSFORMER_FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "timestep_activation_fn": "silu",
    "norm_elementwise_affine": True,
    "use_learned_positional_embeddings": False,  # only image-to-video models have them
    "ofs_embed_dim": None,  # likewise
    "attn_msk_version": 2,  # the symmetric mask
}
_TEXT_ENCODER_FIXED = {"feed_forward_proj": "gated-gelu"}
_VAE_FIXED = {
    "act_fn": "silu",
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    # Not here: invert_scale_latents, which is about the latents of images in image-to-video models.
}
_SCHEDULER_FIXED = {
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
}
_PREDICTIONS: dict[str, Prediction] = {"v_prediction": "v", "sample": "x0"}
_SAMPLERS: dict[str, Sampler] = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpm",
}


def transformer_config(json: Json) -> TransformerConfig:
    """The transformer of a `transformer/config.json`.

    Raises ValueError for a variant that does not exist here.
    """
    values = read_json("transformer", TransformerJson, json, _TRANSFORMER_FIXED)
    patch, patch_t = values["patch_size"], values["patch_size_t"]
    problems = []
    if values["in_channels"] != values["out_channels"]:
        problems.append(
            f"in_channels {values['in_channels']} and out_channels {values['out_channels']} "
            "differ: only text-to-video models are supported"
        )
    # The 1.5 patches are a linear layer that always has its bias, whatever this key says.
    if patch_t is None and not values["patch_bias"]:
        problems.append("patch_bias must be true, got false")
    if min(values["sample_height"], values["sample_width"]) < patch:
        problems.append(f"patch_size {patch} is more than sample_height or sample_width")
    raise_problems("transformer", problems)
    latent_frames = (values["sample_frames"] - 1) // values["temporal_compression_ratio"] + 1
    rotary = values["use_rotary_positional_embeddings"]
    is_slice = rotary and patch_t is not None  # CogVideoX 1.5: positions 0, 1, 2, ...
    return TransformerConfig(
        channels=values["in_channels"],
        patch_size=patch,
        patch_size_t=patch_t or 1,
        layers=values["num_layers"],
        heads=values["num_attention_heads"],
        head_dim=values["attention_head_dim"],
        text_dim=values["text_embed_dim"],
        time_dim=values["time_embed_dim"],
        rotary=rotary,
        added_positions=not rotary,
        base_grid=None
        if is_slice
        else (
            latent_frames // (patch_t or 1),
            values["sample_height"] // patch,
            values["sample_width"] // patch,
        ),
        spatial_scale=values["spatial_interpolation_scale"],
        temporal_scale=values["temporal_interpolation_scale"],
        norm_eps=values["norm_eps"],
    )


# Fields of a transformer that change nothing about its weights, and that no config.json has.
CHOICES = ("mask", "scene_positions", "attention", "scan", "remat")


def transformer_json(
    config: TransformerConfig, base: Json, frames: int, height: int, width: int
) -> dict[str, Any]:
    """The `transformer/config.json` of a transformer; `base` is that of the model it came from.

    It is the base itself if that describes the transformer. Else `frames`, `height` and `width`, in
    latents, are the size of a scene where no positions are fitted to one. Raises ValueError for a
    transformer that diffusers does not have.
    """
    if same_but(transformer_config(base), config, CHOICES):
        return dict(base)
    grid = config.base_grid
    if grid is not None:
        frames = grid[0] * config.patch_size_t
        height, width = (size * config.patch_size for size in grid[1:])
    ratio = base.get("temporal_compression_ratio", 4)
    json = dict(base) | {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "time_embed_dim": config.time_dim,
        "text_embed_dim": config.text_dim,
        "num_layers": config.layers,
        "sample_frames": (frames - 1) * ratio + 1,
        "sample_height": height,
        "sample_width": width,
        "patch_size": config.patch_size,
        # CogVideoX 1.5, whose positions are fitted to nothing, has it; the others do not.
        "patch_size_t": config.patch_size_t if grid is None else None,
        "norm_eps": config.norm_eps,
        "spatial_interpolation_scale": config.spatial_scale,
        "temporal_interpolation_scale": config.temporal_scale,
        "use_rotary_positional_embeddings": config.rotary,
    }
    if not same_but(transformer_config(json), config, CHOICES):
        raise ValueError(
            "diffusers has no such transformer: it needs config.model.rotary or "
            "config.model.added_positions, not both; config.model.base_grid with added positions; "
            "and config.model.patch_size_t 1 with config.model.base_grid"
        )
    return json


def text_encoder_config(json: Json) -> TextEncoderConfig:
    """The T5 v1.1 encoder of a `text_encoder/config.json`. Raises ValueError for another one."""
    values = read_json("text_encoder", TextEncoderJson, json, _TEXT_ENCODER_FIXED)
    buckets, most = (
        values[f"relative_attention_{name}"] for name in ("num_buckets", "max_distance")
    )
    if most <= buckets // 4:
        needed = f"more than {buckets // 4}, a quarter of relative_attention_num_buckets"
        raise_problems(
            "text_encoder", [f"relative_attention_max_distance: found {most}, needs {needed}"]
        )
    return TextEncoderConfig(**values)


def vae_config(json: Json) -> VaeConfig:
    """The VAE of a `vae/config.json`. Raises ValueError for a variant that does not exist here."""
    return VaeConfig(**read_json("vae", VaeJson, json, _VAE_FIXED))


def noise_schedule(json: Json) -> NoiseSchedule:
    """The schedule of a `scheduler_config.json`. Raises ValueError for another kind."""
    values = read_json("scheduler", SchedulerJson, json, _SCHEDULER_FIXED)
    schedule = NoiseSchedule(
        timesteps=values["num_train_timesteps"],
        beta_start=values["beta_start"],
        beta_end=values["beta_end"],
        snr_shift=values["snr_shift_scale"],
        zero_terminal_snr=values["rescale_betas_zero_snr"],
        spacing=values["timestep_spacing"],
        steps_offset=values["steps_offset"],
        final_alpha_is_one=values["set_alpha_to_one"],
        prediction=_PREDICTIONS[values["prediction_type"]],
    )
    if schedule.steps_offset >= schedule.timesteps:
        raise_problems("scheduler", ["steps_offset must be below num_train_timesteps"])
    with np.errstate(invalid="ignore", divide="ignore"):
        alphas = schedule.alphas_cumprod()
    if not np.isfinite(alphas).all() or (np.diff(alphas) > 0).any():
        betas = f"beta_start {schedule.beta_start:g} and beta_end {schedule.beta_end:g}"
        raise_problems("scheduler", [f"{betas} make no schedule in which noise grows"])
    return schedule


def schedule_json(schedule: Schedule, base: Json) -> dict[str, Any]:
    """The `scheduler_config.json` of a schedule; `base` is that of another, or of the same.

    Raises ValueError for a schedule of another kind: CogVideoX's schedulers know no flows.
    """
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(
            "CogVideoX's schedulers need config.diffusion.kind 'diffusion', found flow matching"
        )
    if noise_schedule(base) == schedule:
        return dict(base)
    return dict(base) | {
        "num_train_timesteps": schedule.timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "snr_shift_scale": schedule.snr_shift,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": schedule.spacing,
        "steps_offset": schedule.steps_offset,
        "set_alpha_to_one": schedule.final_alpha_is_one,
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[
            schedule.prediction
        ],
        **{name: value for name, value in _SCHEDULER_FIXED.items() if value is not None},
    }


def sampler_name(json: Json) -> Sampler:
    """The sampler that `scheduler/scheduler_config.json` names. Raises ValueError for others."""
    name = json.get("_class_name")
    if isinstance(name, str) and name in _SAMPLERS:
        return _SAMPLERS[name]
    known = ", ".join(_SAMPLERS)
    raise ValueError(
        f"scheduler config: _class_name must be one of {known}, got {shown_value(name)}"
    )
