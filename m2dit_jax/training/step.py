"""One training step: draw timesteps, noise and given scenes; loss; gradients; update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from m2dit_jax.data.loader import Batch
from m2dit_jax.diffusion.guidance import draw_given
from m2dit_jax.diffusion.loss import scene_weights, v_loss
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.encoders.pixels import encode_pixels
from m2dit_jax.training.state import TrainState

Params = Any


class NoisyBatch(NamedTuple):
    """A batch with everything drawn that a training step draws."""

    noisy_latents: Float[Array, "B S F H W C"]
    v_target: Float[Array, "B S F H W C"]
    timesteps: Int[Array, "B S"]
    token_ids: Int[Array, "B S T"]
    weights: Float[Array, "B S"]


@dataclass(frozen=True)
class StepConfig:
    """How a training step draws and averages; fields as in `config.train`."""

    given_probability: float
    given_scenes: str
    caption_dropout: float
    accumulate: int
    ema_decay: float


def draw_noisy_batch(
    key: Key[Array, ""],
    batch: Batch,
    empty_prompt: Int[Array | np.ndarray, " T"],
    schedule: NoiseSchedule,
    config: StepConfig,
) -> NoisyBatch:
    """Noise at one random timestep per story; given scenes are clean, at timestep 0.

    Captions are dropped for all scenes of a story together, as the unconditional branch of
    guidance has it.
    """
    stories, scenes = batch.video.shape[:2]
    timestep_key, noise_key, given_key, caption_key = jax.random.split(key, 4)
    latents = encode_pixels(batch.video)
    noise = jax.random.normal(noise_key, latents.shape)
    given = draw_given(given_key, stories, scenes, config.given_probability, config.given_scenes)
    drawn = jax.random.randint(timestep_key, (stories, 1), 0, schedule.timesteps)
    timesteps = jnp.where(given, 0, drawn)
    clean = given[:, :, None, None, None, None]
    dropped = jax.random.bernoulli(caption_key, config.caption_dropout, (stories, 1, 1))
    return NoisyBatch(
        noisy_latents=jnp.where(clean, latents, schedule.add_noise(latents, noise, timesteps)),
        v_target=schedule.v_target(latents, noise, timesteps),
        timesteps=timesteps,
        token_ids=jnp.where(dropped, empty_prompt, batch.token_ids),
        weights=scene_weights(given),
    )


def batch_loss(graphdef: nnx.GraphDef, params: Params, batch: NoisyBatch) -> Float[Array, ""]:
    """The loss of (a part of) a batch."""
    model = nnx.merge(graphdef, params)
    text_embeds = model.encode_text(batch.token_ids)
    v_pred = model(batch.noisy_latents, text_embeds, batch.timesteps)
    return v_loss(v_pred, batch.v_target, batch.weights)


def loss_and_gradients(
    graphdef: nnx.GraphDef, params: Params, batch: NoisyBatch, parts: int
) -> tuple[Float[Array, ""], Params]:
    """Loss and gradients of the whole batch, computed in `parts` pieces to save memory.

    Raises ValueError if the batch does not divide.
    """
    value_and_grad = jax.value_and_grad(batch_loss, argnums=1)
    if parts == 1:
        return value_and_grad(graphdef, params, batch)
    stories = batch.timesteps.shape[0]
    if stories % parts:
        raise ValueError(f"a batch of {stories} stories cannot be accumulated in {parts} parts")
    pieces = jax.tree.map(lambda x: x.reshape(parts, stories // parts, *x.shape[1:]), batch)

    def add_piece(total, piece):
        return jax.tree.map(jnp.add, total, value_and_grad(graphdef, params, piece)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add_piece, zeros, pieces)[0]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: NoiseSchedule,
    empty_prompt: Int[Array | np.ndarray, " T"],
    config: StepConfig,
) -> Callable[[TrainState, Key[Array, ""], Batch], TrainState]:
    """The function (state, seed key, batch) -> next state; all its draws come from key and step."""

    def train_step(state: TrainState, key: Key[Array, ""], batch: Batch) -> TrainState:
        noisy = draw_noisy_batch(
            jax.random.fold_in(key, state.step), batch, empty_prompt, schedule, config
        )
        loss, gradients = loss_and_gradients(graphdef, state.params, noisy, config.accumulate)
        return state.updated(optimizer, gradients, loss, config.ema_decay)

    return train_step
