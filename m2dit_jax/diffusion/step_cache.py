"""Which steps need no evaluation: those where the prediction would hardly have changed.

In the manner of TeaCache (arXiv 2411.19108): the change since the last evaluation is estimated, and
up to a tolerance the old prediction serves again. There the estimate is a polynomial, fitted for
each model, of the change of the modulated input; here it is measured in the run itself, so nothing
has to be fitted: how fast x0, the prediction of the clean latents, changed between the last two
evaluations. With DDIM, two steps with the same x0 are one longer step, so that what comes out is a
run with steps of adapted length.

Every story of a batch decides for itself, so that it does not depend on the others; the model is
spared where none needs it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from m2dit_jax.diffusion.samplers import SamplingSteps


class StepCache(NamedTuple):
    """The values on which a story's decision to skip an evaluation rests.

    The `angle` of a timestep, in radians, has signal and noise as sides: sqrt(alpha) is its cosine.
    """

    angle: Float[Array, " B"]
    """Of the last evaluation."""
    rate: Float[Array, " B"]
    """Relative change of x0 between the last two evaluations, per radian."""
    owed: Bool[Array, " B"]
    """A step that was to evaluate all branches of guidance was left out."""


def start_cache(batch: int) -> StepCache:
    """The cache before the first step, which needs an evaluation, as does the one after it."""
    return StepCache(jnp.full(batch, jnp.pi), jnp.full(batch, jnp.inf), owed=jnp.zeros(batch, bool))


def needs_evaluation(cache: StepCache, step: SamplingSteps) -> Bool[Array, " B"]:
    """Whether the estimated change of x0 has reached the step's tolerance."""
    change = cache.rate * (cache.angle - _angle(step))
    # What is not a number, from an x0 of zeros, must not pass for a small change.
    return ~(change < jnp.asarray(step.tolerance))


def after_step(
    cache: StepCache,
    step: SamplingSteps,
    evaluated: Bool[Array, " B"],
    owed: Bool[Array, " B"],
    x0: Float[Array, "B S F H W C"],
    last_x0: Float[Array, "B S F H W C"],
    given: Bool[Array, "B S"],
) -> StepCache:
    """The cache with the rate measured anew in stories that were evaluated."""
    generated = ~given[:, :, None, None, None, None]
    axes = (1, 2, 3, 4, 5)
    change = jnp.sum(jnp.abs(x0 - last_x0) * generated, axes)
    rate = change / jnp.sum(jnp.abs(last_x0) * generated, axes) / (cache.angle - _angle(step))
    return StepCache(
        jnp.where(evaluated, _angle(step), cache.angle),
        jnp.where(evaluated, rate, cache.rate),
        owed,
    )


def _angle(step: SamplingSteps) -> Float[Array, ""]:
    signal, noise = step.levels
    return jnp.arctan2(noise, signal)
