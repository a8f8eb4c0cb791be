"""Tables, verdicts, the ledger and the comparison, on records made up here."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lps.companion import claims, compare, tables
from lps.companion.paths import PAPER
from lps.experiments import records
from lps.experiments.profiles import load_profile
from lps.experiments.table1 import ROWS


def record(row: str = "table1/lps", profile: str = "full", seed: int = 0, acc: int = 9445, c_cons: int = 10_000) -> Any:
    found = next(r for r in ROWS if r.name == row)
    experiment = load_profile(profile).row(row, found.method, found.antialias)
    return {
        "id": f"{row}/{profile}-seed{seed}",
        "experiment": row,
        "profile": profile,
        "seed": seed,
        "config": tables.experiment_settings(experiment),
        "data": {"name": experiment.data.name, "source": "somewhere", "fingerprint": "f"},
        "metrics": {
            name: {"value": agree / 100, "agree": agree, "total": 10_000}
            for name, agree in {"acc": acc, "c_cons": c_cons, "c_cons_original": c_cons}.items()
        },
        "code": {"hash": records.code_hash(), "commit": None, "dirty": None},
        "versions": {"torch": "1"},
        "hardware": {"cpu": "x"},
        "determinism": {"threads": 1},
    }


PAPER_CELLS = {"acc": {"mean": 94.45, "std": 0.05, "n": 5}, "c_cons": {"mean": 100.0, "std": 0.0, "n": 5}}


@pytest.mark.parametrize(
    ("metric", "made", "expected"),
    [
        ("acc", [], "not run"),
        ("acc", [record(acc=9400)], "holds"),
        ("acc", [record(acc=9600)], "holds+"),
        ("acc", [record(acc=9300)], "fails"),
        ("acc", [record(profile="reduced", acc=9445)], "not run"),
        ("c_cons", [record()], "holds"),
        ("c_cons", [record(c_cons=9999)], "fails"),
        ("c_cons", [record(profile="reduced")], "direction only"),
        ("c_cons", [record(profile="reduced", c_cons=9999)], "fails"),
    ],
)
def test_verdicts_on_cells(metric: str, made: list[Any], expected: str) -> None:
    assert tables.judge(metric, PAPER_CELLS[metric], made) == expected


def test_a_reduced_run_never_holds() -> None:
    for profile in ("smoke", "quick", "reduced"):
        for agree in (0, 5000, 8964, 9445, 10_000):
            made = [record(profile=profile, acc=agree, c_cons=agree)]
            for metric, paper in PAPER_CELLS.items():
                assert not tables.judge(metric, paper, made).startswith("holds")


def test_an_overridden_run_is_not_full_scale_and_not_in_the_table() -> None:
    changed = record()
    changed["config"]["train"] = changed["config"]["train"] | {"epochs": 2}
    assert not tables.is_full_scale(changed) and not tables.as_profile(changed)
    assert "train.epochs is 2 (the paper's setting: 250)" in tables.differences(changed)
    assert tables.table1_groups([changed], "here") == []


def test_table_1_has_all_rows_and_counts_add_up() -> None:
    (group,) = tables.table1_groups([record(seed=0, acc=9400), record(seed=1, acc=9500)], "here")
    assert [row["row"] for row in group["rows"]] == [row.name for row in ROWS]
    lps = next(row for row in group["rows"] if row["row"] == "table1/lps")
    assert lps["ours"]["acc"]["mean"] == 94.5
    assert (lps["ours"]["acc"]["agree"], lps["ours"]["acc"]["total"], lps["ours"]["acc"]["n"]) == (18_900, 20_000, 2)
    assert lps["ours"]["acc"]["std"] == pytest.approx(0.7071, abs=1e-4)
    assert not lps["stale"]
    assert all(row["ours"] is None for row in group["rows"] if row["row"] != "table1/lps")


def test_a_record_of_other_code_is_marked() -> None:
    old = record()
    old["code"]["hash"] = "another"
    (group,) = tables.table1_groups([old], "here")
    assert next(row for row in group["rows"] if row["row"] == "table1/lps")["stale"]


def test_tables_are_written_for_taking_away(tmp_path: Path) -> None:
    table = tables.write_table1(tmp_path)
    assert json.loads((tmp_path / "table1.json").read_text()) == json.loads(json.dumps(table))
    with (tmp_path / "table1.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 30 * len(table["groups"])
    assert r"\begin{tabular}" in (tmp_path / "table1.tex").read_text()


def test_the_transcription_has_every_cell_of_the_paper() -> None:
    counts = {name: len(tables.paper_table(name)) for name in (f"table{n}" for n in range(1, 7))}
    assert counts == {"table1": 15, "table2": 9, "table3": 9, "table4": 5, "table5": 6, "table6": 5}
    assert [row["row"] for row in tables.paper_table("table1")] == [row.name for row in ROWS]
    assert [row["row"] for row in tables.paper_table("table2") if not row["acc"]] == ["table2/baseline", "table2/aps"]
    text = (PAPER / "README.md").read_text()
    assert "partly reconstructed" in text


def test_every_cell_is_an_entry_with_a_verdict() -> None:
    content = claims.ledger(theory=False)
    entries = content["entries"]
    ids = [entry["id"] for entry in entries]
    assert len(ids) == len(set(ids))
    for number, cells in {1: 30, 2: 18, 3: 18, 4: 15, 5: 12, 6: 10}.items():
        assert sum(entry["place"] == f"Table {number}" for entry in entries) == cells
    assert sum(content["counts"].values()) == len(entries)
    lost = [entry["id"] for entry in entries if entry["verdict"] == "not checkable"]
    assert lost == ["table2/baseline:acc", "table2/aps:acc"]


def test_parameter_counts_hold_and_a_wrong_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [e for e in claims.other_cells() if "parameters" in e.id]
    assert len(counted) == 10 and all(e.verdict == "holds" for e in counted)
    monkeypatch.setattr(claims, "table4_parameters", lambda row: {"parameters": 1, "pooling_parameters": 1})
    assert all(e.verdict == "fails" for e in claims.other_cells() if "parameters" in e.id)


@pytest.mark.parametrize(
    ("seeds", "gain", "expected"), [(1, 100, "not run"), (4, 100, "holds"), (4, -100, "fails"), (4, 0, "not run")]
)
def test_orderings_are_paired_over_seeds(seeds: int, gain: int, expected: str) -> None:
    made = []
    for row in ROWS:
        for seed in range(seeds):
            noise = (seed * 7 + len(row.name)) % 5
            made.append(record(row.name, seed=seed, acc=9000 + noise + (gain if row.method == "lps" else 0)))
    entry = next(e for e in claims.ordering_entries(made) if e.id == "table1-lps-accuracy")
    assert entry.verdict == expected


def test_pairs_share_their_seeds() -> None:
    mean, half, count = claims.paired({0: 2.0, 1: 3.0, 2: 4.0, 9: 100.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (mean, half, count) == (1.0, 0.0, 3)


def test_a_rerun_is_compared_with_what_is_shipped() -> None:
    shipped = [record(seed=0, acc=9400), record(seed=1, acc=9410)]
    assert compare.relation(record(seed=0, acc=9400), shipped, "acc") == "equal"
    assert "within" in compare.relation(record(seed=5, acc=9406), shipped, "acc")
    assert "outside" in compare.relation(record(seed=0, acc=9300), shipped, "acc")
    assert compare.relation(record(profile="reduced"), shipped, "acc") == "nothing shipped"
    other = record() | {"versions": {"torch": "2"}}
    assert compare.environment_differences(other, shipped) == ["versions.torch: 2 here, 1 there"]
