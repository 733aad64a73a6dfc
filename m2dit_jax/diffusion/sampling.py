"""The sampling loop: all scenes that are not given are denoised jointly."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Num

from m2dit_jax.diffusion.guidance import guide, guide_by_both, rescale
from m2dit_jax.diffusion.noising import Schedule, Timesteps
from m2dit_jax.diffusion.samplers import ALL, CONDITIONAL, SamplingSteps
from m2dit_jax.diffusion.step_cache import StepCache, after_step, needs_evaluation, start_cache

Latents = Float[Array, "B S F H W C"]
Branches = Float[Array, "B2 S F H W C"]  # of guidance, along the batch
# (latents, text_embeds, timesteps, given) -> the model's output, v or as the schedule says;
# timesteps are of scenes, or where frames are held of latent frames
Denoiser = Callable[[Latents, Float[Array, "B2 P T E"], Timesteps, Bool[Array, "B2 S"]], Latents]


class Conditions(NamedTuple):
    """Inputs that stay the same through a sampling run.

    Scenes with `given`, and frames that are `known`, are those of `clean`; what it holds for others
    does not matter.
    """

    clean: Latents
    given: Bool[Array, "B S"]
    text_embeds: Float[Array, "B P T E"]
    """Of each scene; before them, if there is one more, the global prompt's."""
    negative_embeds: Float[Array, "B P T E"] | None
    """None: no guidance."""
    given_noise: Latents | None = None
    """For guidance by given scenes: the noise that they have where it compares with a story
    without them (`start` puts it here)."""
    known: Bool[Array, "B S F"] | None = None
    """Latent frames of generated scenes that are to be those of `clean`; None: none are."""
    held: Bool[Array, "B S F"] | None = None
    """The same for models that have learnt it: they are clean and at timestep 0 at every step."""

    def restore(self, latents: Latents) -> Latents:
        """The latents with the given scenes, and frames that are held, as they are given."""
        latents = jnp.where(_per_story(self.given), self.clean, latents)
        return self.keep_held(latents)

    def keep_held(self, latents: Latents) -> Latents:
        """The latents with the frames that are held as they are given."""
        if self.held is None:
            return latents
        return jnp.where(_per_story(self.held), self.clean, latents)

    def by_frame(self, timesteps: Timesteps) -> Timesteps | Num[Array, "B S F"]:
        """Timesteps of scenes; where frames are held, of each frame."""
        return timesteps if self.held is None else jnp.where(self.held, 0, timesteps[..., None])


class StepState(NamedTuple):
    """State between two steps; `x0s` are those of the last steps, the latest first."""

    latents: Latents
    x0s: tuple[Latents, ...]
    offsets: Float[Array, "B1 S F H W C"] | None = None
    """What the v of the other branches differed by from the conditional one when last evaluated;
    None: they always are evaluated."""
    cache: StepCache | None = None
    """None: every step is evaluated."""


class StepResult(NamedTuple):
    """The result of a sampling step: latents, predicted clean latents (x0), and predicted v.

    `v_pred` has the branches of guidance along the batch, the conditional one last, before it the
    negative one, before that the one without given scenes. Of what was not evaluated it has what
    was used instead.

    `evaluations` counts for each story the evaluations of the model that went into the step.
    """

    latents: Latents
    x0: Latents
    v_pred: Branches
    evaluations: Int[Array, " B"]


class Generated(NamedTuple):
    """Latents of all scenes, and how many evaluations each step of each story took."""

    latents: Latents
    evaluations: Int[Array, "steps B"]


def start(steps: SamplingSteps, story: Conditions, noise: Latents) -> tuple[Conditions, StepState]:
    """The state before the first step.

    Raises ValueError for guidance by given scenes without a negative prompt.
    """
    branches = 1 if story.negative_embeds is None else 2
    if steps.given_guidance is not None:
        if branches == 1:
            raise ValueError("guidance by given scenes needs negative_embeds, found None")
        branches = 3
        story = story._replace(given_noise=noise)
    latents = story.restore(noise)
    offsets, cache = None, None
    if steps.refresh is not None and branches > 1:
        offsets = jnp.zeros(((branches - 1) * latents.shape[0], *latents.shape[1:]), latents.dtype)
    if steps.tolerance is not None:
        cache = start_cache(latents.shape[0])
    return story, StepState(latents, (jnp.zeros_like(latents),) * steps.x0s, offsets, cache)


