"""The stages of sampling from a released model: prompts, given clips, denoising, decoding."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from m2dit_jax.diffusion.generate import (
    Latents,
    StepResult,
    StepState,
    Story,
    denoise_step,
    for_story,
    start,
)
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.pipeline.given_cache import (
    Given,
    cached_denoiser,
    cached_scenes,
    fill_cache,
    generated_scenes,
    generated_steps,
    generated_story,
    whole_result,
)

Frames = tuple[int, ...] | None  # of each scene, where they differ


@partial(jax.jit, static_argnums=(0, 1, 2))
def _denoise_step(
    graphdef: nnx.GraphDef, placement: Placement, frames: Frames, params, *args
) -> tuple[StepState, StepResult]:
    model = nnx.merge(graphdef, placement.gather_outside_blocks(params))
    state, result = denoise_step(partial(model, placement=placement, frames=frames), *args)
    return jax.tree.map(placement.cut_stories, state), result


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fill_cache(
    graphdef: nnx.GraphDef, placement: Placement, given: Given, params, story: Story
) -> KeyValues:
    model = nnx.merge(graphdef, placement.gather_outside_blocks(params))
    return fill_cache(model, story, given, placement)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _denoise_step_cached(
    graphdef: nnx.GraphDef, placement: Placement, given: Given, params, cache: KeyValues, *args
) -> tuple[StepState, StepResult]:
    model = nnx.merge(graphdef, placement.gather_outside_blocks(params))
    state, result = denoise_step(cached_denoiser(model, cache, given, placement), *args)
    return jax.tree.map(placement.cut_stories, state), result


def denoise(
    transformer: LoadedNetwork,
    steps: SamplingSteps,
    story: Story,
    noise: Latents,
    step_noise: Callable[[int], Latents],
    placement: Placement = ONE_DEVICE,
    cache: bool = True,
    frames: Frames = None,
) -> Iterator[StepResult]:
    """The results of the sampling steps, one after another.

    The same as `generate`, with the loop outside the compiled program: so one can see how far it
    is. `step_noise` gives the noise of a step, by its number, to samplers that draw. For a
    placement on a mesh the parameters must be cut by its rules.

    Under the causal mask what given scenes bring is computed once (`story_cache`), if the same
    ones are given in all stories; v of given scenes is zero then. Without `cache`, and always with
    guidance by given scenes, which has a branch where they are noise, it is not; nor with a global
    prompt, or with scenes of different lengths, whose latent `frames` are counted (`M2DiT`).
    """
    graphdef, params = transformer
    steps = for_story(steps, story.given)
    as_trained = frames is None and story.text_embeds.shape[1] == story.given.shape[1]
    cache = cache and steps.given_guidance is None and as_trained
    given = cached_scenes(nnx.merge(graphdef, params).mask, story.given) if cache else None
    if given is None:
        part, take_step = story, partial(_denoise_step, graphdef, placement, frames, params)
    else:
        part, steps = generated_story(story, given), generated_steps(steps, given)
        kept = _fill_cache(graphdef, placement, given, params, story)
        take_step = partial(_denoise_step_cached, graphdef, placement, given, params, kept)
    of_part = partial(generated_scenes, given=given or (False,) * story.given.shape[1])
    part, state = start(steps, part, of_part(noise))
    # As steps leave it, or the second step would be compiled anew.
    if placement == ONE_DEVICE:
        state = jax.device_put(state, jax.tree.leaves(params)[0].sharding)
    else:
        state = jax.jit(partial(jax.tree.map, placement.cut_stories))(state)
    for number in range(len(steps.timesteps)):
        step = jax.tree.map(lambda rows, row=number: jnp.asarray(rows[row]), steps)
        state, result = take_step(part, step, state, of_part(step_noise(number)))
        yield result if given is None else whole_result(result, given, story)
