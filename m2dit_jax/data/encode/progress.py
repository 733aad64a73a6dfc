"""How far the encoding is."""

import sys
import time

_LINE_EVERY = 10.0  # seconds, where there is no terminal
_REDRAW_EVERY = 0.2


class EncodeProgress:
    """Clips done, clips/s and time left, on stderr: one line redrawn on a terminal, else lines."""

    def __init__(self, total: int):
        self._total, self._done, self._failed = total, 0, 0
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def add(self, clips: int, failed: bool) -> None:
        """Counts clips as decoded or as failed and shows it if it is time to."""
        self._done += clips
        self._failed += clips * failed
        now, last = time.monotonic(), self._done >= self._total
        if last or now - self._shown > (_REDRAW_EVERY if self._terminal else _LINE_EVERY):
            self._shown = now
            begin, end = ("\r", "  \n" if last else "  ") if self._terminal else ("", "\n")
            sys.stderr.write(f"{begin}{self._numbers()}{end}")
            sys.stderr.flush()

    def _numbers(self) -> str:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        hours, rest = divmod(round(left), 3600)
        failed = f", {self._failed} skipped" if self._failed else ""
        return (
            f"{self._done} of {self._total} clips{failed}, {rate:.2f} clips/s, "
            f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"
        )
