"""Intervals, power and bounds, against tables of the distributions and against chance itself."""

import math
import random
from statistics import fmean, stdev
from types import SimpleNamespace

import pandas as pd
import pytest

from lps.notebooks.cells import left_by
from lps.report import frame, paper, statistics
from lps.report.statistics import Sample

page = SimpleNamespace(**left_by("statistics", "evidence"))


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (1e6, 1.960)]
)
def test_quantiles_of_t_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert statistics.t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-4)


def test_one_seed_bounds_nothing() -> None:
    assert statistics.mean_interval([3.0]) == (3.0, -math.inf, math.inf)
    assert not statistics.mean_interval([3.0]).decides
    assert statistics.paired(pd.Series({0: 1.0}), pd.Series({1: 1.0}))[1] == 0


def test_the_interval_of_a_mean() -> None:
    interval = statistics.mean_interval([1.0, 2.0, 3.0])
    half = 4.3027 / math.sqrt(3)
    assert interval == pytest.approx((2.0, 2.0 - half, 2.0 + half), abs=1e-3)


def test_welch_agrees_with_a_worked_example() -> None:
    """Equal spreads and numbers are Student's two-sample t: 8 degrees of freedom, 2.306 standard errors."""
    interval = statistics.difference(Sample(2.0, 1.0, 5), Sample(1.0, 1.0, 5))
    half = 2.306 * math.sqrt(2 / 5)
    assert interval == pytest.approx((1.0, 1.0 - half, 1.0 + half), abs=1e-3)
    twice = statistics.average_difference([(Sample(2.0, 1.0, 5), Sample(1.0, 1.0, 5))] * 2)
    assert twice.value == 1.0 and twice.high - twice.low < interval.high - interval.low


def test_asking_five_questions_settles_less_than_asking_one() -> None:
    clear, close, none = (Sample(gap, 1.0, 5) for gap in (4.0, 1.5, 0.1))
    zero = Sample(0.0, 1.0, 5)
    assert statistics.difference(close, zero).decides  # p is about .045
    assert statistics.settled({"close": (close, zero)}) == ["close"]
    assert statistics.settled({"clear": (clear, zero), "close": (close, zero)}) == ["clear", "close"]
    assert statistics.settled({"close": (close, zero), "none": (none, zero)}) == []
    paper_gains = paper.printed_samples("LPS", "APS")
    assert statistics.settled(paper_gains) == ["Tri-3"]


def test_seventeen_a_group_find_one_deviation() -> None:
    """The textbook number for a power of 80 % at 5 %, two sides."""
    assert page.seeds_needed(1.0, 1.0, 1.0) == 17
    assert page.detectable(1.0, 1.0, 17) == pytest.approx(0.99, abs=0.01)
    assert page.power(0.0, 1.0, 1.0, 5) == pytest.approx(0.05, abs=1e-3)


def test_power_is_how_often_the_test_decides() -> None:
    rng = random.Random(0)

    def run(mean: float) -> Sample:
        values = [rng.gauss(mean, 1.0) for _ in range(6)]
        return Sample(fmean(values), stdev(values), len(values))

    trials = 250
    decided = sum(statistics.difference(run(1.5), run(0.0)).decides for _ in range(trials))
    assert decided / trials == pytest.approx(page.power(1.5, 1.0, 1.0, 6), abs=0.08)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_gap_that_few_pairs_find_is_found_as_often_as_it_says(seeds: int) -> None:
    rng = random.Random(seeds)
    gap = page.detectable(1.0, 0.5, seeds, test=page.paired_power)

    def run(mean: float, deviation: float) -> pd.Series:
        return pd.Series([rng.gauss(mean, deviation) for _ in range(seeds)])

    trials = 4000
    decided = sum(statistics.paired(run(gap, 1.0), run(0.0, 0.5))[0].decides for _ in range(trials))
    assert decided / trials == pytest.approx(0.8, abs=0.02)
    assert page.paired_power(0.0, 1.0, 0.5, seeds) == pytest.approx(0.05, abs=1e-3)


def test_the_table_of_seeds_takes_the_gap_of_pairs() -> None:
    """Two samples with known degrees of freedom, which it took before, promise too much."""
    assert page.paired_power(page.detectable(1.0, 1.0, 3), 1.0, 1.0, 3) < 0.6
    names = ("table", "method", "antialias", "metric", "as_profile", *frame.GROUP)
    about = dict(zip(names, ("table1", "", "-", "acc", True, "reduced", "cifar10", "0"), strict=True)) | {
        "stale": False
    }
    made = [
        {**about, "run": run, "row": f"table1/{method}", "method": method, "seed": seed, "value": 70.0 + seed}
        for run, (method, seed) in enumerate((m, s) for m in ("LPS", "APS") for s in range(2))
    ]
    line = next(line for line in page.seeds_table(pd.DataFrame(made)) if line["n"] == 2)
    lps, aps = paper.printed_samples("LPS", "APS")[line["antialias"]]
    assert line["gap"] == page.detectable(lps.std, aps.std, 2, test=page.paired_power)


def test_shares() -> None:
    assert statistics.wilson(9000, 10_000) == pytest.approx((0.9, 0.893966, 0.905727), abs=1e-6)
    assert statistics.wilson(10, 10).high == 1.0
    assert statistics.wilson(0, 10).low == pytest.approx(0.0)
    assert statistics.failure_bound(1) == pytest.approx(0.95)
    assert statistics.failure_bound(10_000) == pytest.approx(3 / 10_000, rel=0.01)
