"""Times and memory from the records of ``python -m benchmarks``: read, judged and drawn, never taken here.

A time is judged as a ratio: every case of a record took turns with the others in one process on one machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Any, Literal, get_args

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..experiments.records import MADE_WITH, is_current, read_json
from ..experiments.schema import POSITIVE, SOME, Shape, among, conform, each, moment
from ..paths import LOCAL, SHIPPED
from .figures import COLORS, INK, MUTED, RULE
from .paper import paper_table
from .tables import Record

Device = Literal["cpu", "cuda"]
TABLE4, CIFAR = "resnet101-eval-float32-eager", "cifar-resnet18-train-float32-eager"
GPU = "python -m benchmarks --device cuda --budget 10m"
"""The command that measures what only a GPU can answer."""

TOLERANCE = 1.25
RULE_OF_TIMES = (
    f"overhead over LPF, Tri-3, within a factor of {TOLERANCE} of the paper's, and its quartiles above zero; "
    "only on a GPU, in the paper's setting"
)

LABELS = {
    "baseline": "Baseline",
    "lpf-tri-3": "LPF, Tri-3",
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

CPU_SETTINGS = ("float32, eager", "float32, compiled", "bf16, eager")
"""The settings in which ``python -m benchmarks`` runs networks on a CPU."""

NONE = "\N{EN DASH}"


# Records


_QUARTILES = dict.fromkeys(("q1", "median", "q3"), POSITIVE)


def _case(value: Any, where: str) -> None:
    times = dict.fromkeys(("ms", "ratio", "cpu_ms", "cpu_ratio"), _QUARTILES)
    memory = dict.fromkeys(("memory_ratio", "allocated_mb", "peak_mb"), POSITIVE)
    conform(value, {"against": str, **times, **memory, "gmac?": POSITIVE, "shape?": [SOME]}, where)
    for name in times:
        if not value[name]["q1"] <= value[name]["median"] <= value[name]["q3"]:
            raise ValueError(f"{where}.{name} has its median outside its quartiles")


_FORM: Shape = {
    "group": str,
    "date": moment,
    "config": {
        "device": among(lambda: get_args(Device)),
        "precision": str,
        "compiled": bool,
        "channels_last": bool,
        "batch?": SOME,
    },
    "cases": each(_case),
    "turns_ms": [each(POSITIVE)],
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
    """The newest record of a group on a kind of device, or ``None``."""
    found = (r for r in records if r["group"] == group and r["config"]["device"] == device)
    return next(found, None)


def latest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each group, whose name holds the setting, on each kind of device."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
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


def milliseconds(record: Record, name: str) -> float:
    """Median time of a case, by :func:`clock`."""
    return float(record["cases"][name]["cpu_ms" if clock(record) == "cpu_ratio" else "ms"]["median"])


def setting(record: Record) -> str:
    """How the networks of a record were run, in words."""
    config = record["config"]
    memory = ", channels last" if config["channels_last"] else ""
    return f"{config['precision']}, {'compiled' if config['compiled'] else 'eager'}{memory}"


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


def judge_time(row: str, record: Record | None) -> str:
    """Verdict on a time of Table 4 by :data:`RULE_OF_TIMES`; on another device it is at most *direction only*."""
    if record is None:
        return "not run"
    ratio, comparable = record["cases"][row][clock(record)], as_in_the_paper(record)
    if ratio["q1"] <= 1:
        return "fails" if comparable and ratio["q3"] < 1 else "undecided"
    if not comparable:
        return "direction only"
    off = (ratio["median"] - 1) / (paper_ratios()[row] - 1)
    if off > TOLERANCE:
        return "fails"
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
    ratio = record["cases"][row][clock(record)]
    scale = "in the paper's setting" if as_in_the_paper(record) else "not in the paper's setting"
    more = "; the quartiles show no overhead" if entry["verdict"] == "undecided" else ""
    if beyond:
        other = record["cases"][beyond][clock(record)]
        entry["rule"] += f"; its quartiles above those of {LABELS[beyond]}"
        more += f"; {LABELS[beyond]} {spread(other)}"
        if ratio["q1"] <= other["q3"] and entry["verdict"] != "fails":
            against = as_in_the_paper(record) and ratio["q3"] < other["q1"]
            entry["verdict"] = "fails" if against else "undecided"
    words = f"{paper_ratios()[row]:.2f} in the paper; here {spread(ratio)}, median and quartiles, {scale}"
    evidence = f"{words}: {setting(record)}, {machine(record)}; record {record['id']}{more}"
    return {**entry, "ours": f"{ratio['median']:.2f} of LPF ({scale})", "evidence": evidence}


RULE_OF_ORDERS = "the quartiles of every ratio on one side of 1; only on a GPU, in the paper's setting"


def slower(rows: Iterable[str], records: Sequence[Record]) -> dict[str, Any]:
    """What the ledger says of a statement that each of ``table4/<row>`` takes longer than LPF with Tri-3."""
    record = for_table4(records)
    entry = {"rule": RULE_OF_ORDERS, "verdict": "not run", "evidence": "no record", "command": GPU}
    if record is None:
        return entry
    entry["verdict"] = "undecided"
    cases = [row.removeprefix("table4/") for row in rows]
    ratios = {case: record["cases"][case][clock(record)] for case in cases}
    order = [True if ratio["q1"] > 1 else False if ratio["q3"] < 1 else None for ratio in ratios.values()]
    if all(order):
        entry["verdict"] = "holds" if as_in_the_paper(record) else "direction only"
    elif False in order and as_in_the_paper(record):
        entry["verdict"] = "fails"
    words = "; ".join(f"{LABELS[case]} {spread(ratio)}" for case, ratio in ratios.items())
    where = f"{setting(record)}, {machine(record)}; record {record['id']}"
    scale = "in the paper's setting" if as_in_the_paper(record) else "not in the paper's setting"
    return {
        **entry,
        "ours": f"{order.count(True)} of {len(order)} take longer ({scale})",
        "evidence": f"time over that of LPF, Tri-3: {words}; {where}",
    }


# Targets


@dataclass(frozen=True)
class Target:
    """What the companion asks of its own layers: time or memory of a case, over its reference, is at most ``most``."""

    what: str
    group: str
    device: Device
    cases: str
    most: float
    memory: bool = False

    def ratio(self, record: Record, name: str) -> Mapping[str, float]:
        """Median and quartiles of a case over its reference; memory has no spread."""
        case = record["cases"][name]
        return dict.fromkeys(("median", "q1", "q3"), case["memory_ratio"]) if self.memory else case[clock(record)]

    def worst(self, record: Record, among: Iterable[str] | None = None) -> str:
        """The case with the largest ratio of those whose names begin with ``cases``: of all, or ``among`` some."""
        named = (name for name in among or record["cases"] if name.split(" ")[0] == self.cases)
        return max(named, key=lambda name: self.ratio(record, name)["median"])

    def result(self, ratio: Mapping[str, float]) -> str:
        """Both quartiles at most the limit, both above it, or not decided by them."""
        if ratio["q3"] <= self.most:
            return "reached"
        return "missed" if ratio["q1"] > self.most else "undecided"


UPSAMPLING = Target("LPU over bilinear, the slowest map", "upsampling-float32-eager", "cpu", "lpu", 1.00)
TARGETS = (
    Target("LPD, ResNet-101, inference", TABLE4, "cpu", "lps-tri-3", 1.08),
    Target("LPD, ResNet-101, inference, compiled", "resnet101-eval-bf16-compiled-nhwc", "cuda", "lps-tri-3", 1.05),
    Target("LPD, CIFAR-10 training step", CIFAR, "cpu", "lps-tri-3", 1.12),
    Target("LPD, CIFAR-10 training step", "cifar-resnet18-train-tf32-eager-nhwc", "cuda", "lps-tri-3", 1.10),
    Target("LPD, peak memory in training", CIFAR, "cpu", "lps-tri-3", 1.10, memory=True),
    Target("DDAC, ResNet-101, inference", TABLE4, "cpu", "ddac-adapt-3", 1.35),
    UPSAMPLING,
)


def targets(records: Sequence[Record]) -> pd.DataFrame:
    """Each target with what is reached in the newest record of its group."""
    rows = []
    for target in TARGETS:
        record = newest(records, target.group, target.device)
        ratio = None if record is None else target.ratio(record, target.worst(record))
        rows.append(
            {
                "": target.what,
                "device": {"cpu": "CPU", "cuda": "GPU"}[target.device],
                "at most": f"{target.most:.2f}",
                "here": NONE if ratio is None else f"{ratio['median']:.2f}" if target.memory else spread(ratio),
                "result": "not run" if ratio is None else target.result(ratio),
            }
        )
    return pd.DataFrame(rows).set_index("")


# Tables


def spread(value: Mapping[str, float]) -> str:
    """Median and quartiles as ``1.08 (1.07, 1.10)``."""
    return f"{value['median']:.2f} ({value['q1']:.2f}, {value['q3']:.2f})"


def _shown(record: Record) -> list[str]:
    return [name for name in LABELS if name in record["cases"]]


def ratio_table(record: Record) -> pd.DataFrame:
    """Times and peak memory of a record over LPF with Tri-3; for ResNet-101 with the paper's ratios."""
    of_table4 = record["group"].startswith("resnet101-eval")
    paper = paper_ratios() if of_table4 else {}
    rows = {}
    for name in _shown(record):
        case = record["cases"][name]
        rows[LABELS[name]] = {
            **({"paper": f"{paper[name]:.2f}" if name in paper else NONE} if of_table4 else {}),
            "wall clock": spread(case["ratio"]),
            "processor time": spread(case["cpu_ratio"]),
            "ms": f"{milliseconds(record, name):.0f}",
            "10⁹ products": f"{case['gmac'] / record['config']['batch']:.2f}" if "gmac" in case else NONE,
            "memory": f"{case['memory_ratio']:.2f}",
        }
    return pd.DataFrame(rows).T


