"""Which networks convert and at what price, from records of ``python -m lps convert`` and ``python -m benchmarks``."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from ..studies.families import FAMILIES, TITLES
from .frame import Record
from .times import clock, in_a_cell, latest


class Shown(NamedTuple):
    """A table as text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


# The survey of families

Rows = Mapping[str, Mapping[str, Any]]


def families(rows: Rows) -> Shown:
    """How many networks of each kind were tried, convert, and are exact."""
    lines = []
    for kind, words in TITLES.items():
        tried = [rows[name] for name in FAMILIES[kind] if name in rows and rows[name]["outcome"] in OUTCOMES]
        found = Counter(row["outcome"] for row in tried)
        converted = found["exact"] + found["not exact"]
        pooled = sum(row.get("head") == "pool" for row in tried)
        before = sum(row.get("original_exact", False) for row in tried)
        of = str(len(tried)) if len(tried) == len(FAMILIES[kind]) else f"{len(tried)} of {len(FAMILIES[kind])}"
        convert = f"{converted}, {pooled} with a pooled head" if pooled else str(converted)
        lines.append([words, of, convert, str(found["exact"]), str(before)])
    columns = ("networks", "tried", "convert", "exact under shifts", "exact before")
    return Shown("Networks with random weights, converted with LPS and Tri-3", columns, lines)


OUTCOMES = ("exact", "not exact", "refused")

NUMBERS = re.compile(r"\d[\d.,x]*(e-?\d+)?(?: ?[,x] ?\d+)*")


def refused(rows: Rows) -> Shown:
    """The networks that did not convert, or not exactly, by cause: of reasons that differ by numbers, the first."""
    causes = defaultdict[str, list[str]](list)
    first: dict[str, str] = {}
    for name in filter(rows.__contains__, chain.from_iterable(FAMILIES.values())):
        row = rows[name]
        if row["outcome"] == "refused":
            first.setdefault(cause := NUMBERS.sub("n", row["reason"]), row["reason"])
            causes[cause].append(name)
        elif row["outcome"] == "not exact":
            causes["converts, and is not exact under shifts"].append(name)
    lines = sorted(causes.items(), key=lambda cause: -len(cause[1]))
    shown = [[first.get(cause, cause), str(len(names)), ", ".join(map("`{}`".format, names))] for cause, names in lines]
    return Shown("Networks that were refused, by cause", ("cause", "networks", "which"), shown)


# What it costs

CASES = {"aps-none": "APS", "aps-tri-3": "APS, Tri-3", "lps-tri-3": "LPS, Tri-3"}
PLACEMENTS = ("before", "behind")
COLUMNS = [f"{case} {placement}" for placement in PLACEMENTS for case in CASES]
TARGETS = {"aps-none before": 1.3, "aps-none behind": 2.0, "lps-tri-3 before": 1.5, "lps-tri-3 behind": 2.5}
"""The most that a conversion is to cost in the median over networks."""

COMMAND = "OMP_NUM_THREADS=1 python -m benchmarks 'converted-*' --threads 1 --budget 6m"


def costs(records: Iterable[Record]) -> dict[int, dict[str, dict[str, Any]]]:
    """By number of threads and network: quartiles of the time over the original's, for each of :data:`COLUMNS`."""
    found = defaultdict[int, dict[str, dict[str, Any]]](dict)
    for threads in sorted({record["determinism"]["threads"] for record in records}):
        timed = latest(record for record in records if record["determinism"]["threads"] == threads)
        for record in (record for record in timed if "network" in record["config"]):
            ratios = {name: record["cases"][name][clock(record)] for name in COLUMNS}
            found[threads][record["config"]["network"]] = ratios
    return dict(found)


def cost_table(networks: Mapping[str, Mapping[str, Any]], threads: int) -> Shown:
    """Ratios with their quartiles, medians over the networks, and the targets."""
    lines = [[f"`{name}`", *(in_a_cell(ratios[case]) for case in COLUMNS)] for name, ratios in networks.items()]
    lines.append(["median", *(f"{value:.2f}" for value in medians(networks).values())])
    lines.append(["target", *(f"{TARGETS[case]:.1f}" if case in TARGETS else "" for case in COLUMNS)])
    titles = [f"{placement}: {words}" for placement in PLACEMENTS for words in CASES.values()]
    caption = (
        "Time of converted networks over the original's, median and quartiles of the rounds: 8 images of 128 x 128, "
        f"threads: {threads}. The target is for the median over the networks."
    )
    return Shown(caption, ("network", *titles), lines)


def medians(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Over the networks, of each column."""
    return {case: median(ratios[case]["median"] for ratios in networks.values()) for case in COLUMNS}


def misses(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """Which targets the medians are above, and the dearest network of each, in words."""
    parts = []
    for case, value in medians(networks).items():
        if value > TARGETS.get(case, float("inf")):
            worst = max(networks, key=lambda name: networks[name][case]["median"])
            method, placement = case.split()
            most = networks[worst][case]["median"]
            words = f"{CASES[method]} {placement} convolutions, {value:.2f} in the median, not {TARGETS[case]:.1f}"
            parts.append(f"{words} (most: `{worst}`, {most:.2f})")
    return f"Above target: {'; '.join(parts)}." if parts else "All medians are within their targets."


def price(records: Iterable[Record], placement: str) -> str:
    """What sampling there costs on one thread, in words."""
    networks = costs(records).get(1)
    if not networks:
        return "a factor that has not been measured in this checkout"

    def times(case: str) -> str:
        found = [ratios[f"{case} {placement}"]["median"] for ratios in networks.values()]
        return f"{median(found):.1f} ({min(found):.1f} to {max(found):.1f})"

    return (
        f"{times('lps-tri-3')} times the original's with LPS and Tri-3, {times('aps-none')} with APS and no filter, "
        f"medians of {len(networks)} networks"
    )
