"""Errors of our own, and what lies behind errors of libraries."""

import asyncio
from collections.abc import Iterator


class WorkFailed(Exception):
    """Work that failed though its input was right; commands end with status 1 and the message."""


class NotFinite(WorkFailed):
    """Computed numbers that are infinite or no numbers."""


class Superseded(ValueError):
    """What was being read has been replaced: the same work, begun again, reads what is new."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that it came from or was raised while handling."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:  # libraries make circles
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def raise_interrupt(error: BaseException) -> None:
    """Raises KeyboardInterrupt if one lies behind the error.

    Libraries wrap what interrupts them in errors of their own, which then look like damage.
    """
    for one in causes(error):
        if isinstance(one, KeyboardInterrupt):
            raise one
        if isinstance(one, asyncio.CancelledError):  # what asyncio.run makes of the first Ctrl-C
            raise KeyboardInterrupt from one
