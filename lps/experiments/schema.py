"""What a record has to hold: checked once, when its file is read."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from ..segmentation import Confusion
from .config import SECTIONS
from .profiles import profile_names, recorded
from .rows import ROWS, own_name

Shape = Any
"""A type; a function of a value and its place that raises ``ValueError``; or a form of either below."""


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``, a whole one for the type ``int``."""

    type: type
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Maybe:
    """Of the shape, or ``null``."""

    shape: Shape


@dataclass(frozen=True)
class Each:
    """An object whose values are all of one shape, whatever their names are."""

    shape: Shape


@dataclass(frozen=True)
class Both:
    """Of two shapes at once."""

    first: Shape
    second: Shape


COUNT, SOME = Number(int, 0, 2**53), Number(int, 1, 2**53)
REAL, POSITIVE, PERCENT = Number(float), Number(float, 0), Number(float, 0, 100)

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "{...}", list: "[...]"}


def conform(value: Any, shape: Shape, where: str = "") -> None:
    """Raise ``ValueError``, with the place below ``where``, for a value of another shape.

    An object needs the names of a dictionary that do not end in ``?``, and may have others. A list of one shape stands
    for a list of any length, one of several for as many.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            conform(value, shape.shape, where)
    elif isinstance(shape, Both):
        conform(value, shape.first, where)
        conform(value, shape.second, where)
    elif isinstance(shape, Number):
        _of_type(value, (int, float) if shape.type is float else (int,), shape.type, where)
        if not (math.isfinite(value) and shape.low <= value <= shape.high):
            raise ValueError(f"{where} is {value:g}, outside {shape.low:g} to {shape.high:g}")
    elif isinstance(shape, dict):
        _of_type(value, (dict,), dict, where)
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name in value:
                conform(value[name], inner, f"{where}.{name}".removeprefix("."))
            elif name == key:
                raise ValueError(f"{f'{where}.{name}'.removeprefix('.')} is missing")
    elif isinstance(shape, Each):
        _of_type(value, (dict,), dict, where)
        for name, inner in value.items():
            conform(inner, shape.shape, f"{where}.{name}")
    elif isinstance(shape, list):
        _of_type(value, (list,), list, where)
        if len(value) != len(shape) > 1:
            raise ValueError(f"{where} has {len(value)} entries; expected {len(shape)}")
        for place, inner in enumerate(value):
            conform(inner, shape[0], f"{where}[{place}]")
    elif isinstance(shape, type):
        _of_type(value, (shape,), shape, where)
    else:
        shape(value, where)


def _of_type(value: Any, accepted: tuple[type, ...], named: type, where: str) -> None:
    if type(value) not in accepted:
        shown = repr(value) if isinstance(value, str | int | float | None) else f"of type {type(value).__name__}"
        raise ValueError(f"{where or 'the whole'} is {shown:.60}; expected {_WORDS[named]}")


def counted(value: Any, where: str) -> None:
    """A share: its counts, and the percentage that they make."""
    conform(value, {"agree": COUNT, "total": SOME, "value": PERCENT}, where)
    if value["agree"] > value["total"]:
        raise ValueError(f"{where}.agree is {value['agree']}, more than its total of {value['total']}")
    _equal(value["value"], 100 * value["agree"] / value["total"], f"{where}.value", "its counts make")


def _equal(value: float, expected: float, where: str, words: str) -> None:
    if not math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9):
        raise ValueError(f"{where} is {value:g}, and {words} {expected:g}")


def _miou(value: Any, where: str) -> None:
    conform(value, {"value": PERCENT, "classes": [Maybe(PERCENT)], "confusion": [[COUNT]]}, where)
    classes, lines = value["classes"], value["confusion"]
    if {len(line) for line in lines} | {len(lines)} != {len(classes)}:
        raise ValueError(f"{where}.confusion is no square of {len(classes)} classes")
    made = Confusion(torch.tensor(lines))
    _equal(value["value"], made.miou, f"{where}.value", "its counts make")
    for number, (share, iou) in enumerate(zip(classes, made.iou.tolist(), strict=True)):
        if (share is None) != math.isnan(iou):
            raise ValueError(f"{where}.classes[{number}] is {share}, and its counts make {iou:g}")
        if share is not None:
            _equal(share, iou, f"{where}.classes[{number}]", "its counts make")


def _metric(value: Any, where: str) -> None:
    (_miou if isinstance(value, dict) and "confusion" in value else counted)(value, where)


def moment(value: Any, where: str) -> None:
    """A time, as :func:`~lps.experiments.records.now` writes it."""
    conform(value, str, where)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{where} is {value!r}; expected a time as in 2026-01-31T12:00:00+00:00") from None


def among(known: Callable[[], Collection[str]]) -> Callable[[Any, str], None]:
    """A text that is one of those known."""

    def check(value: Any, where: str) -> None:
        conform(value, str, where)
        if value not in known():
            raise ValueError(f"{where} is {value!r}, which is not known here")

    return check


def _code(value: Any, where: str) -> None:
    """Records older than versions of results name a hash of sources."""
    named = {"commit": Maybe(str), "dirty": Maybe(bool), "no_commit?": str}
    conform(value, named | {"version?": SOME, "hash?": str}, where)
    if not value.keys() & {"version", "hash"}:
        raise ValueError(f"{where}.version is missing")


MADE_WITH: Shape = {
    "code": _code,
    "versions": Both(Each(Maybe(str)), {"torch": str}),
    "hardware": {"cpu": str, "cores": Maybe(SOME), "gpu": Maybe(str)},
    "determinism": {"threads": SOME},
    "command": str,
}
"""What every record says of how it was made."""

STUDY: Shape = {
    "experiment": among(lambda: [row.name for row in ROWS]),
    "profile": among(profile_names),
    "seed": COUNT,
    "config": {"data": dict, "model": dict, "train": dict},
    "data": {"name": str, "source": str, "fingerprint": str, "train?": SOME, "test": SOME, "classes?": [str]},
    "metrics": Each(_metric),
    "weights?": {"sha256": str, "precision": str, "backbone?": str},
    "started": moment,
    "seconds": {"training": POSITIVE, "this_session": POSITIVE},
    **MADE_WITH,
}
"""A study of a trained network."""

EPOCH = {"epoch": SOME, "accuracy": PERCENT, "tau": POSITIVE, "seconds": POSITIVE, "images_per_second": POSITIVE}
RUN: Shape = STUDY | {
    "config": dict.fromkeys(SECTIONS, dict),
    "data": {"name": str, "source": str, "fingerprint": str, "train": SOME, "test": SOME, "classes": [str]},
    "history": [Both(Each(REAL), EPOCH | {"loss": REAL, "lr": REAL})],
    "parameters": SOME,
    "backbone?": Maybe(str),
}
"""A run."""

OWN: Shape = RUN | {
    "experiment": own_name,
    "own": {"like": among(lambda: [row.name for row in ROWS]), "source": str},
}
"""A run of a reader's own."""

