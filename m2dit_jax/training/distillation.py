"""The target of a training step that distils a teacher (`diffusion.consistency`)."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.diffusion.consistency import PredictV, SmallSteps, consistency_target, small_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.training.step import NoisyBatch, StepConfig, Teach, model_for_computing

Params = Any


def small_steps_of(recipe: Recipe) -> SmallSteps:
    """The small steps of the teacher of `config.distill`."""
    distill, schedule = recipe.config.distill, recipe.schedule
    assert isinstance(schedule, NoiseSchedule)  # the config allows no other
    return small_steps(
        replace(schedule, spacing=distill.spacing),
        distill.steps,
        distill.teacher_steps,
        distill.guidance_scale,
        distill.guidance_end,
    )


def step_config(recipe: Recipe) -> StepConfig:
    """Settings of the training step: with a teacher, only its small steps' timesteps are drawn."""
    config = StepConfig.from_config(recipe.config)
    if not recipe.config.distill.teacher:
        return config
    among = tuple(small_steps_of(recipe).timesteps.tolist())
    return replace(config, timesteps=replace(config.timesteps, among=among))


def make_teach(
    recipe: Recipe,
    empty_prompt: Int[Array | np.ndarray, " T"] | Float[Array | np.ndarray, "T E"],
    placement: Placement = ONE_DEVICE,
) -> Teach:
    """The function (teacher's weights, student's, batch, frames) -> target of the model's output.

    No gradient passes through it. The student is asked with the weights of the step itself, as in
    the paper, not with an average.
    """
    distill, schedule, steps = recipe.config.distill, recipe.schedule, small_steps_of(recipe)

    def teach(
        teacher: Params,
        student: Params,
        batch: NoisyBatch,
        frames: tuple[int, ...] | None = None,
    ) -> Float[Array, "B S F H W C"]:
        def of(params: Params, prompts: Array) -> PredictV:
            # Stopped here, so that no part of a gradient is prepared for.
            model = model_for_computing(
                recipe.graphdef,
                jax.lax.stop_gradient(params),
                recipe.config.train.compute_dtype,
                placement,
            )
            text_embeds = model.encode_text(prompts)

            def predict(
                latents: Float[Array, "B S F H W C"], timesteps: Int[Array, "B S"]
            ) -> Float[Array, "B S F H W C"]:
                output = model(latents, text_embeds, timesteps, batch.given, placement, frames)
                return schedule.to_v(output, latents, timesteps)

            return predict

        no_prompts = jnp.broadcast_to(jnp.asarray(empty_prompt), batch.prompts.shape)
        v = consistency_target(
            steps,
            of(teacher, batch.prompts),
            of(teacher, no_prompts) if distill.guidance_scale != 1 else None,
            of(student, batch.prompts),
            batch.noisy_latents,
            batch.timesteps,
            batch.given,
            distill.clip_x0,
        )
        return schedule.from_v(v, batch.noisy_latents, batch.timesteps)

    return teach
