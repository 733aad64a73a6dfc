"""CogVideoX's noise schedule and the v-parametrisation (arXiv 2202.00512, 2305.08891)."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.diffusion.noising import Points, Schedule, Timesteps

# Where spacing in log-SNR begins: with less signal a step would change hardly anything.
_LEAST_SNR = 1e-3


@dataclass(frozen=True)
class NoiseSchedule(Schedule):
    """Scaled-linear betas, divided SNR, terminal SNR of zero; and which timesteps sampling takes.

    `snr_shift` divides the signal-to-noise ratio at every timestep: the more redundant the data
    (many pixels that say the same), the larger it must be for the noise to hide anything.
    `spacing` (but for log_snr), `steps_offset` and `final_alpha_is_one` (else it is that of
    timestep 0) are settings of diffusers; all released models have the defaults. `prediction` is
    what the model's output stands for: v, or the clean latents.
    """

    timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift: float = 1.0
    zero_terminal_snr: bool = True
    spacing: str = "trailing"
    steps_offset: int = 0
    final_alpha_is_one: bool = True
    prediction: str = "v"

    def __post_init__(self) -> None:
        self.check_choices()

    def alphas_cumprod(self) -> Float[np.ndarray, " steps"]:
        """Share of signal in the variance at each timestep, float64; the last is exactly 0."""
        betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.timesteps) ** 2
        alphas = np.cumprod(1 - betas)
        alphas = alphas / (self.snr_shift + (1 - self.snr_shift) * alphas)
        return _rescale_zero_terminal_snr(alphas) if self.zero_terminal_snr else alphas

    def final_alpha(self) -> float:
        """Share of signal where the last sampling step goes."""
        return 1.0 if self.final_alpha_is_one else float(self.alphas_cumprod()[0])

    def levels(self) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """sqrt(alpha) and sqrt(1 - alpha) at each timestep, float64."""
        alphas = self.alphas_cumprod()
        return np.sqrt(alphas), np.sqrt(1 - alphas)

    def log_snr(self) -> Float[np.ndarray, " steps"]:
        """log(alpha / (1 - alpha)), without the infinite ones."""
        alphas = np.clip(self.alphas_cumprod(), 1e-12, 1 - 1e-12)
        return np.log(alphas / (1 - alphas))

    def v_weights_of_parts(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """v = sqrt(alpha) noise - sqrt(1 - alpha) latents (arXiv 2202.00512, appendix D)."""
        return -noise, signal

    def x0_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """x0 = sqrt(alpha) noisy - sqrt(1 - alpha) v."""
        return signal, -noise

    def noise_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """noise = sqrt(1 - alpha) noisy + sqrt(alpha) v."""
        return noise, signal

    def signal_and_noise(
        self, timesteps: Timesteps, ndim: int
    ) -> tuple[Float[Array, "B S ..."], Float[Array, "B S ..."]]:
        """sqrt(alpha) and sqrt(1 - alpha), with trailing axes to broadcast over `ndim` axes.

        alpha is rounded to float32 before the roots, as in the reference.
        """
        alphas = self.alphas_cumprod().astype(np.float32)
        shape = (*timesteps.shape, *(1,) * (ndim - timesteps.ndim))
        signal = jnp.asarray(np.sqrt(alphas))[timesteps]
        sigma = jnp.asarray(np.sqrt(1 - alphas))[timesteps]
        return signal.reshape(shape), sigma.reshape(shape)

    def points(self, steps: int, as_reference: bool = False) -> Points:
        """The places of a run; `as_reference` repeats diffusers' defects in counting them.

        They are a last timestep of -1 for some numbers of steps, and a next timestep of
        t - timesteps // steps, which is not the next of the list unless the steps divide the
        timesteps. Raises ValueError unless 1 <= steps <= the schedule's length.
        """
        timesteps = self.sampling_timesteps(steps, as_reference)
        alphas = self.alphas_cumprod()
        if as_reference:
            following = timesteps - self.timesteps // steps
        else:
            following = np.append(timesteps[1:], -1)
        next_alphas = np.where(following < 0, self.final_alpha(), alphas[following])
        return Points(
            timesteps,
            np.sqrt(alphas[timesteps]),
            np.sqrt(1 - alphas[timesteps]),
            np.sqrt(next_alphas),
            np.sqrt(1 - next_alphas),
            following < 0,
        )

    def sampling_timesteps(
        self, steps: int, as_reference: bool = False
    ) -> Int[np.ndarray, " steps"]:
        """The timesteps of a sampling run, from the noisiest downwards.

        With spacing log_snr the first is the last of the schedule, and the n others are nearest to
        equal distances in log-SNR: at l + k (h - l) / n for k from 1 to n, where h is the log-SNR
        of timestep 0 and l that of the schedule's last, but at least log(1 / 1000).

        For some numbers of steps (61, 103, ...) diffusers' way of counting, which `as_reference`
        selects, adds a last timestep of -1. Raises ValueError unless 1 <= steps <= the schedule's
        length.
        """
        self.check_steps(steps)
        if self.spacing == "log_snr":
            return self._spaced_in_log_snr(steps)
        if self.spacing == "linspace":
            return np.round(np.linspace(0, self.timesteps - 1, steps)).astype(np.int64)[::-1]
        if self.spacing == "leading":
            leading = np.arange(steps) * (self.timesteps // steps)
            return leading[::-1].astype(np.int64) + self.steps_offset
        if as_reference:
            spaced = np.arange(self.timesteps, 0, -self.timesteps / steps)
        else:
            spaced = self.timesteps - np.arange(steps) * self.timesteps / steps
        return np.round(spaced).astype(np.int64) - 1

    def timesteps_between(self, first: int, last: int, parts: int) -> Int[np.ndarray, " points"]:
        """Timesteps from the first down to the last, both included, at distances as sampling's.

        That is as many as parts and one more, or all that there are. The last may be -1, the clean
        latents, before which spacing in log-SNR stops at timestep 0.
        """
        if self.spacing != "log_snr":
            points = np.round(np.linspace(first, last, parts + 1)).astype(np.int64)
        elif last < 0:
            points = np.append(self._between_in_log_snr(first, 0, parts - 1), last)
        else:
            points = self._between_in_log_snr(first, last, parts)
        return np.unique(points)[::-1]

    def _between_in_log_snr(
        self, first: int, last: int, parts: int
    ) -> Int[np.ndarray, " {parts}+1"]:
        alphas = self.alphas_cumprod()
        with np.errstate(divide="ignore"):
            log_snr = np.log(alphas / (1 - alphas))  # falls with the timestep, to -inf
        least = max(log_snr[first], np.log(_LEAST_SNR))
        wanted = np.linspace(least, log_snr[last], parts + 1)[1:]
        return np.append(first, np.abs(log_snr[:, None] - wanted).argmin(0))

    def _spaced_in_log_snr(self, steps: int) -> Int[np.ndarray, " steps"]:
        timesteps = self._between_in_log_snr(self.timesteps - 1, 0, steps - 1)
        # Many steps come closer than timesteps are: then to neighbours, each once.
        timesteps = np.maximum(timesteps, np.arange(steps)[::-1])
        for step in range(1, steps):
            timesteps[step] = min(timesteps[step], timesteps[step - 1] - 1)
        return timesteps


def _rescale_zero_terminal_snr(alphas: np.ndarray) -> np.ndarray:
    """Shifts and scales sqrt(alpha): the first stays, the last is 0 (arXiv 2305.08891)."""
    root = np.sqrt(alphas)
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
