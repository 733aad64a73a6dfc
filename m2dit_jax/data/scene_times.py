"""The part of a video that a scene is, as a manifest says it: in seconds, exactly, in frames."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from m2dit_jax.utils.frame_times import ROUNDING

FIELDS = ("start", "end", "exact_start", "exact_end", "first_frame", "end_frame")
_MOST_FRAMES = 2**40


@dataclass(frozen=True)
class SceneTimes:
    """From `start` on and before `end`, in seconds from the first frame; None: the video's ends.

    `first_frame` and `end_frame`, the one after the last, are numbers from 0; they go before the
    seconds, which must say the same.
    """

    start: float | None = None
    end: float | None = None
    first_frame: int | None = None
    end_frame: int | None = None


def read_times(values: Mapping[str, Any]) -> tuple[SceneTimes, list[str]]:
    """The times that a scene of a manifest gives, and every problem with them."""
    problems: list[str] = []
    start, end = (_time(values, name, problems) for name in ("start", "end"))
    first, after = (_frame(values, name, problems) for name in ("first_frame", "end_frame"))
    if end is not None and end <= (start or 0):
        problems.append(f"end {end:g} must be after start {start or 0:g}")
    if after is not None and after <= (first or 0):
        problems.append(f"end_frame {after} must be after first_frame {first or 0}")
    return SceneTimes(start, end, first, after), problems


def _time(values: Mapping[str, Any], name: str, problems: list[str]) -> float | None:
    """The seconds: the exact ones if they are given, which the others may only round."""
    seconds = _seconds(values.get(name), name, problems)
    exact = _exact(values.get(f"exact_{name}"), f"exact_{name}", problems)
    if exact is None:
        return seconds
    # A decimal of the manifest and its binary fraction differ by less than that.
    if seconds is not None and abs(Fraction(seconds) - exact) > ROUNDING + Fraction(1, 10**9):
        problems.append(
            f"{name} {seconds:g} and exact_{name} {exact} (which is {float(exact):.6g}) differ, "
            "needs one of them, or the same in both"
        )
    return float(exact)


def _seconds(value: Any, name: str, problems: list[str]) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        problems.append(f"{name}: found {shown(value)}, needs seconds from 0 on")
        return None
    return number


def _exact(value: Any, name: str, problems: list[str]) -> Fraction | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(/0*[1-9][0-9]{0,17})?", value):
        return Fraction(value)
    problems.append(f"{name}: found {shown(value)}, needs seconds as a fraction, such as '25/24'")
    return None


def _frame(values: Mapping[str, Any], name: str, problems: list[str]) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_FRAMES:
        return value
    problems.append(f"{name}: found {shown(value)}, needs the number of a frame, from 0 on")
    return None


def shown(value: Any) -> str:
    """The value on one line of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
