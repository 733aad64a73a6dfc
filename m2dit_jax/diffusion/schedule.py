"""CogVideoX's noise schedule and the v-parametrisation (arXiv 2202.00512, 2305.08891)."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Spacing = Literal["trailing", "leading", "linspace", "log_snr"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)

Prediction = Literal["v", "x0"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)

# Where spacing in log-SNR begins: with less signal a step would change hardly anything.
_LEAST_SNR = 1e-3


@dataclass(frozen=True)
class NoiseSchedule:
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
        if self.spacing not in SPACINGS:
            raise ValueError(
                f"unknown spacing of timesteps {self.spacing!r}; there are {', '.join(SPACINGS)}"
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction {self.prediction!r}; there are {', '.join(PREDICTIONS)}"
            )

    def alphas_cumprod(self) -> Float[np.ndarray, " steps"]:
        """Share of signal in the variance at each timestep, float64; the last is exactly 0."""
        betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.timesteps) ** 2
        alphas = np.cumprod(1 - betas)
        alphas = alphas / (self.snr_shift + (1 - self.snr_shift) * alphas)
        return _rescale_zero_terminal_snr(alphas) if self.zero_terminal_snr else alphas

    def final_alpha(self) -> float:
        """Share of signal where the last sampling step goes."""
        return 1.0 if self.final_alpha_is_one else float(self.alphas_cumprod()[0])

    def add_noise(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S *rest"]:
        """Latents at the given timesteps of the forward process."""
        signal, sigma = self.signal_and_noise(timesteps, latents.ndim)
        return signal * latents + sigma * noise

    def v_target(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S *rest"]:
        """v = sqrt(alpha) noise - sqrt(1 - alpha) latents (arXiv 2202.00512, appendix D)."""
        signal, sigma = self.signal_and_noise(timesteps, latents.ndim)
        return signal * noise - sigma * latents

    def v_weights(self) -> Float[np.ndarray, "steps 2"] | None:
        """Weights of noisy latents and of the model's output in v at each timestep, float64.

        None: the output is v. With the clean latents x0, v = (sqrt(alpha) noisy - x0) / sigma.
        """
        if self.prediction == "v":
            return None
        alphas = self.alphas_cumprod()
        sigma = np.sqrt(1 - alphas)
        return np.stack([np.sqrt(alphas) / sigma, -1 / sigma], axis=1)

    def target(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S *rest"]:
        """What the model's output should be."""
        return self.v_target(latents, noise, timesteps) if self.prediction == "v" else latents

    def v_error_weights(self, timesteps: Int[Array, "B S"]) -> Float[Array, "B S"]:
        """The squared error of v over that of the model's output; 1 where the output is v."""
        weights = self.v_weights()
        if weights is None:
            return jnp.ones(timesteps.shape)
        return jnp.asarray(weights[:, 1] ** 2, jnp.float32)[timesteps]

    def signal_and_noise(
        self, timesteps: Int[Array, "B S"], ndim: int
    ) -> tuple[Float[Array, "B S ..."], Float[Array, "B S ..."]]:
        """sqrt(alpha) and sqrt(1 - alpha), with trailing axes to broadcast over `ndim` axes.

        alpha is rounded to float32 before the roots, as in the reference.
        """
        alphas = self.alphas_cumprod().astype(np.float32)
        shape = (*timesteps.shape, *(1,) * (ndim - timesteps.ndim))
        signal = jnp.asarray(np.sqrt(alphas))[timesteps]
        sigma = jnp.asarray(np.sqrt(1 - alphas))[timesteps]
        return signal.reshape(shape), sigma.reshape(shape)

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

    def _spaced_in_log_snr(self, steps: int) -> Int[np.ndarray, " steps"]:
        alphas = self.alphas_cumprod()
        with np.errstate(divide="ignore"):
            log_snr = np.log(alphas / (1 - alphas))  # falls with the timestep, to -inf
        least = max(log_snr[-1], np.log(_LEAST_SNR))
        wanted = np.linspace(least, log_snr[0], steps)[1:]
        nearest = np.abs(log_snr[:, None] - wanted).argmin(0)
        timesteps = np.append(self.timesteps - 1, nearest)
        # Many steps come closer than timesteps are: then to neighbours, each once.
        timesteps = np.maximum(timesteps, np.arange(steps)[::-1])
        for step in range(1, steps):
            timesteps[step] = min(timesteps[step], timesteps[step - 1] - 1)
        return timesteps

    def check_steps(self, steps: int) -> None:
        """Raises ValueError unless 1 <= steps <= the schedule's length."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"sampling steps must be in 1..{self.timesteps}, got {steps}")


def _rescale_zero_terminal_snr(alphas: np.ndarray) -> np.ndarray:
    """Shifts and scales sqrt(alpha): the first stays, the last is 0 (arXiv 2305.08891)."""
    root = np.sqrt(alphas)
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