def network(record: Record) -> str:
    """The networks of a record and what was timed, in words."""
    config = record["config"]
    kind = "CIFAR ResNet" if config["stem"] == "cifar" else "ResNet"
    return f"{kind}-{config['depth']}, {'training step' if config['training'] else 'inference'}"


def overview(records: Iterable[Record]) -> pd.DataFrame:
    """Ratios to LPF with Tri-3 in every record of classifiers, the newest of each setting: rows are settings."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for record in latest(records):
        if "stem" in record["config"]:
            device = {"cpu": "CPU", "cuda": "GPU"}[record["config"]["device"]]
            ratios = {LABELS[name]: f"{record['cases'][name][clock(record)]['median']:.2f}" for name in _shown(record)}
            rows[network(record), device, setting(record)] = ratios
    index = pd.MultiIndex.from_tuples(sorted(rows), names=["network", "device", "setting"])
    columns = [label for label in LABELS.values() if any(label in row for row in rows.values())]
    return pd.DataFrame([rows[key] for key in index], index=index, columns=columns).fillna(NONE)


def settings_on_cpu(records: Iterable[Record]) -> str:
    """Which classifiers the records of a CPU hold in each of :data:`CPU_SETTINGS`, in words."""
    timed = [record for record in records if "stem" in record["config"] and record["config"]["device"] == "cpu"]
    every = {network(record) for record in timed}

    def held(words: str) -> str:
        found = {network(record) for record in timed if setting(record) == words}
        return "all networks" if found == every else " and ".join(sorted(found)) + " only" if found else "not measured"

    return "; ".join(f"*{words}*: {held(words)}" for words in CPU_SETTINGS)


def upsampling_table(record: Record) -> pd.DataFrame:
    """Time and memory of LPU over bilinear interpolation of the same map: of one layer, or in DeepLabV3+."""
    rows = {
        LABELS.get(name, name): {
            "ms": f"{milliseconds(record, name):.2f}",
            "over": LABELS.get(case["against"], case["against"]),
            "time": spread(case[clock(record)]),
            "memory": f"{case['memory_ratio']:.2f}",
        }
        for name, case in sorted(record["cases"].items(), key=lambda item: (item[1].get("shape", []), item[0]))
        if name != case["against"]
    }
    return pd.DataFrame(rows).T


def operators(record: Record, row: str, over: str = "lpf-tri-3", count: int = 6) -> pd.DataFrame:
    """Where the profiler sees the time of ``row`` that ``over`` does not need: the operators that grow most, in ms."""
    here, there = (record["profile"][name]["operators_ms"] for name in (row, over))
    more = sorted(here, key=lambda name: there.get(name, 0.0) - here[name])[:count]
    rows = {
        name: {
            LABELS.get(row, row): here[name],
            LABELS.get(over, over): there.get(name, 0.0),
            "difference": here[name] - there.get(name, 0.0),
        }
        for name in more
    }
    return pd.DataFrame(rows).T


# Charts


def _color(name: str) -> str:
    method = name.split("-")[0]
    return COLORS[{"baseline": "Baseline", "lpd": "LPS"}.get(method, method.upper())]


def ratios(records: Sequence[Record]) -> Figure:
    """Time over that of LPF with Tri-3 in the same round: a panel for each record, the paper's ratios beside."""
    figure, axes = plt.subplots(1, len(records), figsize=(9, 3.4), sharey=True, squeeze=False)
    names = [name for name in LABELS if any(name in record["cases"] for record in records)]
    for ax, record in zip(axes[0], records, strict=True):
        ax.axvline(1, color=MUTED, linewidth=0.8, linestyle="--")
        for y, name in enumerate(names):
            if name not in record["cases"]:
                continue
            ratio = record["cases"][name][clock(record)]
            filled = "white" if name.endswith(("strided", "naive")) else _color(name)
            ax.plot([ratio["q1"], ratio["q3"]], [y, y], color=_color(name), linewidth=2.5)
            ax.plot(ratio["median"], y, "o", color=_color(name), markerfacecolor=filled, markersize=7)
            if record["group"].startswith("resnet101-eval") and name in paper_ratios():
                ax.plot(paper_ratios()[name], y, "D", color=INK, markerfacecolor="none", markersize=6)
        ax.set(title=f"{network(record)} ({record['config']['device'].replace('cuda', 'gpu').upper()})")
        ax.set_xlabel("time over LPF, Tri-3")
    axes[0][0].set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes[0][0].invert_yaxis()
    handles = [
        Line2D([], [], color=MUTED, marker="o", label="here: median and quartiles"),
        Line2D([], [], color=INK, marker="D", markerfacecolor="none", linestyle="none", label="the paper, on its GPU"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _rate(record: Record, name: str, what: Literal["flops", "bytes"]) -> float:
    """10^9 operations or bytes a second."""
    return float(record["cases"][name][what] / milliseconds(record, name) / 1e6)


def roofline(record: Record) -> Figure:
    """Arithmetic of the logits against the machine's two limits, each point one of the five LPDs of ResNet-101."""
    cases = record["cases"]
    bandwidth, peak = _rate(record, "copy", "bytes"), _rate(record, "matmul", "flops")
    figure, ax = plt.subplots(figsize=(7, 4))
    reach = [0.25, peak / bandwidth, 256]
    ax.plot(reach, [min(peak, bandwidth * x) for x in reach], color=MUTED)
    ax.annotate(f"copy: {bandwidth:,.0f} GB/s ", (2, bandwidth * 2), ha="right", color=MUTED)
    ax.annotate(f"matrix product: {peak:,.0f} GFLOP/s", (256, peak * 1.1), ha="right", color=MUTED)
    for name, case in cases.items():
        arrangement, _, shape = name.partition(" ")
        if shape:
            intensity, ours = case["flops"] / case["bytes"], arrangement == "choice"
            filled = COLORS["LPS"] if ours else "white"
            ax.plot(intensity, _rate(record, name, "flops"), "o", color=COLORS["LPS"], markerfacecolor=filled)
            if ours:
                ax.annotate(
                    shape, (intensity, _rate(record, name, "flops")), (-7, 3), textcoords="offset points", ha="right"
                )
    ax.set(xscale="log", yscale="log", xlabel="operations for each byte that must be moved", ylabel="GFLOP/s")
    handles = [
        Line2D([], [], color=COLORS["LPS"], marker="o", linestyle="none", label="here"),
        Line2D([], [], color=COLORS["LPS"], marker="o", markerfacecolor="white", linestyle="none", label="naive"),
    ]
    ax.legend(handles=handles, loc="lower right")
    return figure


def roofline_table(record: Record) -> pd.DataFrame:
    """Time of the logits of each LPD beside the floor that copy and matrix product of the same run allow."""
    cases = record["cases"]
    bandwidth, peak = _rate(record, "copy", "bytes"), _rate(record, "matmul", "flops")
    rows = {}
    for name, case in sorted(cases.items(), key=lambda item: item[1].get("shape", [0])[-1], reverse=True):
        if name.startswith("choice "):
            reading, arithmetic = case["bytes"] / bandwidth / 1e6, case["flops"] / peak / 1e6
            rows[name.removeprefix("choice ")] = {
                "MB read": case["bytes"] / 1e6,
                "MFLOP": case["flops"] / 1e6,
                "reading, ms": reading,
                "arithmetic, ms": arithmetic,
                "here, ms": milliseconds(record, name),
                "naive, ms": milliseconds(record, case["against"]),
                "here over floor": milliseconds(record, name) / max(reading, arithmetic),
            }
    return pd.DataFrame(rows).T


_AXES = {"batch": "images", "resolution": "pixels of an image", "channels": "channels", "stride": "stride"}


def _points(record: Record, axis: str) -> tuple[list[int], list[str]]:
    """What varies along an axis of the scaling group, and the end of the names of its cases."""
    shapes = record["config"]["axes"][axis]
    values = [{"batch": n, "resolution": w * w, "channels": c, "stride": s}[axis] for n, c, w, s in shapes]
    return values, [f"{n}x{c}@{w}/{s}" for n, c, w, s in shapes]


def _time_and_memory(record: Record, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Milliseconds and megabytes of cases of the scaling group."""
    return [milliseconds(record, name) for name in names], [record["cases"][name]["allocated_mb"] for name in names]


def scaling(record: Record) -> Figure:
    """Time and memory of one layer against batch, resolution, channels and stride; grey lines are proportional."""
    figure, axes = plt.subplots(2, len(_AXES), figsize=(9, 4.6), sharex="col", sharey="row")
    for column, (axis, label) in enumerate(_AXES.items()):
        values, names = _points(record, axis)
        for method, color in (("lpf", COLORS["LPF"]), ("lps", COLORS["LPS"])):
            lines = _time_and_memory(record, [f"{method} {name}" for name in names])
            for ax, line in zip(axes[:, column], lines, strict=True):
                if axis != "stride":
                    ax.plot(values, [line[0] * v / values[0] for v in values], color=RULE, zorder=0)
                ax.plot(values, line, "o-", color=color, markersize=4, linewidth=1.3)
                ax.set(xscale="log", yscale="log")
                ax.set_xticks(values, [str(v) for v in values], fontsize=7)
                ax.minorticks_off()
        axes[1, column].set_xlabel(label)
    axes[0, 0].set_ylabel("ms")
    axes[1, 0].set_ylabel("MB allocated at most")
    handles = [
        Line2D([], [], color=COLORS[m], marker="o", label=f"{n}, Tri-3") for m, n in (("LPF", "LPF"), ("LPS", "LPD"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def growth(record: Record) -> pd.DataFrame:
    """Exponents of growth: time or memory as a power of what varies, least squares on logarithms."""
    rows = {}
    for axis in ("batch", "resolution", "channels"):
        values, names = _points(record, axis)
        lines = dict(zip(("time", "memory"), _time_and_memory(record, [f"lps {name}" for name in names]), strict=True))
        rows[_AXES[axis]] = {
            what: linear_regression([log(v) for v in values], [log(v) for v in line]).slope
            for what, line in lines.items()
        }
    return pd.DataFrame(rows).T


PARTS = {"choice": COLORS["LPS"], "filter": COLORS["LPF"], "keep": COLORS["APS"], "the rest of the network": RULE}


def parts(record: Record) -> Figure:
    """Time of an inference by part of the network, from the profiler: the sampling layers and everything else."""
    figure, ax = plt.subplots(figsize=(8, 2.4))
    names = [name for name in LABELS if name in record["profile"]]
    left = [0.0] * len(names)
    for part, color in PARTS.items():
        widths = [_share(record["profile"][name], part) for name in names]
        ax.barh([LABELS[name] for name in names], widths, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ax.invert_yaxis()
    ax.set_xlabel("ms of one step under the profiler")
    figure.legend(loc="outside lower center", ncols=len(PARTS))
    return figure


def _share(profile: Mapping[str, Any], part: str) -> float:
    """Milliseconds of one of :data:`PARTS`; to keep is what a sampling layer does besides choosing and filtering."""
    found: Mapping[str, float] = profile["parts_ms"]
    layers, inside = found["sampling layers"], sum(ms for name, ms in found.items() if name in ("choice", "filter"))
    return {"keep": layers - inside, "the rest of the network": profile["ms"] - layers, **found}.get(part, 0.0)
