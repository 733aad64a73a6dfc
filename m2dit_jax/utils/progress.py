"""Progress of long work on stderr, by tqdm."""

import sys
import threading
from io import TextIOBase
from typing import Any

from tqdm import tqdm

from m2dit_jax.utils.sizes import size_text

_NUMBERS = "{n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
_BYTES = "{n_size} of {total_size}, {rate_noinv_fmt}, {remaining} left{postfix}"
_REDRAW_EVERY = 0.2  # seconds, on a terminal
_LINE_EVERY = 10.0  # seconds, elsewhere: in a log each state is a line


class ProgressBar(tqdm):
    """A tqdm bar that starts no thread and no semaphore: workers may be forked beside it."""

    monitor_interval = 0

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `bar_format` may name: with sizes, for bars of bytes."""
        values = super().format_dict
        sizes = {"n_size": size_text(values["n"]), "total_size": size_text(values["total"] or 0)}
        return {**values, **sizes}


ProgressBar.set_lock(threading.RLock())


def progress_bar(total: int, desc: str, unit: str) -> ProgressBar:
    """A bar with count, rate and time left on stderr; one line now and then if it is no terminal.

    Use it in `with` and call `update(n)`; `set_postfix_str(text, refresh=False)` adds a remark.
    `unit` is a plural such as "stories", or "B": bytes are shown as MB and GB. Where there is
    nothing to do nothing is shown.
    """
    numbers = _BYTES if unit == "B" else _NUMBERS
    terminal = sys.stderr.isatty()
    return ProgressBar(
        total=total,
        desc=f"{desc}: ",
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        bar_format=("{desc}{percentage:3.0f}%|{bar}| " if terminal else "{desc}") + numbers,
        file=sys.stderr if terminal else _Lines(),
        mininterval=_REDRAW_EVERY if terminal else _LINE_EVERY,
        miniters=1,
        dynamic_ncols=terminal,
        disable=not total,
    )


class _Lines(TextIOBase):
    """stderr with a line for each state that tqdm would draw over the last one."""

    def write(self, text: str) -> int:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
