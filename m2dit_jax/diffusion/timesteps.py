"""Which timesteps training draws: how often each, and whether a batch spreads over them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from m2dit_jax.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class TimestepDraw:
    """How the timesteps of a batch's stories are drawn.

    A share of the stories, `log_snr_share`, has a timestep whose log-SNR is normally distributed
    around `log_snr_mean` with `log_snr_std`, as in EDM (arXiv 2206.00364, table 1); the others draw
    among all timesteps alike. A `stratified` batch of B stories has one in each B-th of the
    distribution, so that batches differ less from one another (arXiv 2107.00630, appendix I.1).
    """

    log_snr_share: float = 0.0
    log_snr_mean: float = 0.0
    log_snr_std: float = 2.0
    stratified: bool = False

    def probabilities(self, schedule: NoiseSchedule) -> Float[np.ndarray, " timesteps"]:
        """How often each timestep is drawn; they add up to 1."""
        alphas = np.clip(schedule.alphas_cumprod(), 1e-12, 1 - 1e-12)
        log_snr = np.log(alphas / (1 - alphas))
        normal = np.exp(-0.5 * ((log_snr - self.log_snr_mean) / self.log_snr_std) ** 2)
        # Per timestep: times the log-SNR that it stands for.
        normal *= -np.gradient(log_snr)
        share = self.log_snr_share
        return share * normal / normal.sum() + (1 - share) / len(log_snr)

    def draw(
        self, key: Key[Array, ""], stories: int, schedule: NoiseSchedule
    ) -> Int[Array, "{stories} 1"]:
        """A timestep for each story."""
        if not self.stratified and self.log_snr_share == 0:
            return jax.random.randint(key, (stories, 1), 0, schedule.timesteps)
        places = jax.random.uniform(key, (stories,))
        if self.stratified:
            strata = jax.random.permutation(jax.random.fold_in(key, 1), stories)
            places = (strata + places) / stories
        ends = jnp.asarray(np.cumsum(self.probabilities(schedule)), jnp.float32)
        drawn = jnp.searchsorted(ends, places, side="right")
        return jnp.minimum(drawn, schedule.timesteps - 1)[:, None]
