"""The scores of real video as JSON, text and a page with plots that needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from m2dit_jax.evaluation.kernel_distance import KernelDistance
from m2dit_jax.evaluation.video_scores import Score, StoryScores, slope
from m2dit_jax.report.parts import field_table, write_document

# Of the plots, in pixels.
_WIDTH, _BAR, _CHART_HEIGHT, _CELL = 420, 14, 120, 46


@dataclass(frozen=True)
class VideoReport:
    """All scores; `problems` are of stories that could not be taken, and why."""

    extractor: str
    note: str
    scores: Mapping[str, Score]
    stories: Sequence[StoryScores]
    distance: KernelDistance | None
    problems: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """As `evaluate --videos` writes it."""
        return {
            "extractor": self.extractor,
            "note": self.note,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
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
        for story in self.stories:
            if story.frozen:
                numbers = ", ".join(str(scene + 1) for scene in story.frozen)
                lines.append(f"{story.name}: scene {numbers} frozen")
        lines.append(f"{len(self.stories)} stories; extractor {self.extractor}: {self.note}")
        lines += [f"left out: {problem}" for problem in self.problems]
        return "\n".join(lines)

    def write_page(self, path: Path) -> None:
        """Self-contained HTML."""
        parts = [
            f"<header><h1>Scores of {len(self.stories)} stories</h1><p class=note>Extractor "
            f"{escape(self.extractor)}: {escape(self.note)}</p></header><main>",
            "<section class=card><h2>Between floor and ceiling</h2>",
            "<p class=note>Red: what scenes of different stories reach, green: what one reaches "
            "with itself.</p>",
            *(_bar(name, score) for name, score in self.scores.items()),
            "</section>",
        ]
        if self.distance is not None:
            parts.append(
                f"<section class=card><h2>Kernel distance</h2><p>{_distance(self.distance)}</p>"
                "</section>"
            )
        parts += [_story(story) for story in self.stories]
        if self.problems:
            items = "".join(f"<li>{escape(problem)}</li>" for problem in self.problems)
            parts.append(f"<section class=card><h2>Left out</h2><ul>{items}</ul></section>")
        write_document(path, "Scores of stories", "\n".join([*parts, "</main>"]))


def _distance(distance: KernelDistance) -> str:
    return (
        f"{distance.value:.4g} (95 %: {distance.low:.4g} to {distance.high:.4g}), of {distance.n} "
        f"scenes and {distance.m} of the reference"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bar(name: str, score: Score) -> str:
    """A line from 0 to 1 with floor and ceiling as ticks and the score as a bar."""
    note = f" <small>{escape(score.note)}</small>" if score.note else ""
    label = f"<p><b>{escape(name)}</b> {_number(score.value)}{note}</p>"
    if score.value is None:
        return label
    marks = "".join(
        f'<line x1="{_x(x)}" x2="{_x(x)}" y1="0" y2="{2 * _BAR}" stroke="{colour}" '
        f'stroke-width="2"><title>{title} {x:.3f}</title></line>'
        for title, x, colour in (
            ("floor", score.floor, "#b3261e"),
            ("ceiling", score.ceiling, "#2b7236"),
        )
        if x is not None
    )
    return (
        f'{label}<svg role="img" aria-label="{escape(name)}" width="{_WIDTH}" height="{2 * _BAR}">'
        f'<rect x="0" y="{_BAR // 2}" width="{_WIDTH}" height="{_BAR}" fill="#8884"/>'
        f'<rect x="0" y="{_BAR // 2}" width="{_x(score.value)}" height="{_BAR}" fill="#1f5fbf"/>'
        f"{marks}</svg>"
    )


def _x(value: float) -> float:
    return round(min(max(value, 0.0), 1.0) * _WIDTH, 1)


def _story(story: StoryScores) -> str:
    facts = {
        "visual consistency": _number(story.visual),
        "best frame match": _number(story.best_match),
        "cuts where scenes meet": f"{sum(story.cuts)} of {len(story.cuts)}",
        "cuts within scenes": str(story.cuts_within),
        "motion by scene": ", ".join(f"{value:.2f}" for value in story.motion),
        "frozen scenes": ", ".join(str(s + 1) for s in story.frozen) or "none",
    }
    charts = "".join(_curve(name, values) for name, values in story.drift.items())
    facts |= {f"{name} a scene": f"{slope(v):+.3g}" for name, v in story.drift.items()}
    matrix = "" if story.alignment is None else _matrix(story)
    prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in story.prompts)
    return (
        f"<section class=card><h2>{escape(story.name)}</h2><ol>{prompts}</ol>{field_table(facts)}"
        f"{matrix}<div>{charts}</div></section>"
    )


def _matrix(story: StoryScores) -> str:
    """Scenes by prompts, the darker the more they agree."""
    assert story.alignment is not None
    least, most = float(story.alignment.min()), float(story.alignment.max())
    cells = []
    for row, values in enumerate(story.alignment):
        for column, value in enumerate(values.tolist()):
            share = (value - least) / max(most - least, 1e-12)
            x, y = column * _CELL, row * _CELL
            ink = "#fff" if share > 0.5 else "#000"
            cells.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" '
                f'fill="rgb({int(247 - 239 * share)},{int(251 - 203 * share)},'
                f'{int(255 - 148 * share)})"/>'
                f'<text x="{x + 6}" y="{y + 27}" font-size="12" fill="{ink}">{value:.2f}</text>'
            )
    side = _CELL * len(story.prompts)
    return (
        "<h3>Scenes (rows) by prompts (columns)</h3>"
        f'<svg role="img" aria-label="alignment" width="{side}" height="{side}">{"".join(cells)}'
        "</svg>"
    )


def _curve(name: str, values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    spread = max(most - least, 1e-12)
    width, inner = 260, _CHART_HEIGHT - 40
    step = (width - 20) / max(len(values) - 1, 1)
    points = [
        (10 + i * step, 10 + inner * (1 - (value - least) / spread))
        for i, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f5fbf"><title>scene {i}: {value:.4g}'
        "</title></circle>"
        for i, ((x, y), value) in enumerate(zip(points, values, strict=True), 1)
    )
    return (
        f'<svg role="img" aria-label="{escape(name)}" width="{width}" height="{_CHART_HEIGHT}">'
        f'<polyline points="{line}" fill="none" stroke="#1f5fbf" stroke-width="2"/>{dots}'
        f'<text x="10" y="{_CHART_HEIGHT - 8}" font-size="12" fill="currentColor">{escape(name)}: '
        f"{least:.3g} to {most:.3g}</text></svg>"
    )
