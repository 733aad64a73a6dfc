"""Progress of a story: which scenes are finished, at work, and how long the rest will take."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from m2dit_jax.utils.progress import ProgressBar, progress_bar


@dataclass(frozen=True)
class StoryProgress:
    """The state of a story that is being made.

    Scenes are counted from 0; given ones are finished from the start. `step` of `steps` is
    that of the scenes at work. `seconds_left` is for all sampling steps to come, without decoding,
    None before a step has been timed. `notes` are the plan's, of what is lost of prompts.
    """

    scenes: int
    finished: tuple[int, ...]
    at_work: tuple[int, ...] = ()
    step: int = 0
    steps: int = 0
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The scenes at work, such as "scene 2, 3 of 12"."""
        return f"scene {', '.join(str(scene + 1) for scene in self.at_work)} of {self.scenes}"

    def __str__(self) -> str:
        if not self.at_work:
            return f"{len(self.finished)} of {self.scenes} scenes finished"
        line = f"{self.group}: step {self.step}/{self.steps}"
        if self.seconds_per_step is not None:
            line += f", {self.seconds_per_step:.2g} s a step, {self.seconds_left:.0f} s left"
        return line


Report = Callable[[StoryProgress], None]


def silent(progress: StoryProgress) -> None:
    """Reports nothing."""


class ProgressTracker:
    """Calls `report` at every change; an exception out of it ends the story."""

    def __init__(self, scenes: int, steps: int, report: Report, notes: tuple[str, ...] = ()):
        self._scenes, self._steps, self._report, self._notes = scenes, steps, report, notes
        self._finished: set[int] = set()
        self._groups_left = 0
        self._at_work: tuple[int, ...] = ()
        self._durations: list[float] = []
        self._last = 0.0

    def expect(self, groups: int) -> None:
        """Sets how many groups of scenes are still to be made."""
        self._groups_left = groups

    def finish(self, scenes: Iterable[int]) -> None:
        """Marks scenes as finished."""
        self._finished |= set(scenes)
        self._at_work = tuple(scene for scene in self._at_work if scene not in self._finished)
        self._call_report(0)

    def begin(self, scenes: tuple[int, ...]) -> None:
        """Marks a group of scenes as at work."""
        self._at_work = scenes
        self._last = time.monotonic()
        self._call_report(0)

    def step(self, number: int) -> None:
        """Counts a step of the group at work as done; the first has the number 1."""
        now = time.monotonic()
        if number > 1:  # the first step of a group may have to be compiled
            self._durations.append(now - self._last)
        self._last = now
        if number == self._steps:
            self._groups_left = max(self._groups_left - 1, 0)
        self._call_report(number)

    def _call_report(self, step: int) -> None:
        seconds_per_step = sum(self._durations) / len(self._durations) if self._durations else None
        left = self._groups_left * self._steps - (step if step < self._steps else 0)
        self._report(
            StoryProgress(
                self._scenes,
                tuple(sorted(self._finished)),
                self._at_work,
                step,
                self._steps,
                seconds_per_step,
                None if seconds_per_step is None else seconds_per_step * max(left, 0),
                self._notes,
            )
        )


def progress_printer() -> Report:
    """A report that shows the steps of each group of scenes on stderr, as a bar on a terminal."""
    bar: ProgressBar | None = None

    def report(progress: StoryProgress) -> None:
        nonlocal bar
        if bar is not None and (not progress.at_work or not progress.step):
            bar.close()  # of the last group
            bar = None
        if not progress.at_work:
            return
        if bar is None:
            bar = progress_bar(progress.steps, progress.group, "steps")
        if progress.seconds_left is not None:
            bar.set_postfix_str(f"{progress.seconds_left:.0f} s for all scenes", refresh=False)
        bar.update(progress.step - bar.n)
        if progress.step == progress.steps:
            bar.close()

    return report
