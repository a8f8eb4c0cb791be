"""What few seeds and many counts can tell: intervals, paired differences, bounds on failures."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import NormalDist, mean, stdev
from typing import Any, NamedTuple

import mpmath
import pandas as pd

CONFIDENCE = 0.95


class Sample(NamedTuple):
    """Mean and standard deviation of ``n`` seeds, as a table prints them."""

    mean: float
    std: float
    n: int


class Interval(NamedTuple):
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether zero lies outside, so that the sign of the value is settled."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """``+0.82 [+0.40, +1.24]``, without the ends where there are none."""
        ends = f" [{self.low:+.2f}, {self.high:+.2f}]" if math.isfinite(self.low) else ""
        return f"{self.value:+.2f}{ends}"


@cache
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, for ``probability`` above one half: by secants from the normal one, below it."""

    def beyond(t: Any) -> Any:
        above = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) / 2
        return above - (1 - probability)

    return float(mpmath.findroot(beyond, NormalDist().inv_cdf(probability)))


def crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is zero, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return high


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with its t interval, unbounded for a single seed."""
    centre = mean(values) if len(values) else math.nan
    if len(values) < 2:
        return Interval(centre, -math.inf, math.inf)
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def paired(a: pd.Series, b: pd.Series) -> tuple[Interval, int]:
    """Mean of ``a - b`` over the seeds that both have, with its t interval, and the number of those seeds."""
    common = (a - b).dropna()
    return mean_interval(common), len(common)


def difference(a: Sample, b: Sample, confidence: float = CONFIDENCE) -> Interval:
    """``a - b`` for independent seeds, by Welch's t: what can be said when only means and deviations are printed."""
    return average_difference([(a, b)], confidence)


def average_difference(pairs: Sequence[tuple[Sample, Sample]], confidence: float = CONFIDENCE) -> Interval:
    """Mean of ``a - b`` over several independent pairs, with Welch and Satterthwaite's degrees of freedom."""
    centre = mean(a.mean - b.mean for a, b in pairs)
    parts = [(s.std**2 / s.n / len(pairs) ** 2, s.n - 1) for pair in pairs for s in pair]
    variance = sum(part for part, _ in parts)
    half = t_quantile((1 + confidence) / 2, variance**2 / sum(p**2 / n for p, n in parts)) * math.sqrt(variance)
    return Interval(centre, centre - half, centre + half)


def settled(pairs: Mapping[str, tuple[Sample, Sample]], confidence: float = CONFIDENCE) -> list[str]:
    """Names of the differences that are settled together: Holm's correction for asking of several at once."""
    open_ = dict(pairs)
    while open_:
        level = 1 - (1 - confidence) / len(open_)
        left = {name: pair for name, pair in open_.items() if not difference(*pair, level).decides}
        if len(left) == len(open_):
            break
        open_ = left
    return [name for name in pairs if name not in open_]


def wilson(agree: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """A share with Wilson's interval, between 0 and 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = agree / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def failure_bound(total: int) -> float:
    """Largest failure rate that ``total`` cases without a failure leave possible (Clopper and Pearson, one-sided)."""
    return 1 - (1 - CONFIDENCE) ** (1 / total)
