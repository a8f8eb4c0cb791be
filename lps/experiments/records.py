"""Run records: one JSON per run, written whole, never overwritten by another configuration."""

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from ..machine import commit, hardware, versions
from ..paths import write_whole
from ..segmentation import Confusion
from .config import SECTIONS, Experiment, Task
from .profiles import profile_names, profile_of, recorded
from .rows import BY_NAME, own_name
from .schema import COUNT, PERCENT, POSITIVE, REAL, SOME, Shape, among, conform, moment

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")

Subject = Task | Literal["layers", "convert"]
"""What a record tells of: the results of a task, the times of layers and networks, or converted networks."""

VERSION: dict[Subject, int] = {"images": 1, "photographs": 1, "segmentation": 1, "layers": 5, "convert": 2}
"""Raised by hand when equal settings, seed and data give other results, or when the layers compute in another way.

Records of another version are not today's. ``tests/experiments/test_versions.py`` repeats a small run of each subject,
compares it with a stored one, and says what to do where they differ; a rename or a move asks for nothing.
"""

_BEFORE_VERSIONS: dict[Subject, str] = {
    "images": "72a1d91b569f",
    "photographs": "9836e5da7b5f",
    "segmentation": "22e16ca63ba7",
    "layers": "51e0b50628dc",
}
"""Records older than versions hold a hash of sources; these are of version 1, which the ids of its runs still hold."""


def version_of(code: Mapping[str, Any], subject: Subject) -> int:
    """Version of the results behind a record's entry ``code``; 0 for records from before the first."""
    return int(code.get("version", code.get("hash", "none") == _BEFORE_VERSIONS.get(subject)))


def is_current(code: Mapping[str, Any], subject: Subject) -> bool:
    """Are the results behind a record's entry ``code`` today's?"""
    return version_of(code, subject) == VERSION[subject]


def run_id(experiment: Experiment, seed: int, fingerprint: str) -> str:
    """``<profile>-seed<k>-<hash>``: the hash covers every setting, the seed, the data and the version of results."""
    version = VERSION[experiment.task]
    made_by = _BEFORE_VERSIONS[experiment.task] if version == 1 else version
    return f"{experiment.profile}-seed{seed}-{short_hash([experiment.as_dict(), seed, fingerprint, made_by])}"


def short_hash(content: Any) -> str:
    """The first digits of a hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _metric(value: Any, where: str) -> None:
    """A share: its counts, and the percentage that they make."""
    if isinstance(value, dict) and "confusion" in value:
        return _miou(value, where)
    conform(value, {"agree": COUNT, "total": SOME, "value": PERCENT}, where)
    if value["agree"] > value["total"]:
        raise ValueError(f"{where}.agree is {value['agree']}, more than its total of {value['total']}")
    _equal(value["value"], 100 * value["agree"] / value["total"], f"{where}.value")


def _miou(value: Any, where: str) -> None:
    conform(value, {"value": PERCENT, "classes": [PERCENT | None], "confusion": [[COUNT]]}, where)
    classes, lines = value["classes"], value["confusion"]
    if {len(line) for line in lines} | {len(lines)} != {len(classes)}:
        raise ValueError(f"{where}.confusion is no square of {len(classes)} classes")
    made = Confusion(torch.tensor(lines))
    _equal(value["value"], made.miou, f"{where}.value")
    for number, (share, iou) in enumerate(zip(classes, made.iou.tolist(), strict=True)):
        _equal(math.nan if share is None else share, iou, f"{where}.classes[{number}]")


def _equal(value: float, made: float, where: str) -> None:
    same = math.isclose(value, made, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(value) and math.isnan(made))
    if not same:
        raise ValueError(f"{where} is {value:g}, and its counts make {made:g}")


def _code(value: Any, where: str) -> None:
    """Records older than versions of results name a hash of sources."""
    named = {"commit": str | None, "dirty": bool | None, "no_commit?": str}
    conform(value, named | {"version?": SOME, "hash?": str}, where)
    if not value.keys() & {"version", "hash"}:
        raise ValueError(f"{where}.version is missing")


MADE_WITH: Shape = {
    "code": _code,
    "versions": {"torch": str, "*": str | None},
    "hardware": {"cpu": str, "cores": SOME | None, "gpu": str | None},
    "determinism": {"threads": SOME},
    "command": str,
}
"""What every record says of how it was made."""

STUDY: Shape = {
    "experiment": among(lambda: BY_NAME),
    "profile": among(profile_names),
    "seed": COUNT,
    "config": {"data": dict, "model": dict, "train": dict},
    "data": {"name": str, "source": str, "fingerprint": str, "train?": SOME, "test": SOME, "classes?": [str]},
    "metrics": {"*": _metric},
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
    "history": [{"*": REAL} | EPOCH | {"loss": REAL, "lr": REAL}],
    "parameters": SOME,
    "backbone?": str | None,
}
"""A run."""

OWN: Shape = RUN | {
    "experiment": own_name,
    "own": {"like": among(lambda: BY_NAME), "source": str},
}
"""A run of a reader's own."""

