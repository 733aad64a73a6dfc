"""What is timed: the forward pass, the training step and the sampling step of a config.

They are the functions that training and sampling call, on random inputs and one device.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.config.recipe import Params, Recipe, build_recipe, make_transformer_config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.diffusion.generate import StepState, Story, denoise_step
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.pipeline.given_cache import cached_denoiser, fill_cache, generated_story
from m2dit_jax.tools.planning.memory import program_bytes
from m2dit_jax.tools.planning.model_flops import (
    TRAINING_FACTOR,
    forward_flops,
    generated_flops,
    text_encoder_flops,
)
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.step import COMPUTE_DTYPES, make_train_step


@dataclass(frozen=True)
class Phase:
    """A compiled function to be timed: `run` computes it once and waits for the result.

    `flops` are the model's in closed form, of the whole batch; `tokens` those that go through the
    transformer; `program_bytes` is the memory that the compiler planned: arguments, results and
    temporaries.
    """

    run: Callable[[], Any]
    flops: int
    tokens: int
    program_bytes: int


def forward(recipe: Recipe) -> Phase:
    """The transformer on a batch of stories whose prompts are encoded."""
    latents, text_embeds, timesteps = _random_inputs(recipe)
    stories = latents.shape[0]

    def compute(params, *inputs):
        return nnx.merge(recipe.graphdef, params)(*inputs)

    given = jnp.zeros(timesteps.shape, bool)
    arguments = (_cast_params(recipe), latents, text_embeds, timesteps, given)
    compiled = jax.jit(compute).lower(*arguments).compile()
    return Phase(
        run=lambda: jax.block_until_ready(compiled(*arguments)),
        flops=stories * _story_flops(recipe),
        tokens=stories * recipe.story_layout().tokens,
        program_bytes=program_bytes(compiled),
    )


def train_step(recipe: Recipe) -> Phase:
    """A whole training step: random draws, loss, gradients and update, the state donated."""
    config, optimizer = recipe.config, recipe.optimizer()
    step = make_train_step(
        recipe.graphdef, optimizer, recipe.schedule, _empty_prompt(recipe), recipe.step_config()
    )
    key, batch = jax.random.key(config.seed), random_batch(recipe)

    @jax.jit
    def first_state() -> TrainState:
        params = recipe.init_params(jax.random.key(config.seed))
        return TrainState.create(params, optimizer, config.train.ema_decay)

    # Compiled before the state is made, as in training: their memory does not add up.
    shapes = jax.eval_shape(first_state)
    compiled = jax.jit(step, donate_argnums=0).lower(shapes, key, batch).compile()
    state = first_state()

    def run() -> TrainState:
        nonlocal state
        state = jax.block_until_ready(compiled(state, key, batch))
        return state

    stories = config.train.batch_size
    return Phase(
        run,
        flops=TRAINING_FACTOR * stories * (_story_flops(recipe) + _prompt_flops(recipe)),
        tokens=stories * recipe.story_layout().tokens,
        program_bytes=program_bytes(compiled),
    )


def sample_step(recipe: Recipe) -> Phase:
    """A step of DDIM with guidance for a batch of stories: two forward passes in one."""
    config = recipe.config
    latents, text_embeds, _ = _random_inputs(recipe)
    given = jnp.zeros(latents.shape[:2], bool)
    story = Story(latents, given, text_embeds, jnp.zeros_like(text_embeds))
    steps = sampling_steps(recipe.schedule, "ddim", config.sample.steps, 2.0)
    step = jax.tree.map(lambda rows: jnp.asarray(rows[0]), steps)

    def compute(params, story, step, latents):
        model = nnx.merge(recipe.graphdef, params)
        zeros = jnp.zeros_like(latents)
        return denoise_step(model, story, step, StepState(latents, (zeros,)), zeros)[0]

    arguments = (_cast_params(recipe), story, step, latents)
    compiled = jax.jit(compute).lower(*arguments).compile()
    rows = 2 * latents.shape[0]
    return Phase(
        run=lambda: jax.block_until_ready(compiled(*arguments)),
        flops=rows * _story_flops(recipe),
        tokens=rows * recipe.story_layout().tokens,
        program_bytes=program_bytes(compiled),
    )


def extend_step(recipe: Recipe) -> Phase:
    """A sampling step that makes the last scene from all others: `sample_step` under another mask.

    The mask is the causal one, whatever the config's; the given scenes are in the cache already.
    """
    recipe = _causal(recipe)
    latents, text_embeds, _ = _random_inputs(recipe)
    stories, scenes = latents.shape[:2]
    given = (True,) * (scenes - 1) + (False,)
    story = Story(latents, jnp.array([given] * stories), text_embeds, jnp.zeros_like(text_embeds))
    steps = sampling_steps(recipe.schedule, "ddim", recipe.config.sample.steps, 2.0)
    step = jax.tree.map(lambda rows: jnp.asarray(rows[0]), steps)
    params = _cast_params(recipe)

    @jax.jit
    def fill(params, story):
        return fill_cache(nnx.merge(recipe.graphdef, params), story, given)

    def compute(params, cache, story, step, latents):
        denoiser = cached_denoiser(nnx.merge(recipe.graphdef, params), cache, given)
        zeros = jnp.zeros_like(latents)
        return denoise_step(denoiser, story, step, StepState(latents, (zeros,)), zeros)[0]

    part = generated_story(story, given)
    arguments = (params, fill(params, story), part, step, part.clean)
    compiled = jax.jit(compute).lower(*arguments).compile()
    layout = recipe.story_layout()
    flops = generated_flops(make_transformer_config(recipe.config), layout, scenes - 1)
    return Phase(
        run=lambda: jax.block_until_ready(compiled(*arguments)),
        flops=2 * stories * flops.total,
        tokens=2 * stories * (layout.tokens // scenes),
        program_bytes=program_bytes(compiled),
    )


def _causal(recipe: Recipe) -> Recipe:
    config = copy.deepcopy(recipe.config)
    config.model.mask = "causal"
    return build_recipe(config)


PHASES: dict[str, Callable[[Recipe], Phase]] = {
    "forward": forward,
    "train_step": train_step,
    "sample_step": sample_step,
    "extend_step": extend_step,
}


def _story_flops(recipe: Recipe) -> int:
    return forward_flops(make_transformer_config(recipe.config), recipe.story_layout()).total


def _prompt_flops(recipe: Recipe) -> int:
    """Of encoding the prompts of a story."""
    config = recipe.config
    if config.data.source == "latents":
        return 0
    return text_encoder_flops(config.text_encoder, config.data.scenes, config.data.text_length)


def _cast_params(recipe: Recipe) -> Params:
    """Fresh parameters of the dtype that the model is to run in."""
    dtype = COMPUTE_DTYPES[recipe.config.train.compute_dtype]

    @jax.jit
    def make() -> Params:
        params = recipe.init_params(jax.random.key(recipe.config.seed))
        return jax.tree.map(lambda p: p.astype(dtype), params)

    return make()


def _random_inputs(recipe: Recipe) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noisy latents, text embeddings and timesteps of a batch of stories."""
    config = recipe.config
    stories, scenes = config.train.batch_size, config.data.scenes
    keys = jax.random.split(jax.random.key(config.seed), 3)
    text = (config.data.text_length, make_transformer_config(config).text_dim)
    return (
        jax.random.normal(keys[0], (stories, scenes, *recipe.latent_shape())),
        jax.random.normal(keys[1], (stories, scenes, *text)),
        jax.random.randint(keys[2], (stories, scenes), 0, config.diffusion.timesteps),
    )


def random_batch(recipe: Recipe) -> Batch | EncodedBatch:
    """A batch as the loader gives them."""
    config = recipe.config
    stories, scenes = config.train.batch_size, config.data.scenes
    random = np.random.default_rng(config.seed)
    if config.data.source == "latents":
        latents, text_embeds, _ = _random_inputs(recipe)
        mean, text_embeds = latents.astype(jnp.bfloat16), text_embeds.astype(jnp.bfloat16)
        return EncodedBatch(mean, jnp.full_like(mean, -4.0), text_embeds)
    video = random.integers(0, 256, (stories, scenes, *recipe.latent_shape()), np.uint8)
    token_ids = np.broadcast_to(_empty_prompt(recipe), (stories, scenes, config.data.text_length))
    return Batch(jnp.asarray(video), jnp.asarray(token_ids))


def _empty_prompt(recipe: Recipe) -> Any:
    data = recipe.config.data
    if data.source == "latents":
        return np.zeros((data.text_length, data.text_dim), jnp.bfloat16)
    return recipe.tokenize([""])[0]
