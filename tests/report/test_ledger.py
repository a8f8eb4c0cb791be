"""Tables, verdicts, the ledger and the comparison, on records made up here."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lps.data import WHOLE
from lps.experiments import records
from lps.experiments.config import SECTIONS, Experiment
from lps.experiments.profiles import load_profile
from lps.experiments.rows import TABLE1, matching
from lps.notebooks import cells as notebooks
from lps.paths import PAPER, SHIPPED
from lps.report import compare, coverage, paper, statistics, tables, theory
from lps.report import ledger as claims
from lps.report import times as benchmarks
from lps.report.frame import as_profile, differences, frame, is_full_scale

CODE = records.VERSION["images"]


def whole(layout: str) -> dict[str, Any]:
    """Counts of a data set as large as the paper's."""
    train, test, classes = WHOLE.get(layout, (100, 100, 10))
    return {"train": train, "test": test, "classes": ["a class"] * classes}


def settings_of(experiment: Experiment) -> dict[str, Any]:
    return {section: experiment.as_dict()[section] for section in SECTIONS}


def cell(made: list[Any], metric: str) -> Any:
    """The lines of one metric."""
    return (lines := frame(made))[lines["metric"] == metric]


def record(row: str = "table1/lps", profile: str = "full", seed: int = 0, acc: int = 9445, c_cons: int = 10_000) -> Any:
    found = next(r for r in TABLE1 if r.name == row)
    experiment = load_profile(profile).row(found)
    return {
        "id": f"{row}/{profile}-seed{seed}",
        "experiment": row,
        "profile": profile,
        "seed": seed,
        "config": settings_of(experiment),
        "data": {
            "name": experiment.data.name,
            "source": "somewhere",
            "fingerprint": "f",
            **whole(experiment.data.name),
        },
        "metrics": {
            name: {"value": agree / 100, "agree": agree, "total": 10_000}
            for name, agree in {"acc": acc, "c_cons": c_cons, "c_cons_original": c_cons}.items()
        },
        "code": {"version": CODE, "commit": None, "dirty": None},
        "versions": {"torch": "1"},
        "hardware": {"cpu": "x"},
        "determinism": {"threads": 1},
    }


CELLS = {"table1": 30, "table2": 18, "table3": 18, "table4": 23, "table5": 12, "table6": 10}
"""How many values the paper prints in each table."""

PAPER_CELLS = {"acc": {"mean": 94.45, "std": 0.05, "n": 5}, "c_cons": {"mean": 100.0, "std": 0.0, "n": 5}}


@pytest.mark.parametrize(
    ("metric", "made", "expected"),
    [
        ("acc", [], "not run"),
        ("acc", [record(acc=9400)], "holds"),
        ("acc", [record(acc=9600)], "holds+"),
        ("acc", [record(acc=9300)], "fails"),
        ("acc", [record(profile="reduced", acc=9445)], "undecided"),
        ("c_cons", [record()], "holds"),
        ("c_cons", [record(c_cons=9999)], "fails"),
        ("c_cons", [record(profile="reduced")], "direction only"),
        ("c_cons", [record(profile="reduced", c_cons=9999)], "fails"),
    ],
)
def test_verdicts_on_cells(metric: str, made: list[Any], expected: str) -> None:
    assert tables.judge(metric, PAPER_CELLS[metric], cell(made, metric)) == expected


def test_a_reduced_consistency_below_100_decides_nothing() -> None:
    made = record("table1/baseline", "reduced", c_cons=8964)
    assert tables.judge("c_cons", {"mean": 90.88, "std": 0.3, "n": 5}, cell([made], "c_cons")) == "undecided"


def test_a_reduced_run_never_holds() -> None:
    for profile in ("smoke", "quick", "reduced"):
        for agree in (0, 5000, 8964, 9445, 10_000):
            made = [record(profile=profile, acc=agree, c_cons=agree)]
            for metric, printed in PAPER_CELLS.items():
                assert not tables.judge(metric, printed, cell(made, metric)).startswith("holds")


