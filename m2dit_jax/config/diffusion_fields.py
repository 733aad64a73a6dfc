"""The fields of `config.diffusion`: how latents become noise."""

from dataclasses import dataclass

from m2dit_jax.config.bounds import (
    MAX_TIMESTEPS,
)
from m2dit_jax.config.fields import setting
from m2dit_jax.diffusion.noising import PREDICTIONS


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule: CogVideoX's, or flow matching."""

    timesteps: int = setting("Timesteps of the forward process.", at_least=2, at_most=MAX_TIMESTEPS)
    beta_start: float = setting(
        "Variance of the noise added at the first timestep.", above=0, at_most=1
    )
    beta_end: float = setting(
        "Variance of the noise added at the last timestep.", above=0, at_most=1
    )
    snr_shift: float = setting(
        "Divides the signal-to-noise ratio at every timestep.", above=0, at_most=1e6
    )
    prediction: str = setting(
        "What the transformer's output stands for: v, as in CogVideoX, or x0, the clean latents, "
        "which leaves less noise in flat pixels. The loss is that of v in both.",
        choices=PREDICTIONS,
        absent="v",
    )
    kind: str = setting(
        "How latents become noise: diffusion, by the betas, as in CogVideoX, or flow, on a "
        "straight line, as in Wan, where v is the noise less the clean latents.",
        choices=("diffusion", "flow"),
        absent="diffusion",
    )
    shift: float = setting(
        "With kind flow: the odds of noise of sampling's steps are multiplied by it.",
        above=0,
        at_most=1e4,
        absent=1.0,
    )
    boundary: float = setting(
        "Of a model of two transformers, the share of the timesteps below which the second takes "
        "the steps (boundary_ratio of model_index.json); 0: there is one transformer.",
        at_least=0,
        at_most=1,
        absent=0.0,
    )
