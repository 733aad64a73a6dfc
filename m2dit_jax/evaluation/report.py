"""The results of an evaluation, as JSON and as text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m2dit_jax.evaluation.fidelity import FIDELITY
from m2dit_jax.evaluation.scores import Mean, Score, shown_interval
from m2dit_jax.evaluation.world_scores import SCORERS
from m2dit_jax.utils.files import read_json

Scores = Mapping[str, Score | Mean]


@dataclass(frozen=True)
class Report:
    """All scores of one checkpoint; `seconds` is how long sampling and scoring took.

    `sampling` says how the stories were sampled, and what it cost, fit for JSON.
    """

    generation: Scores
    extension: Scores
    seconds: float
    checkpoint_step: int
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as `evaluate --json` writes it; a score of no case has nulls."""
        return {
            "generation": scores_to_json(self.generation),
            "extension": scores_to_json(self.extension),
            "seconds": self.seconds,
            "checkpoint_step": self.checkpoint_step,
            "sampling": dict(self.sampling),
        }

    @classmethod
    def from_json(cls, mapping: Any) -> "Report":
        """The inverse of `to_json`. Raises ValueError for anything else."""
        try:
            return cls(
                scores_from_json(mapping["generation"]),
                scores_from_json(mapping["extension"]),
                float(mapping["seconds"]),
                int(mapping["checkpoint_step"]),
                dict(mapping.get("sampling", {})),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"not the report of an evaluation ({error!r})") from error

    def to_text(self) -> str:
        """A table for the terminal, with 95 % intervals: shares in per cent, psnr in dB, and rms of
        values from 0 to 255."""
        lines = [f"{'':<16}{'generation':<34}extension"]
        lines += [
            f"{name:<16}{_cell(self.generation[name]):<34}{_cell(self.extension[name])}"
            for name in self.generation
        ]
        lines.append(f"checkpoint of step {self.checkpoint_step}, {self.seconds:.0f} s")
        return "\n".join(line.rstrip() for line in lines)


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Each score as a mapping of value, low, high and n."""
    return {name: asdict(score) for name, score in scores.items()}


def scores_from_json(mapping: Mapping[str, Mapping[str, Any]]) -> Scores:
    """The inverse of `scores_to_json`. Raises KeyError or TypeError for anything else.

    There are all metrics of a world; FIDELITY, which older reports lack, has no case there.
    """
    if not any(set(scorer.metrics) <= set(mapping) for scorer in SCORERS.values()):
        raise KeyError(f"scores of {' or '.join(SCORERS)}")
    names = dict.fromkeys((*mapping, *FIDELITY))
    return {
        name: Mean(**mapping.get(name, _NO_CASE)) if name in FIDELITY else Score(**mapping[name])
        for name in names
    }


def read_report(path: Path | str) -> Report:
    """Reads what `evaluate --json` wrote. Raises ValueError, naming the file, for anything else."""
    try:
        return Report.from_json(read_json(path))
    except (OSError, ValueError) as error:
        prefix = "" if str(path) in str(error) else f"{path}: "
        raise ValueError(f"{prefix}{error}") from error


_NO_CASE = asdict(Mean.of(np.empty(0)))


def _cell(score: Score | Mean) -> str:
    return f"{shown_interval(score)}, n = {score.n}"
