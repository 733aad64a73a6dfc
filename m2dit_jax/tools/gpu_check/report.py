"""The report of the GPU check: one JSON file with everything, one page of Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m2dit_jax.tools.gpu_check.record import Row
from m2dit_jax.utils.files import write_text


@dataclass(frozen=True)
class PartResult:
    """A part that was tried: `outcome` is "done", or why it was not done; `log` its last lines."""

    name: str
    outcome: str
    seconds: float
    rows: Sequence[Row] = ()
    log: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All parts tried so far, those that are still to come, and what the machine lacks."""

    command: str
    date: str
    tiny: bool
    steps: int
    results: list[PartResult] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Every part was done."""
        return not self.waiting and all(result.outcome == "done" for result in self.results)

    def story(self) -> Row | None:
        """The time of a whole story, put together from its parts; None while one is missing."""
        first = {part.name: part.rows[0] for part in self.results if part.rows}
        if not {"step_5b", "decode", "text"} <= first.keys():
            return None
        step, decode, text = (first[name]["seconds"] for name in ("step_5b", "decode", "text"))
        return {
            "what": f"three scenes, SUM of parts: {self.steps} steps, 3 decodes, 4 prompts",
            "seconds": self.steps * step + 3 * decode + 4 * text,
        }

    def write(self, folder: Path) -> None:
        """Writes report.json and report.md into the folder."""
        content = asdict(self) | {"story": self.story(), "passed": self.passed}
        write_text(folder / "report.json", json.dumps(content, indent=1) + "\n")
        write_text(folder / "report.md", self.to_markdown())

    def to_markdown(self) -> str:
        """The page: a table for each part."""
        lines = ["# GPU check", "", f"{self.date}, `{self.command}`"]
        if self.tiny:
            lines += [
                "",
                "**Tiny sizes: it shows that the check runs, not what the device can.**",
            ]
        if self.missing:
            lines += ["", "Not installed, and no wheel given:", ""]
            lines += [f"- `{name}`: {why}" for name, why in self.missing.items()]
        for result in self.results:
            lines += ["", f"## {result.name}: {result.outcome}, {result.seconds:.0f} s", ""]
            lines += _table(result.rows)
            if result.outcome != "done" and result.log:
                lines += ["", "```", result.log, "```"]
        story = self.story()
        if story is not None:
            lines += ["", "## A whole story", "", *_table([story])]
        if self.waiting:
            lines += ["", f"Not run: {', '.join(self.waiting)}."]
        return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["(no figures)"]
    lines = ["| | |", "|---|---|"]
    for row in rows:
        figures = [_figure(name, value) for name, value in row.items() if name != "what"]
        lines.append(f"| {row['what']} | {', '.join(f for f in figures if f)} |")
    return lines


def _figure(name: str, value: Any) -> str:
    """A figure in the unit that its name says."""
    if value is None:
        return ""
    words = name.replace("_", " ")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"{words} {value}"
    if name.endswith("flops_per_second"):
        return f"{value / 1e12:.4g} TFLOP/s"
    if name.endswith("bytes"):
        return f"{words.removesuffix(' bytes')} {value / 2**30:.3g} GiB"
    if name == "seconds":
        return f"{value:.4g} s"
    if name.endswith("seconds"):
        return f"{words.removesuffix(' seconds')} {value:.4g} s"
    if name.startswith("share"):
        return f"{value:.1%} of the peak"
    return f"{words} {value:.4g}" if isinstance(value, float) else f"{words} {value}"
