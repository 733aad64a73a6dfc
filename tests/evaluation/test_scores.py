from typing import Any

import numpy as np
import pytest

from m2dit_jax.evaluation.scores import Mean, Score, shown_interval


def interval(score) -> Any:
    return score.low, score.value, score.high


def test_a_score_has_wilsons_interval():
    # R: prop.test(8, 10, correct = FALSE)$conf.int
    score = Score.of(8, 10)
    np.testing.assert_allclose(interval(score), [0.4901625, 0.8, 0.9433178], rtol=1e-6)
    assert score.n == 10


@pytest.mark.parametrize("n", [1, 7, 256, 769])
def test_the_interval_stays_within_0_and_1_and_holds_the_value(n):
    for successes in (0, n // 2, n):
        score = Score.of(successes, n)
        low, value, high = interval(score)
        assert 0 <= low <= value <= high <= 1
        assert low < high
        assert score.successes == successes


def test_a_score_of_no_cases_has_no_value():
    assert Score.of(0, 0) == Score(None, None, None, 0)
    assert Score.of(0, 0).successes == 0


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        Score.of(successes, n)


def test_pooled_scores_count_every_case_once():
    assert Score.pooled([Score.of(1, 3), Score.of(0, 0), Score.of(9, 9)]) == Score.of(10, 12)


def test_a_mean_has_students_interval():
    # 5 and 3.182446 (t of 3 degrees of freedom) times the root of 26 / 3 / 4 about it.
    mean = Mean.of(np.array([2.0, 4.0, 9.0, 5.0]))
    np.testing.assert_allclose(interval(mean), [0.3155659, 5.0, 9.6844341], rtol=1e-6)
    assert mean.n == 4
    assert shown_interval(mean) == "5.0 (0.3 to 9.7)"


def test_values_that_are_no_numbers_are_no_cases():
    assert Mean.of(np.array([np.nan, 3.0])) == Mean(3.0, None, None, 1)
    assert Mean.of(np.array([np.nan])) == Mean.of(np.empty(0)) == Mean(None, None, None, 0)
    assert shown_interval(Mean.of(np.array([3.0]))) == "3.0"
    assert shown_interval(Mean.of(np.empty(0))) == "-"


@pytest.mark.parametrize("sizes", [(5, 1, 0, 8), (1, 1), (2,), (1,), (0, 0)])
def test_pooled_means_are_those_of_all_values(sizes):
    parts = [np.random.default_rng(n).normal(7, 2, n) + i for i, n in enumerate(sizes)]
    pooled, whole = Mean.pooled([Mean.of(p) for p in parts]), Mean.of(np.concatenate(parts))
    assert pooled.n == whole.n
    for one, other in zip(interval(pooled), interval(whole), strict=True):
        assert one == (other if other is None else pytest.approx(other))


def test_cases_that_all_agree_have_an_interval_of_no_width():
    assert Mean.of(np.full(9, 60.0)) == Mean(60.0, 60.0, 60.0, 9)
