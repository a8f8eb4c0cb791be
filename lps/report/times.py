"""Times and memory from the records of ``python -m benchmarks``: read and judged, never taken here.

A time is judged as a ratio: every case of a record took turns with the others in one process on one machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from ..experiments.records import MADE_WITH, is_current, read_json
from ..experiments.schema import POSITIVE, SOME, Shape, among, conform, moment
from ..paths import LOCAL, SHIPPED
from .frame import Record
from .paper import paper_table
from .tables import Verdict, together

Device = Literal["cpu", "cuda"]
TABLE4, CIFAR = "resnet101-eval-float32-eager", "cifar-resnet18-train-float32-eager"
GPU = "python -m benchmarks --device cuda --budget 10m"
"""The command that measures what only a GPU can answer."""
IN_A_ROW = "python -m benchmarks '*threads*' --budget 10m"
"""The command that measures one thread and two, in turn and in a row."""

TOLERANCE = 1.25
RULE_OF_TIMES = (
    f"overhead over LPF, Tri-3, within a factor of {TOLERANCE} of the paper's, and its quartiles above zero; "
    "only on a GPU, in the paper's setting"
)

LABELS = {
    "baseline": "Baseline",
    "lpf-tri-3": "LPF, Tri-3",
    "lpf-tri-3-naive": "LPF, Tri-3, naive",
    "lpf-tri-3-strided": "LPF, Tri-3, strided",
    "aps-tri-3": "APS, Tri-3",
    "lps-tri-3": "LPD, Tri-3",
    "lps-tri-3-naive": "LPD, Tri-3, naive",
    "ddac-adapt-3": "DDAC, Adapt-3",
    "lps-adapt-3": "LPD, Adapt-3",
    "lpf-bilinear": "LPF, bilinear",
    "lpd-bilinear": "LPD, bilinear",
    "lpd-lpu": "LPD, LPU",
}
"""Names of the cases on a page, in the order in which they are shown."""

# Records


_QUARTILES = dict.fromkeys(("q1", "median", "q3"), POSITIVE)


def _spreads(value: Any, where: str) -> None:
    names = ("ms", "ratio", "cpu_ms", "cpu_ratio")
    conform(value, dict.fromkeys(names, _QUARTILES), where)
    for name in names:
        if not value[name]["q1"] <= value[name]["median"] <= value[name]["q3"]:
            raise ValueError(f"{where}.{name} has its median outside its quartiles")


def _case(value: Any, where: str) -> None:
    memory = dict.fromkeys(("memory_ratio", "allocated_mb", "peak_mb"), POSITIVE)
    more = {"gmac?": POSITIVE, "shape?": [SOME], "in_a_row?": _spreads}
    conform(value, ({"against": str, **memory, **more}, _spreads), where)


_FORM: Shape = {
    "group": str,
    "date": moment,
    "config": {
        "device": among(lambda: get_args(Device)),
        "precision": str,
        "compiled": bool,
        "channels_last": bool,
        "batch?": SOME,
        "threads?": SOME,
        "in_a_row?": SOME,
    },
    "allocator?": str,
    "cases": {"*": _case},
    "turns_ms": [{"*": POSITIVE}],
    **MADE_WITH,
}


def _measured(record: Any, where: str) -> None:
    conform(record, _FORM)
    for place, turn in enumerate(record["turns_ms"]):
        if odd := sorted(turn.keys() ^ record["cases"].keys()):
            raise ValueError(f"turns_ms[{place}] and cases are not of the same cases: {odd[0]}")


def read(*folders: Path) -> list[dict[str, Any]]:
    """All benchmark records below the folders (default: shipped and the reader's own), newest first."""
    paths = [path for folder in folders or (SHIPPED, LOCAL) for path in (folder / "benchmarks").glob("*.json")]
    records = [{**read_json(path, _measured), "id": f"benchmarks/{path.stem}"} for path in paths]
    return sorted(records, key=lambda record: record["date"], reverse=True)


def newest(records: Iterable[Record], group: str, device: Device) -> Record | None:
    """The newest record of a group on a kind of device, with the system's own allocator, or ``None``."""
    found = (r for r in latest(records) if r["group"] == group and r["config"]["device"] == device)
    return next(found, None)


def latest(records: Iterable[Record], kept: bool = False) -> list[Record]:
    """The newest record of each group, whose name holds the setting, on each kind of device.

    Of the records with the system's own allocator, or of those where a process kept its memory.
    """
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        if kept == ("allocator" in record):
            found.setdefault((record["group"], record["config"]["device"]), record)
    return list(found.values())


def stale(record: Record) -> bool:
    """Was the record made by another state of the layers and networks?"""
    return not is_current(record["code"], "layers")


def machine(record: Record) -> str:
    """Where a record was made, in words."""
    config, hardware, threads = record["config"], record["hardware"], record["determinism"]["threads"]
    where = (
        hardware["gpu"] if config["device"] == "cuda" else f"{hardware['cpu']}, {threads} of {hardware['cores']} cores"
    )
    words = [f"batch {config['batch']}"] if "batch" in config else []
    return ", ".join([where, *words, f"{len(record['turns_ms'])} rounds, torch {record['versions']['torch']}"])


def clock(record: Record) -> Literal["ratio", "cpu_ratio"]:
    """The time that counts: of the process for one thread of a processor, blind to other programs, else on the wall."""
    alone = record["config"]["device"] == "cpu" and record["determinism"]["threads"] == 1
    return "cpu_ratio" if alone else "ratio"


def setting(record: Record) -> str:
    """How the networks of a record were run, in words."""
    config = record["config"]
    memory = ", channels last" if config["channels_last"] else ""
    return f"{config['precision']}, {'compiled' if config['compiled'] else 'eager'}{memory}"


def spread(value: Mapping[str, float]) -> str:
    """Median and quartiles as ``1.08 (1.07, 1.10)``."""
    return f"{value['median']:.2f} ({value['q1']:.2f}, {value['q3']:.2f})"


def in_a_cell(value: Mapping[str, float]) -> str:
    """The same for a narrow column, where the quartiles stay on one line."""
    return spread(value).replace(", ", ",\N{NO-BREAK SPACE}")


def frame(record: Record) -> pd.DataFrame:
    """A line for each case of a record, those of :data:`LABELS` first and in its order.

    ``time``, ``low`` and ``high`` are median and quartiles of its ratio to ``against`` by :func:`clock`, ``ms`` is its
    time by the same clock, ``wall clock`` and ``processor time`` are both ratios in words; the rest is as recorded.
    """
    cases, by = record["cases"], clock(record)
    milliseconds = {"ratio": "ms", "cpu_ratio": "cpu_ms"}[by]
    names = [*filter(cases.__contains__, LABELS), *(name for name in cases if name not in LABELS)]
    lines = {
        name: {
            "label": LABELS.get(name, name),
            "over": LABELS.get(cases[name]["against"], cases[name]["against"]),
            **dict(zip(("time", "low", "high"), (cases[name][by][q] for q in ("median", "q1", "q3")), strict=True)),
            "ms": cases[name][milliseconds]["median"],
            "wall clock": in_a_cell(cases[name]["ratio"]),
            "processor time": in_a_cell(cases[name]["cpu_ratio"]),
            "memory": cases[name]["memory_ratio"],
            **{key: cases[name].get(key) for key in ("against", "allocated_mb", "gmac", "flops", "bytes", "shape")},
        }
        for name in names
    }
    return pd.DataFrame.from_dict(lines, orient="index")


# One thread and two, in turn and in a row


def in_a_row(records: Iterable[Record]) -> list[Record]:
    """The newest record of each group whose networks also run in a row; fewer threads and images first."""
    found = [record for record in latest(records) if "in_a_row" in record["config"]]
    return sorted(found, key=lambda record: (record["determinism"]["threads"], record["config"]["batch"]))


def threads_and_batch(record: Record) -> str:
    """How many threads and images a record is of, in words."""
    threads = record["determinism"]["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}, batch {record['config']['batch']}"


def _by_order(record: Record, name: str) -> dict[str, Mapping[str, float]]:
    """Quartiles of a case's ratio by :func:`clock`, by the order in which the networks run."""
    case, by = record["cases"][name], clock(record)
    return {"in turn": case[by], "in a row": case["in_a_row"][by]}


def on_processors(records: Iterable[Record], name: str) -> list[float]:
    """Median ratios of a case on ResNet-101, by the newest records: each number of threads, batch and order."""
    timed = (r for r in latest(records) if r["group"].startswith(TABLE4) and r["config"]["device"] == "cpu")
    known = (r for r in timed if name in r["cases"])
    found = (_by_order(r, name).values() if "in_a_row" in r["config"] else [r["cases"][name][clock(r)]] for r in known)
    return [ratio["median"] for ratios in found for ratio in ratios]


def orders(record: Record) -> pd.DataFrame:
    """Ratios of each case of a record in words, in turn and in a row."""
    ratios = {name: _by_order(record, name) for name in LABELS if name in record["cases"]}
    return pd.DataFrame.from_dict(ratios, orient="index").map(in_a_cell)


def kept_memory(records: Sequence[Record]) -> pd.DataFrame:
    """What it gives to keep memory from step to step: processor time of LPF and LPD, without and with.

    A line for each group of which there are both records, of the same layers and the same machine.
    """
    plain = {record["group"]: record for record in latest(records)}
    lines: dict[str, dict[tuple[str, str], float]] = {}
    for kept in latest(records, kept=True):
        given = plain.get(kept["group"])
        if given is None or any(given[key] != kept[key] for key in ("hardware", "versions", "determinism")):
            continue
        line = lines[kept["group"]] = {}
        for name in ("lpf-tri-3", "lps-tri-3"):
            before, after = (record["cases"][name]["in_a_row"]["cpu_ms"]["median"] for record in (given, kept))
            shown = {"ms": before, "memory kept, ms": after, "ratio": after / before}
            line |= {(LABELS[name], column): value for column, value in shown.items()}
    return pd.DataFrame.from_dict(lines, orient="index")


def limit(records: Iterable[Record], name: str, most: float) -> tuple[dict[str, Any], str]:
    """Whether a case, or for a naive one what it is compared with, keeps a limit in every record and both orders.

    A line of a table with the highest ratio, and where it is missed and profiled, words on what is left to save.
    """
    plain = name.removesuffix("-naive")
    naive = name != plain
    found: list[dict[str, Any]] = []
    for record in (record for record in records if name in record["cases"]):
        for order, ratio in _by_order(record, name).items():
            if naive:
                ratio = {"q1": 1 / ratio["q3"], "median": 1 / ratio["median"], "q3": 1 / ratio["q1"]}
            found.append({**ratio, "where": f"{threads_and_batch(record)}, {order}", "record": record})
    line = {"case": f"{LABELS[plain]}, over {LABELS[name]}" if naive else LABELS[name], "at most": most}
    if not found:
        return {**line, "result": "not run"}, ""
    kept, missed = sum(one["q3"] <= most for one in found), any(one["q1"] > most for one in found)
    result = "reached" if kept == len(found) else "missed" if missed else "undecided"
    high = max(found, key=itemgetter("median"))
    line |= {"highest": spread(high), "where": high["where"], "within": f"{kept} of {len(found)}", "result": result}
    profiled = [one for one in found if name in one["record"].get("profile", {})]
    if result != "missed" or not profiled:
        return line, ""
    high = max(profiled, key=itemgetter("median"))
    over = name if naive else high["record"]["cases"][name]["against"]
    words = f"{LABELS[plain]}, {high['where']}: {high['median']:.2f} of {LABELS[over]}"
    return line, _left(high["record"], plain, over, high["median"] - most, words)


def _left(record: Record, name: str, over: str, beyond: float, words: str) -> str:
    """What has to be saved, as a share of the time of ``over``, beside the operators in which more time is spent."""
    if beyond <= 0:
        return f"{words}, within the limit; other settings are not profiled."
    ours, theirs = (record["profile"][case] for case in (name, over))
    more = {key: ms - theirs["operators_ms"].get(key, 0) for key, ms in ours["operators_ms"].items()}
    first = sorted(more, key=more.__getitem__, reverse=True)[:4]
    spent = ", ".join(f"`{key}` {more[key]:.1f} ms" for key in first)
    convolutions = sum(ms for key, ms in ours["operators_ms"].items() if "conv" in key)
    return (
        f"{words}. Under the profiler, where {LABELS[over]} takes {theirs['ms']:.0f} ms, it spends more in {spent}. "
        f"The limit asks for {beyond * theirs['ms']:.1f} ms less; of its {ours['ms']:.0f} ms convolutions take "
        f"{convolutions:.0f}."
    )


# The paper's times and the verdict on them


def paper_ratios() -> dict[str, float]:
    """Times of Table 4 over that of LPF with Tri-3, by row."""
    times = {row["row"].removeprefix("table4/"): float(row["time_ms"]) for row in paper_table("table4")}
    return {row: ms / times["lpf-tri-3"] for row, ms in times.items()}


def as_in_the_paper(record: Record) -> bool:
    """Was the record made in the setting of Table 4? The paper names no GPU and no precision beyond torch's default."""
    config = record["config"]
    expected = {"depth": 101, "stem": "imagenet", "batch": 32, "size": 224, "training": False}
    expected |= {"device": "cuda", "compiled": False, "channels_last": False}
    return all(config.get(key) == value for key, value in expected.items()) and config["precision"] != "bf16"


def _scale(record: Record) -> str:
    return "in the paper's setting" if as_in_the_paper(record) else "not in the paper's setting"


ONE = dict.fromkeys(("q1", "q3"), 1.0)


def _above(ratio: Mapping[str, float], other: Mapping[str, float] = ONE) -> bool | None:
    """Is a ratio above another one, by both quartiles? ``None`` where they overlap."""
    return True if ratio["q1"] > other["q3"] else False if ratio["q3"] < other["q1"] else None


def _where(record: Record) -> str:
    return f"{setting(record)}, {machine(record)}; record {record['id']}"


def judge_time(row: str, record: Record | None) -> Verdict:
    """Verdict on a time of Table 4 by :data:`RULE_OF_TIMES`; on another device it is at most *direction only*."""
    if record is None:
        return "not run"
    ratio = record["cases"][row][clock(record)]
    verdict = together([(_above(ratio), as_in_the_paper(record))])
    off = (ratio["median"] - 1) / (paper_ratios()[row] - 1)
    if verdict != "holds" or off > TOLERANCE:
        return "fails" if verdict == "holds" else verdict
    return "holds" if off >= 1 / TOLERANCE else "holds+"


def in_the_papers_setting(records: Iterable[Record]) -> Record | None:
    """The newest record in the setting of Table 4, TF32 before float32: torch's default lets convolutions use it."""
    found = filter(as_in_the_paper, records)
    return min(found, key=lambda record: record["config"]["precision"] != "tf32", default=None)


def for_table4(records: Sequence[Record]) -> Record | None:
    """The record that says most about Table 4: in its setting, else the newest on a CPU."""
    return in_the_papers_setting(records) or newest(records, TABLE4, "cpu")


def time_cell(row: str, records: Sequence[Record], beyond: str = "") -> dict[str, Any]:
    """What the ledger says of the time of ``table4/<row>``: ours, rule, verdict, evidence and command.

    With ``beyond``, also of the statement that most of the overhead of the two rows is that of ``row``.
    """
    row, beyond = row.removeprefix("table4/"), beyond.removeprefix("table4/")
    if row == "lpf-tri-3":
        reason = "the unit of the ratios; the paper does not name the device"
        return {"rule": RULE_OF_TIMES, "verdict": "not checkable", "evidence": reason, "command": ""}
    record = for_table4(records)
    entry = {"rule": RULE_OF_TIMES, "verdict": judge_time(row, record), "command": GPU}
    if record is None:
        return {**entry, "evidence": "no record"}
    ratio, scale = record["cases"][row][clock(record)], _scale(record)
    more = "; the quartiles show no overhead" if entry["verdict"] == "undecided" else ""
    if beyond:
        other = record["cases"][beyond][clock(record)]
        entry["rule"] += f"; its quartiles above those of {LABELS[beyond]}"
        more += f"; {LABELS[beyond]} {spread(other)}"
        if entry["verdict"] != "fails" and not (apart := _above(ratio, other)):
            entry["verdict"] = together([(apart, as_in_the_paper(record))])
    words = f"{paper_ratios()[row]:.2f} in the paper; here {spread(ratio)}, median and quartiles, {scale}"
    ours = f"{ratio['median']:.2f} of LPF ({scale})"
    return {**entry, "ours": ours, "evidence": f"{words}: {_where(record)}{more}"}


RULE_OF_ORDERS = "the quartiles of every ratio on one side of 1; only on a GPU, in the paper's setting"


def slower(rows: Iterable[str], records: Sequence[Record]) -> dict[str, Any]:
    """What the ledger says of a statement that each of ``table4/<row>`` takes longer than LPF with Tri-3."""
    record = for_table4(records)
    entry = {"rule": RULE_OF_ORDERS, "verdict": "not run", "evidence": "no record", "command": GPU}
    if record is None:
        return entry
    ratios = {case: record["cases"][case][clock(record)] for case in (row.removeprefix("table4/") for row in rows)}
    order = [_above(ratio) for ratio in ratios.values()]
    words = "; ".join(f"{LABELS[case]} {spread(ratio)}" for case, ratio in ratios.items())
    return {
        **entry,
        "verdict": together([(longer, as_in_the_paper(record)) for longer in order]),
        "ours": f"{order.count(True)} of {len(order)} take longer ({_scale(record)})",
        "evidence": f"time over that of LPF, Tri-3: {words}; {_where(record)}",
    }
