"""Prompts and given scenes in, pixels out: what `sample`, `evaluate` and previews share."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from m2dit_jax.diffusion.generate import Story, generate, noise_given
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.encoders.pixels import decode_pixels, encode_pixels
from m2dit_jax.recipe import Params, Recipe


class StorySampler:
    """Samples batches of stories with a recipe's model; the whole loop is one compiled function."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._sample = jax.jit(partial(_sample, recipe), static_argnames="noisy")

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
    ) -> UInt8[np.ndarray, "B S F H W 3"]:
        """The stories with all scenes that are not `given` replaced by generated ones.

        One key per story, so that a story does not depend on which others are in its batch.
        Raises ValueError for a prompt that is too long or has unknown words.
        """
        flat = [prompt for story in prompts for prompt in story]
        token_ids = self.recipe.tokenize(flat).reshape(*given.shape, -1)
        negative_ids = np.broadcast_to(self.recipe.tokenize([negative_prompt]), token_ids.shape)
        made = self._sample(
            params, steps, keys, video, given, token_ids, negative_ids, noisy=noise_given
        )
        # Given scenes come back as they went in, not as the codec's round trip of them.
        return np.where(given[:, :, None, None, None, None], video, made)


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
) -> UInt8[Array, "B S F H W 3"]:
    model = nnx.merge(recipe.graphdef, params)
    clean = encode_pixels(video)

    def noise(keys: Key[Array, " B"]) -> Float[Array, "B S F H W C"]:
        return jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(keys)

    def folded(number: int | Int[Array, ""]) -> Key[Array, " B"]:
        return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    if noisy:
        clean = noise_given(recipe.schedule, clean, noise(folded(0)))
    story = Story(clean, given, model.encode_text(token_ids), model.encode_text(negative_ids))
    latents = generate(model, steps, story, noise(keys), lambda step: noise(folded(step + 1)))
    return decode_pixels(latents)