def denoise_step(
    denoiser: Denoiser,
    story: Conditions,
    step: SamplingSteps,
    state: StepState,
    noise: Latents,
    rest: Callable[..., tuple[StepState, StepResult]] | None = None,
) -> tuple[StepState, StepResult]:
    """One step of the sampler, with a row of the run's table.

    Given scenes are at timestep 0 and are put back after the step (Mask²DiT, section 3.3). Called
    outside of compiled code, `rest` is `after_evaluation`, compiled.
    """
    latents, cache = state.latents, state.cache
    needed = jnp.ones(latents.shape[0], bool)
    if cache is not None:
        needed = needs_evaluation(cache, step)
    due = _others_due(step, state)

    def evaluate() -> tuple:
        return _predict(denoiser, story, step, latents, state.offsets, needed & due)

    if cache is None:
        v_pred, offsets = evaluate()
    else:
        branches = 1 + (story.negative_embeds is not None) + (step.given_guidance is not None)
        zeros = jnp.zeros((branches * latents.shape[0], *latents.shape[1:]), latents.dtype)
        nothing = zeros, state.offsets
        v_pred, offsets = _either(jnp.any(needed), evaluate, lambda: nothing)
    rest = rest or after_evaluation
    return rest(story, step, state, noise, needed, due, (v_pred, offsets))


def after_evaluation(
    story: Conditions,
    step: SamplingSteps,
    state: StepState,
    noise: Latents,
    needed: Bool[Array, " B"],
    due: Bool[Array, " B"],
    evaluated: tuple[Branches, Float[Array, "B1 S F H W C"] | None],
) -> tuple[StepState, StepResult]:
    """The rest of a step, once the model has been evaluated.

    `needed` says in which stories it had to be, `due` in which of all branches.
    """
    latents, cache, last_x0 = state.latents, state.cache, state.x0s[0]
    v_pred, offsets = evaluated
    branches = v_pred.shape[0] // latents.shape[0]
    guided = _guided(jnp.split(v_pred, branches), step)
    x0 = step.x0_weights[0] * latents + step.x0_weights[1] * guided
    if step.x0_limit is not None:
        x0 = jnp.clip(x0, -step.x0_limit, step.x0_limit)
        guided = (x0 - step.x0_weights[0] * latents) / step.x0_weights[1]
    if cache is not None:
        to_last_x0 = (last_x0 - step.x0_weights[0] * latents) / step.x0_weights[1]
        story_needed = _per_story(needed)
        guided, x0 = (
            jnp.where(story_needed, guided, to_last_x0),
            jnp.where(story_needed, x0, last_x0),
        )
        branch_needed = _per_story(jnp.tile(needed, branches))
        v_pred = jnp.where(branch_needed, v_pred, jnp.concatenate([to_last_x0] * branches))
        cache = after_step(cache, step, needed, due & ~needed, x0, last_x0, story.given)
    if story.known is not None:
        # As if the model had said what is known: so these frames have the noise of each step.
        known = _per_story(story.known)
        x0 = jnp.where(known, story.clean, x0)
        implied = (story.clean - step.x0_weights[0] * latents) / step.x0_weights[1]
        guided = jnp.where(known, implied, guided)
    x0 = story.keep_held(x0)
    weights = step.weights
    following = (
        weights[0] * latents + weights[1] * guided + weights[2] * last_x0 + weights[3] * noise
    )
    for weight, earlier in zip(weights[4:], state.x0s[1:], strict=True):
        following = following + weight * earlier
    following = story.restore(following)
    evaluations = jnp.where(needed, jnp.where(due, branches, 1), 0).astype(jnp.int32)
    return (
        StepState(following, (x0, *state.x0s[:-1]), offsets, cache),
        StepResult(following, x0, v_pred, evaluations),
    )


def generate(
    denoiser: Denoiser,
    steps: SamplingSteps,
    story: Conditions,
    noise: Latents,
    step_noise: Callable[[Int[Array, ""]], Latents],
) -> Generated:
    """A story whose given scenes are as they are, and the others made from `noise`.

    `step_noise` gives the noise of a step, by its number, to samplers that draw. Fixed-scene
    generation, extension, filling in and replacing differ only in which scenes are given.
    """
    story, state = start(steps, story, noise)

    def denoise(state: StepState, numbered: tuple) -> tuple[StepState, Int[Array, " B"]]:
        number, step = numbered
        state, result = denoise_step(denoiser, story, step, state, step_noise(number))
        return state, result.evaluations

    steps = jax.tree.map(jnp.asarray, steps)
    numbers = jnp.arange(steps.timesteps.shape[0])
    state, evaluations = jax.lax.scan(denoise, state, (numbers, steps))
    return Generated(state.latents, evaluations)


def for_story(steps: SamplingSteps, given: Bool[np.ndarray | Array, "B S"]) -> SamplingSteps:
    """The table without guidance by given scenes if there are none: it would change nothing.

    `given` must not be traced.
    """
    return steps if np.asarray(given).any() else steps._replace(given_guidance=None)


