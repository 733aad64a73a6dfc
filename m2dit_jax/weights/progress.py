"""How far a long copy is."""

import sys
import time

_LINE_EVERY = 0.25  # of the whole, where there is no terminal
_REDRAW_EVERY = 0.2  # seconds


class Progress:
    """Bytes done, rate and time left, on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._terminal = sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()
        self._next_line = _LINE_EVERY

    def add(self, nbytes: int) -> None:
        """Counts bytes as done and shows it if it is time to."""
        self._done += nbytes
        share = self._done / max(self._total, 1)
        if self._terminal:
            if time.monotonic() - self._drawn > _REDRAW_EVERY or self._done >= self._total:
                self._drawn = time.monotonic()
                bar = f"[{'#' * int(30 * share):30}]"
                end = "\n" if self._done >= self._total else ""
                sys.stderr.write(f"\r{bar} {self._numbers()}  {end}")
        elif share >= self._next_line:
            self._next_line += _LINE_EVERY * int((share - self._next_line) / _LINE_EVERY + 1)
            sys.stderr.write(f"{self._numbers()}\n")
        sys.stderr.flush()

    def _numbers(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self._done / seconds
        left = (self._total - self._done) / max(rate, 1)
        return (
            f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB, {rate / 1e6:.0f} MB/s, "
            f"{left:.0f} s left"
        )