_MEASURED = {
    "images": ("acc", "c_cons", "c_cons_original"),
    "photographs": ("acc", "c_cons", "c_cons_original", "s_cons", "s_cons_original"),
    "segmentation": ("miou", "pixel_acc", "mascc", "mascc_original", "massc", "massc_original"),
}
_OF_IMAGES = ("c_cons", "c_cons_original", "s_cons", "s_cons_original")


def check(record: Any, where: str = "") -> None:
    """Raise ``ValueError`` where a record of a run or of a study is not what :func:`~lps.experiments.run.perform` or
    :func:`~lps.studies.trained.study` writes: in its form, or because its parts contradict each other."""
    study = isinstance(record, dict) and "run" in record
    own = record.get("own") if isinstance(record, dict) else None
    conform(record, STUDY if study else OWN if own is not None else RUN)
    config, data, metrics = record["config"], record["data"], record["metrics"]
    experiment = recorded(record["experiment"], record["profile"], config, own)
    if study:
        return
    layout = config["data"]
    if data["name"] != (name := layout["folder"] if layout["name"] in ("imagenet", "voc") else layout["name"]):
        raise ValueError(f"data.name is {data['name']!r}; its settings name {name!r}")
    if missing := [name for name in _MEASURED[experiment.task] if name not in metrics]:
        raise ValueError(f"metrics.{missing[0]} is missing")
    for part in ("train", "test"):
        if layout[part] not in (None, data[part]):
            raise ValueError(f"data.{part} is {data[part]}, and config.data.{part} is {layout[part]}")
    totals = {"acc": data["test"]} | dict.fromkeys(_OF_IMAGES, data["test"] * experiment.evaluate.pairs)
    for name in totals.keys() & metrics.keys():
        if metrics[name]["total"] != totals[name]:
            raise ValueError(f"metrics.{name}.total is {metrics[name]['total']}; the images make {totals[name]}")
    if "miou" in metrics and len(metrics["miou"]["classes"]) != len(data["classes"]):
        raise ValueError(f"metrics.miou is not of the {len(data['classes'])} classes of data")
    history = record["history"]
    epochs = [line["epoch"] for line in history]
    if len(epochs) != experiment.train.epochs or epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"history is not that of {experiment.train.epochs} epochs")
    if any(line.keys() != history[0].keys() for line in history):
        raise ValueError("history has not the same columns in every epoch")
