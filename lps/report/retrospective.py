"""What the records say together: how runs of different scale agree, and what all of it cost."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any

from ..experiments.profiles import load_profile
from ..experiments.rows import TABLE1, matching
from ..studies.trained import direction, one_per_run
from .paper import paper_table, printed_samples
from .statistics import Interval, average_difference, difference, mean_interval, paired
from .tables import Record, group, grouped, stale


def guaranteed(record: Record) -> bool:
    """Does the network select, and where it labels pixels also put back, so that no circular shift may matter?"""
    model = record["config"]["model"]
    return model["method"] in ("aps", "lps") and model.get("unpool", True)


def machine(record: Record) -> str:
    """The GPU of a record, otherwise its processor and cores."""
    values = record["hardware"]
    return values["gpu"] or f"{values['cpu']}, {values['cores']} cores"


def costs(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Seconds of all runs and studies by hardware: training, the rest of what was recorded, and their number."""
    groups = defaultdict(list)
    for record in records:
        groups[machine(record)].append(record["seconds"])
    return [
        {
            "hardware": name,
            "records": len(seconds),
            "training": sum(s["training"] for s in seconds),
            "all": sum(max(s.values()) for s in seconds),
        }
        for name, seconds in sorted(groups.items())
    ]


def guarantees(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Pairs of shifts with equal predictions, of networks with the guarantee and of the others.

    By table, profile, data and metric, other data of one name apart; ``exact`` is the number of runs in which all are
    equal.
    """
    groups = defaultdict(list)
    for record in records:
        for metric, value in record["metrics"].items():
            if metric.startswith(("c_cons", "mascc")):
                profile, data, fingerprint = group(record)
                key = record["experiment"].partition("/")[0], profile, data, metric
                groups[(*key, guaranteed(record), fingerprint)].append(value)
    return [
        {
            **dict(zip(("table", "profile", "data", "metric", "guaranteed", "fingerprint"), key, strict=True)),
            "runs": len(values),
            "exact": sum(v["agree"] == v["total"] for v in values),
            "agree": sum(v["agree"] for v in values),
            "total": sum(v["total"] for v in values),
        }
        for key, values in sorted(groups.items())
    ]


def accuracies(records: Iterable[Record]) -> dict[str, dict[str, dict[int, float]]]:
    """Accuracies of Table 1's rows on real images: by profile, row and seed, of today's code where there is a choice.

    A seed counts once, on whatever machine it was trained: the profile makes the experiment, not the machine. Where a
    profile has seen several data sets, the largest group has its name and the others one with their first bytes.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    names = {row.name for row in TABLE1}
    chosen = [r for r in records if r["experiment"] in names and not r["data"]["name"].startswith("drawn")]
    for (profile, _, fingerprint), members in grouped(chosen).items():
        rows = found.setdefault(f"{profile}, data {fingerprint[:8]}" if profile in found else profile, {})
        for record in sorted(members, key=stale, reverse=True):
            rows.setdefault(record["experiment"], {})[record["seed"]] = record["metrics"]["acc"]["value"]
    return found


@dataclass(frozen=True)
class Price:
    """Accuracy of a method less that of the row with its filter that keeps phase 0, in points with 95 % intervals.

    ``antialias`` is the filter, or ``mean`` over all of them; ``n`` is the number of seeds that ``ours`` pairs.
    """

    method: str
    antialias: str
    paper: Interval
    ours: Interval
    n: int


def prices(method: str, accuracies: Mapping[str, Mapping[int, float]]) -> list[Price]:
    """What ``method`` costs in accuracy, or gains, with each filter of Table 1.

    ``accuracies`` are those of one profile, by row and seed. The paper prints no pairs, so its seeds are taken as
    independent; ours are paired.
    """
    runs = {row.labels: accuracies.get(row.name, {}) for row in TABLE1}
    lines, pairs, samples = [], [], []
    for fixed in ("Baseline", "LPF", "DDAC"):
        for antialias, printed in printed_samples(method, fixed).items():
            pair = runs[method, antialias], runs[fixed, antialias]
            lines.append(Price(method, antialias, difference(*printed), *paired(*pair)))
            pairs.append(pair)
            samples.append(printed)
    seeds = set.intersection(*(set(side) for pair in pairs for side in pair))
    ours, theirs = ({seed: mean(pair[side][seed] for pair in pairs) for seed in seeds} for side in (0, 1))
    return [*lines, Price(method, "mean", average_difference(samples), *paired(ours, theirs))]


def by_scale(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Rows of Table 1 with the paper's accuracy, and the mean over seeds with its 95 % interval in each profile."""
    found = accuracies(records)
    return [
        {
            "row": row["row"],
            "paper": float(row["acc"]),
            "profiles": {
                profile: (mean_interval(list(rows[row["row"]].values())), len(rows[row["row"]]))
                for profile, rows in found.items()
                if row["row"] in rows
            },
        }
        for row in paper_table("table1")
    ]


def same_order(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Of all pairs of rows, how many stand in the same order of mean accuracy in two sources, the paper and profiles.

    Kendall's question, as a count: with nothing in common half of the pairs would agree.
    """
    sources: dict[str, Mapping[str, float]] = {"paper": {r["row"]: float(r["acc"]) for r in paper_table("table1")}}
    for profile, rows in accuracies(records).items():
        sources[profile] = {row: mean(seeds.values()) for row, seeds in rows.items()}
    lines = []
    for first, second in combinations(sources, 2):
        a, b = sources[first], sources[second]
        common = sorted(a.keys() & b.keys())
        alike = [(a[x] - a[y]) * (b[x] - b[y]) > 0 for x, y in combinations(common, 2)]
        if alike:
            found = {"first": first, "second": second, "rows": len(common), "agree": sum(alike), "pairs": len(alike)}
            lines.append(found)
    return lines


def replaced(studied: Iterable[Record]) -> list[dict[str, Any]]:
    """Sec. 5.3 for each studied network: accuracy before and after APS takes the place of LPD, and whether it falls.

    It falls by the rule of the ledger, ``DIRECTIONS`` of :mod:`lps.studies.trained`.
    """
    return [
        {
            "row": record["experiment"],
            "profile": record["profile"],
            "data": record["data"]["name"],
            "seed": record["seed"],
            "before": record["metrics"]["acc"]["value"],
            "after": record["metrics"]["acc_max_norm"]["value"],
            "falls": direction("replaced", record["metrics"]),
        }
        for record in one_per_run(studied)
    ]


def shipped_runs(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What there is of each table, by profile and data: rows by their number of seeds, runs by machine, and how many
    were made before ``lps`` last changed."""
    groups = defaultdict(list)
    for record in records:
        groups[record["experiment"].partition("/")[0], *group(record)].append(record)
    return [
        {
            **dict(zip(("table", "profile", "data", "fingerprint"), key, strict=True)),
            "rows": len(paper_table(key[0])),
            "seeds": Counter(Counter(row for row, _ in {(r["experiment"], r["seed"]) for r in made}).values()),
            "machines": Counter(map(machine, made)),
            "stale": sum(map(stale, made)),
        }
        for key, made in sorted(groups.items())
    ]


PLAIN = "as the profile has it"


def use_of_machine(record: Record) -> tuple[str, str]:
    """What a run was told of the machine beyond its profile, and all its other settings: two texts."""
    (row,) = matching([record["experiment"]])
    usual = load_profile(record["profile"]).row(row).as_dict()
    config = {section: dict(values) for section, values in record["config"].items()}
    own = {f"engine.{name}": (value, usual["engine"][name]) for name, value in config.pop("engine").items()}
    own["train.precision"] = config["train"].pop("precision"), usual["train"]["precision"]
    words = ", ".join(f"{name}={str(value).lower()}" for name, (value, other) in own.items() if value != other)
    return words or PLAIN, json.dumps(config, sort_keys=True)


def engine_effects(records: Iterable[Record]) -> list[dict[str, Any]]:
    """How uses of one machine change what a row trains to, and how fast: a line for each row and use.

    ``acc`` and ``c_cons`` are means over the seeds; ``change`` is the paired change of each from the first line
    of its row, with its 95 % interval; ``speed`` is the ratio of the images a second in the last epoch.
    """
    groups: dict[tuple[str, ...], dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        use, rest = use_of_machine(record)
        group = record["experiment"], machine(record), record["data"]["fingerprint"], rest
        groups[group][use][record["seed"]] = record
    return [
        {
            "row": row,
            "machine": hardware,
            "use": use,
            "seeds": len(runs),
            "speed": mean(map(_speed, runs.values())) / mean(map(_speed, uses[PLAIN].values())),
            **{metric: mean(_values(runs, metric).values()) for metric in _EFFECTS},
            "change": {metric: _change(runs, uses[PLAIN], metric) for metric in _EFFECTS},
        }
        for (row, hardware, *_), uses in sorted(groups.items())
        if PLAIN in uses
        for use, runs in sorted(uses.items(), key=lambda item: (item[0] != PLAIN, item[0]))
    ]


_EFFECTS = ("acc", "c_cons")


def _speed(record: Record) -> float:
    return float(record["history"][-1]["images_per_second"])


def _values(runs: Mapping[int, Record], metric: str) -> dict[int, float]:
    return {seed: record["metrics"][metric]["value"] for seed, record in runs.items()}


def _change(runs: Mapping[int, Record], plain: Mapping[int, Record], metric: str) -> Interval:
    change, _ = paired(_values(runs, metric), _values(plain, metric))
    return change