def test_an_overridden_run_is_not_full_scale_and_not_in_the_table() -> None:
    changed = record()
    changed["config"]["train"] = changed["config"]["train"] | {"epochs": 2}
    assert not is_full_scale(changed) and not as_profile(changed)
    assert "train.epochs is 2 (at full scale: 250)" in differences(changed)
    assert tables.table_groups("table1", frame([changed]), "here") == []


def on_other_data(made: Any, fingerprint: str = "other", **counts: Any) -> Any:
    """The same run on data with another fingerprint, and of another size where it is given."""
    return made | {"id": f"{made['id']}-other", "data": made["data"] | {"fingerprint": fingerprint} | counts}


@pytest.mark.parametrize(
    "counts", [{"train": 20}, {"test": 10}, {"classes": ["a"] * 9}, {"train": 50_001}, {"train": 20, "test": 10}]
)
def test_the_papers_settings_on_fewer_images_are_reduced_scale(counts: dict[str, Any]) -> None:
    few = on_other_data(record(), **counts)
    assert not is_full_scale(few) and as_profile(few)
    assert tables.judge("acc", PAPER_CELLS["acc"], cell([few], "acc")) == "undecided"
    entries = {entry.id: entry for entry in claims.cell_entries(frame([few]))}
    assert entries["table1/lps:acc"].verdict == "undecided"
    assert entries["table1/lps:c_cons"].verdict == "direction only"
    assert "at reduced scale" in entries["table1/lps:c_cons"].evidence
    assert any("(at full scale: 50,000, 10,000 and 10)" in words for words in differences(few))


@pytest.mark.parametrize("layout", ["cifar10", "imagenet", "voc"])
def test_full_scale_is_that_of_each_data_set_of_the_paper(layout: str) -> None:
    name = {"cifar10": "table1/lps", "imagenet": "table2/lps", "voc": "table5/lps-adapt-3"}[layout]
    (row,) = matching([name])
    settings = settings_of(load_profile("full").row(row))
    whole_set: dict[str, Any] = {"experiment": name, "config": settings, "data": {"name": layout, **whole(layout)}}
    assert is_full_scale(whole_set)
    for key, value in (("train", 1464), ("test", 1448), ("classes", ["a class"] * 11)):
        assert not is_full_scale(whole_set | {"data": whole_set["data"] | {key: value}})


def test_records_of_other_data_share_no_mean() -> None:
    shipped = [record(profile="reduced", seed=seed, acc=7690 + seed) for seed in range(3)]
    few = on_other_data(record(profile="reduced", seed=3, acc=1000))
    alone, both = (
        next(e for e in claims.cell_entries(frame(made)) if e.id == "table1/lps:acc")
        for made in (shipped, [few, *shipped])
    )
    assert (both.ours, both.verdict, both.run) == (alone.ours, alone.verdict, alone.run)
    assert both.evidence == f"{alone.evidence}; runs of this profile on other data, which stand apart: 1"
    groups = tables.table_groups("table1", frame([few, *shipped]), "here")
    means = [row["ours"]["acc"]["mean"] for group in groups for row in group["rows"] if row["ours"]]
    assert means == pytest.approx([76.91, 10.0])
    assert [group["label"] for group in groups] == [
        "CIFAR-10, profile reduced, data f (here)",
        "CIFAR-10, profile reduced, data other (here)",
    ]
    seeds_table = notebooks.left_by("statistics", "evidence")["seeds_table"]
    labels = {line["label"]: line["difference"] for line in seeds_table(frame([few, *shipped]))}
    assert len(labels) == 2


