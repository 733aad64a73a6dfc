"""One training step: draw timesteps, noise and given scenes; loss; gradients; update."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from m2dit_jax.config.lora import LoraConfig
from m2dit_jax.config.schema import Config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.diffusion.guidance import draw_given
from m2dit_jax.diffusion.loss import WEIGHTINGS, min_snr_weights, weighted_error
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.timesteps import TimestepDraw
from m2dit_jax.models.coding import sample_latents
from m2dit_jax.models.lora import dropout, join_adapters
from m2dit_jax.models.pixels import encode_pixels
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.training.state import TrainState

Params = Any
DROPOUT = 1  # stream of a step's draws


class NoisyBatch(NamedTuple):
    """A batch with everything drawn that a training step draws."""

    noisy_latents: Float[Array, "B S F H W C"]
    target: Float[Array, "B S F H W C"]
    """What the model's output should be: v, or what else the schedule's prediction is."""
    timesteps: Int[Array, "B S"]
    prompts: Int[Array, "B P T"] | Float[Array, "B P T E"]
    """Token ids, or embeddings if the prompts were encoded beforehand; see `loader.Batch`."""
    given: Bool[Array, "B S"]
    weights: Float[Array, "B S"]


# (weights of the model, batch, frames of each scene if unequal) -> what its output should be
Target = Callable[[Params, NoisyBatch, tuple[int, ...] | None], Float[Array, "B S F H W C"]]
Teach = Callable[..., Float[Array, "B S F H W C"]]  # the same, after the weights of a teacher


@dataclass(frozen=True)
class StepConfig:
    """Settings of a training step: what it draws and averages; fields as in `config.train`."""

    given_probability: float
    given_scenes: str
    caption_dropout: float
    scene_caption_dropout: float
    loss_weighting: str
    min_snr_gamma: float
    given_noise: int
    accumulate: int
    ema_decay: float
    compute_dtype: str
    lora: LoraConfig
    timesteps: TimestepDraw = TimestepDraw()
    train_text_encoder: bool = True
    image_probability: float = 0.0
    story_scenes: int = 0
    """Scenes of a story; those that a batch has more are pictures before them."""

    @classmethod
    def from_config(cls, config: Config) -> "StepConfig":
        """The fields of `config.train` that a training step reads."""

        def read(kind: Any) -> dict[str, Any]:
            names = {each.name for each in fields(kind)} & set(vars(config.train))
            return {name: getattr(config.train, name) for name in names}

        trained = config.trained_timesteps
        among = tuple(trained) if len(trained) < config.diffusion.timesteps else ()
        return cls(
            **read(cls),
            timesteps=TimestepDraw(**read(TimestepDraw), among=among),
            train_text_encoder=config.trains_text_encoder,
            story_scenes=config.data.scenes,
        )

    def pictures(self, scenes: int) -> int:
        """How many of a batch's scenes are pictures, which are always given; they come first."""
        return scenes - self.story_scenes if self.image_probability else 0


