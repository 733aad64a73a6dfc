"""Classifier-free guidance (arXiv 2207.12598) and the draw of given scenes in training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


def guide(
    uncond: Float[Array, "*shape"],
    cond: Float[Array, "*shape"],
    guidance_scale: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """The prediction moved away from the unconditional one; scale 1 is the conditional one."""
    return uncond + guidance_scale * (cond - uncond)


def guide_by_both(
    nothing: Float[Array, "*shape"],
    uncond: Float[Array, "*shape"],
    cond: Float[Array, "*shape"],
    given_guidance: Float[Array, "*#shape"],
    guidance_scale: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """The prediction guided by given scenes and by text (arXiv 2211.09800, eq. 3).

    `nothing` is predicted from neither, `uncond` from the given scenes, `cond` from both.
    """
    return guide(nothing, uncond, given_guidance) + guidance_scale * (cond - uncond)


def rescale(
    guided: Float[Array, "B S F H W C"],
    cond: Float[Array, "B S F H W C"],
    phi: Float[Array, "*#shape"],
) -> Float[Array, "B S F H W C"]:
    """The guided prediction with its spread brought back to the conditional one's by `phi`.

    phi x std(cond) / std(x) + (1 - phi) x (arXiv 2305.08891, eq. 15 and 16), with the standard
    deviation of each scene: the paper's samples are single clips.
    """
    axes = (2, 3, 4, 5)
    spread = jnp.std(guided, axes, keepdims=True)
    factor = jnp.std(cond, axes, keepdims=True) / jnp.where(spread > 0, spread, 1)
    return guided * jnp.where(spread > 0, phi * factor + (1 - phi), 1)


def guidance_weights(
    guidance_scale: float,
    timesteps: Int[np.ndarray, " rows"] | Float[np.ndarray, " rows"],
    steps: int,
    dynamic: bool,
    as_reference: bool = False,
) -> Float[np.ndarray, " rows"]:
    """The scale of each step, float64: constant, or dynamic, growing from 1 over the run.

    Dynamic guidance (CogVideoX) is 1 + scale (1 - cos(pi x^5)) / 2 with x from 0 to 1 over the run.
    The reference has there (steps - timestep) / steps, far outside 0..1 (`as_reference`): its
    scale jumps about, and depends on the last bit of Python's float64 power and cosine.
    """
    if not dynamic:
        return np.full(len(timesteps), float(guidance_scale))
    counts = steps - timesteps if as_reference else np.arange(len(timesteps))
    return np.array(
        [
            1 + guidance_scale * (1 - math.cos(math.pi * (count / steps) ** 5.0)) / 2
            for count in counts.tolist()
        ]
    )


def draw_given(
    key: Key[Array, ""], batch: int, scenes: int, probability: float, which: str
) -> Bool[Array, "{batch} {scenes}"]:
    """The given scenes of each story: with `probability` there are some.

    `which` is "all_but_last" (the reference) or "any" (a uniformly drawn number of them, at least
    one and not all, then a uniformly drawn subset).
    With one scene nothing can be given. Raises ValueError for another `which`.
    """
    if which not in GIVEN_CHOICES:
        raise ValueError(f"unknown choice of given scenes {which!r}; there are {GIVEN_CHOICES}")
    if scenes == 1:
        return jnp.zeros((batch, 1), bool)
    whether_key, which_key = jax.random.split(key)
    whether = jax.random.bernoulli(whether_key, probability, (batch, 1))
    if which == "all_but_last":
        subset = jnp.broadcast_to(jnp.arange(scenes) < scenes - 1, (batch, scenes))
    else:
        number = jax.random.randint(which_key, (batch, 1), 1, scenes)
        ranks = jax.random.uniform(jax.random.fold_in(which_key, 1), (batch, scenes))
        subset = jnp.argsort(jnp.argsort(ranks, axis=1), axis=1) < number
    return whether & subset


GIVEN_CHOICES = ("all_but_last", "any")
