import asyncio

import pytest

from m2dit_jax.utils.errors import raise_interrupt


def chained(kind, *causes):
    """An error of the first kind, caused by one of the next, and so on."""
    error = kind("x")
    if causes:
        error.__cause__ = chained(*causes)
    return error


@pytest.mark.parametrize("hidden", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupt_behind_other_errors_is_raised(hidden):
    with pytest.raises(KeyboardInterrupt):
        raise_interrupt(chained(ValueError, RuntimeError, hidden))
    grouped = ExceptionGroup("several", [OSError("a"), chained(ValueError, KeyError)])
    raise_interrupt(grouped)
    try:
        try:
            raise hidden
        finally:
            raise OSError("while it was handled")
    except OSError as error:
        with pytest.raises(KeyboardInterrupt):
            raise_interrupt(error)


def test_other_errors_pass():
    error = chained(ValueError, RuntimeError)
    assert error is not None
    error.__context__ = error  # libraries make circles
    raise_interrupt(error)
