"""The sampling loop: all scenes that are not given are denoised jointly."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.diffusion.guidance import guide
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.schedule import NoiseSchedule

Latents = Float[Array, "B S F H W C"]
# (latents, text_embeds, timesteps, given) -> v
Denoiser = Callable[
    [Latents, Float[Array, "B2 S T E"], Int[Array, "B2 S"], Bool[Array, "B2 S"]], Latents
]


class Story(NamedTuple):
    """What stays the same through a sampling run.

    Scenes with `given` are those of `clean`; what it holds for the others does not matter.
    """

    clean: Latents
    given: Bool[Array, "B S"]
    text_embeds: Float[Array, "B S T E"]
    negative_embeds: Float[Array, "B S T E"] | None
    """None: no guidance."""

    def restore(self, latents: Latents) -> Latents:
        """The latents with the given scenes as they are given."""
        return jnp.where(self.given[:, :, None, None, None, None], self.clean, latents)


class StepResult(NamedTuple):
    """After a sampling step: the latents, the prediction of the clean ones, and v as predicted.

    `v_pred` has the negative branch, if there is one, before the other along the batch.
    """

    latents: Latents
    x0: Latents
    v_pred: Float[Array, "B2 S F H W C"]


def denoise_step(
    denoiser: Denoiser,
    story: Story,
    step: SamplingSteps,
    latents: Latents,
    last_x0: Latents,
    noise: Latents,
) -> StepResult:
    """One step of the sampler, with a row of the run's table.

    Given scenes are at timestep 0 and are put back after the step (Mask²DiT, section 3.3).
    """
    timesteps = jnp.where(story.given, 0, step.timesteps)
    if story.negative_embeds is None:
        v_pred = guided = denoiser(latents, story.text_embeds, timesteps, story.given)
    else:
        v_pred = denoiser(
            jnp.concatenate([latents, latents]),
            jnp.concatenate([story.negative_embeds, story.text_embeds]),
            jnp.concatenate([timesteps, timesteps]),
            jnp.concatenate([story.given, story.given]),
        )
        uncond, cond = jnp.split(v_pred, 2)
        guided = guide(uncond, cond, jnp.asarray(step.guidance))
    x0 = step.x0_weights[0] * latents + step.x0_weights[1] * guided
    weights = step.weights
    following = (
        weights[0] * latents + weights[1] * guided + weights[2] * last_x0 + weights[3] * noise
    )
    return StepResult(story.restore(following), x0, v_pred)


def generate(
    denoiser: Denoiser,
    steps: SamplingSteps,
    story: Story,
    noise: Latents,
    step_noise: Callable[[Int[Array, ""]], Latents],
) -> Latents:
    """Latents of all scenes: given ones as they are, the others made from `noise`.

    `step_noise` gives the noise of a step, by its number, to samplers that draw. Fixed-scene
    generation, extension, filling in and replacing differ only in which scenes are given.
    """

    def denoise(carry: tuple[Latents, Latents], numbered: tuple) -> tuple:
        number, step = numbered
        result = denoise_step(denoiser, story, step, *carry, step_noise(number))
        return (result.latents, result.x0), None

    steps = jax.tree.map(jnp.asarray, steps)
    numbers = jnp.arange(steps.timesteps.shape[0])
    start = story.restore(noise)
    (latents, _), _ = jax.lax.scan(denoise, (start, jnp.zeros_like(start)), (numbers, steps))
    return latents


def noise_given(
    schedule: NoiseSchedule,
    latents: Latents,
    noise: Latents,
) -> Latents:
    """Given latents with the noise of timestep 0, as the reference gives them when it extends.

    In training, also the reference's, they are clean.
    """
    return schedule.add_noise(latents, noise, jnp.zeros(latents.shape[:2], jnp.int32))
