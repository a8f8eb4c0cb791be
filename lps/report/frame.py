"""All records of runs as one data frame: tables, ledger, comparison and retrospective are views of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from ..data import Size, other_size
from ..experiments.profiles import changed, experiment_of, profile_names
from ..experiments.records import is_current, read_records
from ..experiments.rows import BY_NAME
from ..paths import LOCAL, SHIPPED

Record = Mapping[str, Any]

GROUP = ["profile", "data", "fingerprint"]
"""What runs have in common that share a mean, a pair or an ordering."""

COLUMNS = [
    *("run", "id", "row", "table", "method", "antialias", *GROUP, "images", "seed", "machine"),
    *("full", "as_profile", "differs", "stale", "guaranteed", "metric", "value", "agree", "total"),
]


def runs(*folders: Path) -> pd.DataFrame:
    """The runs of the paper's rows below the folders, by default those that are shipped and the reader's own."""
    return frame(read_records(*folders or (SHIPPED, LOCAL)))


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """A line for each metric of each run: ``value`` in per cent, and ``agree`` of ``total`` where it is a share.

    ``run`` numbers the records, as a repetition of a shipped run has its ``id``. ``full``, ``as_profile`` and
    ``differs`` are what the functions below say of a record. ``stale``: the same run would give other results today.
    ``guaranteed``: no circular shift may matter.
    """
    lines = [
        {"run": number, **about, "metric": metric, **measured}
        for number, record in enumerate(records)
        for about in [_about(record)]
        for metric, measured in record["metrics"].items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS).astype({"stale": bool, "full": bool, "as_profile": bool})


def _about(record: Record) -> dict[str, Any]:
    method, antialias = BY_NAME[record["experiment"]].labels
    model = record["config"]["model"]
    return {
        "id": record["id"],
        "row": record["experiment"],
        "table": record["experiment"].partition("/")[0],
        "method": method,
        "antialias": antialias,
        "profile": record["profile"],
        "data": record["data"]["name"],
        "fingerprint": record["data"]["fingerprint"],
        "images": images(record["data"]),
        "seed": record["seed"],
        "machine": machine(record["hardware"]),
        "full": is_full_scale(record),
        "as_profile": as_profile(record),
        "differs": differences(record),
        "stale": not is_current(record["code"], experiment_of(record["experiment"], "full").task),
        "guaranteed": guaranteed(model),
    }


def guaranteed(model: Mapping[str, Any]) -> bool:
    """Does every circular shift leave the predictions of such a network as they are? It needs a selection, what was
    taken put back, and circular borders everywhere: those of Tables 3 and 6 are zeros."""
    borders = {model["padding"], model.get("head_padding", "circular")}
    return model["method"] in ("aps", "lps") and model.get("unpool", True) and borders == {"circular"}


def machine(hardware: Mapping[str, Any]) -> str:
    """The GPU of a record or an executed notebook, otherwise its processor and cores."""
    return hardware.get("gpu") or f"{hardware['cpu']}, {hardware.get('cores')} cores"


def images(data: Mapping[str, Any]) -> str:
    """The images of a record in words: a copy of CIFAR-10 in JPEG is not called CIFAR-10."""
    name = SHOWN_DATA.get(data["name"], data["name"])
    return f"{name} as JPEG" if data["name"].startswith("cifar10") and "re-encoded" in data["source"] else name


def label(record: Record) -> str:
    """Words for the data and profile of a record, as :func:`labels` has them for lines of a frame."""
    return f"{images(record['data'])}, profile {record['profile']}"


def _other_size(record: Record) -> str:
    """What the images and classes that a run has seen lack, in words; an older study does not say it of training."""
    data = record["data"]
    seen = Size(data.get("train", 0), data["test"], len(data.get("classes", ())))
    return other_size(record["config"]["data"]["name"], seen)


def is_full_scale(record: Record) -> bool:
    """Was the run made with every setting of the paper, on as many images of as many classes?"""
    return not changed(record, experiment_of(record["experiment"], "full")) and not _other_size(record)


def as_profile(record: Record, changes: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Was the run made with the settings of its profile as it is now, and these ``changes`` to it alone?"""
    return not changed(record, experiment_of(record["experiment"], record["profile"]).override(changes))


