"""Sampling with a loaded transformer: one step, driven by the host or by one compiled loop.

`DenoisingProgram` says what of a sampling run is known before it is compiled; `sampling_step` is
the step of every run. `denoise` takes it step by step, so that one can see how far it is;
`denoise_batch` takes all steps within one program, for batches.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import (
    Conditions,
    Denoiser,
    Generated,
    Latents,
    StepResult,
    StepState,
    denoise_step,
    for_story,
    generate,
    start,
)
from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.network import LoadedNetwork, Params
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.pipeline.experts import Experts, Transformer, turns
from m2dit_jax.pipeline.given_cache import (
    Given,
    cached_denoiser,
    cached_scenes,
    fill_cache,
    generated_part,
    generated_scenes,
    generated_steps,
    whole_result,
    whole_story,
)
from m2dit_jax.pipeline.streaming import StreamedNetwork, denoise_streamed
from m2dit_jax.stories.noise import START, STEPS, scene_noise

Frames = tuple[int, ...] | None  # latent frames of each scene, where they differ


@dataclass(frozen=True)
class DenoisingProgram:
    """All that a compiled sampling step depends on beside shapes: hashable, so that jit keeps it.

    `cached` says which scenes are given once for all steps (causal mask), None that all scenes go
    through the model at each step. `in_turn` has the branches of guidance, and stories, go through
    it one after another, which takes less memory.
    """

    graphdef: nnx.GraphDef
    placement: Placement = ONE_DEVICE
    frames: Frames = None
    cached: Given | None = None
    in_turn: bool = False

    @classmethod
    def of_run(
        cls,
        transformer: LoadedNetwork,
        steps: SamplingSteps,
        story: Conditions,
        placement: Placement = ONE_DEVICE,
        cache: bool = True,
        frames: Frames = None,
        in_turn: bool = False,
    ) -> "DenoisingProgram":
        """The program of a sampling run; `cache` allows the cache of given scenes.

        Under the causal mask the cache is used if the same scenes are given in all stories.
        Guidance by given scenes has a branch in which they are noise, a global prompt and scenes of
        different lengths were never trained with the cache: these go without it, and what is done
        in turn.
        """
        plain = frames is None and story.text_embeds.shape[1] == story.given.shape[1]
        cached = None
        if cache and plain and not in_turn and steps.given_guidance is None:
            cached = cached_scenes(nnx.merge(*transformer).mask, story.given)
        return cls(transformer.graphdef, placement, frames, cached, in_turn)

    def denoiser(self, params: Params, cache: KeyValues | None) -> Denoiser:
        """The model as the sampler calls it; `cache` is that of `fill`."""
        model = nnx.merge(self.graphdef, self.placement.gather_outside_blocks(params))
        if self.cached is None or cache is None:
            whole = partial(model, placement=self.placement, frames=self.frames)
            return _one_by_one(whole) if self.in_turn else whole
        return cached_denoiser(model, cache, self.cached, self.placement)

    def fill(self, params: Params, story: Conditions) -> KeyValues | None:
        """Keys and values of the given scenes, None without a cache."""
        if self.cached is None:
            return None
        model = nnx.merge(self.graphdef, self.placement.gather_outside_blocks(params))
        return fill_cache(model, story, self.cached, self.placement)

    def sampled_part(self, story: Conditions) -> Conditions:
        """The scenes that go through the sampler: with a cache only the generated ones."""
        return story if self.cached is None else generated_part(story, self.cached)

    def sampled_steps(self, steps: SamplingSteps) -> SamplingSteps:
        """The sampler's table for these scenes."""
        return steps if self.cached is None else generated_steps(steps, self.cached)

    def sampled_scenes(self, x: Float[Array, "B S *rest"]) -> Float[Array, "B _S *rest"]:
        """Noise or latents of these scenes."""
        return x if self.cached is None else generated_scenes(x, self.cached)


def _one_by_one(denoiser: Denoiser) -> Denoiser:
    """The same for each of a batch alone, one after another."""

    def one(row: tuple[Array, ...]) -> Array:
        return denoiser(*(x[None] for x in row))[0]

    return lambda *inputs: jax.lax.map(one, inputs)


@partial(jax.jit, static_argnums=0)
def sampling_step(
    program: DenoisingProgram,
    params: Params,
    cache: KeyValues | None,
    story: Conditions,
    step: SamplingSteps,
    state: StepState,
    noise: Latents,
) -> tuple[StepState, StepResult]:
    """One step of a sampling run, compiled; the arguments are those of `denoise_step`.

    Parameters, and with a cache story, table and noise, are as `program` has them.
    """
    state, result = denoise_step(program.denoiser(params, cache), story, step, state, noise)
    return jax.tree.map(program.placement.shard_stories, state), result


@partial(jax.jit, static_argnums=0)
def _fill(program: DenoisingProgram, params: Params, story: Conditions) -> KeyValues | None:
    return program.fill(params, story)


class FirstStep(NamedTuple):
    """The start of a sampling run: its program, and the first arguments of `sampling_step`.

    `steps` is the whole table; a step gets a row of it (`step_row`).
    """

    program: DenoisingProgram
    steps: SamplingSteps
    part: Conditions
    state: StepState


def first_step(
    transformer: LoadedNetwork,
    steps: SamplingSteps,
    story: Conditions,
    noise: Latents,
    placement: Placement = ONE_DEVICE,
    cache: bool = True,
    frames: Frames = None,
    in_turn: bool = False,
) -> FirstStep:
    """The start of `denoise`; of the parameters only shapes and dtypes count."""
    steps = for_story(steps, story.given)
    how = (placement, cache, frames, in_turn)
    program = DenoisingProgram.of_run(transformer, steps, story, *how)
    steps = program.sampled_steps(steps)
    part, state = start(steps, program.sampled_part(story), program.sampled_scenes(noise))
    return FirstStep(program, steps, part, state)


