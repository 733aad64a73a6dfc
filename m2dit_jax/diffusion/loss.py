"""The training loss: mean squared error of v over the scenes that are generated."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.diffusion.noising import Schedule


def scene_weights(given: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """Each scene's share of the loss: all generated scenes of the batch the same, given ones none.

    The weights add up to 1, so the loss of a batch is the sum over its parts.
    """
    generated = ~given
    return generated / jnp.maximum(jnp.sum(generated), 1)


def story_weights(given: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """Each scene's share of the loss: all stories the same, and in a story its generated scenes.

    As in the reference, where each rank averages over its own story: an extension of one scene
    counts as much as a story of three. The weights add up to 1; a story whose scenes are all given
    has none.
    """
    generated = ~given
    in_story = jnp.sum(generated, axis=1, keepdims=True)
    return generated / jnp.maximum(in_story, 1) / jnp.maximum(jnp.sum(in_story > 0), 1)


WEIGHTINGS = {"scene": scene_weights, "story": story_weights}


def min_snr_weights(
    schedule: Schedule, timesteps: Int[Array, "B S"], gamma: float
) -> Float[Array, "B S"]:
    """Weights min(SNR, gamma) / (SNR + 1) of the error of v (arXiv 2303.09556, section 3.4).

    With signal a and noise s, whose v-error is 1 / s^2 of that of x0, they are
    min(a^2, gamma s^2): 0 where there is no signal.
    """
    signal, noise = (jnp.asarray(x**2, jnp.float32)[timesteps] for x in schedule.levels())
    return jnp.minimum(signal, gamma * noise)


def weighted_error(
    output: Float[Array, "B S *rest"],
    target: Float[Array, "B S *rest"],
    weights: Float[Array, "B S"],
) -> Float[Array, ""]:
    """Mean squared error of each scene, added up with the weights."""
    error = jnp.mean((output - target) ** 2, axis=tuple(range(2, output.ndim)))
    return jnp.sum(weights * error)
