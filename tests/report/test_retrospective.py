"""The notebook that looks back over the shipped records, and the prices that it shares with Table 1's page."""

from itertools import chain
from typing import Any

import pandas as pd
import pytest

from lps.experiments.rows import TABLE1
from lps.notebooks import cells
from lps.report import frame, statistics, tables


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the cells of the notebook leave behind."""
    names: dict[str, Any] = {}
    cells.run("retrospective", cells.read("retrospective"), names)
    return names


def test_all_pairs_of_a_network_with_a_guarantee_are_equal(found: dict[str, Any]) -> None:
    counts = found["guarantees"].reset_index()
    with_it = counts[counts["guaranteed"]]
    assert (with_it["networks"] == with_it["exact"]).all() and (with_it["equal"] == with_it["pairs"]).all()
    assert (counts.loc[~counts["guaranteed"], "exact"] == 0).all()
    bilinear = found["runs"][found["runs"]["row"] == "table5/lpd-adapt-3"]
    assert len(bilinear) and not bilinear["guaranteed"].any()


def test_every_record_is_counted_once(found: dict[str, Any]) -> None:
    assert found["costs"]["records"].sum() == len(found["took"])
    orders = found["orders"].set_index(["one source", "another"])["of"]
    assert orders["the paper", "reduced"] == 15 * 14 // 2
    assert {"table1/baseline", "table1/lps"} <= {*found["longer"].index}
    assert set(found["engine"].index.get_level_values(0)) == {"table1/baseline", "table1/lps"}


def lines(label: tuple[str, str], values: dict[int, float], **others: Any) -> list[dict[str, Any]]:
    row = next(row.name for row in TABLE1 if row.labels == label)
    about = {"row": row, "table": "table1", "method": label[0], "antialias": label[1], "metric": "acc"} | others
    group = {"profile": "reduced", "data": "cifar10", "fingerprint": "0" * 64, "stale": False}
    return [{**group, **about, "seed": seed, "value": value} for seed, value in values.items()]


def made(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([line | {"run": run} for run, line in enumerate(chain(*parts))])


def test_the_price_of_a_guarantee_is_paired_by_filter_and_seed() -> None:
    parts = []
    for place, (antialias, method) in enumerate(tables.FIXED.items()):
        parts.append(lines((method, antialias), {0: 70.0, 1: 75.0, 2: 72.0}))
        seeds = {0: 70.0 + place} if antialias == "Bin-5" else {0: 70.0 + place, 1: 75.0 + place}
        parts.append(lines(("LPS", antialias), seeds))
    accuracies = tables.accuracies(made(*parts))
    prices = {price.antialias: price for price in tables.prices("LPS", accuracies)}
    assert [*prices] == [*tables.FIXED, "mean"]
    assert (prices["Tri-3"].ours, prices["Tri-3"].n) == (statistics.Interval(2.0, 2.0, 2.0), 2)
    assert (prices["mean"].ours.value, prices["mean"].n) == (2.0, 1)
    assert prices["-"].paper.value == pytest.approx(94.45 - 91.44)
    assert all(price.n == 0 for price in tables.prices("APS", accuracies))


def test_other_data_stand_apart_and_todays_code_comes_first() -> None:
    lps = ("LPS", "-")
    runs = made(
        lines(lps, {0: 60.0}, stale=True),
        lines(lps, {0: 70.0, 1: 71.0}),
        lines(lps, {2: 10.0}, fingerprint="0123456789"),
    )
    first, second = frame.groups(runs)
    assert tables.accuracies(first)[lps].to_dict() == {0: 70.0, 1: 71.0}
    assert tables.accuracies(second)[lps].to_dict() == {2: 10.0}
    words = "CIFAR-10, profile reduced, data "
    assert set(frame.labels(runs)) == {words + "00000000", words + "01234567"}
