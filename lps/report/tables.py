"""The paper's tables beside our runs. Every value comes from a record or from ``results/paper``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from ..experiments.records import write_json
from ..paths import BUILD, LOCAL, SHIPPED
from .frame import GROUP, frame, labels, measured, one_per_seed, runs
from .paper import MARGIN, PAPER_SEEDS, TABLES, paper_table, printed_samples
from .statistics import Interval, average_difference, difference, mean_interval

Verdict = Literal["holds", "holds+", "direction only", "undecided", "fails", "not run", "not checkable"]

CONSISTENCIES = ("c_cons", "s_cons", "mascc", "massc")


def judge(metric: str, paper: Mapping[str, Any], lines: pd.DataFrame) -> Verdict:
    """Verdict on one cell; a run at reduced scale decides equality alone, and never earns ``holds``."""
    ours = measured(lines)
    if ours is None:
        return "not run"
    full = bool(lines["full"].all())
    if metric in CONSISTENCIES and paper["mean"] == 100:
        if ours["agree"] < ours["total"]:
            return "fails"
        return "holds" if full else "direction only"
    if full:
        spread = (paper["std"] or 0.0) ** 2 / PAPER_SEEDS + (ours["std"] or 0.0) ** 2 / ours["n"]
        tolerance = max(2 * math.sqrt(spread), MARGIN)
        if abs(ours["mean"] - paper["mean"]) <= tolerance:
            return "holds"
        return "holds+" if ours["mean"] > paper["mean"] else "fails"
    return "undecided"


def together(parts: Sequence[tuple[bool | None, bool]], tried: bool = True) -> Verdict:
    """Verdict on comparisons, each given by whether it agrees, ``None`` where that is open, and whether it was made at
    the paper's scale."""
    if any(agrees is False and full for agrees, full in parts):
        return "fails"
    if all(agrees for agrees, _ in parts):
        return "holds" if all(full for _, full in parts) else "direction only"
    return "undecided" if tried else "not run"


