"""What sampling cost, and how far from the full run it came out where evaluations were saved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from m2dit_jax.evaluation.accuracy import StoryBatch


@dataclass(frozen=True)
class Cost:
    """Means over stories. An evaluation is the model run on one story for one branch of guidance.

    `skipped` has for each step the share of stories in which it was not evaluated at all; `error`
    is the rms of the difference between the generated scenes' final latents and those of a full run
    from the same noise, relative to the rms of these; None if there was no such run beside it.
    """

    evaluations: float
    full_evaluations: float
    skipped: tuple[float, ...]
    error: float | None

    def to_text(self) -> str:
        """Text for the terminal."""
        error = "" if self.error is None else f", relative error of the latents {self.error:.4f}"
        return (
            f"{self.evaluations:.1f} of {self.full_evaluations:.1f} evaluations per story, "
            f"{sum(self.skipped):.1f} of {len(self.skipped)} steps left out{error}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def cost_of(made: Sequence[StoryBatch], full: Sequence[StoryBatch] | None = None) -> Cost:
    """Evaluations and error of stories beside the same ones of the full run, None for a full run.

    Raises ValueError if the batches do not go together.
    """
    if full is not None and [x.given.tolist() for x in made] != [x.given.tolist() for x in full]:
        raise ValueError(
            f"needs the same stories of the full run, got {len(made)} and {len(full)} batches"
        )
    evaluations = _joined(made)
    error = None
    if full is not None:
        pairs = zip(made, full, strict=True)
        changes = [(a.latents - b.latents)[~a.given] for a, b in pairs]
        error = _rms(changes) / _rms([batch.latents[~batch.given] for batch in full])
    return Cost(
        evaluations=float(evaluations.sum(0).mean()),
        full_evaluations=float(_joined(full or made).sum(0).mean()),
        skipped=tuple(np.mean(evaluations == 0, axis=1).tolist()),
        error=error,
    )


def _joined(batches: Sequence[StoryBatch]) -> np.ndarray:
    return np.concatenate([batch.evaluations for batch in batches], axis=1)


def _rms(parts: Sequence[np.ndarray]) -> float:
    values = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
    return float(np.sqrt(np.mean(values**2)))
