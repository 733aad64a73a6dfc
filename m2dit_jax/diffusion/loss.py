"""The training loss: mean squared error of v over the scenes that are generated."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def scene_weights(given: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """Each scene's share of the loss: all generated scenes of the batch the same, given ones none.

    The weights add up to 1, so the loss of a batch is the sum over its parts.
    """
    generated = ~given
    return generated / jnp.maximum(jnp.sum(generated), 1)


def v_loss(
    v_pred: Float[Array, "B S *rest"],
    v_target: Float[Array, "B S *rest"],
    weights: Float[Array, "B S"],
) -> Float[Array, ""]:
    """Mean squared error of each scene, added up with the weights."""
    error = jnp.mean((v_pred - v_target) ** 2, axis=tuple(range(2, v_pred.ndim)))
    return jnp.sum(weights * error)
