"""Times are judged as ratios, never as more than a processor can say, and the page shows what the records hold."""

import copy
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib import pyplot as plt

from benchmarks.groups import plan
from lps.paths import SHIPPED
from lps.report import times as benchmarks
from lps.report.times import CIFAR, TABLE4

pytestmark = pytest.mark.usefixtures("quiet_canvas")

SHIPPED_RECORDS = benchmarks.read(SHIPPED)
GROUPS = ("upsampling", "roofline", "scaling", "deeplab-eval", "resnet50-eval", "resnet18-eval")
IN_THE_PAPER = {"device": "cuda", "precision": "tf32", "compiled": False, "channels_last": False, "batch": 32}


def shipped(group: str) -> Any:
    record = benchmarks.newest(SHIPPED_RECORDS, group, "cpu")
    assert record is not None, group
    return copy.deepcopy(record)


def made(ratio: float, **config: Any) -> Any:
    """A record of Table 4 with LPD at ``ratio``."""
    record = shipped(TABLE4)
    record["config"] |= config
    record["hardware"]["gpu"] = "a GPU"
    record["cases"]["lps-tri-3"][benchmarks.clock(record)] = {"median": ratio, "q1": ratio, "q3": ratio}
    return record


def test_the_time_that_counts() -> None:
    record = shipped(TABLE4)
    assert benchmarks.clock(record) == "cpu_ratio"
    record["determinism"]["threads"] = 2
    assert benchmarks.clock(record) == "ratio"
    assert benchmarks.clock(made(1.0, device="cuda")) == "ratio"


def test_the_papers_ratios() -> None:
    ratios = benchmarks.paper_ratios()
    assert ratios["lpf-tri-3"] == 1 and round(ratios["lps-tri-3"], 3) == 1.217 and len(ratios) == 5


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.01, 1.2167, 1.5, 3.0])
@pytest.mark.parametrize("change", [{"batch": 4}, {"device": "cpu"}, {"compiled": True}, {"precision": "bf16"}])
def test_only_the_papers_setting_on_a_gpu_earns_holds(ratio: float, change: dict[str, Any]) -> None:
    record = made(ratio, **(IN_THE_PAPER | change))
    assert benchmarks.judge_time("lps-tri-3", record) == ("direction only" if ratio > 1 else "undecided")


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.9, "fails"), (1.0, "undecided"), (1.17, "holds+"), (1.18, "holds"), (1.27, "holds"), (1.28, "fails")],
)
def test_overheads_on_a_gpu_are_judged_by_a_factor(ratio: float, verdict: str) -> None:
    assert benchmarks.judge_time("lps-tri-3", made(ratio, **IN_THE_PAPER)) == verdict
    assert benchmarks.judge_time("lps-tri-3", None) == "not run"


@pytest.mark.parametrize("config", [{}, IN_THE_PAPER])
def test_an_overhead_that_the_quartiles_do_not_show_is_undecided(config: dict[str, Any]) -> None:
    record = made(1.2167, **config)
    record["cases"]["lps-tri-3"][benchmarks.clock(record)]["q1"] = 0.99
    assert benchmarks.judge_time("lps-tri-3", record) == "undecided"


@pytest.mark.parametrize(
    ("ddac", "spread", "gpu", "verdict"),
    [
        (1.8, 0.0, True, "holds"),
        (1.8, 0.7, True, "undecided"),
        (1.1, 0.0, True, "fails"),
        (1.4, 0.0, False, "direction only"),
        (1.1, 0.0, False, "undecided"),
    ],
)
def test_most_of_the_overhead_is_an_order_of_two(ddac: float, spread: float, gpu: bool, verdict: str) -> None:
    record = made(1.2, **(IN_THE_PAPER if gpu else {}))
    quartiles = {"median": ddac, "q1": ddac - spread, "q3": ddac + spread}
    record["cases"]["ddac-adapt-3"][benchmarks.clock(record)] = quartiles
    entry = benchmarks.time_cell("table4/ddac-adapt-3", [record], beyond="table4/lps-tri-3")
    assert entry["verdict"] == verdict and "LPD, Tri-3 1.20" in entry["evidence"]


