"""The paper's tables beside our records. Every value comes from a record or from ``results/paper``."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import pandas as pd

from ..data import Size, other_size
from ..experiments.config import Experiment
from ..experiments.profiles import changed, load_profile
from ..experiments.records import Subject, is_current, read_records, write_json
from ..experiments.rows import TABLE1, Row, matching
from ..paths import BUILD, LOCAL, SHIPPED
from .paper import METRICS, PAPER_SEEDS, TABLES, paper_table, printed_samples
from .statistics import detectable, paired, paired_power, seeds_needed

MARGIN = 0.46
"""Points within which two accuracies count as equal: two standard errors of one near 94.5 % on 10,000 images."""

Record = Mapping[str, Any]
Verdict = Literal["holds", "holds+", "direction only", "undecided", "fails", "not run", "not checkable"]


def experiment_settings(experiment: Experiment) -> dict[str, Any]:
    """What makes the experiment; how the machine is used for it (``engine``) does not."""
    settings = experiment.as_dict()
    return {section: settings[section] for section in ("data", "model", "train", "evaluate")}


@cache
def _full(row: Row) -> Experiment:
    return load_profile("full").row(row)


def size_of(record: Record) -> Size:
    """Images and classes that a run has seen; an older study does not say it of training."""
    data = record["data"]
    return Size(data.get("train", 0), data["test"], len(data.get("classes", ())))


def is_full_scale(record: Record) -> bool:
    """Was the run made with every setting of the paper, on as many images of as many classes?"""
    (row,) = matching([record["experiment"]])
    return not changed(record, _full(row)) and not other_size(record["config"]["data"]["name"], size_of(record))


def as_profile(record: Record) -> bool:
    """Was the run made with the settings of its profile as it is now, without an override?"""
    (row,) = matching([record["experiment"]])
    return not changed(record, load_profile(record["profile"]).row(row))


def differences(record: Record) -> list[str]:
    """What sets a run apart from the paper's experiment, in words."""
    (row,) = matching([record["experiment"]])
    paper = _full(row).as_dict()
    words = [
        f"{section}.{name} is {_word(name, value)} (the paper's setting: {_word(name, paper[section][name])})"
        for section in ("data", "model", "train")
        for name, value in record["config"][section].items()
        if value != paper[section][name]
    ]
    layout = record["config"]["data"]["name"]
    size = other_size(layout, size_of(record)) if layout == paper["data"]["name"] else ""
    return [f"images: {record['data']['source']}", *([size] if size else []), *words]


def _word(name: str, value: Any) -> str:
    """``None`` is all images of a part, and otherwise a setting that is not used."""
    return str(value) if value is not None else "all" if name in ("train", "test") else "none"


Group = tuple[str, str, str]


def group(record: Record) -> Group:
    """What records have in common that share a mean, a pair or an ordering: profile, name of the data, fingerprint."""
    return record["profile"], record["data"]["name"], record["data"]["fingerprint"]


