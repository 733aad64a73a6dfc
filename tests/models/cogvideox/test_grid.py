import numpy as np
import pytest

from m2dit_jax.models.cogvideox.grid import fit_into, spread_over_grid


@pytest.mark.parametrize(
    ("grid", "base", "corners"),
    [
        ((4, 6), (4, 6), ((0, 0), (4, 6))),  # the base itself
        ((8, 12), (4, 6), ((0, 0), (4, 6))),  # the same aspect
        ((6, 6), (4, 6), ((0, 1), (4, 5))),  # narrower: full height, centred
        ((2, 8), (4, 6), ((1, 0), (3, 6))),  # wider: full width, 1.5 rows, and (4 - 2) / 2 = 1
        ((3, 3), (30, 45), ((0, 8), (30, 38))),  # 7.5 columns on each side
        ((30, 45), (3, 3), ((0, 0), (2, 3))),  # half a row on each side
    ],
)
def test_a_grid_is_fitted_and_centred(grid, base, corners):
    assert fit_into(*grid, *base) == corners


def test_sizes_are_rounded_half_to_even():
    # 1 x 2 in a base of width 3 would be 1.5 rows high, and 1 x 2 in one of width 5 2.5 rows.
    assert fit_into(1, 2, 9, 3) == ((4, 0), (6, 3))  # (9 - 2) / 2 = 3.5
    assert fit_into(1, 2, 8, 5) == ((3, 0), (5, 5))
    assert fit_into(2, 1, 5, 6) == ((0, 2), (5, 4))


def test_offsets_are_rounded_half_to_even():
    tops = [fit_into(1, 1, height, 2)[0][0] for height in (3, 5, 7, 9)]
    assert tops == [0, 2, 2, 4]  # of 0.5, 1.5, 2.5, 3.5


def test_features_of_each_axis_are_spread_over_the_others():
    time = np.array([[0.0], [100.0]])
    rows = np.array([[0.0, 0.5], [10.0, 10.5]])
    columns = np.array([[0.0], [1.0], [2.0]])
    spread = spread_over_grid((2, 2, 3), [(0, time), (1, rows), (2, columns)])
    assert spread.shape == (12, 4)
    # Columns are fastest, then rows, then frames.
    np.testing.assert_array_equal(spread[:, 0], [0] * 6 + [100] * 6)
    np.testing.assert_array_equal(spread[:, 1], [0, 0, 0, 10, 10, 10] * 2)
    np.testing.assert_array_equal(spread[:, 2], [0.5, 0.5, 0.5, 10.5, 10.5, 10.5] * 2)
    np.testing.assert_array_equal(spread[:, 3], [0, 1, 2] * 4)


def test_features_are_laid_side_by_side_in_the_given_order():
    tables = [(2, np.array([[1.0], [2.0]])), (0, np.array([[7.0]]))]
    np.testing.assert_array_equal(spread_over_grid((1, 1, 2), tables), [[1, 7], [2, 7]])
