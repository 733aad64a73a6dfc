"""Prompts and given scenes in, pixels out: what `sample`, `evaluate` and previews share."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from m2dit_jax.config.recipe import Params, Recipe
from m2dit_jax.diffusion.generate import Generated, Story, for_story, generate, noise_given
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.models.pixels import decode_pixels, encode_pixels
from m2dit_jax.pipeline.given_cache import (
    Given,
    cached_denoiser,
    cached_scenes,
    fill_cache,
    generated_scenes,
    generated_steps,
    generated_story,
    whole_story,
)


def trained_options(config: ConfigDict) -> SamplingOptions:
    """How a model that was trained here samples, if nobody says otherwise."""
    sample = config.sample
    return SamplingOptions(
        sampler="ddim", steps=sample.steps, guidance_scale=float(sample.guidance_scale)
    )


class Sampled(NamedTuple):
    """Stories, the latents that they were decoded from, and how much work they were."""

    video: UInt8[np.ndarray, "B S F H W 3"]
    latents: Float[np.ndarray, "B S F H W C"]
    evaluations: Int[np.ndarray, "steps B"]
    """Of the model, at each step: one for each branch of guidance that was evaluated."""


class StorySampler:
    """Samples batches of stories with a recipe's model; the whole loop is one compiled function."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._sample = jax.jit(partial(_sample, recipe), static_argnames=("noisy", "cached"))

    def sample(
        self,
        params: Params,
        steps: SamplingSteps,
        keys: Key[Array, " B"],
        video: UInt8[np.ndarray, "B S F H W 3"],
        given: Bool[np.ndarray, "B S"],
        prompts: Sequence[Sequence[str]],
        negative_prompt: str = "",
        noise_given: bool = False,
        cache: bool = True,
    ) -> Sampled:
        """The stories with all scenes that are not `given` replaced by generated ones.

        Under the causal mask what given scenes bring is computed once (`story_cache`), if the same
        ones are given in all stories; without `cache`, and with guidance by given scenes, it is
        not, with the same result.

        One key per story, so that a story does not depend on which others are in its batch.
        Raises ValueError for a prompt that is too long or has unknown words.
        """
        flat = [prompt for story in prompts for prompt in story]
        token_ids = self.recipe.tokenize(flat).reshape(*given.shape, -1)
        negative_ids = np.broadcast_to(self.recipe.tokenize([negative_prompt]), token_ids.shape)
        mask = self.recipe.config.model.mask
        steps = for_story(steps, given)
        cache = cache and steps.given_guidance is None
        pixels, made = self._sample(
            params,
            steps,
            keys,
            video,
            given,
            token_ids,
            negative_ids,
            noisy=noise_given,
            cached=cached_scenes(mask, given) if cache else None,
        )
        # Given scenes come back as they went in, not as the codec's round trip of them.
        kept = np.where(given[:, :, None, None, None, None], video, pixels)
        return Sampled(kept, *map(np.asarray, made))


def _sample(
    recipe: Recipe,
    params: Params,
    steps: SamplingSteps,
    keys: Key[Array, " B"],
    video: UInt8[Array, "B S F H W 3"],
    given: Bool[Array, "B S"],
    token_ids: Int[Array, "B S T"],
    negative_ids: Int[Array, "B S T"],
    noisy: bool,
    cached: Given | None,
) -> tuple[UInt8[Array, "B S F H W 3"], Generated]:
    model = nnx.merge(recipe.graphdef, params)
    clean = encode_pixels(video)

    def noise(keys: Key[Array, " B"]) -> Float[Array, "B S F H W C"]:
        return jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(keys)

    def folded(number: int | Int[Array, ""]) -> Key[Array, " B"]:
        return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    if noisy:
        clean = noise_given(recipe.schedule, clean, noise(folded(0)))
    story = Story(clean, given, model.encode_text(token_ids), model.encode_text(negative_ids))

    def step_noise(number: Int[Array, ""]) -> Float[Array, "B S F H W C"]:
        return noise(folded(number + 1))

    if cached is None:
        made = generate(model, steps, story, noise(keys), step_noise)
    else:
        part = generate(
            cached_denoiser(model, fill_cache(model, story, cached), cached),
            generated_steps(steps, cached),
            generated_story(story, cached),
            generated_scenes(noise(keys), cached),
            lambda number: generated_scenes(step_noise(number), cached),
        )
        made = part._replace(latents=whole_story(part.latents, cached, clean))
    return decode_pixels(made.latents), made
