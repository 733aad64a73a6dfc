"""Errors that are not what they look like."""

import asyncio


class Superseded(ValueError):
    """What was being read has been replaced: the same work, begun again, reads what is new."""


def raise_interrupt(error: BaseException) -> None:
    """Raises KeyboardInterrupt if one lies behind the error.

    Libraries wrap what interrupts them in errors of their own, which then look like damage.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, KeyboardInterrupt):
            raise one
        if isinstance(one, asyncio.CancelledError):  # what asyncio.run makes of the first Ctrl-C
            raise KeyboardInterrupt from one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
