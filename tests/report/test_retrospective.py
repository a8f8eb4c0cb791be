"""Summaries over all records, on records whose answers are known."""

from typing import Any

import pytest

from lps.experiments.config import SECTIONS
from lps.experiments.profiles import load_profile
from lps.experiments.rows import TABLE1, matching
from lps.report import retrospective
from lps.report.paper import paper_table


def record(row: str, seed: int = 0, acc: float = 70.0, gpu: str | None = None, method: str = "lps") -> dict[str, Any]:
    return {
        "experiment": row,
        "profile": "reduced",
        "seed": seed,
        "config": {"model": {"method": method}},
        "data": {"name": "cifar10", "fingerprint": "0"},
        "metrics": {"acc": {"value": acc}, "c_cons": {"value": 100.0, "agree": 10, "total": 10}},
        "hardware": {"gpu": gpu, "cpu": "A", "cores": 2},
        "code": {"version": 0},
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


def test_profiles_stay_apart_machines_do_not_and_todays_code_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = record("table1/lps", acc=60.0), record("table1/lps", acc=70.0)
    new["code"]["version"] = 1
    monkeypatch.setattr(retrospective, "stale", lambda r: r["code"]["version"] == 0)
    others = [record("table1/lps", 1, 72.0), record("table1/lps", 2, 74.0, gpu="G")]
    short = record("table1/lps", acc=80.0) | {"profile": "short"}
    for made in ([old, new], [new, old]):
        lines = retrospective.by_scale([*made, *others, short])
        profiles = {line["row"]: line["profiles"] for line in lines}["table1/lps"]
        interval, n = profiles["reduced"]
        assert n == 3 and interval.value == 72.0 and interval.low < 70.0
        assert profiles["short"][1] == 1


def test_other_data_stand_apart() -> None:
    made = [record("table1/lps", seed, 70.0 + seed) for seed in range(2)]
    few = record("table1/lps", 2, 10.0) | {"data": {"name": "cifar10", "fingerprint": "0123456789"}}
    found = retrospective.accuracies([few, *made])
    assert found == {
        "reduced": {"table1/lps": {0: 70.0, 1: 71.0}},
        "reduced, data 01234567": {"table1/lps": {2: 10.0}},
    }
    lines = retrospective.guarantees([few, *made])
    assert sorted((line["runs"], line["total"]) for line in lines) == [(1, 10), (2, 20)]
    assert sorted(line["seeds"].total() for line in retrospective.shipped_runs([few, *made])) == [1, 1]


def test_the_price_of_a_guarantee_is_paired_by_filter_and_seed() -> None:
    fixed = {"-": "Baseline", "Rect-2": "LPF", "Tri-3": "LPF", "Bin-5": "LPF", "Adapt-3": "DDAC"}
    names = {row.labels: row.name for row in TABLE1}
    accuracies: dict[str, dict[int, float]] = {}
    for place, (antialias, method) in enumerate(fixed.items()):
        accuracies[names[method, antialias]] = {0: 70.0, 1: 75.0, 2: 72.0}
        accuracies[names["LPS", antialias]] = {0: 70.0 + place, 1: 75.0 + place}
    del accuracies["table1/lps-bin-5"][1]
    lines = {line.antialias: line for line in retrospective.prices("LPS", accuracies)}
    assert [*lines] == [*fixed, "mean"]
    assert (lines["Tri-3"].ours.value, lines["Tri-3"].ours.low, lines["Tri-3"].n) == (2.0, 2.0, 2)
    assert (lines["mean"].ours.value, lines["mean"].n) == (2.0, 1)
    assert lines["-"].paper.value == pytest.approx(94.45 - 91.44)
    assert all(line.n == 0 for line in retrospective.prices("APS", accuracies))


def study(before: int, after: int, run: str = "a") -> dict[str, Any]:
    counts = {"acc": before, "acc_max_norm": after}
    metrics = {name: {"value": agree / 100, "agree": agree, "total": 10_000} for name, agree in counts.items()}
    return record("table1/lps") | {"run": run, "metrics": metrics}


def test_a_network_loses_its_choice_or_not() -> None:
    loses, same = retrospective.replaced([study(9000, 1000), study(9000, 8990, "b"), study(0, 0)])
    assert (loses["before"], loses["after"], loses["falls"]) == (90.0, 10.0, True)
    assert (same["before"], same["after"], same["falls"]) == (90.0, 89.9, False)


def test_what_is_shipped_is_counted_by_table_and_profile() -> None:
    made = [record("table1/lps"), record("table1/lps", 1, gpu="G"), record("table1/aps"), record("table5/lps-adapt-3")]
    first, other = retrospective.shipped_runs(made)
    assert (first["table"], first["rows"], first["seeds"]) == ("table1", 15, {1: 1, 2: 1})
    assert first["machines"] == {"A, 2 cores": 2, "G": 1} and first["stale"] == 3
    assert (other["table"], other["machines"]) == ("table5", {"A, 2 cores": 1})


def test_the_papers_order_agrees_with_itself_and_not_with_its_reverse() -> None:
    printed = {row["row"]: float(row["acc"]) for row in paper_table("table1")}
    (same,) = retrospective.same_order([record(row, acc=value) for row, value in printed.items()])
    assert same["agree"] == same["pairs"] == 15 * 14 // 2
    (reverse,) = retrospective.same_order([record(row, acc=-value) for row, value in printed.items()])
    assert reverse["agree"] == 0


def short_training(seed: int, acc: float, speed: float, **changes: str) -> dict[str, Any]:
    (row,) = matching(["table1/lps"])
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    config = load_profile("reduced").row(row).override({"train.epochs": "2"} | settings).as_dict()
    made = record("table1/lps", seed, acc)
    made["config"] = {section: config[section] for section in SECTIONS}
    return made | {"history": [{"images_per_second": speed}]}


def test_uses_of_the_machine_are_compared_with_the_plain_one_by_seed() -> None:
    plain = [short_training(seed, acc, 100.0) for seed, acc in ((0, 40.0), (1, 50.0))]
    other = [short_training(seed, acc, 150.0, engine__compile="true") for seed, acc in ((0, 41.0), (1, 51.0))]
    half = [short_training(0, 30.0, 50.0, train__precision="bf16-mixed", engine__fused="true")]
    longer = [short_training(0, 90.0, 1.0, train__epochs="3", engine__compile="true")]
    first, *rest = retrospective.engine_effects([*longer, *half, *other, *plain])
    assert (first["use"], first["seeds"], first["acc"], first["speed"]) == (retrospective.PLAIN, 2, 45.0, 1.0)
    found = {line["use"]: line for line in rest}
    assert set(found) == {"engine.compile=true", "engine.fused=true, train.precision=bf16-mixed"}
    compiled = found["engine.compile=true"]
    assert (compiled["seeds"], compiled["speed"], compiled["change"]["acc"].value) == (2, 1.5, 1.0)
    assert found["engine.fused=true, train.precision=bf16-mixed"]["change"]["acc"].value == -10.0
