"""The paper's tables beside our records. Every value comes from a record or from ``results/paper``."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from ..experiments.config import Experiment
from ..experiments.profiles import load_profile
from ..experiments.records import code_hash, read_records, write_json
from ..experiments.table1 import ROWS, Row, matching
from .paths import BUILD, LOCAL, PAPER, SHIPPED

METRICS = {"acc": "Acc.", "c_cons": "C-Cons."}
PAPER_SEEDS = 5
MEASUREMENT_SPREAD = 0.23
"""Standard error in points of an accuracy near 94.5 % on 10,000 images."""

Record = Mapping[str, Any]


def paper_table(name: str) -> list[dict[str, str]]:
    """Rows of ``results/paper/<name>.csv`` as text; an empty cell is a value that the text copy has lost."""
    with (PAPER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def experiment_settings(experiment: Experiment) -> dict[str, Any]:
    settings = experiment.as_dict()
    return {section: settings[section] for section in ("data", "model", "train", "evaluate")}


@cache
def _full(row: Row) -> dict[str, Any]:
    return experiment_settings(load_profile("full").row(row.name, row.method, row.antialias))


def is_full_scale(record: Record) -> bool:
    """Was the run made with every setting of the paper?"""
    (row,) = matching([record["experiment"]])
    return bool(record["config"] == _full(row))


def as_profile(record: Record) -> bool:
    """Was the run made with the settings of its profile as it is now, without an override?"""
    (row,) = matching([record["experiment"]])
    return bool(
        record["config"]
        == experiment_settings(load_profile(record["profile"]).row(row.name, row.method, row.antialias))
    )


def differences(record: Record) -> list[str]:
    """What sets a run apart from the paper's experiment, in words."""
    (row,) = matching([record["experiment"]])
    paper = _full(row)
    words = [
        f"{section}.{name} is {_word(value)} (the paper's setting: {_word(paper[section][name])})"
        for section, settings in record["config"].items()
        for name, value in settings.items()
        if value != paper[section][name] and section != "evaluate"
    ]
    return [f"images: {record['data']['source']}", *words]


def _word(value: Any) -> str:
    return "all" if value is None else str(value)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (``None`` for a single value) and number."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "n": len(values)}


def measured(records: Sequence[Record], metric: str) -> dict[str, Any] | None:
    """A metric over seeds, with the counts added up."""
    if not records:
        return None
    cells = [record["metrics"][metric] for record in records]
    counts = {key: sum(cell[key] for cell in cells) for key in ("agree", "total")}
    return {**summary([cell["value"] for cell in cells]), **counts}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One line per run: method, filter, seed and metrics in per cent."""
    labels = {row.name: row.labels for row in ROWS}
    return pd.DataFrame(
        {
            "Method": labels[record["experiment"]][0],
            "Anti-Alias": labels[record["experiment"]][1],
            "seed": record["seed"],
            **{title: record["metrics"][metric]["value"] for metric, title in METRICS.items()},
            "C-Cons. (original code)": record["metrics"]["c_cons_original"]["value"],
        }
        for record in records
    )


def paper_frame() -> pd.DataFrame:
    """Table 1 of the paper in the same form."""
    return pd.DataFrame(
        {
            "Method": row["method"],
            "Anti-Alias": row["antialias"],
            **{title: float(row[metric]) for metric, title in METRICS.items()},
        }
        for row in paper_table("table1")
    )


def judge(metric: str, paper: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Verdict on one cell; a run at reduced scale never earns ``holds``."""
    ours = measured(records, metric)
    if ours is None:
        return "not run"
    full = all(is_full_scale(record) for record in records)
    if metric == "c_cons" and paper["mean"] == 100:
        if ours["agree"] < ours["total"]:
            return "fails"
        return "holds" if full else "direction only"
    if full:
        spread = (paper["std"] or 0.0) ** 2 / PAPER_SEEDS + (ours["std"] or 0.0) ** 2 / ours["n"]
        tolerance = max(2 * math.sqrt(spread), 2 * MEASUREMENT_SPREAD)
        if abs(ours["mean"] - paper["mean"]) <= tolerance:
            return "holds"
        return "holds+" if ours["mean"] > paper["mean"] else "fails"
    if metric == "c_cons" and ours["agree"] < ours["total"]:
        return "direction only"
    return "not run"


