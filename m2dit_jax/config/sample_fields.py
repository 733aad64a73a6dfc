"""The fields of `config.sample`: defaults of sampling."""

from dataclasses import dataclass

from m2dit_jax.config.bounds import (
    MAX_TIMESTEPS,
)
from m2dit_jax.config.fields import setting
from m2dit_jax.diffusion.noising import SPACINGS
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.utils.options import (
    MAX_FPS,
    MAX_SCALE,
    MIN_FPS,
)


@dataclass(frozen=True)
class SampleConfig:
    """Defaults of sampling, which a storyboard can override."""

    steps: int = setting("Sampling steps.", at_least=1, at_most=MAX_TIMESTEPS)
    guidance_scale: float = setting(
        "Scale of classifier-free guidance; 1: none.", at_least=0, at_most=MAX_SCALE
    )
    fps: float = setting("Frames per second of the videos.", at_least=MIN_FPS, at_most=MAX_FPS)
    sampler: str = setting("Sampler that takes the steps.", choices=SAMPLERS, absent="ddim")
    spacing: str = setting(
        "Which timesteps the steps take; log_snr is equal distances in the logarithm of the "
        "signal-to-noise ratio.",
        choices=SPACINGS,
        absent="trailing",
    )
    guidance_start: float = setting(
        "Share of the steps that come before guidance begins.", at_least=0, at_most=1, absent=0.0
    )
    guidance_end: float = setting(
        "Share of the steps after which guidance ends.", at_least=0, at_most=1, absent=1.0
    )
    guidance_rescale: float = setting(
        "How far the spread of guided predictions is brought back to that without guidance.",
        at_least=0,
        at_most=1,
        absent=0.0,
    )
    clip_x0: float = setting(
        "Largest absolute value of predicted clean latents; 0: any.",
        at_least=0,
        at_most=MAX_SCALE,
        absent=0.0,
    )
