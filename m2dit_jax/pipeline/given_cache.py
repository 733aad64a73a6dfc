"""Sampling with what given scenes bring computed once: under the causal mask it is constant.

The sampler is handed a story of the generated scenes alone and a denoiser that has the given ones
in its cache, and so knows nothing of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import Conditions, Denoiser, Latents, StepResult
from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.family import CachesGiven
from m2dit_jax.models.masks import depends_on_given
from m2dit_jax.models.placement import ONE_DEVICE, Placement

Given = tuple[bool, ...]  # which scenes of a story are given


def cached_scenes(mask: str, given: Bool[np.ndarray | Array, "B S"]) -> Given | None:
    """Which scenes can be cached; None: none, and the whole story must go through the model.

    They can if the mask is causal and the same scenes, at least one and not all, are given in all
    stories of the batch. `given` must not be traced.
    """
    stories = np.asarray(given)
    same = bool((stories == stories[0]).all())
    if not depends_on_given(mask) or not same or stories[0].all() or not stories[0].any():
        return None
    return tuple(stories[0].tolist())


def fill_cache(
    model: CachesGiven, story: Conditions, given: Given, placement: Placement = ONE_DEVICE
) -> KeyValues:
    """Keys and values of the given scenes, computed once for a sampling run.

    With guidance each branch has its own, as the prompts differ: along the batch the negative
    branch is before the other.
    """
    places = np.flatnonzero(given)
    clean, text = story.clean[:, places], story.text_embeds[:, places]
    if story.negative_embeds is not None:
        clean = jnp.concatenate([clean, clean])
        text = jnp.concatenate([story.negative_embeds[:, places], text])
    return model.cache_given(clean, text, given, placement)


def cached_denoiser(
    model: CachesGiven, cache: KeyValues, given: Given, placement: Placement = ONE_DEVICE
) -> Denoiser:
    """A denoiser for `generated_part`, with the cache of the whole one.

    It may be called with all branches of the cache, or without the negative one. Raises ValueError
    for another batch: other branches of guidance have no cache.
    """
    rows = cache.keys.shape[1]

    def denoise(
        latents: Latents,
        text_embeds: Float[Array, "B S T E"],
        timesteps: Num[Array, "B S *frames"],
        of_generated: Bool[Array, "B S"],
    ) -> Latents:
        del of_generated  # none of them is given
        called = latents.shape[0]
        if called not in (rows, rows / 2):
            raise ValueError(
                f"the cache of given scenes has {rows} stories, those with negative prompts first; "
                f"the model was called with {called}: sample without the cache"
            )
        of_call = cache if called == rows else jax.tree.map(lambda x: x[:, called:], cache)
        return model.predict_cached(latents, text_embeds, timesteps, of_call, given, placement)

    return denoise


def generated_part(story: Conditions, given: Given) -> Conditions:
    """The scenes that are not given, as a story of their own."""
    return jax.tree.map(lambda x: generated_scenes(x, given), story)


def generated_steps(steps: SamplingSteps, given: Given) -> SamplingSteps:
    """The table of the scenes that are not given."""
    return steps.for_scenes(np.flatnonzero(np.logical_not(given)))


def generated_scenes(x: Float[Array, "B S *rest"] | Array, given: Given) -> Array:
    """The scenes that are not given."""
    return x[:, np.flatnonzero(np.logical_not(given))]


def whole_story(
    x: Float[Array, "B G *rest"], given: Given, of_given: Float[Array, "B S *rest"]
) -> Float[Array, "B S *rest"]:
    """The inverse of `generated_scenes`; `of_given` has what stands at the given scenes."""
    return of_given.at[:, np.flatnonzero(np.logical_not(given))].set(x)


def whole_result(result: StepResult, given: Given, story: Conditions) -> StepResult:
    """A step's result for all scenes; v of given scenes, which nobody computed, is zero."""
    zeros = jnp.zeros((result.v_pred.shape[0], *story.clean.shape[1:]), result.v_pred.dtype)
    return StepResult(
        latents=whole_story(result.latents, given, story.clean),
        x0=whole_story(result.x0, given, story.clean),
        v_pred=whole_story(result.v_pred, given, zeros),
        evaluations=result.evaluations,
    )
