"""Samplers as tables: every step is a weighted sum whose weights are known before the run."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.diffusion.guidance import guidance_weights
from m2dit_jax.diffusion.noising import Points, Schedule

Sampler = Literal["ddim", "dpm", "unip_3", "euler", "unipc"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

# Which branches of guidance a step evaluates: the conditional one, as there is no guidance; that
# one, with what is known of the others; all.
CONDITIONAL, REUSED, ALL = range(3)

# In place of an SNR of zero where a finite logarithm is needed, as in diffusers.
_LEAST_ALPHA = 2.0**-24
_LEAST_SIGNAL = 1e-6


class SamplingSteps(NamedTuple):
    """One row for each step of a sampling run (or, within the loop, one row).

    The next latents are the sum of latents, v, the last step's x0, fresh noise and, with samplers
    that look so far back, the x0 of the step before it, with `weights`; x0, the prediction of the
    clean latents, that of latents and v with `x0_weights`. Scales of guidance are for all scenes,
    or one for each.
    """

    timesteps: Int[np.ndarray | Array, "*steps"] | Float[np.ndarray | Array, "*steps"]
    weights: Float[np.ndarray | Array, "*steps 4"] | Float[np.ndarray | Array, "*steps 5"]
    x0_weights: Float[np.ndarray | Array, "*steps 2"]
    guidance: Float[np.ndarray | Array, "*steps"] | Float[np.ndarray | Array, "*steps S"]
    given_guidance: (
        Float[np.ndarray | Array, "*steps"] | Float[np.ndarray | Array, "*steps S"] | None
    ) = None
    """Scale of the guidance by given scenes; None: there is none."""
    refresh: Int[np.ndarray | Array, "*steps"] | None = None
    """CONDITIONAL, REUSED or ALL branches are evaluated; None: always all."""
    tolerance: Float[np.ndarray | Array, "*steps"] | None = None
    """Estimated change of x0 below which the step is not evaluated; None: always it is."""
    rescale: Float[np.ndarray | Array, "*steps"] | None = None
    """How far the spread of the guided prediction is brought back; None: not at all."""
    x0_limit: Float[np.ndarray | Array, "*steps"] | None = None
    """The largest absolute value that x0 may have; None: any."""
    v_weights: Float[np.ndarray | Array, "*steps 2"] | None = None
    """v is the sum of latents and the model's output with these; None: the output is v."""
    signal: Float[np.ndarray | Array, "*steps"] | None = None
    """Share of the clean latents in the noisy ones; None: the first of `x0_weights`."""

    @property
    def levels(self) -> tuple[Any, Any]:
        """Signal and noise in the latents."""
        signal = self.x0_weights[..., 0] if self.signal is None else self.signal
        return signal, -self.x0_weights[..., 1]

    @property
    def x0s(self) -> int:
        """The number of earlier steps whose x0 are used."""
        return self.weights.shape[-1] - 3

    def for_scenes(self, places: Sequence[int] | Int[np.ndarray, " G"]) -> "SamplingSteps":
        """The table for some of the scenes."""

        def scales(x: np.ndarray | Array | None) -> np.ndarray | Array | None:
            return x if x is None or x.ndim < 2 else x[:, np.asarray(places)]

        return self._replace(
            guidance=scales(self.guidance), given_guidance=scales(self.given_guidance)
        )