def draw_noisy_batch(
    key: Key[Array, ""],
    batch: Batch | EncodedBatch,
    empty_prompt: Int[Array | np.ndarray, " T"] | Float[Array | np.ndarray, "T E"],
    schedule: Schedule,
    config: StepConfig,
    latent_scale: float = 1.0,
) -> NoisyBatch:
    """Noise at one random timestep per story; given scenes are clean, at timestep 0.

    With `config.given_noise` given scenes have noise too, of a timestep up to that, which is drawn
    for each. The model is told timestep 0 all the same: it learns not to trust them to the last
    detail, and when sampling, where they are its own scenes, needs to be told nothing else.

    Captions are dropped for all scenes of a story together, as the unconditional branch of
    guidance has it, and for single scenes. `empty_prompt` is in the form of the batch's prompts.
    Latents of a VAE are drawn from their posterior anew at every step and times `latent_scale`.
    """
    timestep_key, noise_key, given_key, caption_key = jax.random.split(key, 4)
    latents, prompts = clean_latents(
        batch,
        lambda shape: jax.random.normal(jax.random.fold_in(noise_key, 1), shape),
        latent_scale,
    )
    stories, scenes = latents.shape[:2]
    noise = jax.random.normal(noise_key, latents.shape)
    pictures = config.pictures(scenes)
    given = draw_given(
        given_key, stories, scenes - pictures, config.given_probability, config.given_scenes
    )
    given = jnp.pad(given, ((0, 0), (pictures, 0)), constant_values=True)
    drawn = config.timesteps.draw(timestep_key, stories, schedule)
    timesteps = jnp.where(given, 0, drawn)
    given_latents = latents
    if config.given_noise:
        slight = jax.random.randint(
            jax.random.fold_in(given_key, 1), given.shape, 0, config.given_noise + 1
        )
        given_latents = schedule.add_noise(latents, noise, slight)
    weights = WEIGHTINGS[config.loss_weighting](given) * schedule.v_error_weights(timesteps)
    if config.min_snr_gamma:
        weights = weights * min_snr_weights(schedule, timesteps, config.min_snr_gamma)
    clean = given[:, :, None, None, None, None]
    dropped = jax.random.bernoulli(
        caption_key, config.caption_dropout, (stories, 1)
    ) | jax.random.bernoulli(
        jax.random.fold_in(caption_key, 1), config.scene_caption_dropout, prompts.shape[:2]
    )
    dropped = dropped.reshape(*prompts.shape[:2], *(1,) * (prompts.ndim - 2))
    return NoisyBatch(
        noisy_latents=jnp.where(
            clean, given_latents, schedule.add_noise(latents, noise, timesteps)
        ),
        target=schedule.target(latents, noise, timesteps),
        timesteps=timesteps,
        prompts=jnp.where(dropped, empty_prompt, prompts),
        given=given,
        weights=weights,
    )


def clean_latents(
    batch: Batch | EncodedBatch,
    draw: Callable[[tuple[int, ...]], Float[Array, "B S F H W C"]],
    latent_scale: float,
) -> tuple[Float[Array, "B S F H W C"], Int[Array, "B P T"] | Float[Array, "B P T E"]]:
    """The latents and prompts of a batch; `draw` makes the noise of the VAE's posterior."""
    if not isinstance(batch, EncodedBatch):
        return encode_pixels(batch.video), jnp.asarray(batch.token_ids)
    mean, logvar = (jnp.asarray(x, jnp.float32) for x in (batch.mean, batch.logvar))
    latents = sample_latents(mean, logvar, draw(mean.shape)) * latent_scale
    return latents, jnp.asarray(batch.text_embeds)


def batch_loss(
    graphdef: nnx.GraphDef,
    params: Params,
    batch: NoisyBatch,
    config: StepConfig,
    placement: Placement = ONE_DEVICE,
    frames: tuple[int, ...] | None = None,
    target: Target | None = None,
    whole: Callable[[Params], Params] | None = None,
) -> Float[Array, ""]:
    """The loss of (a part of) a batch; `frames` are those of each scene, if they are unequal.

    `whole` makes the model's parameters of those that are trained, where these are not all.

    The parameters are cast in here, so that their gradients have the dtype that they are kept in.
    `target` is what the output should be, by the parameters; None: the batch's.
    """
    if whole is not None:
        params = whole(params)
    model = model_for_computing(graphdef, params, config.compute_dtype, placement)
    text_embeds = model.encode_text(batch.prompts)
    if not config.train_text_encoder:
        text_embeds = jax.lax.stop_gradient(text_embeds)
    output = model(
        batch.noisy_latents, text_embeds, batch.timesteps, batch.given, placement, frames
    )
    wanted = batch.target if target is None else target(params, batch, frames)
    if frames is None:
        return weighted_error(output, wanted, batch.weights)
    wanted, real = real_frames_only(wanted, frames)
    return weighted_error(output, wanted, batch.weights / real)