def test_records_of_other_data_or_another_scale_are_no_pair() -> None:
    def verdict(made: list[Any]) -> Any:
        return next(e for e in claims.ordering_entries(frame(made)) if e.id == "table1-lps-accuracy")

    def rows(method: str, of: Any, gain: int = 0) -> list[Any]:
        names = [row.name for row in TABLE1 if (row.method == "lps") == (method == "lps")]
        return [of(name, seed, 9000 + gain + (seed * 7 + len(name)) % 5) for name in names for seed in range(4)]

    def here(name: str, seed: int, acc: int) -> Any:
        return record(name, "reduced", seed, acc)

    def there(name: str, seed: int, acc: int) -> Any:
        return on_other_data(here(name, seed, acc))

    together = [*rows("lps", here, 100), *rows("aps", here)]
    assert (verdict(together).verdict, verdict(together).ours) == ("direction only", "of 10: 10 seen")
    assert verdict([*rows("lps", here), *rows("aps", here, 100)]).ours == "of 10: 10 against"
    apart = verdict([*rows("lps", here, 100), *rows("aps", there)])
    assert apart.verdict == "not run" and "0 of" in apart.evidence
    full = verdict([*rows("lps", lambda *run: record(run[0], "full", *run[1:]), 100), *rows("aps", here)])
    assert full.verdict == "not run"
    assert verdict([*together, *rows("lps", there, -500)]) == verdict(together)


def test_a_twin_saw_the_same_data() -> None:
    mine, theirs = record(), on_other_data(record() | {"versions": {"torch": "2"}})
    assert compare.environment_differences(mine, [theirs]) == []
    assert compare.relation(mine, [theirs], "acc") == "nothing shipped"


def test_table_1_has_all_rows_and_counts_add_up() -> None:
    (group,) = tables.table_groups("table1", frame([record(seed=0, acc=9400), record(seed=1, acc=9500)]), "here")
    assert [row["row"] for row in group["rows"]] == [row.name for row in TABLE1]
    lps = next(row for row in group["rows"] if row["row"] == "table1/lps")
    assert lps["ours"]["acc"]["mean"] == 94.5
    assert (lps["ours"]["acc"]["agree"], lps["ours"]["acc"]["total"], lps["ours"]["acc"]["n"]) == (18_900, 20_000, 2)
    assert lps["ours"]["acc"]["std"] == pytest.approx(0.7071, abs=1e-4)
    assert not lps["stale"]
    assert all(row["ours"] is None for row in group["rows"] if row["row"] != "table1/lps")


def test_a_record_of_other_code_is_marked() -> None:
    old = record()
    old["code"]["version"] = 0
    (group,) = tables.table_groups("table1", frame([old]), "here")
    assert next(row for row in group["rows"] if row["row"] == "table1/lps")["stale"]


def test_tables_are_written_for_taking_away(tmp_path: Path) -> None:
    entries = [claims.asdict(entry) for entry in claims.cell_entries(frame([]))]
    tables.write_tables(entries, tmp_path)
    for name, cells in CELLS.items():
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        groups = len({line.get("group") for line in lines})
        assert len(lines) == cells * groups and groups >= 1
        assert json.loads((tmp_path / f"{name}.json").read_text())["title"] == paper.TABLES[name].title
        latex = (tmp_path / f"{name}.tex").read_text()
        assert latex.count("{tabular}") == 2 and all(
            rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule")
        )
        widths = {line.count("&") for line in latex.splitlines() if "&" in line}
        assert len(widths) == 1


def test_the_transcription_has_every_cell_of_the_paper() -> None:
    counts = {name: len(paper.paper_table(name)) for name in (f"table{n}" for n in range(1, 7))}
    assert counts == {"table1": 15, "table2": 9, "table3": 9, "table4": 5, "table5": 6, "table6": 5}
    assert [row["row"] for row in paper.paper_table("table1")] == [row.name for row in TABLE1]
    assert [row["row"] for row in paper.paper_table("table2") if not row["acc"]] == ["table2/baseline", "table2/aps"]
    text = (PAPER / "README.md").read_text()
    assert "partly reconstructed" in text


