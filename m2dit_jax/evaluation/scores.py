"""What a score is: a share of cases or a mean over cases, each with its 95 % interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

_Z = 1.959964  # the normal distribution's two-sided 95 % point


@dataclass(frozen=True)
class Score:
    """A share of `n` cases with its 95 % interval (Wilson's); all None where there is no case."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, successes: int, n: int) -> "Score":
        """Raises ValueError unless 0 <= successes <= n."""
        if not 0 <= successes <= n:
            raise ValueError(f"needs 0 <= successes <= n, got {successes} of {n}")
        if n == 0:
            return cls(None, None, None, 0)
        share = successes / n
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = _Z * math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2) / (1 + _Z**2 / n)
        # The interval ends at 0 or 1 where the value does, but for rounding.
        low = 0.0 if successes == 0 else centre - reach
        high = 1.0 if successes == n else centre + reach
        return cls(share, low, high, n)

    @classmethod
    def pooled(cls, scores: Sequence["Score"]) -> "Score":
        """The score of all cases of several scores taken together."""
        return cls.of(sum(score.successes for score in scores), sum(score.n for score in scores))

    @property
    def successes(self) -> int:
        """The number of cases that `value` is a share of."""
        return 0 if self.value is None else round(self.value * self.n)

    @staticmethod
    def shown(value: float | None) -> str:
        """A value of such a score in per cent."""
        return "-" if value is None else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Mean:
    """A mean over `n` cases with its 95 % interval (Student's t).

    All None where there is no case; a single case has no interval: low and high are None.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """The mean of the values that are numbers; those that are NaN are no cases."""
        values = values[~np.isnan(values)]
        if len(values) == 0:
            return cls(None, None, None, 0)
        return cls._from_moments(
            len(values), float(values.mean()), float(((values - values.mean()) ** 2).sum())
        )

    @classmethod
    def pooled(cls, scores: Sequence["Mean"]) -> "Mean":
        """The score of all cases of several scores taken together."""
        told = [(s.n, s.value, s._squares()) for s in scores if s.value is not None]
        n = sum(count for count, _, _ in told)
        if n == 0:
            return cls(None, None, None, 0)
        value = sum(count * mean for count, mean, _ in told) / n
        squares = sum(within + count * (mean - value) ** 2 for count, mean, within in told)
        return cls._from_moments(n, value, squares)

    @classmethod
    def _from_moments(cls, n: int, value: float, squares: float) -> "Mean":
        if n == 1:
            return cls(value, None, None, 1)
        reach = float(stdtrit(n - 1, 0.975)) * math.sqrt(squares / (n - 1) / n)
        return cls(value, value - reach, value + reach, n)

    def _squares(self) -> float:
        """The sum of the squared deviations of the cases from their mean, out of the interval."""
        if self.value is None or self.high is None:
            return 0.0
        reach = self.high - self.value
        return (reach / float(stdtrit(self.n - 1, 0.975))) ** 2 * (self.n - 1) * self.n

    @staticmethod
    def shown(value: float | None) -> str:
        """A value of such a score, in its own unit."""
        return "-" if value is None else f"{value:.1f}"


@dataclass(frozen=True)
class BoundedScore:
    """A mean over `n` cases between its floor and its ceiling; None with a note on why."""

    value: float | None
    floor: float | None = None
    ceiling: float | None = None
    n: int = 0
    note: str = ""


def pooled(scores: Sequence[Score | Mean]) -> Score | Mean:
    """The score of all cases of several scores of one kind taken together."""
    means = [score for score in scores if isinstance(score, Mean)]
    if not means:
        return Score.pooled([score for score in scores if isinstance(score, Score)])
    if len(means) < len(scores):
        raise TypeError("shares and means cannot be taken together")
    return Mean.pooled(means)


def shown_interval(score: Score | Mean) -> str:
    """The value with its interval in brackets, if it has them."""
    if score.low is None:
        return score.shown(score.value)
    return f"{score.shown(score.value)} ({score.shown(score.low)} to {score.shown(score.high)})"