def real_frames_only(
    target: Float[Array, "B S F H W C"], frames: tuple[int, ...]
) -> tuple[Float[Array, "B S F H W C"], Float[np.ndarray, " S"]]:
    """The target with zeros, as the model has them, for what is no frame; and the share that is."""
    lengths, longest = np.array(frames), target.shape[2]
    is_real = np.arange(longest) < lengths[:, None]
    return jnp.where(is_real[..., None, None, None], target, 0), lengths / longest


def model_for_computing(
    graphdef: nnx.GraphDef, params: Params, dtype: str, placement: Placement
) -> Any:
    """The family's story model with its parameters in the dtype of the computation.

    Quantised matrices stay what they are: a layer computes with what they stand for.
    """
    params = cast_floats(params, jnp.dtype(dtype))
    return nnx.merge(graphdef, placement.gather_outside_blocks(params))


def loss_and_gradients(
    graphdef: nnx.GraphDef,
    params: Params,
    batch: NoisyBatch,
    config: StepConfig,
    placement: Placement = ONE_DEVICE,
    frames: tuple[int, ...] | None = None,
    target: Target | None = None,
    whole: Callable[[Params], Params] | None = None,
) -> tuple[Float[Array, ""], Params]:
    """Loss and gradients of the whole batch, computed in `accumulate` parts to save memory.

    `target` and `whole` as for `batch_loss`. Raises ValueError if the batch does not divide.
    """
    parts = config.accumulate
    value_and_grad = jax.value_and_grad(partial(batch_loss, target=target, whole=whole), argnums=1)
    if parts == 1:
        return value_and_grad(graphdef, params, batch, config, placement, frames)
    stories = batch.timesteps.shape[0]
    if stories % parts:
        raise ValueError(f"a batch of {stories} stories cannot be accumulated in {parts} parts")
    # Every so many rows, not so many in a row: that leaves each row on its device.
    pieces = jax.tree.map(
        lambda x: x.reshape(stories // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def add_piece(total, piece):
        added = value_and_grad(graphdef, params, piece, config, placement, frames)
        return jax.tree.map(jnp.add, total, added), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add_piece, zeros, pieces)[0]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    empty_prompt: Int[Array | np.ndarray, " T"] | Float[Array | np.ndarray, "T E"],
    config: StepConfig,
    latent_scale: float = 1.0,
    placement: Placement = ONE_DEVICE,
    teach: Teach | None = None,
) -> Callable[..., TrainState]:
    """The function (state, seed key, batch) -> next state; all its draws come from key and step.

    Its argument `frames`, which is static, has those of each scene where they are unequal.

    `empty_prompt` decides what a batch is: a Batch for token ids, an EncodedBatch for embeddings.
    With `teach` the function has one more argument, the teacher's weights; with adapters
    (`config.lora`) the weights that they are for.
    """

    def train_step(
        state: TrainState,
        key: Key[Array, ""],
        batch: Batch | EncodedBatch,
        frozen: Params | None = None,
        frames: tuple[int, ...] | None = None,
    ) -> TrainState:
        noisy = draw_noisy_batch(
            jax.random.fold_in(key, state.step),
            batch,
            empty_prompt,
            schedule,
            config,
            latent_scale,
        )
        target = None if teach is None else partial(teach, frozen)

        def with_base(adapters: Params) -> Params:
            draw = jax.random.fold_in(jax.random.fold_in(key, state.step), DROPOUT)
            return join_adapters(frozen, dropout(draw, adapters, config.lora.dropout))

        loss, gradients = loss_and_gradients(
            graphdef,
            state.params,
            noisy,
            config,
            placement,
            frames,
            target,
            with_base if config.lora.rank else None,
        )
        return state.updated(optimizer, gradients, loss, config.ema_decay)

    return train_step