def test_the_ledger_gets_ratio_setting_and_record() -> None:
    entry = benchmarks.time_cell("table4/lps-tri-3", [made(1.1)])
    assert entry["verdict"] == "direction only" and entry["ours"] == "1.10 of LPF (not in the paper's setting)"
    assert (
        "1.22 in the paper; here 1.10 (1.10, 1.10)" in entry["evidence"] and "record benchmarks/" in entry["evidence"]
    )
    assert benchmarks.time_cell("table4/lps-tri-3", [])["verdict"] == "not run"
    assert benchmarks.time_cell("table4/lpf-tri-3", [made(1.1, **IN_THE_PAPER)])["verdict"] == "not checkable"


def test_the_papers_setting_goes_before_a_newer_record_of_a_processor() -> None:
    processor, gpu = made(1.0), made(1.2, **IN_THE_PAPER)
    assert benchmarks.for_table4([processor, gpu]) is gpu
    assert benchmarks.for_table4([processor]) is processor and benchmarks.for_table4([]) is None


def test_the_newest_record_of_a_machine_is_shown(tmp_path: Path) -> None:
    for name, date in (("a", "2026-01-02"), ("b", "2026-01-03"), ("c", "2026-01-01")):
        path = tmp_path / "benchmarks" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        config = {"device": "cuda" if name == "b" else "cpu"}
        record = shipped(TABLE4) | {"group": "g", "date": date}
        record["code"] = {**record["code"], "version": 1}
        path.write_text(json.dumps(record | {"config": record["config"] | config}))
    records = benchmarks.read(tmp_path)
    newest = benchmarks.newest(records, "g", "cpu")
    assert newest is not None and newest["id"] == "benchmarks/a" and benchmarks.stale(newest)
    assert benchmarks.newest(records, "h", "cpu") is None


def test_tf32_goes_before_a_newer_record_in_strict_float32() -> None:
    strict = made(1.2, **(IN_THE_PAPER | {"precision": "float32"}))
    new, old = made(1.2, **IN_THE_PAPER), made(1.3, **IN_THE_PAPER)
    assert benchmarks.for_table4([strict, new, old]) == new and benchmarks.for_table4([strict]) == strict
    assert benchmarks.in_the_papers_setting([made(1.2)]) is None


def test_the_latest_records_are_one_of_each_group_and_device() -> None:
    new, old, gpu, other = made(1.0), made(1.1), made(1.2, device="cuda"), shipped(CIFAR)
    assert benchmarks.latest([new, gpu, old, other]) == [new, gpu, other]


def test_a_frame_holds_every_case_by_the_clock_that_counts() -> None:
    record = shipped(TABLE4)
    cases = benchmarks.frame(record)
    assert set(cases.index) == set(record["cases"]) and cases.index[0] == "baseline"
    lpd, ratio = cases.loc["lps-tri-3"], record["cases"]["lps-tri-3"]["cpu_ratio"]
    assert (lpd["low"], lpd["time"], lpd["high"]) == (ratio["q1"], ratio["median"], ratio["q3"])
    assert lpd["processor time"] == benchmarks.in_a_cell(ratio) and lpd["over"] == "LPF, Tri-3"
    record["determinism"]["threads"] = 2
    lpd = benchmarks.frame(record).loc["lps-tri-3"]
    assert lpd["time"] == record["cases"]["lps-tri-3"]["ratio"]["median"]


# In turn and in a row ----------------------------------------------------------------------------------


def alternating(ratio: float, threads: int = 1, batch: int = 4, group: str = TABLE4) -> Any:
    """A record whose networks ran in turn, LPD at ``ratio``, and in a row, at a tenth more."""
    record = made(ratio)
    record |= {"group": f"{group}-threads{threads}-batch{batch}"}
    record["config"] |= {"in_a_row": 3, "threads": threads, "batch": batch}
    record["determinism"]["threads"] = threads
    for name, case in record["cases"].items():
        case["ratio"] = case["cpu_ratio"]
        more = {q: value * (1.1 if name == "lps-tri-3" else 1) for q, value in case["cpu_ratio"].items()}
        case["in_a_row"] = {"ms": case["ms"], "cpu_ms": case["cpu_ms"], "ratio": more, "cpu_ratio": more}
    return record


