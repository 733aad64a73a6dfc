"""Flow matching (arXiv 2210.02747, 2209.03003): latents on the straight line to their noise."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m2dit_jax.diffusion.noising import Points, Schedule, Timesteps

# In diffusers the noise of the first step is less than 1 by so much, so that its log-SNR is finite.
_LESS_THAN_ALL = 1e-6


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """Noisy latents are (1 - sigma) x0 + sigma noise at timestep `timesteps` x sigma; v is
    noise - x0.

    `shift` is what the odds of noise, sigma / (1 - sigma), of evenly spaced steps are multiplied
    by: the more pixels say the same, the larger. Spacing is that of diffusers' UniPC for flows
    (trailing), or of its Euler (linspace), whose shift reaches the last step twice.
    """

    timesteps: int = 1000
    shift: float = 1.0
    spacing: str = "trailing"
    boundary: float = 0.0

    prediction = "v"
    spacings = ("trailing", "linspace")

    def __post_init__(self) -> None:
        self.check_choices()

    def levels(self) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """1 - sigma and sigma at each whole timestep."""
        sigmas = np.arange(self.timesteps) / self.timesteps
        return 1 - sigmas, sigmas

    def log_snr(self) -> Float[np.ndarray, " steps"]:
        """2 log((1 - sigma) / sigma), with half a timestep's noise at 0."""
        sigmas = np.maximum(np.arange(self.timesteps), 0.5) / self.timesteps
        return 2 * np.log((1 - sigmas) / sigmas)

    def signal_and_noise(
        self, timesteps: Timesteps, ndim: int
    ) -> tuple[Float[Array, "B S ..."], Float[Array, "B S ..."]]:
        """1 - sigma and sigma; timesteps may lie between whole ones."""
        sigma = timesteps.astype(jnp.float32) / self.timesteps
        sigma = sigma.reshape(*timesteps.shape, *(1,) * (ndim - timesteps.ndim))
        return 1 - sigma, sigma

    def v_weights_of_parts(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """-1 and 1: v is the noise less the clean latents."""
        return -1.0, 1.0

    def x0_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """x0 = noisy - sigma v."""
        return signal + noise, -noise

    def noise_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """noise = noisy + (1 - sigma) v."""
        return signal + noise, signal

    def shifted(self, sigmas: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Sigmas whose odds are `shift` times as great."""
        shift = sigmas.dtype.type(self.shift)
        return shift * sigmas / (1 + (shift - 1) * sigmas)

    def points(self, steps: int, as_reference: bool = False) -> Points:
        """The places of a run; sigmas are rounded to float32, as in diffusers.

        Timesteps are whole numbers with UniPC's spacing, and the sigmas are not theirs to the last
        digit. Raises ValueError unless 1 <= steps <= the schedule's length.
        """
        self.check_steps(steps)
        least = 1 / self.timesteps
        if self.spacing == "trailing":
            sigmas = self.shifted(np.linspace(1, least, steps + 1)[:-1])
            sigmas[0] = min(sigmas[0], 1 - _LESS_THAN_ALL)
            timesteps = (sigmas * self.timesteps).astype(np.int64)
        else:
            ends = self.shifted(np.array([1, least], np.float32)).astype(np.float64)
            evenly = np.linspace(ends[0] * self.timesteps, ends[1] * self.timesteps, steps)
            sigmas = self.shifted(evenly / self.timesteps)
            timesteps = sigmas.astype(np.float32) * np.float32(self.timesteps)
        sigmas = sigmas.astype(np.float32).astype(np.float64)
        following = np.append(sigmas[1:], 0)
        return Points(timesteps, 1 - sigmas, sigmas, 1 - following, following, following == 0)
