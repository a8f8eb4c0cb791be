"""The ledger: every checkable statement of the paper with its verdict on this machine."""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
import yaml

from ..experiments.model import build_model
from ..experiments.profiles import load_profile
from ..experiments.records import code_hash, now, read_records, write_json
from ..experiments.table1 import ROWS
from ..machine import hardware
from .paths import BUILD, LOCAL, PAPER, SHIPPED
from .tables import METRICS, Record, is_full_scale, judge, measured, paper_table, write_table1
from .theory import Check, all_checks

Verdict = Literal["holds", "holds+", "direction only", "fails", "not run", "not checkable"]
PAGES = {
    "table1": "notebooks/table1",
}
NOT_BUILT = "this version trains CIFAR-10 classifiers only"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    id: str
    kind: Literal["theorem", "cell", "ordering", "sentence"]
    place: str
    statement: str
    paper: str | None
    ours: str | None
    rule: str
    verdict: Verdict
    evidence: str
    run: list[str] = field(default_factory=list)
    command: str = ""
    page: str | None = None


def theorem_entries() -> list[Entry]:
    """Lemma 1 and Claims 1 to 4, tried now on this machine."""
    listed = yaml.safe_load((PAPER / "claims.yml").read_text())["theorems"]
    checks = {check.item.lower().replace(" ", "-"): check for check in all_checks()}
    return [_theorem(entry, checks[entry["id"]]) for entry in listed]


def _theorem(listed: Mapping[str, str], check: Check) -> Entry:
    broken = sum(tally.failed for tally in check.broken.values())
    ties = f" {check.tied.tried:,} cases with tied scores are counted apart." if check.tied.tried else ""
    return Entry(
        listed["id"],
        "theorem",
        listed["place"],
        listed["statement"],
        "proved",
        f"{check.tried - check.failed:,} of {check.tried:,}",
        "every case holds and every broken variant fails",
        "holds" if check.holds else "fails",
        f"{check.tried:,} cases over every shift ({check.scope}), {check.failed} failed, largest difference "
        f"{check.worst:.1e}; {len(check.broken)} broken variants failed {broken:,} times.{ties}",
        command="python -m lps claims",
        page=listed["page"],
    )


def _with_filter(method: str, antialias: str) -> str:
    return f"{method} without a filter" if antialias == "-" else f"{method} with {antialias}"


def _best_records(name: str, records: Sequence[Record]) -> list[Record]:
    """Records of a row that say most about the paper: full scale, else the reduced schedule on real images."""
    of_row = [r for r in records if r["experiment"] == name and r["data"]["name"] == "cifar10"]
    return [r for r in of_row if is_full_scale(r)] or [r for r in of_row if r["profile"] == "reduced"]


def table1_entries(records: Sequence[Record]) -> list[Entry]:
    """The 30 cells of Table 1."""
    values = {row["row"]: row for row in paper_table("table1")}
    entries = []
    for row in ROWS:
        found = _best_records(row.name, records)
        method, antialias = row.labels
        for metric, title in METRICS.items():
            printed = values[row.name]
            paper = {"mean": float(printed[metric]), "std": float(printed[f"{metric}_std"])}
            ours = measured(found, metric)
            verdict: Any = judge(metric, paper, found)
            scale = "at the paper's scale" if found and all(map(is_full_scale, found)) else "at reduced scale"
            entries.append(
                Entry(
                    f"{row.name}:{metric}",
                    "cell",
                    "Table 1",
                    f"{title} of {_with_filter(method, antialias)}",
                    f"{printed[metric]} ± {printed[f'{metric}_std']}",
                    None if ours is None else f"{ours['mean']:.2f} (n = {ours['n']}, {scale})",
                    "every tested pair equal"
                    if metric == "c_cons" and paper["mean"] == 100
                    else "within max(2 combined standard errors, 0.46 points); only at the paper's scale",
                    verdict,
                    f"{ours['agree']:,} of {ours['total']:,} {scale}" if ours else "no record",
                    [r["id"] for r in found],
                    f"python -m lps run {row.name} --profile full --seeds 5",
                    PAGES["table1"],
                )
            )
    return entries


def other_cells() -> list[Entry]:
    """Cells of Tables 2 to 6; the parameter counts of Table 4 are counted now, the rest is not run."""
    entries = []
    for number in range(2, 7):
        for row in paper_table(f"table{number}"):
            for metric, value in list(row.items())[3:]:
                if metric == "model" or metric.endswith("_std"):
                    continue
                where = _with_filter(row["method"], row["antialias"])
                where += f" on {row['model']}" if "model" in row else ""
                entry = Entry(
                    f"{row['row']}:{metric}",
                    "cell",
                    f"Table {number}",
                    f"{metric} of {where}",
                    value or None,
                    None,
                    "integer equality" if metric in _COUNTED else "not run here",
                    "not run" if value else "not checkable",
                    NOT_BUILT if value else "the text copy of the paper has lost this value",
                )
                entries.append(_counted(entry, row, metric) if metric in _COUNTED else entry)
    return entries


_COUNTED = ("parameters", "pooling_parameters")


@cache
def table4_parameters(row: str) -> dict[str, int]:
    """Trainable parameters of a row of Table 4, counted on ResNet-101 with 10 classes."""
    profile = load_profile("full")
    method, _, antialias = row.removeprefix("table4/").partition("-")
    counts = {}
    for name in (method, "baseline"):
        config = profile.row(row, name, antialias if name != "baseline" else "none").override(
            {"model.depth": "101", "model.stem": "imagenet"}
        )
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in build_model(config.model, classes=10).parameters())
    return {"parameters": counts[method], "pooling_parameters": counts[method] - counts["baseline"]}


