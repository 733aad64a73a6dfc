"""Every choice about a sampling run, declared once and made into the run's table."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from m2dit_jax.diffusion.noising import Schedule, Spacing
from m2dit_jax.diffusion.samplers import (
    ALL,
    CONDITIONAL,
    REUSED,
    Sampler,
    SamplingSteps,
    sampling_steps,
)
from m2dit_jax.utils.options import (
    MAX_SCALE,
    Count,
    OptionError,
    Options,
    Scale,
    Share,
    option,
    wrong,
)

_SCALES = f"a finite number, from 0 to {MAX_SCALE:g}, or one for each scene"


class SamplingOptions(Options, frozen=True):
    """Settings of sampling; everything that saves evaluations of the model is off by default.

    Where a scale is a tuple it has one for each scene. Guidance by given scenes is that of
    InstructPix2Pix (arXiv 2211.09800, eq. 3): a third evaluation each step, of the story with noise
    for its given scenes. Steps without guidance (arXiv 2404.07724) evaluate the conditional branch
    alone. Between the steps at which the other branches are evaluated, their difference to the
    conditional branch is kept. The step cache is described in `step_cache`, the defects of the
    reference in `sampling_steps`. Raises OptionError for values outside a field's range.
    """

    sampler: Sampler = option(
        "ddim", "Sampler that takes the steps.", affects="latents", by_model=True
    )
    steps: Count = option(50, "Number of sampling steps.", affects="latents", by_model=True)
    guidance_scale: Scale | tuple[Scale, ...] = option(
        6.0,
        "Scale of classifier-free guidance; 1 is no guidance.",
        affects="scene",
        needed=_SCALES,
        by_model=True,
    )
    dynamic_guidance: bool = option(
        False, "The scale of guidance grows over the steps.", affects="latents"
    )
    as_reference: bool = option(
        False, "Samples with the defects of the PyTorch reference.", affects="latents"
    )
    guidance_start: Share = option(
        0.0, "Share of the steps that come before guidance begins.", affects="latents"
    )
    guidance_end: Share = option(
        1.0, "Share of the steps after which guidance ends.", affects="latents"
    )
    reuse_uncond: Count = option(
        1,
        "The unconditional branch is evaluated at one of so many steps with guidance: 1 is at "
        "all, 2 at every second.",
        affects="latents",
    )
    given_guidance_scale: Scale | tuple[Scale, ...] | None = option(
        None,
        "Scale of guidance by the given scenes, which costs a third evaluation each step.",
        affects="latents",
        needed=_SCALES,
    )
    cache_tolerance: Scale = option(
        0.0,
        "Steps over which the prediction changes by less than this share are left out.",
        affects="latents",
    )
    spacing: Spacing | None = option(
        None,
        "Which timesteps the steps take, instead of the model's own: log_snr is equal distances in "
        "the logarithm of the signal-to-noise ratio, the others are those of diffusers.",
        affects="latents",
        later=True,
    )
    guidance_rescale: Share = option(
        0.0,
        "How far the spread of each guided prediction is brought back to that without guidance: 0 "
        "is not at all, 1 wholly, the paper (arXiv 2305.08891) has 0.7.",
        affects="latents",
        later=True,
    )
    clip_x0: Scale = option(
        0.0,
        "Largest absolute value that predicted clean latents may have, 0 is any: 1 is the range of "
        "models of pixels; latents of a VAE have no such range.",
        affects="latents",
        later=True,
    )

    guidance_scale_2: Scale | None = option(
        None,
        "Scale of guidance, for all scenes, in the steps of little noise that a model's second "
        "transformer takes, if it has two.",
        affects="latents",
        by_model=True,
        later=True,
    )

    @property
    def needs_negative(self) -> bool:
        """Whether a negative prompt has any influence."""
        second = 1 if self.guidance_scale_2 is None else self.guidance_scale_2
        scales = np.append(self.guidance_scale, second)
        return bool((scales != 1).any()) or self.dynamic_guidance or self._guides_by_given

    @property
    def _guides_by_given(self) -> bool:
        return self.given_guidance_scale is not None

    def full(self) -> "SamplingOptions":
        """The same run with every branch of every step evaluated."""
        return self.replace(
            guidance_start=0.0, guidance_end=1.0, reuse_uncond=1, cache_tolerance=0.0
        )

    def table(self, schedule: Schedule, scenes: int | None = None) -> SamplingSteps:
        """The table of the run; raises OptionError for what `option_problems` finds."""
        problems = option_problems(self, schedule, scenes)
        if problems:
            raise OptionError(problems.items())
        if self.spacing is not None:
            schedule = _spaced(schedule, self.spacing)
        steps = sampling_steps(
            schedule,
            self.sampler,
            self.steps,
            self.guidance_scale,
            self.dynamic_guidance,
            self.as_reference,
        )
        is_second = np.asarray(steps.timesteps) < schedule.boundary_timestep
        if self.guidance_scale_2 is not None:
            scales = np.array(steps.guidance)
            scales[is_second] = self.guidance_scale_2
            steps = steps._replace(guidance=scales)
        guided = self._guided(len(steps.timesteps))
        first = int(np.argmax(guided))
        switch = int(np.argmax(is_second))  # what the first network made says nothing of another
        if not guided.all():
            steps = steps._replace(guidance=_only(guided, np.asarray(steps.guidance)))
        if not guided.all() or self.reuse_uncond > 1:
            fresh = (np.arange(len(guided)) - first) % self.reuse_uncond == 0
            fresh[switch] = True
            refresh = np.where(guided, np.where(fresh, ALL, REUSED), CONDITIONAL)
            steps = steps._replace(refresh=refresh.astype(np.int32))
        if self.given_guidance_scale is not None:
            scale = np.asarray(self.given_guidance_scale, np.float32)
            by_given = np.broadcast_to(scale, (len(guided), *scale.shape))
            steps = steps._replace(given_guidance=_only(guided, by_given))
        if self.cache_tolerance > 0:
            tolerance = np.full(len(guided), self.cache_tolerance, np.float32)
            tolerance[[0, first, switch, -1]] = 0
            steps = steps._replace(tolerance=tolerance)
        if self.guidance_rescale > 0:
            rescale = np.full(len(guided), self.guidance_rescale, np.float32)
            steps = steps._replace(rescale=rescale)
        if self.clip_x0 > 0:
            steps = steps._replace(x0_limit=np.full(len(guided), self.clip_x0, np.float32))
        return steps

    def _guided(self, steps: int) -> Bool[np.ndarray, " steps"]:
        share = np.arange(steps) / steps
        return (self.guidance_start <= share) & (share < self.guidance_end)


def option_problems(
    options: SamplingOptions, schedule: Schedule, scenes: int | None = None
) -> dict[str, str]:
    """Problems of options that do not go together, by field; empty if all is well.

    Each says what was found and what is needed, of what depends on the schedule, on other options
    or on the number of scenes: those of the story, given ones included; None if not known yet.
    """
    needed = {}
    if options.steps > schedule.timesteps:
        needed["steps"] = f"a number from 1 to {schedule.timesteps}"
    for name in ("guidance_scale", "given_guidance_scale"):
        scale = getattr(options, name)
        if isinstance(scale, tuple) and len(scale) != (scenes or max(len(scale), 1)):
            needed[name] = f"one number, or one for each of {scenes or 'the'} scenes"
    if options.guidance_scale_2 is not None and not schedule.boundary:
        needed["guidance_scale_2"] = "none of it: the model has one transformer"
    elif options.guidance_scale_2 is not None and options.dynamic_guidance:
        needed["guidance_scale_2"] = "none of it beside dynamic_guidance"
    if options.spacing not in (None, *schedule.spacings):
        needed["spacing"] = f"one of the model's: {', '.join(schedule.spacings)}"
    if options.as_reference and options.sampler not in ("ddim", "dpm"):
        needed["as_reference"] = "false, or one of the reference's samplers: ddim, dpm"
    elif options.as_reference and options.spacing is not None:
        needed["as_reference"] = "false, or no spacing but the reference's"
    if "steps" not in needed and not options._guided(options.steps).any():
        needed["guidance_end"] = (
            f"a share above guidance_start {options.guidance_start:g} by so much that at least one "
            f"of the {options.steps} steps lies between"
        )
    return {name: wrong(getattr(options, name), what) for name, what in needed.items()}


def _spaced(schedule: Schedule, spacing: Spacing) -> Any:
    """The schedule with another spacing; every kind is a dataclass."""
    return replace(cast(Any, schedule), spacing=spacing)


def _only(
    guided: Bool[np.ndarray, " steps"], scales: Float[np.ndarray, " steps *scenes"]
) -> Float[np.ndarray, " steps *scenes"]:
    """The scales at the guided steps; 1, which is no guidance, at the others."""
    at = guided.reshape(-1, *(1,) * (scales.ndim - 1))
    return np.where(at, scales, 1).astype(np.float32)
