"""Samplers as tables: every step is a weighted sum whose weights are known before the run."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.diffusion.guidance import guidance_weights
from m2dit_jax.diffusion.schedule import NoiseSchedule

SAMPLERS = ("ddim", "dpm")


class SamplingSteps(NamedTuple):
    """One row for each step of a sampling run (or, within the loop, one row).

    The next latents are the sum of latents, v, the last step's x0 and fresh noise with `weights`;
    x0, the prediction of the clean latents, that of latents and v with `x0_weights`.
    """

    timesteps: Int[np.ndarray | Array, "*steps"]
    weights: Float[np.ndarray | Array, "*steps 4"]
    x0_weights: Float[np.ndarray | Array, "*steps 2"]
    guidance: Float[np.ndarray | Array, "*steps"]


def sampling_steps(
    schedule: NoiseSchedule,
    sampler: str,
    steps: int,
    guidance_scale: float,
    dynamic_guidance: bool = False,
    as_reference: bool = False,
) -> SamplingSteps:
    """The table of a run: `sampler` is ddim (deterministic) or dpm (draws noise at every step).

    `as_reference` repeats three defects of diffusers 0.30 that the reference has: a last timestep
    of -1 for some numbers of steps; a next timestep of t - timesteps // steps, which is not the
    next of the list unless the steps divide the timesteps; and dynamic guidance that takes the
    timestep for the step.

    Raises ValueError for an unknown sampler or an impossible number of steps.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    timesteps = schedule.sampling_timesteps(steps, as_reference)
    alphas = schedule.alphas_cumprod()
    if as_reference:
        following = timesteps - schedule.timesteps // steps
    else:
        following = np.append(timesteps[1:], -1)
    next_alphas = np.where(following < 0, schedule.final_alpha(), alphas[following])
    solve = {"ddim": _ddim_weights, "dpm": _dpm_weights}[sampler]
    a, s = np.sqrt(alphas[timesteps]), np.sqrt(1 - alphas[timesteps])
    return SamplingSteps(
        timesteps=timesteps.astype(np.int32),
        weights=solve(alphas[timesteps], next_alphas, following < 0).astype(np.float32),
        x0_weights=np.stack([a, -s], axis=1).astype(np.float32),
        guidance=guidance_weights(
            guidance_scale, timesteps, steps, dynamic_guidance, as_reference
        ).astype(np.float32),
    )


def _ddim_weights(
    alphas: Float[np.ndarray, " steps"],
    next_alphas: Float[np.ndarray, " steps"],
    is_last: np.ndarray,
) -> Float[np.ndarray, "steps 4"]:
    """DDIM with eta 0 (arXiv 2010.02502, eq. 12).

    With x0 = a x - s v and noise = a v + s x, the next latents are a' x0 + s' noise.
    """
    a, s = np.sqrt(alphas), np.sqrt(1 - alphas)
    next_a, next_s = np.sqrt(next_alphas), np.sqrt(1 - next_alphas)
    none = np.zeros_like(a)
    return np.stack([next_a * a + next_s * s, next_s * a - next_a * s, none, none], axis=1)


def _dpm_weights(
    alphas: Float[np.ndarray, " steps"],
    next_alphas: Float[np.ndarray, " steps"],
    is_last: np.ndarray,
) -> Float[np.ndarray, "steps 4"]:
    """DPM-Solver++(2M) as a stochastic solver (arXiv 2211.01095, SDE-DPM-Solver++ 2M).

    The first step, which starts from no signal at all, and the last, which goes to the clean
    latents, are of first order.
    """
    a, s = np.sqrt(alphas), np.sqrt(1 - alphas)
    next_a, next_s = np.sqrt(next_alphas), np.sqrt(1 - next_alphas)
    # Half the log-SNR is -inf at the start and inf at the end; what that spoils is not used.
    with np.errstate(divide="ignore", invalid="ignore"):
        now, following = np.log(a / s), np.log(next_a / next_s)
        h = following - now
        correction = h / np.append(np.inf, np.diff(now)) / 2
    correction = np.where(is_last, 0.0, correction)
    correction[0] = 0.0
    keep = next_s / s * np.exp(-h)
    pull = -np.expm1(-2 * h) * next_a  # towards x0
    x0_weight, last_x0_weight = pull * (1 + correction), -pull * correction
    noise = next_s * np.sqrt(-np.expm1(-2 * h))
    return np.stack([keep + x0_weight * a, -x0_weight * s, last_x0_weight, noise], axis=1)
