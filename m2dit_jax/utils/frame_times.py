"""Frames chosen by the time at which they are shown, which need not be evenly spaced.

Times are whole numbers of some unit, strictly ascending, one a frame.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from statistics import median_low
from typing import overload

import numpy as np

FPS_RANGE = (0.01, 1000)  # frames per second that a file or a user can mean
# Seconds written with three decimals, rounded in whichever direction, are no further off.
ROUNDING = Fraction(1, 1000)
_QUARTER = Fraction(1, 4)
_WINDOW = 10  # frames over which a usual distance is taken, so that pulldown has one


def read_rate(text: str) -> Fraction:
    """A frame rate such as 24, 23.976 or 24000/1001, exactly.

    Raises ValueError unless it is within FPS_RANGE.
    """
    least, most = FPS_RANGE
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?|\d{1,9}/[1-9]\d{0,8}", text.strip()):
        rate = Fraction(text.strip())
        if least <= rate <= most:
            return rate
    raise ValueError(
        f"found {text!r}, needs frames per second from {least:g} to {most}, such as 24 or "
        "24000/1001"
    )


def usual_step(times: Sequence[int]) -> Fraction:
    """Distance of two frames, in the times' unit: that of most stretches of the video.

    One frame alone has the distance 1.
    """
    if len(times) < 2:
        return Fraction(1)
    window = min(_WINDOW, len(times) - 1)
    spans = [b - a for a, b in zip(times, times[window:], strict=False)]
    return Fraction(median_low(spans), window)


def are_even(times: Sequence[int]) -> bool:
    """Whether the rate is constant: no frame is a quarter of a step from its place or more."""
    if len(times) < 3:
        return True
    first, steps = times[0], len(times) - 1
    span = times[-1] - first
    worst = max(abs((time - first) * steps - number * span) for number, time in enumerate(times))
    return 4 * worst < span


def first_frame_at(times: Sequence[int], moment: Fraction, rounding: Fraction) -> int:
    """Number of the first frame that is shown at a moment or later; len(times) if none is.

    A frame that is shown up to `rounding` before the moment counts as shown at it, unless that is
    more than a quarter of its distance to the next one.
    """
    number = bisect_left(times, moment)
    if number == 0:
        return 0
    after = min(number, len(times) - 1)
    step = times[after] - times[after - 1] if after else 1
    early = moment - times[number - 1]
    return number - 1 if early <= min(rounding, _QUARTER * step) else number


def nearest_frame(times: Sequence[int], moment: Fraction | int) -> int:
    """Number of the frame whose time is nearest, the earlier one of two."""
    number = bisect_left(times, moment)
    if number == len(times):
        return number - 1
    if number and moment - times[number - 1] <= times[number] - moment:
        return number - 1
    return number


class FramesAtRate(Sequence[int]):
    """Numbers of the frames nearest to every `step` (in the times' unit) from the first frame on.

    The last one is at the last frame, or up to a quarter of a step after it. Where frames are
    further apart than `step`, they come several times. Each is looked up when it is asked for.
    """

    def __init__(self, times: Sequence[int], step: Fraction):
        self._times, self._step = times, step
        self._count = int((times[-1] - times[0]) / step + _QUARTER) + 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...

    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(self._count)[index]  # counts from the end, and refuses what is beyond
        return nearest_frame(self._times, self._times[0] + number * self._step)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` frames, evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def evenly_in_time(times: Sequence[int], wanted: int) -> list[int]:
    """Numbers of `wanted` frames, evenly in time from the first to the last.

    At a constant rate these are `evenly_spaced`; else a frame that is shown for long may come
    several times. Raises ValueError if there are fewer frames than wanted.
    """
    if wanted < 1 or len(times) < wanted:
        raise ValueError(f"needs {wanted} frames, found {len(times)}")
    if wanted == 1 or are_even(times):
        return evenly_spaced(len(times), wanted)
    span = Fraction(times[-1] - times[0], wanted - 1)
    return [nearest_frame(times, times[0] + number * span) for number in range(wanted)]
