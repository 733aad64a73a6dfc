"""How far a story is, and how long it will take."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class StoryProgress:
    """Scenes are counted from 0; given ones are finished from the start.

    `step` of `steps` is that of the scenes at work. `seconds_left` is for all sampling steps to
    come, without decoding, None before it can be told.
    """

    scenes: int
    finished: tuple[int, ...]
    at_work: tuple[int, ...] = ()
    step: int = 0
    steps: int = 0
    seconds_a_step: float | None = None
    seconds_left: float | None = None

    def __str__(self) -> str:
        if not self.at_work:
            return f"{len(self.finished)} of {self.scenes} scenes finished"
        numbers = ", ".join(str(scene + 1) for scene in self.at_work)
        line = f"scene {numbers} of {self.scenes}: step {self.step}/{self.steps}"
        if self.seconds_a_step is not None:
            line += f", {self.seconds_a_step:.2g} s a step, {self.seconds_left:.0f} s left"
        return line


Report = Callable[[StoryProgress], None]


def silent(progress: StoryProgress) -> None:
    """Reports nothing."""


class ProgressTracker:
    """Tells `report` of everything that happens; an exception out of it ends the story."""

    def __init__(self, scenes: int, steps: int, report: Report):
        self._scenes, self._steps, self._report = scenes, steps, report
        self._finished: set[int] = set()
        self._groups_left = 0
        self._at_work: tuple[int, ...] = ()
        self._durations: list[float] = []
        self._last = 0.0

    def expect(self, groups: int) -> None:
        """So many are still to be made."""
        self._groups_left = groups

    def finish(self, scenes: Iterable[int]) -> None:
        """These are done."""
        self._finished |= set(scenes)
        self._at_work = tuple(scene for scene in self._at_work if scene not in self._finished)
        self._tell(0)

    def begin(self, scenes: tuple[int, ...]) -> None:
        """A group is at work."""
        self._at_work = scenes
        self._last = time.monotonic()
        self._tell(0)

    def step(self, number: int) -> None:
        """A step of the group is done; the first has the number 1."""
        now = time.monotonic()
        if number > 1:  # the first step of a group may have to be compiled
            self._durations.append(now - self._last)
        self._last = now
        if number == self._steps:
            self._groups_left = max(self._groups_left - 1, 0)
        self._tell(number)

    def _tell(self, step: int) -> None:
        a_step = sum(self._durations) / len(self._durations) if self._durations else None
        left = self._groups_left * self._steps - (step if step < self._steps else 0)
        self._report(
            StoryProgress(
                self._scenes,
                tuple(sorted(self._finished)),
                self._at_work,
                step,
                self._steps,
                a_step,
                None if a_step is None else a_step * max(left, 0),
            )
        )


def progress_printer(every: float = 1.0) -> Report:
    """Prints to stderr: the last step of each group, others at most once in `every` seconds."""
    printed = time.monotonic()

    def report(progress: StoryProgress) -> None:
        nonlocal printed
        now = time.monotonic()
        last = progress.step == progress.steps
        if not progress.at_work or not progress.step or (now - printed < every and not last):
            return
        printed = now
        print(progress, file=sys.stderr)

    return report
