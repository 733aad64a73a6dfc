"""Stories are made one at a time, in the order asked for, and can be cancelled."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from m2dit_jax.stories.progress import Report, StoryProgress
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.disks import in_words
from m2dit_jax.utils.errors import WorkFailed

Make = Callable[[Storyboard, Path, Report], None]
State = Literal["waiting", "running", "done", "cancelled", "failed"]


class Cancelled(Exception):
    """Raised out of a report of progress, which ends the making of a story."""


class Run:
    """The making of one story. `error` is text for the user if it failed.

    `changed` is the time, in seconds by `time.monotonic`, of the last change of its scenes at work,
    `seconds` how long it took.
    """

    def __init__(self, storyboard: Storyboard, folder: Path):
        self.storyboard = storyboard
        self.folder = folder
        self.state: State = "waiting"
        self.progress: StoryProgress | None = None
        self.error = ""
        self.changed = self._started = time.monotonic()
        self.seconds = 0.0
        self.ended = threading.Event()
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Takes effect at the next report of progress; what is finished stays."""
        self._cancel.set()

    def report(self, progress: StoryProgress) -> None:
        if self.progress is None or self.progress.at_work != progress.at_work:
            self.changed = time.monotonic()
        self.progress = progress
        self.check()

    def begin(self) -> None:
        """Notes that its turn has come."""
        self.changed = self._started = time.monotonic()
        self.state = "running"

    def end(self) -> None:
        """Notes that nothing more will happen."""
        self.seconds = time.monotonic() - self._started
        self.ended.set()

    def check(self) -> None:
        """Raises Cancelled if it was."""
        if self._cancel.is_set():
            raise Cancelled


class Runner:
    """Runs `make` for one story after another, each in a thread of its own."""

    def __init__(self, make: Make):
        self._make = make
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._runs: dict[Path, Run] = {}

    def start(
        self, storyboard: Storyboard, folder: Path, first: Callable[[], object] = lambda: None
    ) -> Run:
        """Calls `first`, whose errors pass, and lets the story be made.

        Raises ValueError while the same story is being made.
        """
        with self._guard:
            if (old := self._runs.get(folder)) and not old.ended.is_set():
                raise ValueError(f"{folder.name} is being made already: cancel it, or wait")
            first()
            run = self._runs[folder] = Run(storyboard, folder)
        threading.Thread(target=self._run, args=(run,), daemon=True).start()
        return run

    def of(self, folder: Path) -> Run | None:
        """The latest run of a story since the app was started."""
        return self._runs.get(folder)

    def _run(self, run: Run) -> None:
        try:
            while not self._turn.acquire(timeout=0.2):
                run.check()
            try:
                run.check()
                run.begin()
                self._make(run.storyboard, run.folder, run.report)
            finally:
                self._turn.release()
            run.state = "done"
        except Cancelled:
            run.state = "cancelled"
        except (ValueError, WorkFailed) as error:
            run.error, run.state = str(error), "failed"
        except Exception as error:  # the thread's end: the user is told, the terminal has the rest
            line = in_words(error)
            if line is None:
                traceback.print_exc(file=sys.stderr)
                line = f"{type(error).__name__}: {error} (the terminal says more)"
            run.error, run.state = line, "failed"
        finally:
            run.end()
