"""The Wan family: 2.1 text to video (1.3B, 14B), 2.2 text to video (TI2V 5B, A14B)."""

from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
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
from m2dit_jax.models.wan.json_configs import (
    text_encoder_config,
    transformer_config,
    transformer_json,
)
from m2dit_jax.models.wan.keys import TEXT_ENCODER, TRANSFORMER
from m2dit_jax.models.wan.schedule_json import noise_schedule, sampler_name, schedule_json
from m2dit_jax.models.wan.story_model import WanStoryModel
from m2dit_jax.models.wan.transformer import WanTransformer
from m2dit_jax.models.wan.transformer_config import CHOICES, WanConfig, config_of_fields
from m2dit_jax.models.wan.umt5 import Umt5
from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.models.wan.vae_config import WanVaeConfig, vae_config
from m2dit_jax.models.wan.vae_keys import VAE
from m2dit_jax.models.wan.vae_strips import decode_in_strips

_TEXT_LENGTH = 512
# The released models say nowhere at which size they were trained: 14B has 40 blocks, 1.3B 30.
_LAYERS_OF_14B = 40
# That of the released models (`sample_neg_prompt` of their common config): on colours, blur,
# captions, stills, bad anatomy, crowds, walking backwards.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def scene_size(json: Json, vae: WanVaeConfig) -> SceneSize:
    """The size of scenes that the released model of such networks makes."""
    if _is_ti2v(vae):
        return SceneSize(_TEXT_LENGTH, frames=121, height=704, width=1280)
    if transformer_config(json).layers >= _LAYERS_OF_14B:
        return SceneSize(_TEXT_LENGTH, frames=81, height=720, width=1280)
    return SceneSize(_TEXT_LENGTH, frames=81, height=480, width=832)


def sampling(json: Json, vae: WanVaeConfig, two: bool) -> SamplingDefaults:
    """The settings that the released models are sampled with; three scenes go together."""
    fps = 24.0 if _is_ti2v(vae) else 16.0
    defaults = SamplingDefaults(
        fps=fps, steps=50, guidance_scale=5.0, window=3, negative_prompt=NEGATIVE_PROMPT
    )
    if not two:
        return defaults
    return defaults._replace(steps=40, guidance_scale=4.0, guidance_scale_2=3.0)


def latent_shape(
    transformer: WanConfig, vae: WanVaeConfig, frames: int, height: int, width: int
) -> LatentShape:
    """The latents of a scene of that many frames and pixels; frames are rounded up.

    Raises ValueError, with the nearest sizes that work, if the model cannot make such a scene.
    """
    side = vae.spatial_compression
    problems = size_problems(frames, height, width, side * transformer.patch_size)
    if problems:
        raise ValueError("; ".join(problems))
    in_time = latent_frames(frames, vae.temporal_compression_ratio, transformer.patch_size_t)
    return LatentShape(in_time, height // side, width // side, transformer.channels)


def _is_ti2v(vae: WanVaeConfig) -> bool:
    """Whether the VAE is that of 2.2 TI2V, which halves rows and columns once more."""
    return vae.spatial_compression == 16


def _patch_window(json: Json) -> tuple[int, ...]:
    config = transformer_config(json)
    return (config.patch_size_t, config.patch_size, config.patch_size)


WAN = Family(
    name="wan",
    transformer=NetworkSpec(
        "WanTransformer3DModel",
        "diffusion_pytorch_model",
        transformer_config,
        WanTransformer,
        TRANSFORMER,
        _patch_window,
    ),
    vae=NetworkSpec(
        "AutoencoderKLWan",
        "diffusion_pytorch_model",
        vae_config,
        WanVae,
        VAE,
        lambda json: (1, 1, 1),
    ),
    text_encoder=NetworkSpec(
        "UMT5EncoderModel", "model", text_encoder_config, Umt5, TEXT_ENCODER, lambda json: ()
    ),
    tokenizer="T5Tokenizer",
    schedule=noise_schedule,
    sampler=sampler_name,
    scene_size=scene_size,
    latent_shape=latent_shape,
    check_fit=check_fit,
    sampling=sampling,
    transformer_config=config_of_fields,
    text_encoder_config=TextEncoderConfig,
    story_model=WanStoryModel,
    transformer_json=transformer_json,
    schedule_json=schedule_json,
    weightless=CHOICES,
    decode_in_strips=decode_in_strips,
    has_second=True,
    adapts_scenes=False,  # its attention to texts knows no place of a token in the joint sequence
    first_frame_field="expand_timesteps",
)
