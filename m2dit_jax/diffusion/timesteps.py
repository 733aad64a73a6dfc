"""Which timesteps training draws: how often each, and whether a batch spreads over them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from m2dit_jax.diffusion.noising import Schedule


@dataclass(frozen=True)
class TimestepDraw:
    """How the timesteps of a batch's stories are drawn.

    A share of the stories, `log_snr_share`, has a timestep whose log-SNR is normally distributed
    around `log_snr_mean` with `log_snr_std`, as in EDM (arXiv 2206.00364, table 1); the others draw
    among all timesteps alike. A `stratified` batch of B stories has one in each B-th of the
    distribution, so that batches differ less from one another (arXiv 2107.00630, appendix I.1).
    `timestep_shift` is what the odds of noise of all that is drawn are multiplied by, for flow
    matching, whose odds are sigma / (1 - sigma). There a log-SNR is -2 times the logarithm of the
    odds, so that a logit-normal sigma has a normal log-SNR of -2 times its mean and twice its
    standard deviation. `among` are the only timesteps that are drawn; (): all.
    """

    log_snr_share: float = 0.0
    log_snr_mean: float = 0.0
    log_snr_std: float = 2.0
    stratified: bool = False
    timestep_shift: float = 1.0
    among: tuple[int, ...] = ()

    def probabilities(self, schedule: Schedule) -> Float[np.ndarray, " timesteps"]:
        """How often each timestep is drawn; they add up to 1."""
        share = self.log_snr_share
        drawn = np.isin(np.arange(schedule.timesteps), self.among or range(schedule.timesteps))
        alike = self._shifted_widths(schedule.timesteps) * drawn
        alike = alike / alike.sum()
        if share == 0:
            return alike
        log_snr = schedule.log_snr()
        mean = self.log_snr_mean - 2 * np.log(self.timestep_shift)
        exponents = -0.5 * ((log_snr - mean) / self.log_snr_std) ** 2
        if self.among:  # of which all may be far from the mean
            exponents -= exponents[drawn].max()
        normal = np.exp(np.minimum(exponents, 0))
        # Per timestep: times the log-SNR that it stands for.
        normal *= -np.gradient(log_snr) * drawn
        return share * normal / normal.sum() + (1 - share) * alike

    def draw(
        self, key: Key[Array, ""], stories: int, schedule: Schedule
    ) -> Int[Array, "{stories} 1"]:
        """A timestep for each story."""
        plain = self.log_snr_share == 0 and self.timestep_shift == 1
        if plain and not self.stratified and not self.among:
            return jax.random.randint(key, (stories, 1), 0, schedule.timesteps)
        places = jax.random.uniform(key, (stories,))
        if self.stratified:
            strata = jax.random.permutation(jax.random.fold_in(key, 1), stories)
            places = (strata + places) / stories
        probabilities = self.probabilities(schedule)
        ends = jnp.asarray(np.cumsum(probabilities), jnp.float32)
        drawn = jnp.searchsorted(ends, places, side="right")
        # Rounded, the ends do not quite reach 1.
        return jnp.minimum(drawn, int(np.flatnonzero(probabilities)[-1]))[:, None]

    def _shifted_widths(self, timesteps: int) -> Float[np.ndarray, " {timesteps}"]:
        """How often each timestep is drawn before others are left out, but for a factor."""
        if self.timestep_shift == 1:
            return np.ones(timesteps)
        ends = np.arange(timesteps + 1) / timesteps
        unshifted = ends / (self.timestep_shift - (self.timestep_shift - 1) * ends)
        return np.diff(unshifted)
