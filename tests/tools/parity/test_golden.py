import math

import numpy as np
import pytest

from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.tools.parity.golden import Case, GoldenFile, compare, failure, read_npz


def golden_file(**arrays) -> GoldenFile:
    return GoldenFile("some.npz", {name: np.asarray(value) for name, value in arrays.items()})


def test_every_array_is_an_input_or_compared_or_fails():
    file = golden_file(given=[1.0], made=[2.0], unread=[3.0], also_unread=[4.0])
    file.input("given")
    file.expect("made", [2.25], 0.5)
    file.add("some.npz:another", 1, 1, 0.0)
    made, another, *unread = file.finish()
    assert made == Case("some.npz:made", 0.25, 0.5, passed=True)
    assert another == Case("some.npz:another", 0.0, 0.0, passed=True)
    assert [case.case for case in unread] == ["some.npz:also_unread", "some.npz:unread"]
    assert all(not case.passed and case.note == "not exercised" for case in unread)


def test_names_of_arrays():
    file = golden_file(first=1, second=2)
    assert file.arrays == ("first", "second")
    assert "first" in file and "third" not in file
    assert file.number("second") == 2
    with pytest.raises(KeyError, match="third"):
        file.input("third")
    with pytest.raises(KeyError, match="third"):
        file.expect("third", 1, 0.0)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_inputs_are_finite(number):
    with pytest.raises(ValueError, match="given has numbers that are not finite"):
        golden_file(given=[1.0, number]).input("given")


def test_timesteps_are_within_the_schedule():
    file = golden_file(good=[0, 999], late=[3, 1000], early=[-1, 3])
    np.testing.assert_array_equal(file.timesteps("good", NoiseSchedule()), [0, 999])
    for array in ("late", "early"):
        with pytest.raises(ValueError, match=f"{array} has timesteps outside 0..999"):
            file.timesteps(array, NoiseSchedule())


def test_the_error_is_the_largest_difference():
    case = compare("name", np.float32([1, -2, 3]), np.array([1, -2.5, 3.25]), 0.5)
    assert (case.error, case.limit, case.passed) == (0.5, 0.5, True)
    assert not compare("name", [0.0], [0.51], 0.5).passed


def test_the_error_can_be_relative_to_the_largest_value():
    assert compare("name", [1.0, 200.0], [2.0, 200.0], 0.005, relative=True).error == 0.005
    assert not compare("name", [1.0, 200.0], [4.0, 200.0], 0.005, relative=True).passed


@pytest.mark.parametrize(
    ("ours", "expected"), [([np.nan], [1.0]), ([1.0], [np.nan]), ([np.nan], [np.nan])]
)
def test_nan_fails_on_either_side(ours, expected):
    case = compare("name", ours, expected, math.inf)
    assert not case.passed
    assert math.isnan(case.error)


def test_infinity_fails():
    assert not compare("name", [np.inf], [1.0], 1e9).passed
    assert not compare("name", [np.inf], [np.inf], 1e9).passed


def test_shapes_are_not_broadcast():
    case = compare("name", np.ones(3), np.ones((1, 3)), 1.0)
    assert not case.passed
    assert case.note == "has shape (3,), the reference (1, 3)"


def test_nothing_is_not_equal_to_nothing():
    assert compare("name", [], [], 1.0).note == "is empty"
    assert not compare("name", [], [], 1.0).passed


def test_truth_values_and_whole_numbers_are_compared_too():
    assert compare("name", [True, False], [True, False], 0.0).passed
    assert compare("name", [True, False], [True, True], 0.0).error == 1
    assert not compare("name", np.array([3], np.uint8), np.array([4], np.uint8), 0.0).passed


def test_a_failure_has_no_number():
    case = failure("name", "why", 0.5)
    assert math.isnan(case.error)
    assert (case.case, case.note, case.limit, case.passed) == ("name", "why", 0.5, False)


def test_only_plain_arrays_are_read(tmp_path):
    np.savez(tmp_path / "good.npz", x=np.arange(3))
    np.testing.assert_array_equal(read_npz(tmp_path, "good.npz").input("x"), [0, 1, 2])
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:50])
    for name in ("pickled.npz", "broken.npz", "absent.npz"):
        with pytest.raises(ValueError, match=f"{name}: not a readable npz file"):
            read_npz(tmp_path, name)
