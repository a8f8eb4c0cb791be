"""Summaries over all records, on records whose answers are known."""

from typing import Any

import pytest

from lps.companion import retrospective
from lps.companion.tables import paper_table


def record(row: str, seed: int = 0, acc: float = 70.0, gpu: str | None = None, method: str = "lps") -> dict[str, Any]:
    return {
        "experiment": row,
        "profile": "reduced",
        "seed": seed,
        "config": {"model": {"method": method}},
        "data": {"name": "cifar10"},
        "metrics": {"acc": {"value": acc}, "c_cons": {"value": 100.0, "agree": 10, "total": 10}},
        "hardware": {"gpu": gpu, "cpu": "A", "cores": 2},
        "code": {"hash": "old"},
        "seconds": {"training": 60.0, "this_session": 100.0},
    }


def test_costs_add_up_by_hardware() -> None:
    made = [record("table1/lps"), record("table1/aps"), record("table1/lps", gpu="G")]
    cpu, gpu = retrospective.costs(made)
    assert cpu == {"hardware": "A, 2 cores", "records": 2, "training": 120.0, "all": 200.0}
    assert (gpu["hardware"], gpu["records"]) == ("G", 1)


def test_a_guarantee_needs_putting_back_where_pixels_are_labelled() -> None:
    whole, half = record("table5/lps-adapt-3"), record("table5/lpd-adapt-3")
    whole["config"]["model"]["unpool"], half["config"]["model"]["unpool"] = True, False
    half["metrics"]["c_cons"]["agree"] = 9
    without, with_it = retrospective.guarantees([whole, half])
    assert (with_it["guaranteed"], with_it["exact"], with_it["agree"]) == (True, 1, 10)
    assert (without["guaranteed"], without["exact"], without["agree"]) == (False, 0, 9)


def test_scales_stay_apart_and_todays_code_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = record("table1/lps", acc=60.0), record("table1/lps", acc=70.0)
    new["code"]["hash"] = "new"
    monkeypatch.setattr(retrospective, "stale", lambda r: r["code"]["hash"] == "old")
    for made in ([old, new], [new, old]):
        lines = retrospective.by_scale([*made, record("table1/lps", 1, 72.0), record("table1/lps", acc=80.0, gpu="G")])
        scales = {line["row"]: line["scales"] for line in lines}["table1/lps"]
        interval, n = scales["reduced", "CPU"]
        assert n == 2 and interval.value == 71.0 and interval.low < 70.0
        assert scales["reduced", "G"][1] == 1
    assert retrospective.repeated([new, record("table1/lps", acc=80.0, gpu="G")])[0]["acc"] == (70.0, 80.0)


def test_the_papers_order_agrees_with_itself_and_not_with_its_reverse() -> None:
    printed = {row["row"]: float(row["acc"]) for row in paper_table("table1")}
    (same,) = retrospective.same_order([record(row, acc=value) for row, value in printed.items()])
    assert same["agree"] == same["pairs"] == 15 * 14 // 2
    (reverse,) = retrospective.same_order([record(row, acc=-value) for row, value in printed.items()])
    assert reverse["agree"] == 0
