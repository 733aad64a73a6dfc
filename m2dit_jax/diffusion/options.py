"""All that can be chosen about a sampling run, checked in one place and made into its table."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from m2dit_jax.diffusion.samplers import (
    ALL,
    CONDITIONAL,
    REUSED,
    SAMPLERS,
    SamplingSteps,
    sampling_steps,
)
from m2dit_jax.diffusion.schedule import NoiseSchedule

Scale = float | tuple[float, ...]  # for all scenes, or one for each


@dataclass(frozen=True)
class SamplingOptions:
    """How a story is sampled; all that saves evaluations of the model is off by default.

    `guidance_scale` 1 is no guidance; `dynamic_guidance` lets it grow over the run. With
    `given_guidance_scale` there is guidance by the given scenes too, with a scale of its own, as in
    InstructPix2Pix (arXiv 2211.09800, eq. 3): a third evaluation each step, of the story with noise
    for its given scenes. Steps before the share `guidance_start` of the run, and from
    `guidance_end` on, have no guidance (arXiv 2404.07724) and evaluate the conditional branch
    alone. `reuse_uncond` evaluates the other branches at every so-manieth guided step; between
    them, what they differ from the conditional branch by is kept.

    A step is not evaluated at all while the prediction of the clean latents is estimated to have
    changed by less than the share `cache_tolerance` since the last evaluation (`step_cache`).
    `as_reference` repeats defects of the reference (`sampling_steps`).
    """

    sampler: str = "ddim"
    steps: int = 50
    guidance_scale: Scale = 6.0
    dynamic_guidance: bool = False
    as_reference: bool = False
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    reuse_uncond: int = 1
    given_guidance_scale: Scale | None = None
    cache_tolerance: float = 0.0

    @property
    def needs_negative(self) -> bool:
        """Whether a negative prompt has any influence."""
        scales = np.atleast_1d(self.guidance_scale)
        return bool((scales != 1).any()) or self.dynamic_guidance or self._guides_by_given

    @property
    def _guides_by_given(self) -> bool:
        return self.given_guidance_scale is not None

    def full(self) -> "SamplingOptions":
        """The same run with every branch of every step evaluated."""
        names = ("guidance_start", "guidance_end", "reuse_uncond", "cache_tolerance")
        kept = {name: value for name, value in vars(self).items() if name not in names}
        return SamplingOptions(**kept)

    def table(self, schedule: NoiseSchedule, scenes: int | None = None) -> SamplingSteps:
        """The table of the run; raises ValueError for what `option_problems` finds."""
        problems = option_problems(self, schedule, scenes)
        if problems:
            raise ValueError("\n".join(f"{name}: {what}" for name, what in problems.items()))
        steps = sampling_steps(
            schedule,
            self.sampler,
            self.steps,
            self.guidance_scale,
            self.dynamic_guidance,
            self.as_reference,
        )
        guided = self._guided(len(steps.timesteps))
        first = int(np.argmax(guided))
        if not guided.all():
            steps = steps._replace(guidance=_only(guided, np.asarray(steps.guidance)))
        if not guided.all() or self.reuse_uncond > 1:
            fresh = (np.arange(len(guided)) - first) % self.reuse_uncond == 0
            refresh = np.where(guided, np.where(fresh, ALL, REUSED), CONDITIONAL)
            steps = steps._replace(refresh=refresh.astype(np.int32))
        if self.given_guidance_scale is not None:
            scale = np.asarray(self.given_guidance_scale, np.float32)
            by_given = np.broadcast_to(scale, (len(guided), *scale.shape))
            steps = steps._replace(given_guidance=_only(guided, by_given))
        if self.cache_tolerance > 0:
            tolerance = np.full(len(guided), self.cache_tolerance, np.float32)
            tolerance[[0, first, -1]] = 0
            steps = steps._replace(tolerance=tolerance)
        return steps

    def _guided(self, steps: int) -> Bool[np.ndarray, " steps"]:
        share = np.arange(steps) / steps
        return (self.guidance_start <= share) & (share < self.guidance_end)


def option_problems(
    options: SamplingOptions, schedule: NoiseSchedule, scenes: int | None = None
) -> dict[str, str]:
    """By field, what is wrong with it: what was found and what is needed; empty if all is well.

    `scenes` counts those of the story, given ones included; None if it is not known yet.
    """
    needed = {}
    if options.sampler not in SAMPLERS:
        needed["sampler"] = f"one of {', '.join(SAMPLERS)}"
    if not 1 <= options.steps <= schedule.timesteps:
        needed["steps"] = f"a number from 1 to {schedule.timesteps}"
    for name in ("guidance_scale", "given_guidance_scale"):
        scale = getattr(options, name)
        scales = scale if isinstance(scale, tuple) else () if scale is None else (scale,)
        if not all(math.isfinite(each) and each >= 0 for each in scales):
            needed[name] = "finite numbers, 0 or more"
        elif isinstance(scale, tuple) and len(scale) != (scenes or max(len(scale), 1)):
            needed[name] = f"one number, or one for each of {scenes or 'the'} scenes"
    if options.as_reference and options.sampler not in ("ddim", "dpm"):
        needed["as_reference"] = "false, or one of the reference's samplers: ddim, dpm"
    for name in ("guidance_start", "guidance_end"):
        if not 0 <= getattr(options, name) <= 1:
            needed[name] = "a share of the run, from 0 to 1"
    in_range = not {"steps", "guidance_start", "guidance_end"} & needed.keys()
    if in_range and not options._guided(options.steps).any():
        needed["guidance_end"] = (
            f"a share above guidance_start {options.guidance_start:g} by so much that at least one "
            f"of the {options.steps} steps lies between"
        )
    if options.reuse_uncond < 1:
        needed["reuse_uncond"] = "a number of steps, 1 (never reused) or more"
    if not (math.isfinite(options.cache_tolerance) and options.cache_tolerance >= 0):
        needed["cache_tolerance"] = "a finite share, 0 (no step is left out) or more"
    return {name: f"found {_shown(options, name)}, needs {what}" for name, what in needed.items()}


def _shown(options: SamplingOptions, name: str) -> Any:
    value = getattr(options, name)
    return repr(value) if isinstance(value, str) else value


def _only(
    guided: Bool[np.ndarray, " steps"], scales: Float[np.ndarray, " steps *scenes"]
) -> Float[np.ndarray, " steps *scenes"]:
    """A scale of 1, which is none, at the other steps."""
    at = guided.reshape(-1, *(1,) * (scales.ndim - 1))
    return np.where(at, scales, 1).astype(np.float32)