def test_every_cell_is_an_entry_with_a_verdict() -> None:
    content = claims.ledger(theory=False)
    entries = content["entries"]
    ids = [entry["id"] for entry in entries]
    assert len(ids) == len(set(ids))
    for name, cells in CELLS.items():
        assert sum(entry["kind"] == "cell" and entry["id"].startswith(f"{name}/") for entry in entries) == cells
    assert sum(content["counts"].values()) == len(entries)
    lost = [e["id"] for e in entries if e["verdict"] == "not checkable" and e["kind"] == "cell"]
    assert [identity for identity in lost if "time_ms" not in identity] == ["table2/baseline:acc", "table2/aps:acc"]
    assert all(entry["evidence"] for entry in entries if entry["verdict"] in ("undecided", "not run", "not checkable"))
    assert coverage.report(entries)["problems"] == []


def test_parameter_counts_hold_and_a_wrong_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdicts() -> list[str]:
        return [e.verdict for e in claims.cell_entries(frame([])) if e.id.rpartition(":")[2] in claims.COUNTED]

    assert verdicts() == ["holds"] * 13
    monkeypatch.setattr(paper, "table4_parameters", lambda row: dict.fromkeys(claims.COUNTED, 1))
    assert verdicts() == ["fails"] * 13


def test_consistencies_need_every_row_to_hold_and_one_pair_to_fail() -> None:
    def verdict(identity: str, made: list[Any]) -> str:
        return next(e.verdict for e in claims.consistency_entries(frame(made)) if e.id == identity)

    rows = [row.name for row in TABLE1 if row.method in ("aps", "lps")]
    exact = [record(name) for name in rows]
    assert verdict("table1-exact", exact) == "holds"
    assert verdict("table1-exact", exact[1:]) == "direction only"
    assert verdict("table1-exact", [*exact[1:], record(rows[0], c_cons=9999)]) == "fails"
    assert verdict("table1-exact", []) == "not run"
    assert verdict("strided-not-invariant", [record("table1/baseline", c_cons=8964)]) == "holds"
    assert verdict("strided-not-invariant", [record("table1/baseline")]) == "fails"
    assert verdict("strided-not-invariant", [record("table1/baseline", "reduced")]) == "undecided"


@pytest.mark.parametrize("metric", ["c_cons", "c_cons_original"])
def test_one_pair_contradicts_an_equality_at_any_scale_and_by_any_protocol(metric: str) -> None:
    def verdicts(made: list[Any]) -> set[str]:
        entries = [*claims.cell_entries(frame(made)), *claims.consistency_entries(frame(made))]
        return {e.verdict for e in entries if e.id in ("table1/lps:c_cons", "exact-without-filter")}

    small = record(profile="short", seed=1)
    assert verdicts([record(profile="reduced"), small]) == {"direction only"}
    small["metrics"][metric]["agree"] -= 1
    assert verdicts([record(profile="reduced"), small]) == verdicts([small]) == {"fails"}


def test_the_readme_counts_what_is_shipped() -> None:
    """`python -m lps claims --readme` brings it up to date."""
    said = claims.README.read_text().split(claims.MARK)[1]
    for line in claims.scoreboard(claims.ledger(theory=False, folders=(SHIPPED,))["entries"]).splitlines():
        assert line in said, line
    assert f"| Theory | {len(paper.listed('theorems'))} |" in said


def test_what_was_measured_is_not_called_not_run() -> None:
    entries = claims.ledger(theory=False, folders=(SHIPPED,))["entries"]
    assert not [e["id"] for e in entries if e["verdict"] == "not run" and e["ours"]]


def test_a_count_without_a_failure_bounds_each_network_alone() -> None:
    one, two = (claims.cell_entries(frame(record(seed=seed) for seed in range(n))) for n in (1, 2))
    bounds = [
        next(e.evidence for e in found if e.id == "table1/lps:c_cons").partition("; ")[2].partition(";")[0]
        for found in (one, two)
    ]
    assert (
        bounds[0]
        == bounds[1]
        == "of each network alone, on 10,000 pairs, a failure rate above 0.03 % is ruled out (95 %)"
    )


