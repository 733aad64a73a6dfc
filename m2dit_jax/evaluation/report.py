"""The results of an evaluation: as JSON, as text and, for several arms, as a Markdown table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m2dit_jax.evaluation.fidelity import FIDELITY
from m2dit_jax.evaluation.scores import Mean, Score, shown_interval
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
            generation, extension = (
                {
                    metric: Score(**value)
                    for metric, value in mapping[task].items()
                    if metric not in FIDELITY
                }
                # Older reports have no fidelity.
                | {name: Mean(**mapping[task].get(name, _NO_CASE)) for name in FIDELITY}
                for task in ("generation", "extension")
            )
            return cls(
                generation,
                extension,
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


@dataclass(frozen=True)
class Comparison:
    """The reports of several arms, each by its seeds, which are the same for all arms."""

    arms: Mapping[str, Mapping[int, Report]]

    def pooled(self, arm: str, task: str) -> dict[str, Score | Mean]:
        """The scores of all the arm's seeds taken together; `task` is a field of Report."""
        reports = [getattr(report, task) for report in self.arms[arm].values()]
        return {
            name: (Mean if name in FIDELITY else Score).pooled([r[name] for r in reports])
            for name in reports[0]
        }

    def to_json(self) -> dict[str, Any]:
        """The pooled scores of each arm, and under `seeds` each seed's own report."""
        return {
            arm: {
                "generation": scores_to_json(self.pooled(arm, "generation")),
                "extension": scores_to_json(self.pooled(arm, "extension")),
                "seeds": {str(seed): report.to_json() for seed, report in seeds.items()},
            }
            for arm, seeds in self.arms.items()
        }

    def to_markdown(self) -> str:
        """A table of pooled scores for each task, with the seeds' own values after them."""
        arms = list(self.arms)
        seeds = list(self.arms[arms[0]])
        lines = [
            "Per cent of the cases, with 95 % intervals (Wilson, as if all cases of all seeds were "
            "independent, which scenes of one story and seeds on the same stories are not quite); "
            f"after the semicolon the values of seed {_listed(seeds)}. "
            "Fidelity to the nearest ideal scene: psnr in dB, rms of values from 0 to 255; means "
            "over scenes with Student's intervals. "
            "Of leakage and rms less is better, of all else more."
        ]
        for task in ("generation", "extension"):
            lines += [
                "",
                f"| {task} | {' | '.join(arms)} | cases |",
                "|---" * (len(arms) + 2) + "|",
            ]
            pooled = {arm: self.pooled(arm, task) for arm in arms}
            for name in pooled[arms[0]]:
                cells = [
                    f"{shown_interval(pooled[arm][name])}; "
                    + ", ".join(_value(getattr(r, task)[name]) for r in reports.values())
                    for arm, reports in self.arms.items()
                ]
                lines.append(f"| {name} | {' | '.join(cells)} | {pooled[arms[0]][name].n} |")
        return "\n".join(lines) + "\n"


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Each score as a mapping of value, low, high and n."""
    return {name: asdict(score) for name, score in scores.items()}


def read_report(path: Path | str) -> Report:
    """Reads what `evaluate --json` wrote. Raises ValueError, naming the file, for anything else."""
    try:
        return Report.from_json(read_json(path))
    except (OSError, ValueError) as error:
        prefix = "" if str(path) in str(error) else f"{path}: "
        raise ValueError(f"{prefix}{error}") from error


_NO_CASE = asdict(Mean.of(np.empty(0)))


def _value(score: Score | Mean) -> str:
    return score.shown(score.value)


def _cell(score: Score | Mean) -> str:
    return f"{shown_interval(score)}, n = {score.n}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