def grouped(records: Iterable[Record]) -> dict[Group, list[Record]]:
    """Records by :func:`group`, the largest groups first."""
    groups: dict[Group, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def named(groups: Iterable[Group]) -> dict[Group, str]:
    """Words for groups, ``real CIFAR-10, profile reduced``; the first bytes of the data tell apart what they do not."""
    words = {key: f"{SHOWN_DATA.get(key[1], key[1])}, profile {key[0]}" for key in groups}
    twice = {text for text, times in Counter(words.values()).items() if times > 1}
    return {key: f"{text}, data {key[2][:8]}" if text in twice else text for key, text in words.items()}


SHOWN_DATA = {"cifar10": "real CIFAR-10", "drawn": "drawn data"}


def by_seed(records: Iterable[Record], metric: str) -> dict[tuple[Group, int], float]:
    """Values of a metric, to be paired: by seed, within a group."""
    return {(group(record), record["seed"]): record["metrics"][metric]["value"] for record in records}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (``None`` for a single value) and number."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "n": len(values)}


def measured(records: Sequence[Record], metric: str) -> dict[str, Any] | None:
    """A metric over seeds, with the counts added up."""
    if not records:
        return None
    cells = [record["metrics"][metric] for record in records]
    counts = {key: sum(cell[key] for cell in cells) for key in ("agree", "total") if key in cells[0]}
    return {**summary([cell["value"] for cell in cells]), **counts}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One line per run: method, filter, seed and metrics in per cent."""
    labels = {row.name: row.labels for row in TABLE1}
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


CONSISTENCIES = ("c_cons", "s_cons", "mascc", "massc")


def judge(metric: str, paper: Mapping[str, Any], records: Sequence[Record]) -> Verdict:
    """Verdict on one cell; a run at reduced scale decides equality alone, and never earns ``holds``."""
    ours = measured(records, metric)
    if ours is None:
        return "not run"
    full = all(is_full_scale(record) for record in records)
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


@cache
def _task(experiment: str) -> Subject:
    (row,) = matching([experiment])
    return load_profile("full").row(row).task


def stale(record: Record) -> bool:
    """Would the same run give other results today?"""
    return not is_current(record["code"], _task(record["experiment"]))


def age(records: Sequence[Record]) -> str:
    """A remark on records that were made by earlier sources, empty where there are none."""
    old = sum(map(stale, records))
    return f"; {old} of {len(records)} runs were made before `lps` last changed" if old else ""


def one_per_seed(records: Iterable[Record]) -> list[Record]:
    """A record for each seed: the last that today's sources made, or the first where they made none."""
    found: dict[int, Record] = {}
    for record in records:
        if record["seed"] not in found or not stale(record):
            found[record["seed"]] = record
    return list(found.values())


def table_groups(name: str, records: Iterable[Record], label: str) -> list[dict[str, Any]]:
    """One group per profile and data set; records of variants (with overrides) are left out."""
    of_table = (record for record in records if record["experiment"].startswith(f"{name}/"))
    found = grouped(filter(as_profile, of_table))
    titles = named(found)
    groups = []
    for key, members in sorted(found.items()):
        rows = []
        for row in paper_table(name):
            rows.append(_row(name, row, one_per_seed(r for r in members if r["experiment"] == row["row"])))
        differs = sorted({words for record in members for words in differences(record)})
        groups.append(
            {
                "label": f"{titles[key]} ({label})",
                "profile": key[0],
                "data": key[1],
                "differs": differs,
                "rows": rows,
            }
        )
    return groups


def _row(name: str, row: Mapping[str, str], records: Sequence[Record]) -> dict[str, Any]:
    metrics = TABLES[name].metrics
    paper = {metric: _paper_value(row, metric) for metric in metrics}
    return {
        **{key: row[key] for key in ("row", "method", "antialias", "model") if key in row},
        "paper": paper,
        "ours": {m: measured(records, m) for m in metrics} if records else None,
        "verdict": {m: judge(m, paper[m], records) if row[m] else "not checkable" for m in metrics},
        "runs": [r["id"] for r in records],
        "stale": any(map(stale, records)),
    }


def _paper_value(row: Mapping[str, str], metric: str) -> dict[str, Any]:
    deviation = row.get(f"{metric}_std")
    return {
        "mean": float(row[metric]) if row[metric] else None,
        "std": float(deviation) if deviation else None,
        "n": PAPER_SEEDS if deviation else 1,
    }


def table(name: str) -> dict[str, Any]:
    """A table of the paper beside the shipped records and the reader's own; one empty group where there is neither."""
    groups = [
        *table_groups(name, read_records(SHIPPED), "shipped"),
        *table_groups(name, read_records(LOCAL), "made on this machine"),
    ]
    if not groups:
        rows = [_row(name, row, []) for row in paper_table(name)]
        groups = [{"label": "not run here", "profile": None, "data": None, "differs": [], "rows": rows}]
    return {"title": TABLES[name].title, "columns": TABLES[name].metrics, "groups": groups}


def seeds_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What our seeds tell about LPS against APS in Table 1: paired differences, by profile, data and filter.

    ``gap`` is the smallest true difference that as many pairs find with a chance of 80 %, at the deviations that the
    paper prints; ``needed`` is the number of seeds that the paper's own difference takes.
    """
    lines = []
    found = grouped(r for r in records if r["experiment"].startswith("table1/") and as_profile(r))
    titles = named(found)
    for key, members in sorted(found.items()):
        for antialias, (lps, aps) in printed_samples("LPS", "APS").items():
            tail = "" if antialias == "-" else f"-{antialias.lower()}"
            pair = ([r for r in members if r["experiment"] == f"table1/{name}{tail}"] for name in ("lps", "aps"))
            interval, n = paired(*(by_seed(one_per_seed(side), "acc") for side in pair))
            lines.append(
                {
                    "label": titles[key],
                    "profile": key[0],
                    "data": key[1],
                    "antialias": antialias,
                    "paper": lps.mean - aps.mean,
                    "needed": seeds_needed(lps.mean - aps.mean, lps.std, aps.std),
                    "n": n,
                    "difference": interval.value if n else None,
                    "low": interval.low if n > 1 else None,
                    "high": interval.high if n > 1 else None,
                    "gap": detectable(lps.std, aps.std, n, test=paired_power) if n > 1 else None,
                }
            )
    return lines


MEASURED = ("table1", "table2", "table3", "table5", "table6")
"""Tables of percentages that runs fill; those of Table 4 are counted and timed."""


def write_tables(entries: Sequence[Mapping[str, Any]], folder: Path = BUILD / "tables") -> None:
    """Write every table, the paper beside ours, as JSON, CSV and LaTeX for the book and for the reader."""
    for name in MEASURED:
        content = table(name)
        write_json(folder / f"{name}.json", content)
        _write_csv(folder / f"{name}.csv", _lines(content))
        metrics = content["columns"]
        titles = [f"{title} ({whose})" for whose in ("paper", "here") for title in metrics.values()]
        parts = [(group["label"], [_latex_row(row, metrics) for row in group["rows"]]) for group in content["groups"]]
        (folder / f"{name}.tex").write_text(latex(["Method", "Anti-alias", *titles], parts), encoding="utf-8")
    write_table4(entries, folder)


def _lines(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each cell of each group."""
    lines = []
    for group in content["groups"]:
        for row in group["rows"]:
            labels = {key: row[key] for key in ("row", "method", "antialias", "model") if key in row}
            for metric in content["columns"]:
                ours = (row["ours"] or {}).get(metric) or {}
                lines.append(
                    {
                        "group": group["label"],
                        **labels,
                        "metric": metric,
                        **{"paper" + end: row["paper"][metric][key] for end, key in (("", "mean"), ("_std", "std"))},
                        **{"ours" + end: ours.get(key) for end, key in (("", "mean"), ("_std", "std"), ("_n", "n"))},
                        "verdict": row["verdict"][metric],
                        "runs": " ".join(row["runs"]),
                    }
                )
    return lines


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)