def test_both_orders_are_shown_for_each_batch_and_number_of_threads() -> None:
    records = [alternating(1.0, 2), alternating(1.2, 1, 16), alternating(1.1), made(1.3)]
    runs = benchmarks.in_a_row(records)
    words = ["1 thread, batch 4", "1 thread, batch 16", "2 threads, batch 4"]
    assert [benchmarks.threads_and_batch(record) for record in runs] == words
    lpd = benchmarks.orders(runs[0]).loc["lps-tri-3"]
    turn, row = (lpd[order].replace("\N{NO-BREAK SPACE}", " ") for order in ("in turn", "in a row"))
    assert (turn, row) == ("1.10 (1.10, 1.10)", "1.21 (1.21, 1.21)")


def test_records_with_memory_kept_stand_beside_the_others_and_never_for_them() -> None:
    plain, kept, alone = alternating(1.0), alternating(1.0), alternating(1.0, 2)
    kept["allocator"] = alone["allocator"] = "glibc.malloc.mmap_max=0"
    for quartile in ("q1", "median", "q3"):
        kept["cases"]["lps-tri-3"]["in_a_row"]["cpu_ms"][quartile] /= 2
    records = [kept, alone, plain]
    group = plain["group"]
    assert benchmarks.newest(records, group, "cpu") == plain and benchmarks.in_a_row(records) == [plain]
    found = benchmarks.kept_memory(records)
    assert list(found.index) == [group]
    assert found["LPD, Tri-3", "ratio"].item() == 0.5 and found["LPF, Tri-3", "ratio"].item() == 1
    assert benchmarks.kept_memory([kept, alone]).empty


def test_a_limit_holds_for_the_highest_of_all_ratios() -> None:
    records = [alternating(1.0), alternating(1.05, 2)]
    line, words = benchmarks.limit(records, "lps-tri-3", 1.16)
    assert line["result"] == "reached" and line["within"] == "4 of 4" and words == ""
    assert line["highest"].startswith("1.16") or line["highest"].startswith("1.15")
    assert line["where"] == "2 threads, batch 4, in a row"
    line, words = benchmarks.limit(records, "lps-tri-3", 1.12)
    assert line["result"] == "missed" and line["within"] == "3 of 4"
    profile = records[0]["profile"]
    saved = (1.155 - 1.12) * profile["lpf-tri-3"]["ms"]
    assert f"The limit asks for {saved:.1f} ms less" in words and "aten::" in words
    del records[1]["cases"]["lps-tri-3"]
    assert benchmarks.limit(records, "lps-tri-3", 1.16)[0]["within"] == "2 of 2"
    assert benchmarks.limit([], "lps-tri-3", 1)[0]["result"] == "not run"


def test_the_limit_of_lpf_is_over_its_naive_arrangement() -> None:
    record = alternating(1.0)
    record["cases"]["lpf-tri-3-naive"] = copy.deepcopy(record["cases"]["lps-tri-3-naive"])
    for case in (record["cases"]["lpf-tri-3-naive"], record["cases"]["lpf-tri-3-naive"]["in_a_row"]):
        case["cpu_ratio"] = {"q1": 1.0, "median": 1.25, "q3": 2.0}
    line, words = benchmarks.limit([record], "lpf-tri-3-naive", 0.93)
    assert line["case"] == "LPF, Tri-3, over LPF, Tri-3, naive" and line["highest"] == "0.80 (0.50, 1.00)"
    assert line["result"] == "undecided" and words == ""
    record["profile"]["lpf-tri-3-naive"] = {"ms": 100.0, "operators_ms": {"aten::convolution": 80.0}}
    for case in (record["cases"]["lpf-tri-3-naive"], record["cases"]["lpf-tri-3-naive"]["in_a_row"]):
        case["cpu_ratio"] = dict.fromkeys(("q1", "median", "q3"), 1.0)
    line, words = benchmarks.limit([record], "lpf-tri-3-naive", 0.93)
    assert line["result"] == "missed" and "LPF, Tri-3, naive takes 100 ms" in words and "asks for 7.0 ms less" in words


# The shipped records -----------------------------------------------------------------------------------