def table_groups(name: str, made: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    """One group per profile and data set; runs of variants (with overrides) are left out."""
    made = made[(made["table"] == name) & made["as_profile"]]
    return [
        {
            "label": f"{words} ({label})",
            "profile": profile,
            "data": data,
            "differs": sorted(set(members["differs"].explode())),
            "rows": [_row(name, row, one_per_seed(members[members["row"] == row["row"]])) for row in paper_table(name)],
        }
        for (profile, data, _, words), members in made.assign(label=labels(made)).groupby([*GROUP, "label"])
    ]


def _row(name: str, row: Mapping[str, str], made: pd.DataFrame) -> dict[str, Any]:
    metrics = TABLES[name].metrics
    paper = {metric: _paper_value(row, metric) for metric in metrics}
    of = {metric: made[made["metric"] == metric] for metric in metrics}
    return {
        **{key: row[key] for key in ("row", "method", "antialias", "model") if key in row},
        "paper": paper,
        "ours": {m: measured(of[m]) for m in metrics} if len(made) else None,
        "verdict": {m: judge(m, paper[m], of[m]) if row[m] else "not checkable" for m in metrics},
        "runs": list(made["id"].unique()),
        "stale": bool(made["stale"].any()),
    }


def _paper_value(row: Mapping[str, str], metric: str) -> dict[str, Any]:
    deviation = row.get(f"{metric}_std")
    return {
        "mean": float(row[metric]) if row[metric] else None,
        "std": float(deviation) if deviation else None,
        "n": PAPER_SEEDS if deviation else 1,
    }


def by_place() -> dict[str, pd.DataFrame]:
    """The shipped runs and the reader's own."""
    return {"shipped": runs(SHIPPED), "made on this machine": runs(LOCAL)}


def table(name: str, found: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """A table of the paper beside runs :func:`by_place`; one empty group where there are none."""
    groups = [group for place, made in found.items() for group in table_groups(name, made, place)]
    if not groups:
        rows = [_row(name, row, frame([])) for row in paper_table(name)]
        groups = [{"label": "not run here", "profile": None, "data": None, "differs": [], "rows": rows}]
    return {"title": TABLES[name].title, "columns": TABLES[name].metrics, "groups": groups}


def accuracies(made: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of Table 1 in one group of runs: a line for each seed, a column for each method and filter."""
    lines = one_per_seed(made[(made["table"] == "table1") & (made["metric"] == "acc")])
    return lines.pivot(index="seed", columns=["method", "antialias"], values="value")


def gains(found: pd.DataFrame, method: str, other: str, antialias: str) -> pd.Series:
    """By how much the first method is more accurate than the other, for each seed that both have."""
    if not {(method, antialias), (other, antialias)} <= {*found.columns}:
        return pd.Series(dtype=float)
    return (found[method, antialias] - found[other, antialias]).dropna()


FIXED = {"-": "Baseline", "Rect-2": "LPF", "Tri-3": "LPF", "Bin-5": "LPF", "Adapt-3": "DDAC"}
"""By filter, the row of Table 1 that keeps phase 0."""


class Price(NamedTuple):
    """Accuracy of a method less that of the row with its filter that keeps phase 0, in points with 95 % intervals.

    ``antialias`` is the filter, or ``mean`` over all of them; ``n`` is the number of seeds that ``ours`` pairs.
    """

    method: str
    antialias: str
    paper: Interval
    ours: Interval
    n: int


def prices(method: str, found: pd.DataFrame) -> list[Price]:
    """What ``method`` costs in accuracy, or gains, with each filter of Table 1, by :func:`accuracies`.

    The paper prints no pairs, so its seeds are taken as independent; ours are paired.
    """
    printed = {a: printed_samples(method, fixed)[a] for a, fixed in FIXED.items()}
    ours = {a: gains(found, method, fixed, a) for a, fixed in FIXED.items()}
    paper = {a: difference(*pair) for a, pair in printed.items()} | {"mean": average_difference([*printed.values()])}
    ours["mean"] = pd.DataFrame(ours).dropna().mean(axis=1)
    return [Price(method, a, paper[a], mean_interval(gap), len(gap)) for a, gap in ours.items()]


MEASURED = ("table1", "table2", "table3", "table5", "table6")
"""Tables of percentages that runs fill; those of Table 4 are counted and timed."""


def write_tables(entries: Sequence[Mapping[str, Any]], folder: Path = BUILD / "tables") -> None:
    """Write every table, the paper beside ours, as JSON, CSV and LaTeX for the book and for the reader."""
    found = by_place()
    for name in MEASURED:
        content = table(name, found)
        cells = [
            {
                "group": group["label"],
                **{key: row[key] for key in ("row", "method", "antialias", "model") if key in row},
                "metric": metric,
                **_cell("paper", row["paper"][metric]),
                **_cell("ours", (row["ours"] or {}).get(metric) or {}),
                "verdict": row["verdict"][metric],
                "runs": " ".join(row["runs"]),
            }
            for group in content["groups"]
            for row in group["rows"]
            for metric in TABLES[name].metrics
        ]
        lines = pd.DataFrame(cells).astype({"ours_n": "Int64"}).drop(columns="paper_n")
        _write(folder / name, content, lines, _side_by_side(lines, TABLES[name].metrics))
    _write(folder / "table4", *_table4(entries))


def _cell(whose: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {whose: value.get("mean"), f"{whose}_std": value.get("std"), f"{whose}_n": value.get("n")}


def _side_by_side(lines: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """A line for each row, as a LaTeX table shows it: the paper's values, then ours."""
    shown = lines[["group", "row", "method", "antialias"]].copy()
    shown["method"] += (", " + lines["model"]) if "model" in lines else ""
    parts = []
    for whose, heading in (("paper", "paper"), ("ours", "here")):
        value = lines[whose].map("{:.2f}".format, na_action="ignore")
        spread = lines[f"{whose}_std"].map(r" $\pm$ {:.2f}".format, na_action="ignore")
        text = (value + spread.fillna("")).fillna("")
        wide = shown.assign(metric=lines["metric"], text=text).pivot(index=[*shown], columns="metric", values="text")
        parts.append(wide[[*metrics]].set_axis([f"{title} ({heading})" for title in metrics.values()], axis=1))
    order = shown.drop_duplicates().set_index([*shown]).index
    frame = pd.concat(parts, axis=1).loc[order].reset_index().drop(columns="row")
    return frame.rename(columns={"group": "Runs", "method": "Method", "antialias": "Anti-alias"})


def _table4(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Table 4 from the cells of the ledger."""
    rows = {row["row"]: row for row in paper_table("table4")}
    cells = [
        {
            **{key: rows[row][key] for key in ("row", "method", "antialias")},
            "column": TABLES["table4"].metrics[metric],
            **{key: entry[key] for key in ("paper", "ours", "verdict", "evidence", "command")},
            "runs": " ".join(entry["run"]),
        }
        for entry in entries
        for row, _, metric in [entry["id"].partition(":")]
        if row in rows
    ]
    lines = pd.DataFrame(cells)
    shown = (
        lines[["method", "antialias", "column", "paper", "ours", "verdict"]].fillna("").replace("%", r"\%", regex=True)
    )
    head = ["Method", "Anti-alias", "Column", "Paper", "Here", "Verdict"]
    return {"title": TABLES["table4"].title, "cells": cells}, lines, shown.set_axis(head, axis=1)


def _write(stem: Path, content: Mapping[str, Any], lines: pd.DataFrame, shown: pd.DataFrame) -> None:
    write_json(stem.with_suffix(".json"), content)
    lines.to_csv(stem.with_suffix(".csv"), index=False)
    text = sum(not heading.endswith("(paper)") and not heading.endswith("(here)") for heading in shown)
    shown.to_latex(stem.with_suffix(".tex"), index=False, column_format="l" * text + "r" * (shown.shape[1] - text))