_MEASURED = {
    "images": ("acc", "c_cons", "c_cons_original"),
    "photographs": ("acc", "c_cons", "c_cons_original", "s_cons", "s_cons_original"),
    "segmentation": ("miou", "pixel_acc", "mascc", "mascc_original", "massc", "massc_original"),
}
_OF_IMAGES = ("c_cons", "c_cons_original", "s_cons", "s_cons_original")


def check(record: Any, where: str) -> None:
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


def read_record(path: Path, more: Shape = dict) -> dict[str, Any]:
    """A record with its id (``<row>/<file stem>``) added, checked once and here; ``more`` is what else it holds.

    ``profile`` is the one whose settings it has, also where a command reached them with ``--set`` from another's.

    Raises ``ValueError`` for a file that is none, that has another place than its content, or that contradicts itself.
    """
    record = read_json(path, (check, more))
    found, place = f"{record['experiment']}/{record['profile']}-seed{record['seed']}-", "/".join(path.parts[-3:])
    identity = f"{record['experiment']}/{path.stem}"
    if not place.startswith(found) or record.get("run", identity) != identity:
        raise ValueError(_UNREADABLE.format(path, f"it is the record of {record.get('run', found)}"))
    return {**record, "id": identity, "profile": profile_of(record)}


_UNREADABLE = "{} is no readable record; copy it again, or remove it: {}"


def read_json(path: Path, shape: Shape) -> Any:
    """The content of a file of results, of a shape. Raises ``ValueError`` for another content, with the file."""

    def refuse(word: str) -> None:
        raise ValueError(f"it holds {word}, which is no number")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        conform(content, shape)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(_UNREADABLE.format(path, error)) from error
    return content


def read_records(*folders: Path, rows: str = "table*") -> list[dict[str, Any]]:
    """All records below the folders: of the paper's rows, or with ``mine`` of the reader's own."""
    return [read_record(path) for folder in folders for path in sorted(folder.glob(f"{rows}/*/*.json"))]


def code_version(subject: Subject) -> dict[str, Any]:
    """Commit of the checkout, whether it had uncommitted changes, and the version of the results."""
    return {**commit(), "version": VERSION[subject]}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def made_with(subject: Subject, packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """What a record says of the code, the packages, the machine and the moment that it begins with."""
    return {
        "code": code_version(subject),
        "versions": versions(packages),
        "hardware": hardware(),
        "started": now(),
    }


def determinism() -> dict[str, Any]:
    """What decides, beside the hardware, whether a repetition gives the same bits; ``instructions`` are those that
    torch's kernels use on the processor, whose name need not tell."""
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
    }


def flags(changes: Mapping[str, str]) -> str:
    """Changes as the options of a command that makes them."""
    return "".join(f" --set {shlex.quote(f'{setting}={value}')}" for setting, value in changes.items())


def command(experiment: Experiment, seed: int) -> str:
    """The command that repeats a run; for a sampling of one's own, which no command line can name, the call."""
    name, profile, changes = experiment.name, experiment.profile, dict(experiment.changes)
    if experiment.own is not None:
        given = f"like={experiment.own.like!r}, profile={profile!r}, seeds=[{seed}], changes={changes!r}"
        return f"lps.experiments.train({name!r}, sampling=sampling, {given})"
    threads = torch.get_num_threads()
    return f"python -m lps run {name} --profile {profile} --seed {seed}{flags(changes)} --threads {threads}"