def test_a_processor_has_every_group_that_the_page_shows() -> None:
    for group in (TABLE4, CIFAR, *(f"{name}-float32-eager" for name in GROUPS)):
        assert shipped(group)["determinism"]["threads"] == 1


@pytest.mark.parametrize("record", SHIPPED_RECORDS, ids=lambda record: record["id"])
def test_a_shipped_record_is_complete(record: Any) -> None:
    assert {"date", "seconds", "command", "hardware", "versions", "code", "determinism", "turns_ms"} <= set(record)
    assert len(record["turns_ms"]) >= 3 and record["group"] in record["command"]
    for case in record["cases"].values():
        assert case["against"] in record["cases"] and case["peak_mb"] >= case["allocated_mb"] >= 0
        for name in ("ms", "cpu_ms", "ratio", "cpu_ratio"):
            assert 0 < case[name]["q1"] <= case[name]["median"] <= case[name]["q3"]


# The page ----------------------------------------------------------------------------------------------


@pytest.fixture
def page(run_notebook: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the page makes of the records that are given, in front of the shipped ones."""

    def run(*records: Any) -> dict[str, Any]:
        monkeypatch.setattr(benchmarks, "read", lambda: [*records, *SHIPPED_RECORDS])
        found: dict[str, Any] = run_notebook("table4")
        return found

    return run


def test_the_page_shows_the_records(page: Any) -> None:
    found = page()
    bars, ratios, parts, roofline, scaling = (cast(Any, plt.figure(n).axes) for n in plt.get_fignums())
    record = shipped(TABLE4)
    assert len(bars) == 1 and sum(patch.get_width() for patch in bars[0].patches) == found["sites"].sum().sum()
    drawn = set(np.concatenate([np.asarray(line.get_xdata()) for line in ratios[0].lines]))
    for case in record["cases"].values():
        assert set(case["cpu_ratio"].values()) <= drawn
    assert benchmarks.paper_ratios()["lps-tri-3"] in drawn
    widths = sum(patch.get_width() for patch in parts[0].patches)
    assert widths == pytest.approx(sum(profile["ms"] for profile in record["profile"].values()))
    assert sum(len(line.get_xdata()) for line in roofline[0].lines if line.get_marker() == "o") == 10
    assert len(scaling) == 8
    shown = benchmarks.in_a_row(SHIPPED_RECORDS)
    assert found["runs"] == shown and (found["limits"]["result"] == "not run").all() == (not shown)

    for what, most in (("pixels of an image", 1.1), ("images", 1.05)):  # large batches are taken piece by piece
        assert 0.5 < found["growth"].loc[what, "memory"] < most
    assert len(found["floor"]) == 5 and (found["floor"]["here over floor"] > 1).all()
    on_a_processor = found["overview"].xs("CPU", level=1)
    planned = {benchmarks.setting({"config": group.describe()}) for group in plan("cpu", None)}
    assert set(on_a_processor.index.get_level_values(1)) <= planned


def test_limits_are_decided_by_both_quartiles(page: Any) -> None:
    record = made(1.0)
    limit = "LPD, ResNet-101, inference"
    found = page(record)["targets"]["result"]
    assert found[limit] == "reached" and (found == "not run").sum() == 2
    assert page(made(1.081))["targets"]["result"][limit] == "missed"
    record["cases"]["lps-tri-3"]["cpu_ratio"] |= {"q3": 1.2}
    assert page(record)["targets"]["result"][limit] == "undecided"


def test_a_gpu_in_the_papers_setting_is_shown(page: Any) -> None:
    record = made(1.2, **IN_THE_PAPER)
    found = page(record)
    assert found["gpu"] is record and "GPU" in found["overview"].index.get_level_values(1)


def test_the_slowest_map_is_explained_where_it_was_profiled(page: Any) -> None:
    record = shipped("upsampling-float32-eager")
    profiled, slowest = "lpu 21@56", "lpu 256@14"
    record["profile"] = {name: part for name, part in record["profile"].items() if name.endswith("21@56")}
    record["cases"][slowest]["cpu_ratio"] = {"median": 9.0, "q1": 9.0, "q3": 9.0}
    found = page(record)
    assert (found["slowest"], found["profiled"]) == (slowest, profiled)
