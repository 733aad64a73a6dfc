"""The numbers of a run in metrics.jsonl, in TensorBoard and on the terminal."""

import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]  # which protobuf makes at import
)

from m2dit_jax.utils.compat import failures_of_event_thread
from m2dit_jax.utils.disks import writing
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.media import gif_bytes

Values = Mapping[str, float | None]


@runtime_checkable
class MetricWriter(Protocol):
    """A place that the numbers and pictures of a run go to."""

    def write(self, step: int, values: Values, timings: Values) -> None:
        """Numbers of a step; the timings differ from run to run, the values do not."""
        ...

    def write_image(
        self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"], caption: str
    ) -> None:
        """A picture with a caption in Markdown."""
        ...

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "F H W 3"], fps: float
    ) -> None:
        """A video of few and small frames."""
        ...

    def write_text(self, step: int, name: str, text: str) -> None:
        """A text in Markdown."""
        ...

    def flush(self) -> None:
        """Puts everything on the disk, as it must be before a checkpoint relies on it."""
        ...

    def close(self) -> None:
        """Flushes and closes the files."""
        ...


class JsonLinesWriter:
    """A writer of `metrics.jsonl`, going on after `step`.

    The lines hold nothing that differs from run to run, such as timings, so that a run which was
    interrupted leaves the same file as one which was not. What lies beyond `step`, where an
    interrupted run had no checkpoint any more, is dropped. So are lines that are damaged, which
    stderr says; those after them stay.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        path.touch()
        kept, problems = _lines_up_to(path, step)
        if problems:
            print(f"{path}: left out what is damaged: {', '.join(problems)}", file=sys.stderr)
        if len(kept) != path.stat().st_size:
            with atomic_write(path) as part:
                part.write_bytes(kept)
        self._path, self._lines = path, path.open("a", encoding="utf-8")

    def write(self, step: int, values: Values, timings: Values) -> None:
        """One line, without the timings."""
        with writing(self._path):
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()

    def write_image(
        self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"], caption: str
    ) -> None:
        """Nothing: pictures are files of their own."""

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "F H W 3"], fps: float
    ) -> None:
        """Nothing: videos are files of their own."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Nothing: texts stand in run.jsonl and in the checkpoints."""

    def flush(self) -> None:
        """Puts everything on the disk."""
        with writing(self._path):
            self._lines.flush()
            os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        self._lines.close()


class TensorBoardWriter:
    """A writer of TensorBoard's event files, going on after `step`."""

    def __init__(self, workdir: Path, step: int):
        self._folder = workdir / "tensorboard"
        with writing(self._folder):
            self._board = SummaryWriter(str(self._folder), purge_step=step + 1)
        self._failed = failures_of_event_thread(self._board)

    def write(self, step: int, values: Values, timings: Values) -> None:
        """A scalar for each number that there is; those without a group are of `train`."""
        for name, value in named_scalars(values, timings).items():
            self._board.add_scalar(name, value, step)

    def write_image(
        self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"], caption: str
    ) -> None:
        """The picture, and its caption as a text of the same name."""
        self._board.add_image(name, image, step, dataformats="HWC")
        if caption:
            self._board.add_text(f"{name}/captions", caption, step)

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "F H W 3"], fps: float
    ) -> None:
        """A GIF among the pictures, which browsers play.

        (Not the writer's own `add_video`, which needs another package for the same.)
        """
        content = gif_bytes(frames, fps)
        with Image.open(io.BytesIO(content)) as gif:
            picture = Summary.Image(
                height=gif.height, width=gif.width, colorspace=3, encoded_image_string=content
            )
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        assert self._board.file_writer is not None, "it has been written to"
        self._board.file_writer.add_summary(summary, step)

    def write_text(self, step: int, name: str, text: str) -> None:
        """The text, under TEXT."""
        self._board.add_text(name, text, step)

    def flush(self) -> None:
        """Writes out what is waiting."""
        with writing(self._folder):
            for error in self._failed:
                raise error
            self._board.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._folder):
            self._board.close()


class MetricsWriter:
    """All writers of a run: metrics.jsonl, TensorBoard, and `others`; numbers are rounded."""

    def __init__(self, workdir: Path, step: int, others: Sequence[MetricWriter] = ()):
        self._writers: list[MetricWriter] = [
            JsonLinesWriter(workdir, step),
            TensorBoardWriter(workdir, step),
            *others,
        ]

    def write(self, step: int, values: Values, timings: Values | None = None) -> None:
        """One line; the timings do not go to metrics.jsonl."""
        rounded = {
            name: None if value is None else float(f"{value:.7g}") for name, value in values.items()
        }
        for writer in self._writers:
            writer.write(step, rounded, timings or {})

    def write_timings(self, step: int, timings: Values) -> None:
        """Numbers that are not for metrics.jsonl, since they differ from run to run."""
        for writer in self._writers:
            if not isinstance(writer, JsonLinesWriter):
                writer.write(step, {}, timings)

    def write_image(
        self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"], caption: str = ""
    ) -> None:
        """A picture with a caption in Markdown."""
        for writer in self._writers:
            writer.write_image(step, name, image, caption)

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "F H W 3"], fps: float
    ) -> None:
        """A video of few and small frames."""
        for writer in self._writers:
            writer.write_video(step, name, frames, fps)

    def write_text(self, step: int, name: str, text: str) -> None:
        """A text in Markdown."""
        for writer in self._writers:
            writer.write_text(step, name, text)

    def flush(self) -> None:
        """Puts everything on the disk, as it must be before a checkpoint relies on it."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        for writer in self._writers:
            writer.close()


class DiscardedMetrics(MetricsWriter):
    """A writer that writes nothing, for all processes but the first: their numbers are the same."""

    def __init__(self):
        self._writers = []


def named_scalars(values: Values, timings: Values) -> dict[str, float]:
    """The numbers that there are, under names with a group: `train` where they have none."""
    return {
        name if "/" in name else f"train/{name}": value
        for name, value in {**values, **timings}.items()
        if value is not None
    }


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


def _lines_up_to(path: Path, step: int) -> tuple[bytes, list[str]]:
    """The whole lines of a metrics file of steps up to `step`, and what is wrong with others.

    A last line that was cut off, as by a crash, is no damage: its step comes again.
    """
    kept, problems = [], []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)["step"]
            if not isinstance(found, int):
                raise ValueError(f"its step is {found!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number < len(lines) or line.endswith(b"\n"):
                problems.append(f"line {number} ({error!r})")
            continue
        if found <= step and line.endswith(b"\n"):
            kept.append(line)
    return b"".join(kept), problems
