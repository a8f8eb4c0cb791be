"""What the records of the studies of Sec. 5.3 say of the paper's sentences: fields of the ledger."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from ..metrics import Count
from .frame import Record, is_full_scale
from .statistics import Interval, wilson
from .tables import together

CHANCE = 1 / 4
"""How often a choice among the phases of stride 2 in two dimensions falls on the largest norm, if by no norm."""

DIRECTIONS = {
    "replaced": "accuracy falls when APS chooses, the 95 % intervals apart",
    "share": (
        f"LPD takes the largest norm less often than a choice by no norm ({100 * CHANCE:g} %), 95 % interval; "
        "that a rule was learned does not follow, for a logit network that nobody trained may do so, too"
    ),
    "differs": (
        "in the last sampling layer the choices differ on some images; "
        "below full scale accuracy has to fall as well when APS chooses, for another choice may be no rule at all"
    ),
}
LIMITS = "in every network; direction only at most, and undecided below full scale where a network lacks it"


def judge(name: str, studied: Sequence[Record], unlearned: Iterable[Record] = ()) -> dict[str, Any]:
    """Fields of a ledger entry, each network counted once, of every profile on the data with the most of them.

    Beside a share of largest norms stands that of new logit networks, in the networks that were studied for it.

    A study of other networks than the paper's earns *direction only* at most. Where the direction is absent it is
    *undecided*, and *fails* only where it is absent from a network trained at full scale.
    """
    command = "python -m lps run 'table1/lps*' --profile reduced; python -m lps study 'table1/lps*' --profile reduced"
    fields = {"rule": f"{DIRECTIONS[name]}, {LIMITS}", "command": command, "ours": None}
    groups: dict[str, list[Record]] = {}
    for record in on_real_images(studied):
        groups.setdefault(record["data"]["fingerprint"], []).append(record)
    found = max(groups.values(), key=lambda made: (any(map(is_full_scale, made)), len(made)), default=[])
    if not found:
        drawn = f"; on drawn data: {_value(name, one_per_run(studied))}" if studied else ""
        return {**fields, "verdict": "not run", "evidence": f"no study of a network trained on real images{drawn}"}
    parts = [(direction(name, record["metrics"], full := is_full_scale(record)), full) for record in found]
    without, verdict = sum(not seen for seen, _ in parts), together(parts)
    seen = f"the direction is not seen at this scale in {without} of {len(found)} networks; " if without else ""
    images = [
        record
        for record in on_real_images(unlearned)
        if record["data"]["fingerprint"] == found[0]["data"]["fingerprint"]
    ]
    if name == "share" and images:
        new = [kept for record in images for kept in kept_unlearned(record)]
        seen += (
            f"logit networks that nobody trained, {len(images[0]['unlearned'])} sets in {len(images)} trained "
            f"network{'s' * (len(images) > 1)}, keep the largest norm in {min(new):.1f} to {max(new):.1f} %; "
        )
    return {
        **fields,
        "ours": _value(name, found),
        "verdict": "direction only" if verdict == "holds" else verdict,
        "evidence": seen + "; ".join(f"{record['run']}: {_value(name, [record])}" for record in found),
        "run": [record["id"] for record in found],
    }


def on_real_images(studied: Iterable[Record]) -> list[Record]:
    """A record of each network that was trained on images that are not drawn."""
    return [record for record in one_per_run(studied) if not record["data"]["name"].startswith("drawn")]


def one_per_run(studied: Iterable[Record]) -> list[Record]:
    """The first record of each network: a repetition of a shipped study says nothing new."""
    found: dict[str, Record] = {}
    for record in studied:
        found.setdefault(record["run"], record)
    return list(found.values())


def _value(name: str, studied: Sequence[Record]) -> str:
    def counted(metric: str) -> Count:
        return sum((Count(r["metrics"][metric]["agree"], r["metrics"][metric]["total"]) for r in studied), Count())

    if name == "replaced":
        return f"{counted('acc').percent:.1f} % to {counted('acc_max_norm').percent:.1f} %"
    count = counted("max_norm" if name == "share" else last_layer(studied[0]["metrics"]))
    return f"{count.percent:.2f} % ({count.agree:,} of {count.total:,})"


def last_layer(metrics: Mapping[str, Any]) -> str:
    return max(name for name in metrics if name.startswith("max_norm, "))


def kept_unlearned(record: Record, layer: int | None = None) -> list[float]:
    """How often each set of new logit networks keeps the largest norm, in per cent: in one layer, or over all."""
    layers = slice(None) if layer is None else slice(layer, layer + 1 or None)
    return [100 * mean(kept[layers]) / record["data"]["test"] for kept in record["unlearned"]]


def _interval(metrics: Mapping[str, Any], name: str) -> Interval:
    return wilson(metrics[name]["agree"], metrics[name]["total"])


def falls(metrics: Mapping[str, Any], changed: str) -> bool:
    """Is the accuracy of a changed network below the network's own, the intervals apart?"""
    return _interval(metrics, changed).high < _interval(metrics, "acc").low


def direction(name: str, metrics: Mapping[str, Any], full: bool = False) -> bool:
    """Does one network show what the rule asks for? Below full scale another choice is only seen to be a rule where
    the network depends on it."""
    if name == "replaced":
        return falls(metrics, "acc_max_norm")
    if name == "share":
        return _interval(metrics, "max_norm").high < CHANCE
    last = metrics[last_layer(metrics)]
    return bool(last["agree"] < last["total"]) and (full or falls(metrics, "acc_max_norm"))
