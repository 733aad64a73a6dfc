"""The numbers of a run in metrics.jsonl, in TensorBoard and on the terminal."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

Values = Mapping[str, float | None]


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files, going on after `step`.

    The lines hold nothing that differs from run to run, such as timings, so that a run which was
    interrupted leaves the same file as one which was not. What lies beyond `step`, where an
    interrupted run had no checkpoint any more, is dropped.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        path.touch()
        os.truncate(path, _bytes_up_to(path, step))
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Values, timings: Values | None = None) -> None:
        """One line; the timings go to TensorBoard only."""
        rounded = {
            name: None if value is None else float(f"{value:.7g}") for name, value in values.items()
        }
        self._lines.write(json.dumps({"step": step, **rounded}) + "\n")
        self._lines.flush()
        for name, value in {**rounded, **(timings or {})}.items():
            if value is not None:
                name = name if "/" in name else f"train/{name}"
                self._board.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture for TensorBoard."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Puts everything on the disk, as it must be before a checkpoint relies on it."""
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._board.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        self._lines.close()
        self._board.close()


class DiscardedMetrics(MetricsWriter):
    """A writer that writes nothing, for all processes but the first: their numbers are the same."""

    def __init__(self, workdir: Path, step: int):
        pass

    def write(self, step: int, values: Values, timings: Values | None = None) -> None:
        pass

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class ProgressMeter:
    """The progress line of a run: how far it is, its rate, the time left."""

    def __init__(self, step: int, total: int):
        self.total = total
        self._first_step = self._step = step
        self._started = self._time = time.perf_counter()

    def line(self, step: int, loss: float | None, skipped: int = 0) -> tuple[str, float]:
        """The line, and the steps per second since the last one.

        `loss` is None if all steps since then were skipped, `skipped` the number in the whole run.
        """
        now = time.perf_counter()
        rate = (step - self._step) / (now - self._time)
        # From the whole run so far, in which evaluations and checkpoints have their share.
        left = (self.total - step) * (now - self._started) / (step - self._first_step)
        self._step, self._time = step, now
        width = len(str(self.total))
        shown = "none" if loss is None else f"{loss:.4f}"
        line = (
            f"step {step:{width}}/{self.total}  loss {shown}  {rate:.2f} steps/s  "
            f"{duration(left)} left"
        )
        return f"{line}  {skipped} skipped, not finite" if skipped else line, rate

    def skip(self, seconds: float) -> None:
        """Leaves time that was not spent on steps out of the next line's rate."""
        self._time += seconds


def duration(seconds: float) -> str:
    """The time in words such as 45s, 12m05s or 3h07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes_rest:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _bytes_up_to(path: Path, step: int) -> int:
    """The length of the leading part of the file with whole lines of steps up to `step`."""
    length = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                beyond = json.loads(line)["step"] > step
            except (ValueError, KeyError, TypeError):
                break
            if beyond or not line.endswith(b"\n"):
                break
            length += len(line)
    return length
