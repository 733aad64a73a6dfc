"""The record of a run, `run.jsonl`: its starts with what was changed, its checkpoints, its speed.

Unlike metrics.jsonl it differs from run to run: every line has the time of day.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from m2dit_jax.parallel.processes import is_first
from m2dit_jax.utils.disks import writing

FILE = "run.jsonl"
START, READY, CHECKPOINT, SPEED = "start", "ready", "checkpoint", "speed"


class RunRecord:
    """The lines of a run's record; only the first process writes."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE
        self.lines = read_record(workdir) if is_first() else []
        """All lines, those of the processes before this one first."""

    def add(self, event: str, step: int, **fields: Any) -> None:
        """Appends a line with the event, the step, the time in seconds since 1970, and fields."""
        if not is_first():
            return
        line = {"event": event, "step": step, "time": round(time.time(), 3), **fields}
        self.lines.append(line)
        with writing(self._path), self._path.open("ab+") as lines:
            if lines.tell() and _last_byte(lines) != b"\n":  # a full disk or a crash has cut it off
                lines.write(b"\n")
            lines.write(json.dumps(line).encode() + b"\n")


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read()


def read_record(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's record, none if it has no record; damaged lines are left out.

    Runs of earlier versions have no record.
    """
    path, found = workdir / FILE, []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict) and {"event", "step", "time"} <= content.keys():
                found.append(content)
    return found


def last_data(lines: list[dict[str, Any]]) -> list[str] | None:
    """The fingerprints of the datasets that the run last trained on; None if none are recorded."""
    known = [line["data"] for line in lines if line["event"] == START and line.get("data")]
    return known[-1] if known else None


def last_frozen(lines: list[dict[str, Any]], kind: str) -> dict[str, str] | None:
    """Place and fingerprint of the teacher or base that the run last had; None: none is known."""
    known = [line[kind] for line in lines if line["event"] == START and line.get(kind)]
    return known[-1] if known else None


def last_datasets(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The descriptions of these datasets; empty where an earlier version did not keep them."""
    known = [line for line in lines if line["event"] == START and line.get("data")]
    return known[-1].get("datasets", []) if known else []
