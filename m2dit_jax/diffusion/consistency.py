"""Multistep consistency distillation (arXiv 2403.06807): what a student of few steps learns.

The run of a student has a few steps; each spans some small DDIM steps of the guided teacher. From
wherever the student is within its step, it should come to where the teacher comes at the step's
end: one small step of the teacher, and from there what the student itself makes of it.

A DDIM step turns the latents and v by an angle, at timestep t arccos(sqrt(alpha)), and so all
weights here are sines and cosines: x' = cos(d) x - sin(d) v over a distance d.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.diffusion.guidance import guide
from m2dit_jax.diffusion.schedule import NoiseSchedule

Latents = Float[Array, "B S F H W C"]
PredictV = Callable[[Latents, Int[Array, "B S"]], Latents]  # of noisy latents and timesteps

_CLEAN = -1  # the timestep where the last step goes


class SmallSteps(NamedTuple):
    """One row for each small step of the teacher, from the noisiest on; angles are radians."""

    timesteps: Int[np.ndarray, " rows"]
    """Where a small step begins; these are the timesteps that the student is trained at."""
    following: Int[np.ndarray, " rows"]
    """Where it ends; 0 for the clean latents, which are nobody's input."""
    angles: Float[np.ndarray, " rows"]
    """The distance from the clean latents, where a small step begins."""
    turns: Float[np.ndarray, " rows"]
    """The length of the small step."""
    left: Float[np.ndarray, " rows"]
    """The distance from its end to the end of the student's step: there it is 0."""
    guidance: Float[np.ndarray, " rows"]
    """The teacher's scale of guidance."""


def small_steps(
    schedule: NoiseSchedule,
    steps: int,
    teacher_steps: int,
    guidance_scale: float = 1.0,
    guidance_end: float = 1.0,
) -> SmallSteps:
    """The small steps of a teacher for a student of `steps`, at whose timesteps some begin.

    Every step of the student has as many, at equal distances in timestep, or in log-SNR if that is
    the schedule's spacing; fewer where there are not so many timesteps. Guidance ends after a
    share of them, as in sampling. Raises ValueError as `NoiseSchedule.sampling_timesteps` does.
    """
    ends = np.append(schedule.sampling_timesteps(steps), _CLEAN)
    parts = max(teacher_steps // steps, 1)
    alphas = np.append(schedule.alphas_cumprod(), schedule.final_alpha())
    angles = np.arctan2(np.sqrt(1 - alphas), np.sqrt(alphas))
    rows = [
        (begin, following, angles[following] - angles[end])
        for first, end in pairwise(ends.tolist())
        for begin, following in pairwise(schedule.timesteps_between(first, end, parts))
    ]
    begins, follows, left = (np.array(column) for column in zip(*rows, strict=True))
    guided = np.arange(len(rows)) / len(rows) < guidance_end
    return SmallSteps(
        timesteps=begins.astype(np.int32),
        following=np.maximum(follows, 0).astype(np.int32),
        angles=angles[begins],
        turns=angles[begins] - angles[follows],
        left=left,
        guidance=np.where(guided, guidance_scale, 1.0),
    )


def consistency_target(
    steps: SmallSteps,
    cond: PredictV,
    uncond: PredictV | None,
    student: PredictV,
    noisy_latents: Latents,
    timesteps: Int[Array, "B S"],
    given: Bool[Array, "B S"],
    clip_x0: float = 0.0,
) -> Latents:
    """The v that takes the student from its noisy latents to its step's end in one DDIM step.

    `cond` and `uncond` are the teacher's branches of guidance, None for no guidance. Timesteps of
    scenes that are not given are among those of `steps`. Given scenes stay as they are, and what is
    returned for them means nothing. `clip_x0` is the largest absolute value of the teacher's x0;
    0: any.
    """

    def of_scenes(column: np.ndarray) -> Float[Array, "B S 1 1 1 1"]:
        by_timestep = np.zeros(int(steps.timesteps.max()) + 1)
        by_timestep[steps.timesteps] = column
        return _over_latents(jnp.asarray(by_timestep, jnp.float32)[timesteps])

    def ratio(over: np.ndarray) -> Float[Array, "B S 1 1 1 1"]:
        return of_scenes(over / np.sin(steps.turns + steps.left))

    v = cond(noisy_latents, timesteps)
    if uncond is not None:
        v = guide(uncond(noisy_latents, timesteps), v, of_scenes(steps.guidance))
    if clip_x0:
        signal, sigma = of_scenes(np.cos(steps.angles)), of_scenes(np.sin(steps.angles))
        x0 = jnp.clip(signal * noisy_latents - sigma * v, -clip_x0, clip_x0)
        v = (signal * noisy_latents - x0) / jnp.where(sigma > 0, sigma, 1)
    moved = of_scenes(np.cos(steps.turns)) * noisy_latents - of_scenes(np.sin(steps.turns)) * v
    moved = jnp.where(_over_latents(given), noisy_latents, moved)
    following = of_scenes(steps.following)[..., 0, 0, 0, 0].astype(jnp.int32)
    v_student = student(moved, jnp.where(given, 0, following))
    # Both steps, one after the other, as a single one; written so that nothing cancels.
    return (
        ratio(np.sin(steps.turns) * np.cos(steps.left)) * v
        + ratio(np.sin(steps.left)) * v_student
        - ratio(np.sin(steps.turns) * np.sin(steps.left)) * noisy_latents
    )


def _over_latents(x: Array) -> Array:
    """One value per scene, with trailing axes to broadcast over latents."""
    return x[..., None, None, None, None]