def _latex_row(row: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
    def shown(value: Mapping[str, Any] | None) -> str:
        if not value or value["mean"] is None:
            return ""
        return f"{value['mean']:.2f}" + (f" $\\pm$ {value['std']:.2f}" if value["std"] is not None else "")

    method = f"{row['method']}, {row['model']}" if "model" in row else row["method"]
    ours = row["ours"] or {}
    return [
        method,
        row["antialias"],
        *(shown(row["paper"][m]) for m in metrics),
        *(shown(ours.get(m)) for m in metrics),
    ]


def latex(head: Sequence[str], parts: Iterable[tuple[str, Iterable[Sequence[str]]]]) -> str:
    """A LaTeX table with the rules of the package booktabs; each part of the body has a title, or an empty one."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.replace("%", r"\%") for cell in cells) + r" \\"

    rows = [rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}", r"\toprule", line(head)]
    for title, body in parts:
        rows.append(r"\midrule")
        rows += [rf"\multicolumn{{{len(head)}}}{{l}}{{{title}}} \\"] if title else []
        rows += map(line, body)
    return "\n".join([*rows, r"\bottomrule", r"\end{tabular}", ""])


def write_table4(entries: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write Table 4 from the cells of the ledger."""
    titles = TABLES["table4"].metrics
    labels = {row["row"]: {key: row[key] for key in ("row", "method", "antialias")} for row in paper_table("table4")}
    lines = []
    for entry in entries:
        row, _, metric = entry["id"].partition(":")
        if row in labels:
            kept = {key: entry[key] for key in ("paper", "ours", "verdict", "evidence", "command")}
            lines.append({**labels[row], "column": titles[metric], **kept, "runs": " ".join(entry["run"])})
    write_json(folder / "table4.json", {"title": TABLES["table4"].title, "cells": lines})
    _write_csv(folder / "table4.csv", lines)
    head = ("method", "antialias", "column", "paper", "ours", "verdict")
    body = [[line[key] or "" for key in head] for line in lines]
    (folder / "table4.tex").write_text(
        latex(("Method", "Anti-alias", "Column", "Paper", "Here", "Verdict"), [("", body)]), encoding="utf-8"
    )
