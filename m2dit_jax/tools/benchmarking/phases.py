"""What is timed: the forward pass, the training step and the sampling step of a config.

They are the functions that training and sampling call, on random inputs and one device.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.config.recipe import Params, Recipe, build_recipe, make_transformer_config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.diffusion.sampling import Conditions, StepState
from m2dit_jax.models.flops import (
    TRAINING_FACTOR,
    forward_flops,
    generated_flops,
    text_encoder_flops,
)
from m2dit_jax.models.lora import split_adapters
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.pipeline.denoise import DenoisingProgram, sampling_step
from m2dit_jax.tools.planning.memory import program_bytes
from m2dit_jax.training.distillation import make_teach, step_config
from m2dit_jax.training.first_state import trained_params
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.step import make_train_step


@dataclass(frozen=True)
class Phase:
    """A compiled function to be timed: `run` computes it once and waits for the result.

    `flops` are the model's in closed form, of the whole batch; `tokens` those that go through the
    transformer; `program_bytes` is the memory that the compiler planned: arguments, results and
    temporaries.
    """

    run: Callable[[], Any]
    program_bytes: int
    flops: int
    tokens: int


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
    """A whole training step: random draws, loss, gradients and update, the state donated.

    A teacher, and weights that adapters are for, are random ones.
    """
    config = recipe.config
    optimizer = make_optimizer(config.train, config.trains_text_encoder)
    empty_prompt, distils = _empty_prompt(recipe), bool(config.distill.teacher)
    step = make_train_step(
        recipe.graphdef,
        optimizer,
        recipe.schedule,
        empty_prompt,
        step_config(recipe),
        teach=make_teach(recipe, empty_prompt) if distils else None,
    )
    frozen = ()
    if distils or config.train.lora.rank:
        frozen = (split_adapters(_cast_params(recipe))[0],)
    key, batch = jax.random.key(config.seed), random_batch(recipe)

    @jax.jit
    def first_state() -> TrainState:
        params = trained_params(recipe, recipe.init_params(jax.random.key(config.seed)))
        return TrainState.create(params, optimizer, config.train.ema_decay)

    # Compiled before the state is made, as in training: their memory does not add up.
    shapes = jax.eval_shape(first_state)
    compiled = jax.jit(step, donate_argnums=0).lower(shapes, key, batch, *frozen).compile()
    state = first_state()

    def run() -> TrainState:
        nonlocal state
        state = jax.block_until_ready(compiled(state, key, batch, *frozen))
        return state

    stories = config.train.batch_size
    return Phase(
        run,
        flops=(TRAINING_FACTOR + config.distill.evaluations)
        * stories
        * (_story_flops(recipe) + _prompt_flops(recipe)),
        tokens=stories * recipe.story_layout().tokens,
        program_bytes=program_bytes(compiled),
    )


def sample_step(recipe: Recipe) -> Phase:
    """A step of DDIM with guidance for a batch of stories: two forward passes in one."""
    layout, stories = recipe.story_layout(), recipe.config.train.batch_size
    compiled = _sampling_step(recipe, (False,) * recipe.config.data.scenes)
    return Phase(
        *compiled,
        flops=2 * stories * _story_flops(recipe),
        tokens=2 * stories * layout.tokens,
    )


def extend_step(recipe: Recipe) -> Phase:
    """A sampling step that makes the last scene from all others: `sample_step` under another mask.

    The mask is the causal one, whatever the config's; the given scenes are in the cache already.
    """
    if recipe.has_global_text:
        raise ValueError(
            f"config.data.source {recipe.config.data.source!r}: its stories have a global prompt, "
            "and with one nothing of given scenes is cached"
        )
    recipe = _causal(recipe)
    layout, stories = recipe.story_layout(), recipe.config.train.batch_size
    scenes = layout.scenes
    compiled = _sampling_step(recipe, (True,) * (scenes - 1) + (False,))
    flops = generated_flops(make_transformer_config(recipe.config), layout, scenes - 1)
    return Phase(
        *compiled,
        flops=2 * stories * flops.total,
        tokens=2 * stories * (layout.tokens // scenes),
    )


def _sampling_step(recipe: Recipe, given: tuple[bool, ...]) -> tuple[Callable[[], Any], int]:
    """The step of `pipeline.denoise` on random inputs, and the bytes of its program."""
    latents, text_embeds, _ = _random_inputs(recipe)
    places = jnp.array([given] * latents.shape[0])
    story = Conditions(latents, places, text_embeds, jnp.zeros_like(text_embeds))
    steps = sampling_steps(recipe.schedule, "ddim", recipe.config.sample.steps, 2.0)
    params = _cast_params(recipe)["transformer"]
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: recipe.new_model(nnx.Rngs(0))).transformer)
    program = DenoisingProgram.of_run(LoadedNetwork(graphdef, params), steps, story)
    cache = jax.jit(program.fill)(params, story)
    story = program.sampled_part(story)
    step = jax.tree.map(lambda rows: jnp.asarray(rows[0]), program.sampled_steps(steps))
    zeros = jnp.zeros_like(story.clean)
    state = StepState(story.clean, (zeros,))
    arguments = (params, cache, story, step, state, zeros)
    compiled = sampling_step.lower(program, *arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments)), program_bytes(compiled)


def _causal(recipe: Recipe) -> Recipe:
    model = replace(recipe.config.model, mask="causal")
    return build_recipe(replace(recipe.config, model=model))


PHASES: dict[str, Callable[[Recipe], Phase]] = {
    "forward": forward,
    "train_step": train_step,
    "sample_step": sample_step,
    "extend_step": extend_step,
}


def _story_flops(recipe: Recipe) -> int:
    return forward_flops(make_transformer_config(recipe.config), recipe.story_layout()).total


def _prompt_flops(recipe: Recipe) -> int:
    """Operations of encoding the prompts of a story."""
    config = recipe.config
    if config.data.source == "latents":
        return 0
    texts = recipe.story_layout().scenes
    return text_encoder_flops(config.text_encoder, texts, config.data.text_length)


def _cast_params(recipe: Recipe) -> Params:
    """Fresh parameters of the dtype that the model is to run in."""
    dtype = jnp.dtype(recipe.config.train.compute_dtype)

    @jax.jit
    def make() -> Params:
        params = recipe.init_params(jax.random.key(recipe.config.seed))
        return cast_floats(params, dtype)

    return make()


def _random_inputs(recipe: Recipe) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noisy latents, text embeddings and timesteps of a batch of stories."""
    config = recipe.config
    stories, scenes = config.train.batch_size, config.data.scenes
    keys = jax.random.split(jax.random.key(config.seed), 3)
    text = (config.data.text_length, make_transformer_config(config).text_dim)
    texts = recipe.story_layout().scenes  # a global one among them
    return (
        jax.random.normal(keys[0], (stories, scenes, *recipe.latent_shape())),
        jax.random.normal(keys[1], (stories, texts, *text)),
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
    texts = recipe.story_layout().scenes
    token_ids = np.broadcast_to(_empty_prompt(recipe), (stories, texts, config.data.text_length))
    return Batch(jnp.asarray(video), jnp.asarray(token_ids))


def _empty_prompt(recipe: Recipe) -> Any:
    data = recipe.config.data
    if data.source == "latents":
        return np.zeros((data.text_length, data.text_dim), jnp.bfloat16)
    return recipe.tokenize([""])[0]
