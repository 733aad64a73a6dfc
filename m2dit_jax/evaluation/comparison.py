"""The results of several arms, each trained with several seeds, as JSON and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from m2dit_jax.evaluation.report import Report, Scores, scores_to_json
from m2dit_jax.evaluation.scores import Mean, Score, pooled, shown_interval

_TEXT = (
    "Per cent of the cases, with 95 % intervals (Wilson, as if all cases of all seeds were "
    "independent, which scenes of one story and seeds on the same stories are not quite); "
    "after the semicolon the values of seed {seeds}. "
    "Fidelity to the nearest ideal scene: psnr in dB, rms of values from 0 to 255; means "
    "over scenes with Student's intervals. "
    "Of leakage and rms less is better, of all else more."
)


class ArmCost(NamedTuple):
    """What a training step of an arm costs in closed form (`models.flops`).

    `step` counts the operations of a step of the compared config, `full_size` by the number of
    scenes those of a story at the size of CogVideoX-5B.
    """

    step: int
    full_size: Mapping[int, int]


@dataclass(frozen=True)
class RunScores:
    """All scores of one run. `long` are those of longer stories, empty where none were made.

    `step_seconds` is how long a training step took, the median of the run's record; None: it has
    no record.
    """

    report: Report
    long: Scores
    step_seconds: float | None

    def of(self, task: str) -> Scores:
        """The scores of a task: generation, extension or long."""
        return self.long if task == "long" else getattr(self.report, task)

    def to_json(self) -> dict[str, Any]:
        """The report, and beside it the rest."""
        return self.report.to_json() | {
            "long": scores_to_json(self.long),
            "step_seconds": self.step_seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """The scores of several arms, each by its seeds, which are the same for all arms.

    `long_scenes` is the number of scenes of the longer stories; 0: there are none.
    """

    arms: Mapping[str, Mapping[int, RunScores]]
    costs: Mapping[str, ArmCost]
    long_scenes: int

    def tasks(self) -> Sequence[str]:
        """The tasks that were scored."""
        return ("generation", "extension", *["long"] * bool(self.long_scenes))

    def pooled(self, arm: str, task: str) -> dict[str, Score | Mean]:
        """The scores of all the arm's seeds taken together."""
        runs = [run.of(task) for run in self.arms[arm].values()]
        return {name: pooled([scores[name] for scores in runs]) for name in runs[0]}

    def to_json(self) -> dict[str, Any]:
        """The pooled scores of each arm, and under `seeds` each seed's own report."""
        return {
            arm: {task: scores_to_json(self.pooled(arm, task)) for task in self.tasks()}
            | {
                "long_scenes": self.long_scenes,
                "step_flops": self.costs[arm].step,
                "full_size_step_flops": dict(self.costs[arm].full_size),
                "seeds": {str(seed): run.to_json() for seed, run in seeds.items()},
            }
            for arm, seeds in self.arms.items()
        }

    def to_markdown(self) -> str:
        """A table of pooled scores for each task, with the seeds' own values after them, and one
        of what the arms cost."""
        seeds = ", ".join(map(str, next(iter(self.arms.values()))))
        lines = [_TEXT.format(seeds=seeds)]
        for task in self.tasks():
            lines += ["", *self._scores(task)]
        return "\n".join([*lines, "", *self._costs()]) + "\n"

    def _scores(self, task: str) -> list[str]:
        title = f"{self.long_scenes} scenes" if task == "long" else task
        by_arm = {arm: self.pooled(arm, task) for arm in self.arms}
        lines = _head(title, [*self.arms, "cases"])
        first = next(iter(by_arm.values()))
        for name in first:
            cells = [
                f"{shown_interval(by_arm[arm][name])}; "
                + ", ".join(_value(run.of(task)[name]) for run in runs.values())
                for arm, runs in self.arms.items()
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {first[name].n} |")
        return lines

    def _costs(self) -> list[str]:
        """Times and operations of a step, with those of the first arm as 1."""
        lines = _head("a training step", [*self.arms])
        seconds = [
            [run.step_seconds for run in runs.values() if run.step_seconds is not None]
            for runs in self.arms.values()
        ]
        times = [f"{np.median(found):.3f}" if found else "-" for found in seconds]
        lines.append(f"| seconds, median | {' | '.join(times)} |")
        costs = list(self.costs.values())
        flops = [f"{cost.step / 1e9:.3g} ({cost.step / costs[0].step:.3f})" for cost in costs]
        lines.append(f"| GFLOP | {' | '.join(flops)} |")
        for scenes, first in costs[0].full_size.items():
            flops = [
                f"{cost.full_size[scenes] / 1e15:.3g} ({cost.full_size[scenes] / first:.3f})"
                for cost in costs
            ]
            lines.append(f"| PFLOP a story of {scenes} scenes, 5B | {' | '.join(flops)} |")
        return lines


def _head(title: str, columns: Sequence[str]) -> list[str]:
    return [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def _value(score: Score | Mean) -> str:
    return score.shown(score.value)