def test_both_protocols_are_in_the_evidence() -> None:
    entries = claims.cell_entries(frame([record("table1/baseline", "reduced", c_cons=8000)]))
    entry = next(entry for entry in entries if entry.id == "table1/baseline:c_cons")
    assert (
        "8,000 of 10,000 at reduced scale, CIFAR-10, profile reduced; by the original code's protocol 8,000 of 10,000"
        in entry.evidence
    )


TRIED = [i for i in paper.listed("sentences") if not {"reason", "study", "times"} & i.keys()]


def test_what_is_tried_now_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = claims.sentence_entries([])
    verdicts = {entry.id: entry.verdict for entry in found}
    assert len(TRIED) == 15 and {verdicts[item["id"]] for item in TRIED} == {"holds"}
    monkeypatch.setattr(paper, "table4_parameters", lambda row: {"pooling_share": 2.0})
    shares = {item["id"] for item in TRIED if "share" in item}
    assert {e.verdict for e in claims.sentence_entries([]) if e.id in shares} == {"fails"}


def test_an_assertion_of_a_notebook_that_fails_is_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["evidence"]}, "source": ["assert 1 > 2  # Eq. (3)"]}
    monkeypatch.setattr(notebooks, "read", lambda name: {"cells": [cell]})
    theory.evidence.cache_clear()
    entry = next(e for e in claims.sentence_entries([]) if e.id == "global-pooling")
    assert (entry.verdict, entry.evidence) == ("fails", "assert 1 > 2  # Eq. (3)")


@pytest.mark.parametrize("found", [theory.Check("", "assert False"), theory.Check("")])
def test_a_sentence_falls_with_the_check_that_it_rests_on(monkeypatch: pytest.MonkeyPatch, found: theory.Check) -> None:
    monkeypatch.setattr(claims, "tried", lambda label: found)
    verdicts = {e.id: e.verdict for e in claims.sentence_entries([])}
    assert {verdicts[item["id"]] for item in TRIED if "checked" in item} == {"fails"}


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        ("above", 0.1, 0.2, True),
        ("above", 0.0, 0.0, None),
        ("above", -0.2, -0.1, False),
        ("not below", -0.4, 1.0, True),
        ("not below", -1.0, 1.0, None),
        ("not below", -1.0, -0.5, False),
        ("close", -0.4, 0.4, True),
        ("close", 0.5, 0.6, False),
        ("close", 0.4, 0.6, None),
    ],
)
def test_relations(relation: Any, low: float, high: float, expected: bool | None) -> None:
    assert paper.agrees(relation, low, high) is expected


def test_a_statement_names_rows_that_exist() -> None:
    for item in paper.listed("orderings"):
        assert list(paper.pairs(item)), item["id"]
    for item in paper.listed("consistencies"):
        assert paper.select(item["table"], item["rows"]), item["id"]


def test_nothing_of_the_paper_is_left_out() -> None:
    listed = coverage.items()
    assert list(coverage.problems(listed)) == []
    found = list(
        coverage.problems([{**entry, "page": None, "plan": None} for entry in listed if entry["item"] != "Claim 2"])
    )
    assert found[0] == "Claim 2 is not listed" and len(found) == len(listed)
    assert "Claim 1: there is no lps.nowhere" in coverage.problems([{**listed[1], "code": ["lps.nowhere"]}])
    assert "Claim 1: there is no page book/nowhere in the book" in coverage.problems(
        [{**listed[1], "page": "book/nowhere"}]
    )