def sampling_steps(
    schedule: Schedule,
    sampler: str,
    steps: int,
    guidance_scale: float | tuple[float, ...],
    dynamic_guidance: bool = False,
    as_reference: bool = False,
) -> SamplingSteps:
    """The table of a run that evaluates all branches at every step.

    `sampler` is ddim, unip_3 or unipc (deterministic), or dpm (draws noise at every step); euler is
    the name that ddim has for flow matching. The guidance scale is one for all scenes, or one for
    each.

    `as_reference` repeats three defects of diffusers 0.30 that the reference has: the two of
    `NoiseSchedule.points`, and dynamic guidance that takes the timestep for the step.

    Raises ValueError for an unknown sampler or an impossible number of steps.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    points = schedule.points(steps, as_reference)
    timesteps = points.timesteps
    whole = np.issubdtype(timesteps.dtype, np.integer)
    x0_weights = np.stack(schedule.x0_weights(points.signal, points.noise), axis=1)
    v_weights = schedule.v_weights_at(points.signal, points.noise)
    return SamplingSteps(
        timesteps=timesteps.astype(np.int32 if whole else np.float32),
        weights=_SOLVERS[sampler](schedule, points).astype(np.float32),
        x0_weights=x0_weights.astype(np.float32),
        signal=points.signal.astype(np.float32),
        guidance=_guidance_column(guidance_scale, timesteps, steps, dynamic_guidance, as_reference),
        v_weights=None if v_weights is None else v_weights.astype(np.float32),
    )


def _guidance_column(
    guidance_scale: float | tuple[float, ...], *run: Any
) -> Float[np.ndarray, "steps *scenes"]:
    if isinstance(guidance_scale, tuple):
        columns = [guidance_weights(scale, *run) for scale in guidance_scale]
        return np.stack(columns, axis=1).astype(np.float32)
    return guidance_weights(guidance_scale, *run).astype(np.float32)


def _ddim_weights(schedule: Schedule, points: Points) -> Float[np.ndarray, "steps 4"]:
    """DDIM with eta 0 (arXiv 2010.02502, eq. 12): the next latents are a' x0 + s' noise.

    For flow matching that is Euler's step.
    """
    x0, noise = _sums(schedule, points)
    next_a, next_s = points.next_signal, points.next_noise
    none = np.zeros_like(next_a)
    latents = next_a * x0[0] + next_s * noise[0]
    return np.stack([latents, next_s * noise[1] + next_a * x0[1], none, none], axis=1)


def _dpm_weights(schedule: Schedule, points: Points) -> Float[np.ndarray, "steps 4"]:
    """DPM-Solver++(2M) as a stochastic solver (arXiv 2211.01095, SDE-DPM-Solver++ 2M).

    The first step, which starts from no signal at all, and the last, which goes to the clean
    latents, are of first order.
    """
    x0, _ = _sums(schedule, points)
    a, s, next_a, next_s = points[1:5]
    # Half the log-SNR is -inf at the start and inf at the end; what that spoils is not used.
    with np.errstate(divide="ignore", invalid="ignore"):
        now, following = np.log(a / s), np.log(next_a / next_s)
        h = following - now
        correction = h / np.append(np.inf, np.diff(now)) / 2
    correction = np.where(points.is_last, 0.0, correction)
    correction[0] = 0.0
    keep = next_s / s * np.exp(-h)
    pull = -np.expm1(-2 * h) * next_a  # towards x0
    x0_weight, last_x0_weight = pull * (1 + correction), -pull * correction
    noise = next_s * np.sqrt(-np.expm1(-2 * h))
    return np.stack([keep + x0_weight * x0[0], x0_weight * x0[1], last_x0_weight, noise], axis=1)


def _unip_3_weights(schedule: Schedule, points: Points) -> Float[np.ndarray, "steps 5"]:
    """UniP-3, the predictor of UniPC (arXiv 2302.04867), for x0 and with B2; it draws nothing.

    Of third order in half the log-SNR, from the x0 of three steps; DPM-Solver++(3M) as it is in
    use, which gives the second derivative of x0 half the weight, measured as of order 2.2. The
    first step and the last, which goes to the clean latents, are of first order, those beside
    them of second.
    """
    x0, _ = _sums(schedule, points)
    a, s, next_a, next_s = points[1:5]
    order = np.minimum(np.arange(len(a)) + 1, 3)
    order[-2:-1] = np.minimum(order[-2:-1], 2)
    order[points.is_last] = 1
    now = np.log(np.maximum(a, np.sqrt(_LEAST_ALPHA)) / s)
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.log(next_a / next_s) - now  # inf to the clean latents; what that spoils is not used
        back = np.append(np.nan, np.diff(now))  # to the step before
        farther = np.append(np.nan, back[:-1])  # and from that to the one before it
        slope = next_a * (np.expm1(-h) / h + 1)  # weights of the derivatives of x0
        curve = next_a * (1 - 2 * (np.expm1(-h) + h) / h**2)
        # Divided differences of x0 in units of h: the two steps', and the second derivative.
        near = np.stack([h / back, -h / back, 0 * h], axis=1)
        far = np.stack([0 * h, h / farther, -h / farther], axis=1)
        second = (near - far) * (h / (back + farther))[:, None]
        third_order = (
            slope[:, None] * (near + (back / (back + farther))[:, None] * (near - far))
            + curve[:, None] * second
        )
        second_order = -next_a[:, None] * np.expm1(-h)[:, None] * near / 2
    of_x0s = np.where((order == 2)[:, None], second_order, 0.0)
    of_x0s = np.where((order == 3)[:, None], third_order, of_x0s)
    of_x0s[:, 0] += -next_a * np.expm1(-h)
    return _with_x0s(next_s / s, of_x0s, x0)


def _unipc_weights(schedule: Schedule, points: Points) -> Float[np.ndarray, "steps 5"]:
    """UniPC of second order for x0 and with B2 (arXiv 2302.04867), as diffusers has it.

    Each evaluation first corrects the latents that it was made at, and then predicts the next
    ones. Both start with the same share of the latents before, so that the correction is a sum of
    x0s to add to the latents: a step needs no evaluation and no latents but its own.
    """
    x0, _ = _sums(schedule, points)
    a, s, next_a, next_s = points[1:5]
    steps = len(a)
    order = np.minimum(np.minimum(np.arange(steps) + 1, 2), steps - np.arange(steps))
    now = np.log(np.maximum(a, _LEAST_SIGNAL) / s)
    of_x0s = np.zeros((steps, 3))
    for step in range(steps):
        to_next = next_s[step] / s[step]
        if step > 0:
            h = now[step] - now[step - 1]
            of_x0s[step] += to_next * a[step] * _unic(now, step, h, int(order[step - 1]))
        if points.is_last[step]:
            of_x0s[step, 0] += next_a[step]
            continue
        h = np.log(next_a[step] / next_s[step]) - now[step]
        of_x0s[step, 0] -= next_a[step] * np.expm1(-h)
        if order[step] == 2:
            near = np.array([1.0, -1.0, 0.0]) * h / (now[step] - now[step - 1])
            of_x0s[step] -= next_a[step] * np.expm1(-h) * near / 2
    return _with_x0s(next_s / s, of_x0s, x0)


def _unic(
    now: Float[np.ndarray, " steps"], step: int, h: float, order: int
) -> Float[np.ndarray, " 3"]:
    """The correction of a step's latents: weights of its x0 and those of the two before.

    For signal 1. `h` is the step's length in half the log-SNR, `order` that of its prediction.
    """
    scale = -np.expm1(-h)
    change = np.array([1.0, -1.0, 0.0])
    if order == 1:
        return scale * change / 2
    # The length of the step before over this one's, and UniC's coefficients for both differences.
    ratio = (now[step - 2] - now[step - 1]) / h
    phi = np.expm1(-h) / -h - 1
    wanted = np.array([phi, 2 * (phi / -h - 0.5)]) / np.expm1(-h)
    earlier, latest = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], wanted)
    slope = np.array([0.0, -1.0, 1.0]) / ratio
    return scale * ((earlier - 0.5) * slope + latest * change)


def _with_x0s(
    kept: Float[np.ndarray, " steps"],
    of_x0s: Float[np.ndarray, "steps 3"],
    x0: tuple[np.ndarray, np.ndarray],
) -> Float[np.ndarray, "steps 5"]:
    """A row of the table of a share of the latents and of the x0 of this step and two before."""
    none = np.zeros_like(kept)
    latents = kept + of_x0s[:, 0] * x0[0]
    return np.stack([latents, of_x0s[:, 0] * x0[1], of_x0s[:, 1], none, of_x0s[:, 2]], axis=1)


def _sums(schedule: Schedule, points: Points) -> tuple[Any, Any]:
    """x0 and noise, each as the weights of latents and v."""
    at = points.signal, points.noise
    return schedule.x0_weights(*at), schedule.noise_weights(*at)


_SOLVERS: dict[str, Callable[[Schedule, Points], np.ndarray]] = {
    "ddim": _ddim_weights,
    "dpm": _dpm_weights,
    "unip_3": _unip_3_weights,
    "euler": _ddim_weights,
    "unipc": _unipc_weights,
}
