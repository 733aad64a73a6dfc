"""Stopping a run in good order when the user or the scheduler asks for it."""

import os
import signal
from types import FrameType, TracebackType

import jax

from m2dit_jax.parallel.processes import preempted
from m2dit_jax.utils.stopping import SIGNALS


class StopOnSignal:
    """A context in which SIGINT and SIGTERM only set `received`; the second of a kind kills.

    Of several processes each may get the signal: JAX listens for SIGTERM and tells the others, so
    that all stop after the same step. There SIGINT counts as SIGTERM.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._alone = jax.process_count() == 1
        self._previous = {}

    def __enter__(self) -> "StopOnSignal":
        numbers = SIGNALS if self._alone else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """Whether the run is to stop after this step; every step must ask."""
        if preempted(step):
            self.received = signal.SIGTERM
        return self.received is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.received = signal.Signals(number)
        # Not print, which fails if the signal came in the middle of another print.
        text = (
            f"\n{self.received.name}: saving after the steps under way; once more aborts at once\n"
        )
        os.write(2, text.encode())
