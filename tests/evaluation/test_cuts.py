import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.evaluation.cuts import Tolerance, asked_cuts, match_cuts, score_cuts


def test_cuts_are_asked_for_where_scenes_meet():
    assert asked_cuts([5, 3, 4], [True, True]) == (5, 8)
    assert asked_cuts([5, 3, 4], [False, True]) == (8,)
    assert asked_cuts([5], []) == ()


def test_matching_by_hand():
    cuts = match_cuts([10, 20, 30], [9, 21, 22, 50], tolerance=2)
    assert cuts.matched == ((10, 9), (20, 21))
    assert cuts.missed == (30,) and cuts.extra == (22, 50)
    assert match_cuts([10], [12], 1).matched == ()
    assert match_cuts([10], [10], 0).matched == ((10, 10),)
    assert match_cuts([], [3], 2).extra == (3,) and match_cuts([3], [], 2).missed == (3,)


def test_as_many_as_can_be_are_matched():
    # The nearest pair alone (12 with 13) would leave 10 and 15 unmatched.
    assert match_cuts([10, 13], [12, 15], tolerance=2).matched == ((10, 12), (13, 15))
    # Of two ways to match as many, the one with the least distances.
    assert match_cuts([10, 12], [10, 12], tolerance=2).matched == ((10, 10), (12, 12))


def test_scores_by_hand():
    one = match_cuts([10, 20, 30], [9, 22, 50, 60], tolerance=2)  # offsets -1 and 2
    two = match_cuts([5], [5], tolerance=2)  # offset 0
    scores = score_cuts([one, two])
    assert (scores.matched, scores.missed, scores.extra) == (3, 1, 2)
    assert scores.precision.value == pytest.approx(3 / 5) and scores.precision.n == 5
    assert scores.recall.value == pytest.approx(3 / 4)
    assert scores.f1 == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4)) == 2 * 3 / 9
    assert scores.offset.value == pytest.approx(1 / 3)
    assert scores.distance.value == pytest.approx(1)
    assert scores.f1_low is not None and scores.f1_high is not None
    assert scores.f1_low <= 2 / 3 <= scores.f1_high
    said = "3 matched within 2 frames, 1 missed, 2 too many; on average 0.3 (-3.5 to 4.1) frames"
    assert said in scores.to_text()
    assert "precision 60.0 (23.1 to 88.2), recall 75.0" in scores.to_text()


def test_the_example_of_the_docs():
    scores = score_cuts([match_cuts([10, 20, 30], [9, 22, 50, 60], tolerance=2)])
    assert (scores.precision.value, scores.recall.value) == (2 / 4, 2 / 3)
    assert scores.f1 == pytest.approx(4 / 7)
    assert (scores.offset.value, scores.distance.value) == (0.5, 1.5)


def test_the_interval_of_f1_is_that_of_stories():
    same = match_cuts([5, 9], [5], 0)
    scores = score_cuts([same] * 5)
    assert scores.f1 == scores.f1_low == scores.f1_high == pytest.approx(2 / 3)
    assert score_cuts([same]).f1_low is None
    nothing = score_cuts([match_cuts([], [], 1)])
    assert nothing.f1 is None and nothing.precision.value is None
    assert "precision -, recall -, F1 - (per cent" in nothing.to_text()


cut_lists = st.lists(st.integers(0, 60), max_size=8, unique=True).map(sorted)


@given(asked=cut_lists, found=cut_lists, tolerance=st.integers(0, 9))
def test_each_cut_is_in_one_pair_at_most(asked, found, tolerance):
    cuts = match_cuts(asked, found, tolerance)
    assert all(abs(a - f) <= tolerance for a, f in cuts.matched)
    assert sorted([a for a, _ in cuts.matched] + list(cuts.missed)) == asked
    assert sorted([f for _, f in cuts.matched] + list(cuts.extra)) == found
    # Whatever is left could not be paired.
    assert all(abs(a - f) > tolerance for a in cuts.missed for f in cuts.extra)
    back = match_cuts(found, asked, tolerance)
    assert len(back.matched) == len(cuts.matched)


def test_tolerances():
    assert Tolerance(3).in_frames(25) == 3
    assert Tolerance(0.2, seconds=True).in_frames(25) == 5
    assert Tolerance(0.2, seconds=True).in_frames(24) == 4
    assert str(Tolerance(0.2, seconds=True)) == "0.2 s" and str(Tolerance(2)) == "2 frames"
