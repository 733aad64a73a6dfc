"""The scores of real video as JSON, text and a page with plots that needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.evaluation.cuts import CutScores
from m2dit_jax.evaluation.kernel_distance import KernelDistance
from m2dit_jax.evaluation.scores import BoundedScore
from m2dit_jax.evaluation.video_scores import StoryScores, slope
from m2dit_jax.report.document import write_document
from m2dit_jax.report.plots import Level, curves, figure_uri, heat_maps, level_bars


@dataclass(frozen=True)
class VideoReport:
    """All scores of a set of stories; `problems` names those that were left out, and why.

    `extractors` names what features come from, by the scores that they serve for.
    """

    extractor: str
    note: str
    scores: Mapping[str, BoundedScore]
    stories: Sequence[StoryScores]
    distance: KernelDistance | None
    problems: Sequence[str]
    cuts: CutScores
    extractors: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The report as `evaluate --videos` writes it."""
        return {
            "extractor": self.extractor,
            "extractors": dict(self.extractors),
            "note": self.note,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "cuts": asdict(self.cuts),
            "kernel_distance": None if self.distance is None else asdict(self.distance),
            "stories": [story.to_json() for story in self.stories],
            "problems": list(self.problems),
        }

    def to_text(self) -> str:
        """A table for the terminal."""
        lines = [f"{'':<30}{'score':>9}{'floor':>9}{'ceiling':>9}{'n':>6}"]
        for name, score in self.scores.items():
            cells = "".join(f"{_number(x):>9}" for x in (score.value, score.floor, score.ceiling))
            lines.append(f"{name:<30}{cells}{score.n:>6}  {score.note}".rstrip())
        if self.distance is not None:
            lines.append(f"{'kernel distance':<30}{_distance(self.distance)}")
        cuts = sum(sum(story.cuts) for story in self.stories)
        meetings = sum(len(story.cuts) for story in self.stories)
        within = sum(story.cuts_within for story in self.stories)
        lines.append(f"{cuts} cuts at {meetings} meetings of scenes, {within} within scenes")
        lines.append(self.cuts.to_text())
        for story in self.stories:
            lines += [f"{story.name}: {text}" for text in (story.note, _wrong_cuts(story)) if text]
            if story.frozen:
                numbers = ", ".join(str(scene + 1) for scene in story.frozen)
                lines.append(f"{story.name}: scene {numbers} frozen")
        lines.append(f"{len(self.stories)} stories; extractor {self.extractor}: {self.note}")
        lines += [
            f"{use}: features of {name}"
            for use, name in self.extractors.items()
            if name != self.extractor
        ]
        lines += [f"left out: {problem}" for problem in self.problems]
        return "\n".join(lines)

    def write_page(self, path: Path) -> None:
        """Writes one HTML file that needs nothing else and no network."""
        levels = {
            name: Level(score.value, score.floor, score.ceiling)
            for name, score in self.scores.items()
            if score.value is not None
        }
        write_document(
            path,
            "scores.html",
            title="Scores of stories",
            report=self,
            bars=figure_uri(level_bars(levels)) if levels else "",
            scores={name: _described(score) for name, score in self.scores.items()},
            cuts=self.cuts.to_text().splitlines(),
            distance="" if self.distance is None else _distance(self.distance),
            # One after another: their plots need not be in memory together.
            stories=map(_story, self.stories),
        )


def _distance(distance: KernelDistance) -> str:
    return (
        f"{distance.value:.4g} (95 %: {distance.low:.4g} to {distance.high:.4g}), of {distance.n} "
        f"scenes and {distance.m} of the reference"
    )


def _described(score: BoundedScore) -> str:
    parts = [_number(score.value)]
    for name, value in (("floor", score.floor), ("ceiling", score.ceiling)):
        if value is not None:
            parts.append(f"{name} {value:.3f}")
    return ", ".join(parts) + (f" ({score.note})" if score.note else "")


def _wrong_cuts(story: StoryScores) -> str:
    """Which cuts were missed and which are too many, by the frame of the whole; at most 8 each."""
    cuts, parts = story.film_cuts, []
    for name, places in (("missed", cuts.missed), ("too many", cuts.extra)):
        if places:
            shown = ", ".join(map(str, places[:8])) + (" ..." if len(places) > 8 else "")
            parts.append(f"{name} at frame {shown}")
    return f"cuts {'; '.join(parts)}" if parts else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _story(story: StoryScores) -> dict[str, Any]:
    facts = {
        "visual consistency": _number(story.visual),
        "best frame match": _number(story.best_match),
        "cuts where scenes meet": f"{sum(story.cuts)} of {len(story.cuts)}",
        "cuts within scenes": str(story.cuts_within),
        "cuts of the whole": _wrong_cuts(story)
        or f"all {len(story.film_cuts.asked)} that are asked for, none too many",
        "motion by scene": ", ".join(f"{value:.2f}" for value in story.motion),
        "frozen scenes": ", ".join(str(s + 1) for s in story.frozen) or "none",
    }
    for name, values in (("subject", story.subject), ("background", story.background)):
        if values is not None:
            facts[f"{name} consistency by scene"] = ", ".join(f"{value:.3f}" for value in values)
    for actor in story.actors:
        facts[f"actor {actor.name}"] = (
            f"cross-similarity {_number(actor.cross)}, self-similarity "
            f"{_number(actor.self_likeness)}, {actor.seen} boxes"
        )
    if story.note:
        facts["note"] = story.note
    facts |= {f"{name} a scene": f"{slope(v):+.3g}" for name, v in story.drift.items()}
    plots = {}
    if story.alignment is not None:
        matrices = [("alignment", story.alignment)]
        plots["alignment of scenes with prompts"] = heat_maps(matrices, "scene", "prompt")
    if story.drift:
        plots["drift from scene to scene"] = curves(story.drift, "scene")
    return {
        "name": story.name,
        "prompts": story.prompts,
        "facts": facts,
        "plots": {title: figure_uri(figure) for title, figure in plots.items()},
    }