def differences(record: Record) -> list[str]:
    """What sets a run apart from the paper's experiment, in words."""
    paper = experiment_of(record["experiment"], "full").as_dict()
    words = [
        f"{section}.{name} is {_word(name, value)} (at full scale: {_word(name, paper[section][name])})"
        for section in ("data", "model", "train", "evaluate")
        for name, value in record["config"].get(section, {}).items()
        if value != paper[section][name] and (section, name) != ("evaluate", "batch_size")
    ]
    same_layout = record["config"]["data"]["name"] == paper["data"]["name"]
    return [f"images: {record['data']['source']}", *filter(None, [same_layout and _other_size(record)]), *words]


def _word(name: str, value: Any) -> str:
    """``None`` is all images of a part, and otherwise a setting that is not used; ``3:0.5`` is a temperature."""
    if name == "tau_line":
        return ", ".join("{1} at epoch {0}".format(*point.split(":")) for point in value.split()) or "none"
    return str(value) if value is not None else "all" if name in ("train", "test") else "none"


def labels(lines: pd.DataFrame) -> pd.Series:
    """Words for the group of each line, ``CIFAR-10 as JPEG, profile reduced``; where they do not tell groups apart, the
    first bytes of the data do."""
    words = lines.get("images", lines["data"].replace(SHOWN_DATA)) + ", profile " + lines["profile"]
    several = lines["fingerprint"].groupby(words).transform("nunique") > 1
    return words.where(~several, words + ", data " + lines["fingerprint"].str[:8])


SHOWN_DATA = {
    "cifar10": "CIFAR-10",
    "cifar10-parity": "CIFAR-10 at random parities",
    "drawn": "drawn data",
    "drawn-masks": "drawn data with masks",
    "drawn-objects": "drawn data with masks of unnamed objects",
    "camvid-voc": "CamVid",
}
"""Names of data in words."""


def drawn(lines: pd.DataFrame) -> pd.Series:
    """Which lines are of runs on drawn data."""
    return lines["data"].str.startswith("drawn")


def groups(lines: pd.DataFrame) -> list[pd.DataFrame]:
    """Lines of one profile and data together: the largest profile first, then the groups with the most runs."""
    found = [members for _, members in lines.groupby(GROUP, sort=False)]
    rank = profile_names().index
    return sorted(found, key=lambda members: (-rank(members["profile"].iloc[0]), -members["run"].nunique()))


def one_per_seed(lines: pd.DataFrame) -> pd.DataFrame:
    """A run for each seed of a row and group: the last that today's sources made, or the first where they made none."""
    late = lines["run"].where(lines["stale"], -lines["run"])
    ranked = lines.assign(late=late).sort_values(["stale", "late"], kind="stable")
    kept = ranked.drop_duplicates(["row", *GROUP, "seed"])["run"]
    return lines[lines["run"].isin(kept)].sort_values("seed", kind="stable")


def measured(lines: pd.DataFrame) -> dict[str, Any] | None:
    """A metric over seeds: mean, deviation (``None`` for one value), number, and the counts added up."""
    if lines.empty:
        return None
    counts = {} if lines["total"].isna().any() else {key: int(lines[key].sum()) for key in ("agree", "total")}
    deviation = float(lines["value"].std()) if len(lines) > 1 else None
    return {"mean": float(lines["value"].mean()), "std": deviation, "n": len(lines), **counts}


def age(lines: pd.DataFrame) -> str:
    """A remark on runs that were made by earlier sources, empty where there are none."""
    made = lines.drop_duplicates("run")
    old = int(made["stale"].sum())
    return f"; {old} of {len(made)} runs were made before `lps` last changed" if old else ""
