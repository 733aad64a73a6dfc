"""Noise schedules of all kinds: shares of signal and noise, and a v to predict."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Spacing = Literal["trailing", "leading", "linspace", "log_snr"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)

Prediction = Literal["v", "x0"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)

Timesteps = Int[Array, "B S"] | Float[Array, "B S"]


class Points(NamedTuple):
    """Places where a sampling run evaluates the model, and to which each step goes; float64.

    Noisy latents are clean ones times `signal` plus noise times `noise`.
    """

    timesteps: Int[np.ndarray, " steps"] | Float[np.ndarray, " steps"]
    """The numbers that the model is told."""
    signal: Float[np.ndarray, " steps"]
    noise: Float[np.ndarray, " steps"]
    next_signal: Float[np.ndarray, " steps"]
    next_noise: Float[np.ndarray, " steps"]
    is_last: Bool[np.ndarray, " steps"]
    """Whether the step goes to the clean latents."""


class Schedule(ABC):
    """Signal and noise at each timestep; a v that is a sum of clean latents and noise.

    The clean latents, x0, and the noise are sums of noisy latents and v. Kinds of schedules differ
    in the weights of these sums and in which timesteps sampling takes; training, samplers,
    guidance and caches know nothing else of them. `prediction` is what the model's output stands
    for: v, or x0.
    """

    timesteps: int
    spacing: str
    prediction: str
    spacings: tuple[str, ...] = SPACINGS
    """The spacings that a kind has."""
    boundary: float = 0.0
    """Share of the timesteps below which a second network takes the steps; 0: there is none."""

    @property
    def boundary_timestep(self) -> float:
        """The least timestep at which the first network takes a step."""
        return self.boundary * self.timesteps

    @abstractmethod
    def levels(self) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """Signal and noise at each timestep, float64."""

    @abstractmethod
    def log_snr(self) -> Float[np.ndarray, " steps"]:
        """Logarithm of (signal / noise)^2 at each timestep, float64 and finite."""

    @abstractmethod
    def signal_and_noise(
        self, timesteps: Timesteps, ndim: int
    ) -> tuple[Float[Array, "B S ..."], Float[Array, "B S ..."]]:
        """Signal and noise, float32, with trailing axes to broadcast over `ndim` axes."""

    @abstractmethod
    def v_weights_of_parts(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """Weights of clean latents and noise in v."""

    @abstractmethod
    def x0_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """Weights of noisy latents and v in the clean latents."""

    @abstractmethod
    def noise_weights(self, signal: Any, noise: Any) -> tuple[Any, Any]:
        """Weights of noisy latents and v in the noise."""

    @abstractmethod
    def points(self, steps: int, as_reference: bool = False) -> Points:
        """The places of a sampling run; ValueError unless 1 <= steps <= the schedule's length."""

    def check_choices(self) -> None:
        """Raises ValueError for a spacing or a prediction that there is not."""
        if self.spacing not in self.spacings:
            raise ValueError(
                f"unknown spacing of timesteps {self.spacing!r}; there are "
                f"{', '.join(self.spacings)}"
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction {self.prediction!r}; there are {', '.join(PREDICTIONS)}"
            )

    def check_steps(self, steps: int) -> None:
        """Raises ValueError unless 1 <= steps <= the schedule's length."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"sampling steps must be in 1..{self.timesteps}, got {steps}")

    def add_noise(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Timesteps,
    ) -> Float[Array, "B S *rest"]:
        """Latents at the given timesteps of the forward process."""
        signal, sigma = self.signal_and_noise(timesteps, latents.ndim)
        return signal * latents + sigma * noise

    def v_target(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Timesteps,
    ) -> Float[Array, "B S *rest"]:
        """The v of these latents and this noise."""
        of_latents, of_noise = self.v_weights_of_parts(
            *self.signal_and_noise(timesteps, latents.ndim)
        )
        return of_noise * noise + of_latents * latents

    def target(
        self,
        latents: Float[Array, "B S *rest"],
        noise: Float[Array, "B S *rest"],
        timesteps: Timesteps,
    ) -> Float[Array, "B S *rest"]:
        """The right output of the model: v, or the clean latents."""
        return self.v_target(latents, noise, timesteps) if self.prediction == "v" else latents

    def v_weights_at(
        self, signal: Float[np.ndarray, " steps"], noise: Float[np.ndarray, " steps"]
    ) -> Float[np.ndarray, "steps 2"] | None:
        """Weights of noisy latents and of the model's output in v, float64; None: it is v."""
        if self.prediction == "v":
            return None
        of_noisy, of_v = self.x0_weights(signal, noise)
        return np.stack([-of_noisy / of_v, 1 / of_v], axis=1)

    def v_weights(self) -> Float[np.ndarray, "steps 2"] | None:
        """`v_weights_at` each timestep."""
        return self.v_weights_at(*self.levels())

    def to_v(
        self,
        output: Float[Array, "B S *rest"],
        noisy_latents: Float[Array, "B S *rest"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S *rest"]:
        """The v that the model's output stands for."""
        weights = self.v_weights()
        if weights is None:
            return output
        shape = (*timesteps.shape, *(1,) * (output.ndim - timesteps.ndim))
        of_noisy, of_output = (
            jnp.asarray(column, jnp.float32)[timesteps].reshape(shape) for column in weights.T
        )
        return of_noisy * noisy_latents + of_output * output

    def from_v(
        self,
        v: Float[Array, "B S *rest"],
        noisy_latents: Float[Array, "B S *rest"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S *rest"]:
        """The output of a model that predicts this v."""
        if self.prediction == "v":
            return v
        of_noisy, of_v = self.x0_weights(*self.signal_and_noise(timesteps, v.ndim))
        return of_noisy * noisy_latents + of_v * v

    def v_error_weights(self, timesteps: Int[Array, "B S"]) -> Float[Array, "B S"]:
        """The squared error of v over that of the model's output; 1 where the output is v."""
        weights = self.v_weights()
        if weights is None:
            return jnp.ones(timesteps.shape)
        return jnp.asarray(weights[:, 1] ** 2, jnp.float32)[timesteps]
