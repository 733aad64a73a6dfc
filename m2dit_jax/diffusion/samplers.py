"""Deterministic samplers over a run of timesteps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.diffusion.schedule import NoiseSchedule


def ddim_coefficients(schedule: NoiseSchedule, steps: int) -> Float[np.ndarray, "{steps} 2"]:
    """For each sampling step the weights (of the noisy latents, of v) that give the next latents.

    DDIM with eta 0 (arXiv 2010.02502, eq. 12) is linear in both: with x0 = a x - s v and
    noise = a v + s x, the next latents are a' x0 + s' noise. The last step goes to the clean
    latents (a' = 1).
    """
    alphas = schedule.alphas_cumprod()[schedule.trailing_timesteps(steps)]
    following = np.append(alphas[1:], 1.0)
    a, s = np.sqrt(alphas), np.sqrt(1 - alphas)
    next_a, next_s = np.sqrt(following), np.sqrt(1 - following)
    return np.stack([next_a * a + next_s * s, next_s * a - next_a * s], axis=1)


def ddim_step(
    latents: Float[Array, "*shape"], v_pred: Float[Array, "*shape"], weights: Float[Array, "2"]
) -> Float[Array, "*shape"]:
    """One DDIM step with a row of `ddim_coefficients`."""
    return (weights[0] * latents + weights[1] * v_pred).astype(jnp.float32)