def test_a_seed_counts_once_and_an_override_not_at_all() -> None:
    earlier = record(profile="reduced", acc=1) | {"code": {"version": 0}}
    first, second = (record(profile="reduced", acc=acc) for acc in (7000, 7100))
    other = record(profile="reduced", seed=1)
    variant = record(profile="reduced", seed=2)
    variant["config"]["train"] = variant["config"]["train"] | {"epochs": 1}
    drawn = record(profile="quick")

    def best(*made: Any) -> list[int]:
        """Places of the runs that are kept."""
        return list(claims.best_runs(frame(made))["run"].unique())

    assert best(earlier, first, earlier, second, earlier, other, variant, drawn) == [3, 5]
    assert best(earlier, earlier | {"seed": 3}) == [0, 1]
    assert best(first, record(), other) == [1]


@pytest.mark.parametrize(
    ("profile", "seeds", "gain", "expected"),
    [
        ("full", 0, 0, "not run"),
        ("full", 1, 100, "undecided"),
        ("full", 4, 100, "holds"),
        ("full", 4, -100, "fails"),
        ("full", 4, 0, "undecided"),
        ("reduced", 4, 100, "direction only"),
        ("reduced", 4, -100, "undecided"),
    ],
)
def test_orderings_are_paired_over_seeds(profile: str, seeds: int, gain: int, expected: str) -> None:
    made = []
    for row in TABLE1:
        for seed in range(seeds):
            noise = (seed * 7 + len(row.name)) % 5
            made.append(record(row.name, profile, seed, 9000 + noise + (gain if row.method == "lps" else 0)))
    entry = next(e for e in claims.ordering_entries(frame(made)) if e.id == "table1-lps-accuracy")
    assert entry.verdict == expected


@pytest.mark.parametrize(
    ("ratio", "gpu", "expected"),
    [
        (1.1, True, "holds"),
        (0.9, True, "fails"),
        (1.0, True, "undecided"),
        (1.1, False, "direction only"),
        (0.9, False, "undecided"),
    ],
)
def test_the_order_of_costs_is_read_from_a_benchmark(ratio: float, gpu: bool, expected: str) -> None:
    timed = benchmarks.newest(benchmarks.read(SHIPPED), benchmarks.TABLE4, "cpu")
    assert timed is not None
    quartiles = {"median": ratio, "q1": ratio, "q3": ratio}
    cases = {name: {**case, "ratio": quartiles, "cpu_ratio": quartiles} for name, case in timed["cases"].items()}
    paper = {"device": "cuda", "batch": 32, "precision": "float32", "channels_last": False, "compiled": False}
    changed = {
        **timed,
        "cases": cases,
        "config": {**timed["config"], **(paper if gpu else {})},
        "hardware": {**timed["hardware"], "gpu": "a GPU"},
    }
    entry = next(e for e in claims.ordering_entries(frame([]), [changed]) if e.id == "lpf-is-fastest")
    assert entry.verdict == expected


def test_pairs_share_their_seeds() -> None:
    theirs = pd.Series({0: 1.0, 1: 2.0, 2: 3.0})
    assert statistics.paired(pd.Series({0: 2.0, 1: 3.0, 2: 4.0, 9: 100.0}), theirs) == ((1.0, 1.0, 1.0), 3)


def test_a_rerun_is_compared_with_what_is_shipped() -> None:
    shipped = [record(seed=0, acc=9400), record(seed=1, acc=9410)]
    assert compare.relation(record(seed=0, acc=9400), shipped, "acc") == "equal"
    assert "within" in compare.relation(record(seed=5, acc=9406), shipped, "acc")
    assert "outside" in compare.relation(record(seed=0, acc=9300), shipped, "acc")
    assert compare.relation(record(profile="reduced"), shipped, "acc") == "nothing shipped"
    other = record() | {"versions": {"torch": "2"}}
    assert compare.environment_differences(other, shipped) == ["versions.torch: 2 here, 1 there"]
    newer = other | {"versions": shipped[0]["versions"], "determinism": {"threads": 1, "instructions": "AVX2"}}
    told = compare.environment_differences(newer, shipped)
    assert told == ["determinism.instructions: AVX2 here, not recorded there"]
