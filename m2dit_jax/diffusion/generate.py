"""The sampling loop: all scenes that are not given are denoised jointly."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.diffusion.guidance import guide
from m2dit_jax.diffusion.samplers import ddim_coefficients, ddim_step
from m2dit_jax.diffusion.schedule import NoiseSchedule

Latents = Float[Array, "B S F H W C"]
Denoiser = Callable[[Latents, Float[Array, "B S T E"], Int[Array, "B S"]], Latents]


def generate(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    noise: Latents,
    clean: Latents,
    given: Bool[Array, "B S"],
    text_embeds: Float[Array, "B S T E"],
    negative_embeds: Float[Array, "B S T E"],
    guidance_scale: Float[Array, ""],
    steps: int,
) -> Latents:
    """Latents of all scenes: those of `clean` where `given`, made from `noise` elsewhere.

    Given scenes are clean, at timestep 0, and put back after every step (Mask²DiT, section 3.3).
    What `clean` holds for the other scenes does not matter. Fixed-scene generation, extension,
    filling in and replacing differ only in `given`.
    """
    keep = given[:, :, None, None, None, None]
    coefficients = jnp.asarray(ddim_coefficients(schedule, steps), jnp.float32)
    timesteps = jnp.asarray(schedule.trailing_timesteps(steps), jnp.int32)
    both_embeds = jnp.concatenate([negative_embeds, text_embeds])

    def denoise(latents: Latents, step: tuple) -> tuple[Latents, None]:
        timestep, weights = step
        scene_timesteps = jnp.where(given, 0, timestep)
        v_both = denoiser(
            jnp.concatenate([latents, latents]),
            both_embeds,
            jnp.concatenate([scene_timesteps, scene_timesteps]),
        )
        uncond, cond = jnp.split(v_both, 2)
        v_pred = guide(uncond, cond, guidance_scale)
        return jnp.where(keep, clean, ddim_step(latents, v_pred, weights)), None

    start = jnp.where(keep, clean, noise)
    return jax.lax.scan(denoise, start, (timesteps, coefficients))[0]