def _groups(records: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        if as_profile(record):
            key = (record["profile"], record["data"]["name"], record["data"]["fingerprint"])
            groups.setdefault(key, []).append(record)
    return groups


def table1_groups(records: Iterable[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """One group per profile and data set; records of variants (with overrides) are left out."""
    code = code_hash()
    values = {row["row"]: row for row in paper_table("table1")}
    groups = []
    for (profile, data, _), members in sorted(_groups(records).items()):
        rows = []
        for row in ROWS:
            found = [r for r in members if r["experiment"] == row.name]
            current = [r for r in found if r["code"]["hash"] == code] or found
            paper = {
                metric: {
                    "mean": float(values[row.name][metric]),
                    "std": float(values[row.name][f"{metric}_std"]),
                    "n": PAPER_SEEDS,
                }
                for metric in METRICS
            }
            method, antialias = row.labels
            rows.append(
                {
                    "row": row.name,
                    "method": method,
                    "antialias": antialias,
                    "paper": paper,
                    "ours": {m: measured(current, m) for m in METRICS} if current else None,
                    "verdict": {m: judge(m, paper[m], current) for m in METRICS},
                    "runs": [r["id"] for r in current],
                    "stale": bool(current) and all(r["code"]["hash"] != code for r in current),
                }
            )
        shown = {"cifar10": "real CIFAR-10", "drawn": "drawn data"}[data]
        differs = sorted({words for record in members for words in differences(record)})
        groups.append(
            {
                "label": f"{shown}, profile {profile} ({label})",
                "profile": profile,
                "data": data,
                "differs": differs,
                "rows": rows,
            }
        )
    return groups


def table1() -> dict[str, Any]:
    """Table 1: the paper beside the shipped records and the reader's own."""
    groups = [
        *table1_groups(read_records(SHIPPED), "shipped"),
        *table1_groups(read_records(LOCAL), "made on this machine"),
    ]
    return {
        "title": "ResNet-18 on CIFAR-10: accuracy and circular consistency in per cent",
        "columns": list(METRICS.values()),
        "groups": groups,
    }


def write_table1(folder: Path = BUILD / "tables") -> dict[str, Any]:
    """Write Table 1 as JSON, CSV and LaTeX for the book and for the reader; return it."""
    table = table1()
    write_json(folder / "table1.json", table)
    header = [
        "group",
        "row",
        "method",
        "antialias",
        "metric",
        "paper",
        "paper_std",
        "ours",
        "ours_std",
        "n",
        "verdict",
        "runs",
    ]
    lines = [
        [
            group["label"],
            row["row"],
            row["method"],
            row["antialias"],
            metric,
            row["paper"][metric]["mean"],
            row["paper"][metric]["std"],
            *((row["ours"][metric][key] for key in ("mean", "std", "n")) if row["ours"] else ("", "", 0)),
            row["verdict"][metric],
            " ".join(row["runs"]),
        ]
        for group in table["groups"]
        for row in group["rows"]
        for metric in METRICS
    ]
    with (folder / "table1.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    (folder / "table1.tex").write_text(_latex(table))
    return table


def _latex(table: Mapping[str, Any]) -> str:
    rows = [
        r"\begin{tabular}{llrrrr}",
        r"Method & Anti-alias & \multicolumn{2}{c}{Paper} & \multicolumn{2}{c}{Ours} \\",
    ]
    for group in table["groups"]:
        rows.append(rf"\multicolumn{{6}}{{l}}{{{group['label']}}} \\")
        for row in group["rows"]:
            cells = [f"{row['paper'][m]['mean']:.2f}" for m in METRICS]
            cells += [f"{row['ours'][m]['mean']:.2f}" if row["ours"] else "" for m in METRICS]
            rows.append(f"{row['method']} & {row['antialias']} & {' & '.join(cells)} " + r"\\")
    return "\n".join([*rows, r"\end{tabular}", ""])
