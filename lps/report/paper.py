"""The paper's numbers and statements, transcribed in ``results/paper``, and what its tables are about."""

import csv
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from ..experiments.schema import read_yaml
from ..notebooks.cells import left_by
from ..paths import PAPER
from .statistics import Sample

PAPER_SEEDS = 5

MARGIN = 0.46
"""Points within which two accuracies count as equal: two standard errors of one near 94.5 % on 10,000 images."""


@dataclass(frozen=True)
class Table:
    """A table of the paper: what it reports, its columns, its page in the book, and the data that its rows need."""

    title: str
    metrics: dict[str, str]
    page: str
    data: str


_CLAIMS: dict[str, list[dict[str, Any]]] = read_yaml(PAPER / "claims.yml")


def listed(section: str) -> list[dict[str, Any]]:
    """A section of ``claims.yml``: tables, theorems, orderings, effects, consistencies or sentences."""
    return _CLAIMS[section]


TABLES = {f"table{number}": Table(**item) for number, item in enumerate(listed("tables"), 1)}


def paper_table(name: str) -> list[dict[str, str]]:
    """Rows of ``results/paper/<name>.csv`` as text; an empty cell is a value that the text copy has lost."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def paper_number(name: str) -> float:
    """A number of the paper's text, by its name in ``results/paper/text.csv``."""
    return float(next(row["value"] for row in paper_table("text") if row["row"] == name))


def printed_samples(method: str, other: str) -> dict[str, tuple[Sample, Sample]]:
    """Accuracies of two methods of Table 1 as the paper prints them, by filter."""
    rows = {
        (row["method"], row["antialias"]): Sample(float(row["acc"]), float(row["acc_std"]), PAPER_SEEDS)
        for row in paper_table("table1")
    }
    return {a: (value, rows[other, a]) for (name, a), value in rows.items() if name == method and (other, a) in rows}


@cache
def counted() -> Mapping[str, int]:
    """Trainable parameters of the rows of Table 4, as its page counts them: on ResNet-101 with 10 classes."""
    found: Mapping[str, int] = left_by("table4", "evidence")["ours"].to_dict()
    return found


def table4_parameters(row: str) -> dict[str, float]:
    """Parameters of a row of Table 4, all and beyond those of LPF, whose filter has none; the share is in per cent."""
    plain, counts = counted()["lpf-tri-3"], counted()[row.removeprefix("table4/")]
    more = counts - plain
    return {"parameters": counts, "pooling_parameters": more, "pooling_share": 100 * more / plain}


def command(rows: str) -> str:
    """What trains rows of a table as the paper did: five seeds for Table 1, one for the others."""
    seeds = f" --seeds {PAPER_SEEDS}" if rows.startswith("table1/") else ""
    return f"python -m lps run {shlex.quote(rows)} --profile full{seeds}"


# What the statements of ``claims.yml`` compare

Relation = Literal["above", "not below", "close"]


class Pair(NamedTuple):
    """Two rows of a table, of which a statement says that the first is better in ``metric``."""

    metric: str
    better: str
    worse: str


def select(table: str, where: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Rows of a paper's table whose columns hold one of the values given for them."""
    return [row for row in paper_table(table) if all(row[column] in values for column, values in where.items())]


def pairs(item: Mapping[str, Any]) -> Iterator[Pair]:
    """The comparisons that an ordering of ``claims.yml`` makes."""
    for part in item["compare"]:
        for better in select(part["table"], part["better"]):
            for worse in select(part["table"], part["than"]):
                if all(better[column] == worse[column] for column in part["same"]):
                    yield from (Pair(metric, better["row"], worse["row"]) for metric in part["metrics"])


def printed(pair: Pair) -> float | None:
    """The difference between the paper's two values, ``None`` where the text copy has lost one."""
    values = {row["row"]: row[pair.metric] for row in paper_table(pair.better.split("/")[0])}
    if not values[pair.better] or not values[pair.worse]:
        return None
    return round(float(values[pair.better]) - float(values[pair.worse]), 6)


def agrees(relation: Relation, low: float, high: float) -> bool | None:
    """Whether a difference between ``low`` and ``high`` has the relation, ``None`` where it may or may not."""
    if relation == "above":
        return True if low > 0 else False if high < 0 else None
    most = MARGIN if relation == "close" else math.inf
    return True if low >= -MARGIN and high <= most else False if high < -MARGIN or low > most else None
