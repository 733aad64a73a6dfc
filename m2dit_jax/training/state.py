"""The training state: everything that a checkpoint must hold to go on exactly."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Params = Any


class RunningMetrics(NamedTuple):
    """Sums since the last metrics line; in the state, so that a resumed run prints the same.

    Steps whose loss or gradient was not finite are left out.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    steps: Int[Array, ""]
    first_bad_step: Int[Array, ""]
    """The first of the latest steps in a row that were not finite; -1: the latest was finite."""

    @classmethod
    def zero(cls) -> "RunningMetrics":
        """The sums before the first step."""
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.int32(0), jnp.int32(-1))

    def add(
        self, step: Int[Array, ""], loss: Float[Array, ""], grad_norm: Float[Array, ""]
    ) -> "RunningMetrics":
        """The sums with one more step."""
        good = jnp.isfinite(loss + grad_norm)
        first_bad_step = jnp.where(self.first_bad_step < 0, step, self.first_bad_step)
        return RunningMetrics(
            self.loss + jnp.where(good, loss, 0),
            self.grad_norm + jnp.where(good, grad_norm, 0),
            self.steps + good,
            jnp.where(good, -1, first_bad_step),
        )


class TrainState(NamedTuple):
    """Step counter, parameters, their moving average, optimizer state, sums for the metrics."""

    step: Int[Array, ""]
    params: Params
    ema: Params | None
    """None if no average is kept."""
    opt_state: optax.OptState
    metrics: RunningMetrics

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation, ema_decay: float
    ) -> "TrainState":
        """The state before the first step; without an average if its decay is 0."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params) if ema_decay else None,
            opt_state=optimizer.init(params),
            metrics=RunningMetrics.zero(),
        )

    @property
    def updates(self) -> int:
        """How often the weights were updated: less than `step` by the steps that were skipped."""
        return int(optax.tree.get_all_with_path(self.opt_state, "count")[0][1])

    @property
    def averaged(self) -> Params:
        """The weights to sample with: the average, or if none is kept the latest."""
        return self.params if self.ema is None else self.ema

    def updated(
        self,
        optimizer: optax.GradientTransformation,
        gradients: Params,
        loss: Float[Array, ""],
        ema_decay: float,
    ) -> "TrainState":
        """The state after one optimizer step; as before it if loss or gradient is not finite.

        The step counts all the same, so that the next one gets the next batch.
        """
        grad_norm = optax.tree.norm(gradients)

        def update() -> tuple[Params, Params | None, optax.OptState]:
            updates, opt_state = optax.with_extra_args_support(optimizer).update(
                gradients, self.opt_state, self.params, grad_norm=grad_norm
            )
            params = optax.apply_updates(self.params, updates)
            # A young average forgets faster, or it would be made of the initialisation.
            decay = jnp.minimum(ema_decay, (1 + self.step) / (10 + self.step))
            # Written so that weights which do not change average to exactly themselves.
            ema = (
                None
                if self.ema is None
                else jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), self.ema, params)
            )
            return params, ema, opt_state

        # Not optax.apply_if_finite: its state is another than that of checkpoints so far, and it
        # lets what is not finite through after some steps. Not jnp.where on the new state: that
        # changes its last bits, as the compiler fuses differently.
        params, ema, opt_state = jax.lax.cond(
            jnp.isfinite(loss + grad_norm),
            update,
            lambda: (self.params, self.ema, self.opt_state),
        )
        return TrainState(
            step=self.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
            metrics=self.metrics.add(self.step + 1, loss, grad_norm),
        )