def _counted(entry: Entry, row: Mapping[str, str], metric: str) -> Entry:
    ours = table4_parameters(row["row"])[metric]
    return Entry(
        **{
            **asdict(entry),
            "ours": str(ours),
            "verdict": "holds" if ours == int(row[metric]) else "fails",
            "evidence": "counted on this machine; the paper's networks have 10 classes",
            "command": "python -m lps claims",
        }
    )


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, float, int]:
    """Mean of ``a - b`` over common seeds, half width of its 95 % interval (two-sided t) and their number."""
    common = sorted(a.keys() & b.keys())
    differences = [a[s] - b[s] for s in common]
    if len(common) < 2:
        return (mean(differences) if common else math.nan), math.inf, len(common)
    quantile = _T95.get(len(common) - 1, 1.96)
    return mean(differences), quantile * stdev(differences) / math.sqrt(len(common)), len(common)


_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
MIN_SEEDS = 3


def ordering_entries(records: Sequence[Record]) -> list[Entry]:
    """Statements that one method beats another: paired over seeds, never from one seed."""
    listed = yaml.safe_load((PAPER / "claims.yml").read_text())["orderings"]
    entries = []
    for item in listed:
        if item["table"] != "table1":
            entries.append(_ordering(item, "not run", NOT_BUILT, []))
            continue
        pairs = _pairs(item)
        scores = {name: _best_records(name, records) for pair in pairs for name in pair}
        results = [
            paired(*({r["seed"]: r["metrics"][item["metric"]]["value"] for r in scores[n]} for n in pair))
            for pair in pairs
        ]
        seeds = min(n for _, _, n in results)
        words = "; ".join(
            f"{a.split('/')[1]} - {b.split('/')[1]}: {m:+.2f} ± {h:.2f} (n = {n})"
            if n > 1
            else f"{a.split('/')[1]}: n = {n}"
            for (a, b), (m, h, n) in zip(pairs, results, strict=True)
        )
        full = all(is_full_scale(r) for found in scores.values() for r in found)
        if seeds < MIN_SEEDS:
            verdict: Verdict = "not run"
            words = f"{seeds} paired seeds of every row; {MIN_SEEDS} are needed. {words}"
        elif any(m + h < 0 for m, h, _ in results):
            verdict = "fails"
        elif all(m - h > 0 for m, h, _ in results):
            verdict = "holds" if full else "direction only"
        else:
            verdict = "not run"
            words = f"the intervals do not decide it. {words}"
        entries.append(_ordering(item, verdict, words, [r["id"] for found in scores.values() for r in found]))
    return entries


def _pairs(item: Mapping[str, str]) -> list[tuple[str, str]]:
    if "filters" in item:
        lps = [row for row in ROWS if row.method == "lps" and row.antialias != "none"]
        return [(row.name, "table1/lps") for row in lps]
    by_filter = {row.antialias: row.name for row in ROWS if row.method == "lps"}
    return [(by_filter[row.antialias], row.name) for row in ROWS if row.method != "lps"]


def _ordering(item: Mapping[str, str], verdict: Verdict, evidence: str, runs: list[str]) -> Entry:
    return Entry(
        item["id"],
        "ordering",
        item["place"],
        item["statement"],
        None,
        None,
        f"paired over at least {MIN_SEEDS} seeds, the 95 % interval of every difference above zero",
        verdict,
        evidence,
        runs,
        "python -m lps run 'table1/*' --profile full --seeds 5" if item["table"] == "table1" else "",
        PAGES.get(item["table"]),
    )


def sentence_entries() -> list[Entry]:
    """Sentences with numbers."""
    counts = table4_parameters("table4/lps-tri-3")
    share = 100 * counts["pooling_parameters"] / (counts["parameters"] - counts["pooling_parameters"])
    entries = []
    for item in yaml.safe_load((PAPER / "claims.yml").read_text())["sentences"]:
        known = item["id"] == "parameters-1-percent"
        entries.append(
            Entry(
                item["id"],
                "sentence",
                item["place"],
                item["statement"],
                item["paper"],
                f"{share:.2f} %" if known else None,
                "rounds to the paper's value" if known else "not run here",
                ("holds" if round(share) == 1 else "fails") if known else "not run",
                "counted on this machine" if known else NOT_BUILT,
                command="python -m lps claims" if known else "",
            )
        )
    return entries


def ledger(theory: bool = True) -> dict[str, Any]:
    """All entries, with counts by verdict and where they were judged."""
    records = read_records(SHIPPED, LOCAL)
    entries = [
        *(theorem_entries() if theory else []),
        *table1_entries(records),
        *other_cells(),
        *ordering_entries(records),
        *sentence_entries(),
    ]
    about = hardware()
    return {
        "generated": now(),
        "code": code_hash(),
        "machine": f"{about['cpu']}, {about['cores']} cores, torch {torch.__version__}",
        "counts": dict(Counter(entry.verdict for entry in entries)),
        "entries": [asdict(entry) for entry in entries],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, default=BUILD / "claims.json", help="where the ledger is written")
    parser.add_argument("--all", action="store_true", help="list the claims that were not run, too")


def main(options: argparse.Namespace) -> int:
    """Judge, print and write the ledger; exit status 1 when a claim fails."""
    content = ledger()
    write_json(options.json, content)
    write_table1()
    shown = [e for e in content["entries"] if options.all or e["verdict"] not in ("not run", "not checkable")]
    width = max(len(entry["id"]) for entry in shown)
    for entry in shown:
        ours = entry["ours"] or "-"
        print(f"{entry['id']:<{width}}  {entry['verdict']:<14}  paper {entry['paper'] or '-':<16}  here {ours}")
    print("  ".join(f"{verdict}: {count}" for verdict, count in content["counts"].items()))
    return 1 if content["counts"].get("fails") else 0
