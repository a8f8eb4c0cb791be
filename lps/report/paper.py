"""The paper's numbers, transcribed in ``results/paper``, and what its tables are about."""

import csv
import shlex
from dataclasses import dataclass

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


TABLES = {
    "table1": Table(
        "ResNet-18 on CIFAR-10: accuracy and circular consistency in per cent",
        {"acc": "Acc.", "c_cons": "C-Cons."},
        "notebooks/table1",
        "CIFAR-10",
    ),
    "table2": Table(
        "ResNet-18 on ImageNet: accuracy and circular consistency in per cent",
        {"acc": "Acc.", "c_cons": "C-Cons."},
        "notebooks/table2",
        "ImageNet",
    ),
    "table3": Table(
        "ResNet-50 and ResNet-101 on ImageNet: accuracy and shift consistency in per cent",
        {"acc": "Acc.", "s_cons": "S-Cons."},
        "notebooks/table3",
        "ImageNet",
    ),
    "table4": Table(
        "ResNet-101: trainable parameters and inference time",
        {
            "parameters": "Absolute",
            "pooling_parameters": "Relative",
            "pooling_share": "Relative (%)",
            "time_ms": "Mean (ms)",
            "time_ms_std": "Std (ms)",
        },
        "notebooks/table4",
        "no images",
    ),
    "table5": Table(
        "DeepLabV3+ with ResNet-18 on PASCAL VOC, circular shifts: mIoU and mASCC in per cent",
        {"miou": "mIoU", "mascc": "mASCC"},
        "notebooks/table5",
        "PASCAL VOC, and the ImageNet classifiers of Table 2",
    ),
    "table6": Table(
        "DeepLabV3+ with ResNet-101 on PASCAL VOC, standard shifts: mIoU and mASSC in per cent",
        {"miou": "mIoU", "massc": "mASSC"},
        "notebooks/table6",
        "PASCAL VOC, and the ImageNet classifiers of Table 3",
    ),
}
METRICS = TABLES["table1"].metrics


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
