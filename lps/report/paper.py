"""The paper's numbers, transcribed in ``results/paper``, and what its tables are about."""

import csv
import shlex
from dataclasses import dataclass
from typing import Any

from ..experiments.schema import read_yaml
from ..paths import PAPER
from .statistics import Sample

PAPER_SEEDS = 5


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


def command(rows: str) -> str:
    """What trains rows of a table as the paper did: five seeds for Table 1, one for the others."""
    seeds = f" --seeds {PAPER_SEEDS}" if rows.startswith("table1/") else ""
    return f"python -m lps run {shlex.quote(rows)} --profile full{seeds}"