def noise_given(
    schedule: Schedule,
    latents: Latents,
    noise: Latents,
) -> Latents:
    """Given latents with the noise of timestep 0, as the reference gives them when it extends.

    In training, also the reference's, they are clean.
    """
    return schedule.add_noise(latents, noise, jnp.zeros(latents.shape[:2], jnp.int32))


def _others_due(step: SamplingSteps, state: StepState) -> Bool[Array, " B"]:
    """Whether each story's evaluation is to be one of all branches."""
    everyone = jnp.ones(state.latents.shape[0], bool)
    if state.offsets is None:
        return everyone
    due = everyone & (step.refresh == ALL)
    if state.cache is not None:
        due |= state.cache.owed & (step.refresh != CONDITIONAL)
    return due


def _predict(
    denoiser: Denoiser,
    story: Conditions,
    step: SamplingSteps,
    latents: Latents,
    offsets: Float[Array, "B1 S F H W C"] | None,
    due: Bool[Array, " B"],
) -> tuple[Branches, Float[Array, "B1 S F H W C"] | None]:
    """v of all branches along the batch, and the offsets: in stories that are `due` as evaluated,
    in others what was kept of them."""
    timesteps = story.by_frame(jnp.where(story.given, 0, step.timesteps))
    conditional = (latents, story.text_embeds, timesteps, story.given)
    inputs = [conditional]
    if story.negative_embeds is not None:
        inputs.insert(0, (latents, story.negative_embeds, timesteps, story.given))
    if step.given_guidance is not None:
        inputs.insert(0, _without_given(story, step, latents))

    def predict_v(*inputs: Array) -> Branches:
        output = denoiser(*inputs)
        if step.v_weights is None:
            return output
        return step.v_weights[0] * inputs[0] + step.v_weights[1] * output

    def evaluate_all() -> Branches:
        return predict_v(*(jnp.concatenate(parts) for parts in zip(*inputs, strict=True)))

    if len(inputs) == 1:
        return predict_v(*conditional), None
    if offsets is None:
        return evaluate_all(), None
    others, kept = len(inputs) - 1, offsets

    def evaluate_conditional() -> Branches:
        cond = predict_v(*conditional)
        return jnp.concatenate([kept + jnp.concatenate([cond] * others), cond])

    v_pred = _either(jnp.any(due), evaluate_all, evaluate_conditional)
    cond = v_pred[-latents.shape[0] :]
    conds = jnp.concatenate([cond] * others)
    branch_due = _per_story(jnp.tile(due, others))
    evaluated = v_pred[: -latents.shape[0]]
    v_pred = jnp.concatenate([jnp.where(branch_due, evaluated, conds + kept), cond])
    return v_pred, jnp.where(branch_due, evaluated - conds, kept)


def _either(which: Bool[Array, ""], first: Callable[[], Any], second: Callable[[], Any]) -> Any:
    """Calls one of two functions.

    Outside of compiled code, where the host chooses, the other is not traced: a model that is run
    block by block cannot be.
    """
    if isinstance(which, Tracer):
        return jax.lax.cond(which, first, second)
    return first() if which else second()


def _without_given(story: Conditions, step: SamplingSteps, latents: Latents) -> tuple:
    """Inputs of the model where nothing is given: all scenes are at the step's timestep.

    The scenes that are given have the noise of that timestep, since the model never saw scenes
    without any signal beside others that have some.
    """
    assert story.given_noise is not None
    signal, sigma = step.levels
    noisy = signal * story.clean + sigma * story.given_noise
    latents = jnp.where(_per_story(story.given), noisy, latents)
    timesteps = story.by_frame(jnp.broadcast_to(step.timesteps, story.given.shape))
    return latents, story.negative_embeds, timesteps, jnp.zeros_like(story.given)


def _guided(branches: list[Latents], step: SamplingSteps) -> Latents:
    def per_scene(scale: Array | np.ndarray) -> Float[Array, "1 S 1 1 1 1"]:
        return jnp.reshape(scale, (1, -1, 1, 1, 1, 1))

    *others, cond = branches
    if not others:
        return cond
    scale = per_scene(step.guidance)
    if step.given_guidance is None:
        guided = guide(others[0], cond, scale)
    else:
        nothing, uncond = others
        guided = guide_by_both(nothing, uncond, cond, per_scene(step.given_guidance), scale)
    return guided if step.rescale is None else rescale(guided, cond, per_scene(step.rescale))


def _per_story(x: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """One value per story, with trailing axes to broadcast over latents."""
    return x.reshape(*x.shape, *(1,) * (6 - x.ndim))
