from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.utils.frame_times import (
    ROUNDING,
    FramesAtRate,
    are_even,
    evenly_in_time,
    evenly_spaced,
    first_frame_at,
    nearest_frame,
    read_rate,
    usual_step,
)

RATES = [24, 25, 30, 60, 120, 240, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25, 2)]
UNIT = 90_000  # time stamps a second


def times_of(rate, count, first=0):
    return [first + round(number * UNIT / Fraction(rate)) for number in range(count)]


ascending = st.lists(st.integers(1, 50), min_size=1, max_size=40).map(
    lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
)


@given(
    rate=st.sampled_from(RATES),
    number=st.integers(0, 99),
    first=st.integers(-1000, 1000),
    direction=st.sampled_from(["nearest", "down", "up"]),
)
def test_seconds_of_three_decimals_name_the_frame_that_they_round(rate, number, first, direction):
    exact = 1000 * number / Fraction(rate)
    thousandths = {"nearest": round(exact), "down": exact // 1, "up": -(-exact // 1)}[direction]
    times = times_of(rate, 100, first)
    moment = first + UNIT * Fraction(float(thousandths) / 1000)
    assert first_frame_at(times, moment, UNIT * ROUNDING) == number


def test_a_frame_is_at_a_moment_just_after_it_only():
    times = [0, 1000, 2000, 3000]
    assert first_frame_at(times, Fraction(1100), Fraction(100)) == 1
    assert first_frame_at(times, Fraction(1101), Fraction(100)) == 2
    assert first_frame_at(times, Fraction(999), Fraction(100)) == 1
    assert first_frame_at(times, Fraction(3100), Fraction(100)) == 3
    assert first_frame_at(times, Fraction(3101), Fraction(100)) == 4
    # Of frames that are close together the rounding is a quarter of their distance.
    assert first_frame_at([0, 40, 80], Fraction(50), Fraction(100)) == 1
    assert first_frame_at([0, 40, 80], Fraction(51), Fraction(100)) == 2


@given(times=ascending, moment=st.integers(-10, 3000))
def test_the_nearest_frame_is_nearest(times, moment):
    found = nearest_frame(times, moment)
    assert abs(times[found] - moment) == min(abs(time - moment) for time in times)


@given(rate=st.sampled_from(RATES), count=st.integers(1, 200), wanted=st.integers(1, 50))
def test_at_a_constant_rate_evenly_in_time_is_evenly_in_numbers(rate, count, wanted):
    times = times_of(rate, max(count, wanted))
    assert are_even(times)
    assert evenly_in_time(times, wanted) == evenly_spaced(len(times), wanted)


@given(times=ascending, data=st.data())
def test_evenly_in_time_is_as_near_as_the_frames_allow(times, data):
    wanted = data.draw(st.integers(1, len(times)))
    found = evenly_in_time(times, wanted)
    assert len(found) == wanted and found == sorted(found)
    if wanted > 1:
        span = Fraction(times[-1] - times[0], wanted - 1)
        limit = max([b - a for a, b in zip(times, times[1:], strict=False)])
        for number, frame in enumerate(found):
            assert abs(times[frame] - times[0] - number * span) <= limit


def test_evenly_in_time_when_the_rate_changes():
    times = [*range(0, 1000, 100), *range(1000, 2001, 10)]  # 10, then 100 a second
    assert evenly_in_time(times, 5) == [0, 5, 10, 60, 110]
    assert evenly_spaced(len(times), 5) == [0, 28, 55, 82, 110]
    with pytest.raises(ValueError, match="needs 5 frames, found 4"):
        evenly_in_time([0, 1, 2, 3], 5)


def test_what_counts_as_a_constant_rate():
    assert are_even([0, 42, 83, 125, 167, 208])  # 24 a second in whole milliseconds
    assert are_even([0]) and are_even([0, 7])
    assert not are_even([0, 10, 20, 30, 50, 60, 70])  # one frame was dropped


def test_the_usual_step_is_not_that_of_gaps_or_pulldown():
    assert usual_step([10 * n for n in range(100) if n != 50]) == 10
    pulldown = [n // 2 * 80 + n % 2 * 30 for n in range(100)]  # 30, 50, 30, 50
    assert usual_step(pulldown) == 40
    assert usual_step([5]) == 1


@given(rate=st.sampled_from(RATES), count=st.integers(1, 200))
def test_frames_at_their_own_rate_are_all_frames(rate, count):
    times = times_of(rate, count)
    assert list(FramesAtRate(times, UNIT / Fraction(rate))) == list(range(count))


def test_frames_at_another_rate():
    second = times_of(60, 60)
    assert list(FramesAtRate(second, Fraction(UNIT, 24)))[:6] == [0, 2, 5, 7, 10, 12]
    assert len(FramesAtRate(second, Fraction(UNIT, 24))) == 24
    few = times_of(12, 3)
    assert list(FramesAtRate(few, Fraction(UNIT, 24))) == [0, 0, 1, 1, 2]
    assert FramesAtRate(second, Fraction(UNIT, 24))[-1] == 57
    assert FramesAtRate(second, Fraction(UNIT, 24))[1:3] == [2, 5]


def test_rates_are_exact_or_refused():
    assert read_rate("24000/1001") == Fraction(24000, 1001)
    assert read_rate("23.976") == Fraction(23976, 1000)
    assert read_rate("24.0") == 24
    for text in ("0", "-1", "inf", "nan", "1e9", "1/0", "1001", "", "24 fps", "0.001"):
        with pytest.raises(ValueError, match="needs frames per second from 0.01 to 1000"):
            read_rate(text)
