"""The stages of sampling from a released model: prompts, given clips, denoising, decoding."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from m2dit_jax.diffusion.generate import Latents, StepResult, Story, denoise_step
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.encoders.vae import CausalVae, sample_latents
from m2dit_jax.model.placement import ONE_DEVICE, Placement
from m2dit_jax.released import LoadedNetwork


@partial(jax.jit, static_argnums=0)
def _encode_text(graphdef: nnx.GraphDef, params, token_ids: Int[Array, "N T"]) -> Array:
    return nnx.merge(graphdef, params)(token_ids)


def encode_prompts(
    text_encoder: LoadedNetwork, token_ids: Int[Array, "B S T"]
) -> Float[Array, "B S T E"]:
    """Text embeddings of each scene's prompt; padding is encoded as text is, without a mask."""
    batch, scenes, length = token_ids.shape
    embeds = _encode_text(*text_encoder, jnp.asarray(token_ids).reshape(batch * scenes, length))
    return embeds.reshape(batch, scenes, length, -1)


def encode_clips(
    vae: CausalVae, clips: Float[Array, "N F H W 3"], noise: Float[Array, "N f h w C"]
) -> Float[Array, "N f h w C"]:
    """The transformer's latents of clips with values in -1..1: scaled draws from the posterior."""
    return sample_latents(*vae.encode(clips), noise) * vae.config.scaling_factor


@partial(jax.jit, static_argnums=(0, 1))
def _denoise_step(graphdef: nnx.GraphDef, placement: Placement, params, *args) -> StepResult:
    model = nnx.merge(graphdef, placement.gather_outside_blocks(params))
    return denoise_step(partial(model, placement=placement), *args)


def denoise(
    transformer: LoadedNetwork,
    steps: SamplingSteps,
    story: Story,
    noise: Latents,
    step_noise: Callable[[int], Latents],
    placement: Placement = ONE_DEVICE,
) -> Iterator[StepResult]:
    """The results of the sampling steps, one after another.

    The same as `generate`, with the loop outside the compiled program: so one can see how far it
    is. `step_noise` gives the noise of a step, by its number, to samplers that draw. For a
    placement on a mesh the parameters must be cut by its rules.
    """
    latents = story.restore(noise)
    last_x0 = jnp.zeros_like(latents)
    for number in range(len(steps.timesteps)):
        step = jax.tree.map(lambda rows, row=number: jnp.asarray(rows[row]), steps)
        graphdef, params = transformer
        args = (params, story, step, latents, last_x0, step_noise(number))
        result = _denoise_step(graphdef, placement, *args)
        latents, last_x0 = result.latents, result.x0
        yield result


def decode_scene(vae: CausalVae, latents: Float[Array, "N f h w C"]) -> Float[Array, "N F H W 3"]:
    """Frames in 0..1 of one scene's latents; scenes share nothing in the decoder."""
    return to_unit_range(vae.decode(latents / vae.config.scaling_factor))


def to_unit_range(video: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-1..1 to 0..1, clipped."""
    return jnp.clip(video / 2 + 0.5, 0.0, 1.0)
