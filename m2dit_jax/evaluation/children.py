"""Commands of this package in processes of their own, which can be stopped."""

import os
import subprocess
import sys
import threading
from pathlib import Path


class RunFailed(RuntimeError):
    """A training or evaluation that ended with an error, which it has printed itself."""


class Children:
    """Processes of `python -m`, whose lines are printed with a label in front."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, label: str, module: str, *flags: str) -> None:
        """Runs to the end. Raises RunFailed unless the status is 0."""
        with self._lock:
            if self._stopped:
                raise RunFailed(f"{label}: not started, since the comparison was stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", module, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()},
                # Ctrl-C is for this process alone, which then tells each child once.
                process_group=0,
            )
            self._running.add(process)
        with process:
            for line in process.stdout or ():
                print(f"[{label}] {line}", end="", flush=True)
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            raise RunFailed(f"{label}: {module} ended with status {process.returncode}")

    def stop(self) -> None:
        """Terminates what runs, which lets a training save, and starts no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def core_shares(jobs: int) -> list[set[int]]:
    """The cores that this process may use, dealt out; with more jobs than cores some are shared.

    Two runs that each use all cores would wait for each other in every operation.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    if jobs >= len(cores):
        return [{cores[job % len(cores)]} for job in range(jobs)]
    return [
        set(cores[job * len(cores) // jobs : (job + 1) * len(cores) // jobs]) for job in range(jobs)
    ]


def pin(cores: set[int]) -> None:
    """Keeps this thread, and the processes that it starts, on these cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def _python_path() -> str:
    """PYTHONPATH with the folder of this package, wherever the command was started."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