def step_row(steps: SamplingSteps, number: int) -> SamplingSteps:
    """The row of the table that one step gets."""
    return jax.tree.map(lambda rows: jnp.asarray(rows[number]), steps)


def denoise(
    transformer: Transformer | Experts,
    steps: SamplingSteps,
    story: Conditions,
    noise: Latents,
    step_noise: Callable[[int], Latents],
    placement: Placement = ONE_DEVICE,
    cache: bool = True,
    frames: Frames = None,
    in_turn: bool = False,
) -> Iterator[StepResult]:
    """The results of the sampling steps, one after another, driven from the host.

    `step_noise` gives the noise of a step, by its number, to samplers that draw. For a placement on
    a mesh the parameters must be sharded by its rules. v of given scenes is zero where they are in
    the cache (`DenoisingProgram.of_run`).
    """
    inputs, how = (steps, story, noise, step_noise), (placement, in_turn, frames)
    state = None
    for load, numbers in turns(transformer, steps.timesteps):
        # Passed on and not kept, so that the next one finds its memory free.
        state = yield from _take_steps(load(), numbers, state, *inputs, *how, cache)


def _take_steps(
    transformer: Transformer,
    numbers: range,
    before: StepState | None,
    steps: SamplingSteps,
    story: Conditions,
    noise: Latents,
    step_noise: Callable[[int], Latents],
    placement: Placement,
    in_turn: bool,
    frames: Frames,
    cache: bool,
) -> Generator[StepResult, None, StepState]:
    """Some steps of a run, from the state before them (None: the first); returns that after."""
    if isinstance(transformer, StreamedNetwork):
        how = (placement, in_turn, frames, numbers, before)
        return (yield from denoise_streamed(transformer, steps, story, noise, step_noise, *how))
    program, steps, part, first = first_step(
        transformer, steps, story, noise, placement, cache, frames, in_turn
    )
    state: StepState = first if before is None else before
    params = transformer.params
    kept = _fill(program, params, story)
    # As steps leave it, or the second step would be compiled anew.
    if not placement.is_sharded:
        state = jax.device_put(state, jax.tree.leaves(params)[0].sharding)
    else:
        state = jax.jit(partial(jax.tree.map, placement.shard_stories))(state)
    for number in numbers:
        drawn = program.sampled_scenes(step_noise(number))
        state, result = sampling_step(
            program, params, kept, part, step_row(steps, number), state, drawn
        )
        yield result if program.cached is None else whole_result(result, program.cached, story)
    return state


def denoise_batch(
    transformer: Transformer | Experts,
    steps: SamplingSteps,
    story: Conditions,
    keys: Key[Array, "B S"],
    placement: Placement = ONE_DEVICE,
    cache: bool = True,
    frames: Frames = None,
    in_turn: bool = False,
) -> Generated:
    """The latents of a batch of stories, all steps in one compiled loop if one network takes them.

    `keys` are those of the scenes (`stories.noise`): the noise is that of `denoise` for each story
    alone.
    """
    steps = for_story(steps, story.given)
    draws = bool(np.any(np.asarray(steps.weights)[:, 3]))
    shape = story.clean.shape[2:]
    if not isinstance(transformer, LoadedNetwork):
        noise = partial(_noise, keys, shape, frames)
        none = jnp.zeros_like(story.clean)
        step_noise = (lambda number: noise(STEPS + number)) if draws else lambda number: none
        how = (placement, cache, frames, in_turn)
        latents, evaluations = noise(START), []
        for result in denoise(transformer, steps, story, latents, step_noise, *how):
            latents = result.latents
            evaluations.append(result.evaluations)
        return Generated(latents, jnp.stack(evaluations))
    how = (placement, cache, frames, in_turn)
    program = DenoisingProgram.of_run(transformer, steps, story, *how)
    return _denoise_batch(program, draws, transformer.params, steps, story, keys)


def _noise(
    keys: Key[Array, "B S"], shape: tuple[int, ...], lengths: Frames, stream: int | Array
) -> Latents:
    """A stream's noise of all scenes, the shorter ones filled up with zeros."""
    if lengths is None:
        return scene_noise(keys, stream, shape)
    # As each scene alone would draw it: noise depends on the shape that is drawn.
    scenes = [
        scene_noise(keys[:, scene : scene + 1], stream, (length, *shape[1:]))
        for scene, length in enumerate(lengths)
    ]
    return jnp.concatenate([_fill_up(part, shape[0]) for part in scenes], axis=1)


def _fill_up(scene: Float[Array, "B S _F H W C"], longest: int) -> Float[Array, "B S _L H W C"]:
    """The scene with zeros after its frames."""
    missing = longest - scene.shape[2]
    return jnp.pad(scene, ((0, 0), (0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))


@partial(jax.jit, static_argnums=(0, 1))
def _denoise_batch(
    program: DenoisingProgram,
    draws: bool,
    params: Params,
    steps: SamplingSteps,
    story: Conditions,
    keys: Key[Array, "B S"],
) -> Generated:
    noise = partial(_noise, keys, story.clean.shape[2:], program.frames)

    def step_noise(number: Array) -> Latents:
        if not draws:
            return jnp.zeros_like(part.clean)
        return program.sampled_scenes(noise(STEPS + number))

    part = program.sampled_part(story)
    denoiser = program.denoiser(params, program.fill(params, story))
    first = program.sampled_scenes(noise(START))
    made = generate(denoiser, program.sampled_steps(steps), part, first, step_noise)
    if program.cached is None:
        return made
    return made._replace(latents=whole_story(made.latents, program.cached, story.clean))
