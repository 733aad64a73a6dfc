"""The CogVideoX family: 2B, 5B and 1.5, and Mask²DiT, which is trained from 5B."""

from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.cogvideox.json_configs import (
    CHOICES,
    noise_schedule,
    sampler_name,
    schedule_json,
    text_encoder_config,
    transformer_config,
    transformer_json,
    vae_config,
)
from m2dit_jax.models.cogvideox.keys import TEXT_ENCODER, TRANSFORMER
from m2dit_jax.models.cogvideox.story_model import StoryModel
from m2dit_jax.models.cogvideox.t5 import TextEncoder, TextEncoderConfig
from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.cogvideox.transformer_config import config_of_fields
from m2dit_jax.models.cogvideox.vae import CausalVae, VaeConfig
from m2dit_jax.models.cogvideox.vae_keys import VAE
from m2dit_jax.models.cogvideox.vae_strips import decode_in_strips
from m2dit_jax.models.family import (
    Family,
    Json,
    LatentShape,
    NetworkSpec,
    SamplingDefaults,
    SceneSize,
    check_fit,
    size_problems,
)

# CogVideoX 1.5 names in its config the reach of its positions, 300 x 300 latents (2400 x 2400
# pixels), and was trained at up to 768 x 1360.
_REACH_OF_1_5 = (300, 300)
_LATENTS_OF_1_5 = (96, 170)


def scene_size(json: Json, vae: VaeConfig) -> SceneSize:
    """The size that the model was trained with, from `transformer/config.json`."""
    side = vae.spatial_compression
    latents = json.get("sample_height", 60), json.get("sample_width", 90)
    if json.get("patch_size_t") is not None and latents == _REACH_OF_1_5:
        latents = _LATENTS_OF_1_5
    return SceneSize(
        json.get("max_text_seq_length", 226),
        json.get("sample_frames", 49),
        latents[0] * side,
        latents[1] * side,
    )


def latent_shape(
    transformer: TransformerConfig, vae: VaeConfig, frames: int, height: int, width: int
) -> LatentShape:
    """The latents of a scene of that many frames and pixels.

    Frames are rounded up to whole latent frames, and those to whole patches: what is too many is
    taken off again by `models.coding.frames_to_decode` and after decoding.
    Raises ValueError, with the nearest sizes that work, if the model cannot make such a scene.
    """
    side, ratio = vae.spatial_compression, vae.temporal_compression_ratio
    problems = size_problems(frames, height, width, side * transformer.patch_size)
    if frames >= 1 and transformer.added_positions and transformer.base_grid is not None:
        most = ratio * (transformer.base_grid[0] * transformer.patch_size_t - 1) + 1
        if frames > most:
            problems.append(
                f"{frames} frames are more than the {most} per scene that the positions of this "
                "model reach"
            )
    if problems:
        raise ValueError("; ".join(problems))
    in_time = latent_frames(frames, ratio, transformer.patch_size_t)
    return LatentShape(in_time, height // side, width // side, transformer.channels)


def _patch_window(json: Json) -> tuple[int, ...]:
    if json.get("patch_size_t") is not None:  # CogVideoX 1.5: a linear layer
        return ()
    return (json.get("patch_size", 2),) * 2


COGVIDEOX = Family(
    name="cogvideox",
    transformer=NetworkSpec(
        "CogVideoXTransformer3DModel",
        "diffusion_pytorch_model",
        transformer_config,
        M2DiT,
        TRANSFORMER,
        _patch_window,
    ),
    vae=NetworkSpec(
        "AutoencoderKLCogVideoX",
        "diffusion_pytorch_model",
        vae_config,
        CausalVae,
        VAE,
        lambda json: (1, 1, 1),
    ),
    text_encoder=NetworkSpec(
        "T5EncoderModel", "model", text_encoder_config, TextEncoder, TEXT_ENCODER, lambda json: ()
    ),
    tokenizer="T5Tokenizer",
    schedule=noise_schedule,
    sampler=sampler_name,
    scene_size=scene_size,
    latent_shape=latent_shape,
    check_fit=check_fit,
    # Of the reference's scripts; the paper's models are trained with 3 scenes.
    sampling=lambda json, vae, two: SamplingDefaults(
        fps=8.0, steps=50, guidance_scale=6.0, window=3
    ),
    transformer_config=config_of_fields,
    text_encoder_config=TextEncoderConfig,
    story_model=StoryModel,
    transformer_json=transformer_json,
    schedule_json=schedule_json,
    decode_in_strips=decode_in_strips,
    weightless=CHOICES,
)
