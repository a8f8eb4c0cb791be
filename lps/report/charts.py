"""Charts of run records: one colour for each method, one marker for each filter, in every chart."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from ..experiments.rows import SHOWN, TABLE1, Row, matching
from ..studies.untrained import title as title_of
from .figures import COLORS, INK, MUTED, PHASES, RULE
from .frame import Record, frame
from .paper import PAPER_SEEDS, TABLES, paper_table, printed_samples
from .statistics import CONFIDENCE, POWER, Interval, average_difference, difference, failure_bound, power, wilson
from .tables import prices, table

MARKERS = {"-": "o", "Rect-2": "s", "Tri-3": "^", "Bin-5": "p", "Adapt-3": "D"}
_LABELS = {row.name: row.labels for row in TABLE1}


def accuracy_and_consistency(records: Sequence[Record]) -> Figure:
    """C-Cons. against accuracy: the paper's Table 1 on the left, the runs on the right, each on its own scale."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    printed = pd.DataFrame(paper_table("table1")).astype({"acc": float, "c_cons": float})
    runs = frame(records).pivot(index=["run", "method", "antialias"], columns="metric", values="value").reset_index()
    for ax, values, title in zip(axes, (printed, runs), ("The paper", "Here"), strict=True):
        _scatter(ax, values)
        ax.set_title(title)
    filters = [
        Line2D([], [], color=MUTED, marker=m, linestyle="none", label="no filter" if f == "-" else f)
        for f, m in MARKERS.items()
    ]
    methods = [Line2D([], [], color=c, marker="o", linestyle="none", label=m) for m, c in COLORS.items()]
    figure.legend(handles=[*methods, *filters], loc="outside right center", frameon=False)
    return figure


def _scatter(ax: Axes, values: pd.DataFrame) -> None:
    ax.axhline(100, color=MUTED, linewidth=0.8, linestyle="--")
    sns.scatterplot(
        values,
        x="acc",
        y="c_cons",
        hue="method",
        style="antialias",
        palette=COLORS,
        markers=MARKERS,
        s=70,
        alpha=0.85,
        legend=False,
        ax=ax,
    )
    ax.set_xlabel("accuracy (%)")
    ax.set_ylabel("circular consistency (%)")


def row_of(record: Record) -> Row:
    """The row that a run belongs to."""
    (row,) = matching([record["experiment"]])
    return row


def _look(row: Row) -> dict[str, Any]:
    """Colour of the method, marker of the filter; hollow where the paper gives the method a name of its own."""
    color = COLORS[SHOWN[row.method]]
    fill = color if row.shown in (*COLORS, "DeepLabV3+") else "white"
    return {"color": color, "marker": MARKERS[row.labels[1]], "markerfacecolor": fill}


def rows_of_a_table(name: str) -> Figure:
    """The metrics of a table, a line for each row: the paper's values, and those of each group of runs."""
    content = table(name)
    groups = [group for group in content["groups"] if any(row["ours"] for row in group["rows"])]
    lines = content["groups"][0]["rows"]
    rows = [matching([line["row"]])[0] for line in lines]
    metrics = TABLES[name].metrics
    shape = (1 + len(groups), len(metrics))
    size = (8.5, (0.7 + 0.27 * len(lines)) * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey=True)
    for panels, group in zip(axes, [None, *groups], strict=True):
        shown = lines if group is None else group["rows"]
        for ax, (metric, heading) in zip(panels, metrics.items(), strict=True):
            for place, (row, line) in enumerate(zip(rows, shown, strict=True)):
                value = (line["paper"] if group is None else line["ours"] or {}).get(metric)
                if value and value["mean"] is not None:
                    ax.errorbar(value["mean"], place, xerr=value["std"], markersize=7, capsize=2, **_look(row))
            if metric in ("c_cons", "mascc"):
                ax.axvline(100, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
            ax.set(xlabel=f"{heading} (%)", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
            ax.grid(axis="y")
            ax.margins(x=0.08)
        panels[0].set_yticklabels(map(title_of, rows))
        panels[0].set_title("The paper" if group is None else group["label"].capitalize(), loc="left")
    return figure


def learning_curves(records: Sequence[Record]) -> Figure:
    """Loss, training accuracy and the temperature of LPD at the end of each epoch, a line for each run."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2))
    shown: dict[str, str] = {}
    for record in records:
        row = row_of(record)
        history = pd.DataFrame(record["history"])
        every = max(1, len(history) // 12)
        style = {**_look(row), "markersize": 4, "linewidth": 1.2, "markevery": every}
        shown[SHOWN[row.method]] = style["color"]
        for ax, name in zip(axes, ("loss", "accuracy", "tau"), strict=True):
            if name in history and (name != "tau" or row.method == "lps"):
                ax.plot(history["epoch"], history[name], **style)
    for ax, label in zip(axes, ("training loss", "training accuracy (%)", "temperature τ"), strict=True):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[2].set_yscale("log")
    methods = [Line2D([], [], color=color, label=method) for method, color in shown.items()]
    figure.legend(handles=methods, loc="outside upper center", ncols=len(methods))
    return figure


def phase_shares(record: Record) -> Figure | None:
    """How often a sampling layer's largest score fell on each phase, by epoch; ``None`` where no record says it."""
    history = pd.DataFrame(record["history"])
    layers = [name.removesuffix(".phase0") for name in history if name.endswith(".phase0")]
    if not layers:
        return None
    figure, axes = plt.subplots(1, len(layers), figsize=(9.5, 2.9), sharey=True, squeeze=False)
    for number, (ax, layer) in enumerate(zip(axes[0], layers, strict=True), 1):
        for phase, color in enumerate(PHASES):
            ax.plot(history["epoch"], 100 * history[f"{layer}.phase{phase}"], color=color, label=f"phase {phase}")
        ax.axhline(100 / len(PHASES), color=MUTED, linewidth=0.8, linestyle="--")
        ax.set(title=f"sampling layer {number}", xlabel="epoch", ylim=(0, 100))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("chosen (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(PHASES))
    return figure


def changes(shifts: Sequence[int], panels: Mapping[str, Mapping[Row, Sequence[float]]]) -> Figure:
    """Change of the logits under each of the shifts, a panel for each kind of shift, a line for each row."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9.5, 4), sharey=True, squeeze=False)
    for ax, (kind, lines) in zip(axes[0], panels.items(), strict=True):
        for row, values in lines.items():
            style = {**_look(row), "markersize": 5, "linewidth": 1.2, "markevery": (len(values) // 8, len(values) // 4)}
            ax.plot(shifts, values, label=title_of(row), **style)
        ax.set(title=f"{kind} shift", xlabel="columns that the picture moves", ylim=(-2, None))
        ax.grid(axis="y")
    axes[0, 0].set_ylabel("change of the logits (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def change_maps(image: Tensor, maps: Mapping[Row, Tensor]) -> Figure:
    """A picture ``(3, H, W)`` uint8, and where each row's logits ``(H, W)`` change when it moves, on one scale."""
    figure, axes = plt.subplots(1, 1 + len(maps), figsize=(9.5, 0.9 + 9 / (1 + len(maps))))
    axes[0].imshow(image.permute(1, 2, 0))
    axes[0].set_title("the picture", fontsize=9)
    limit = median(float(values.quantile(0.99)) for values in maps.values())
    for ax, (row, values) in zip(axes[1:], maps.items(), strict=True):
        drawn = ax.imshow(values, cmap="Purples", vmin=0, vmax=limit)
        ax.set_title(title_of(row).replace(", ", "\n"), fontsize=9, color=COLORS[SHOWN[row.method]])
        largest = float(values.max())
        ax.set_xlabel(f"up to {largest:.2f}" if largest else "0, exactly", fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes[1:], shrink=0.6, aspect=12, extend="max").outline.set_visible(False)
    return figure


def gains(confidence: float = CONFIDENCE, chance: float = POWER, most: int = 30) -> Figure:
    """LPS over APS in the paper's Table 1: differences with their intervals, and the power of a number of seeds."""
    pairs = printed_samples("LPS", "APS")
    intervals = {name: difference(*pair, confidence) for name, pair in pairs.items()}
    intervals["mean"] = average_difference(list(pairs.values()), confidence)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    left.axvline(0, color=MUTED, linewidth=0.8)
    for row, (name, interval) in enumerate(intervals.items()):
        color, marker = COLORS["LPS"] if interval.decides else MUTED, MARKERS.get(name, "|")
        left.errorbar(interval.value, row, xerr=_reach(interval), color=color, fmt=marker, markersize=8)
    left.set_yticks(range(len(intervals)), [_filter(name) for name in intervals])
    left.set_xlabel("gain of LPS (points)")
    left.invert_yaxis()
    seeds = range(2, most + 1)
    for name, (lps, aps) in pairs.items():
        chances = [power(lps.mean - aps.mean, lps.std, aps.std, n, confidence) for n in seeds]
        right.plot(seeds, chances, color=MUTED, linewidth=1, marker=MARKERS[name], markersize=4, label=_filter(name))
    right.axhline(chance, color=COLORS["LPS"], linewidth=1, linestyle="--")
    right.axvline(PAPER_SEEDS, color=COLORS["APS"], linewidth=1, linestyle=":")
    right.text(PAPER_SEEDS + 0.3, 0.02, "the paper's seeds", color=COLORS["APS"])
    right.set(xlabel="seeds of each method", ylabel="chance to find the gain (approx.)", ylim=(0, 1.02))
    right.legend(loc="center right")
    return figure


def guarantee_prices(accuracies: pd.DataFrame) -> Figure:
    """What APS and LPS cost in accuracy or gain: the paper, and one group of runs, by :func:`.tables.accuracies`."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for method, offset in (("APS", -0.14), ("LPS", 0.14)):
        lines = prices(method, accuracies)
        for place, line in enumerate(lines):
            for ax, value in zip(axes, (line.paper, line.ours), strict=True):
                color, marker = COLORS[method], MARKERS.get(line.antialias, "|")
                ax.errorbar(value.value, place + offset, xerr=_reach(value), color=color, fmt=marker, markersize=8)
    for ax, title in zip(axes, ("The paper", "Here"), strict=True):
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set(title=title, xlabel="accuracy over the row without a guarantee (points)")
    axes[0].set_yticks(range(len(lines)), [_filter(line.antialias) for line in lines])
    axes[0].invert_yaxis()
    methods = [Line2D([], [], color=COLORS[method], label=method) for method in ("APS", "LPS")]
    figure.legend(handles=methods, loc="outside right center")
    return figure


def _reach(interval: Interval) -> npt.NDArray[np.float64]:
    """How far an interval reaches below and above its value, (2, 1), as error bars take it; NaN if unknown."""
    reach = np.array([[interval.value - interval.low], [interval.high - interval.value]])
    return np.where(np.isfinite(reach), np.maximum(reach, 0), np.nan)


def _filter(name: str) -> str:
    return {"-": "no filter", "mean": "mean of all"}.get(name, name)


def failure_bounds(tested: dict[str, int]) -> Figure:
    """Largest failure rate that a count without a failure leaves possible, and where named counts stand."""
    figure, ax = plt.subplots(figsize=(6, 3.2))
    totals = [round(10 ** (k / 8)) for k in range(8, 57)]
    ax.plot(totals, [100 * failure_bound(n) for n in totals], color=COLORS["LPS"])
    for name, total in tested.items():
        ax.plot(total, 100 * failure_bound(total), "o", color=INK, markersize=4)
        ax.annotate(name, (total, 100 * failure_bound(total)), xytext=(6, 6), textcoords="offset points")
    ax.set(xscale="log", yscale="log", xlabel="pairs tested, all equal", ylabel="failure rate not excluded (%)")
    return figure


def max_norm_shares(studied: Sequence[Record]) -> Figure:
    """How often LPD keeps the component with the largest norm, by network and sampling layer, with 95 % intervals."""
    figure, ax = plt.subplots(figsize=(7.5, 3.4))
    for place, record in enumerate(studied):
        _, antialias = _LABELS[record["experiment"]]
        layers = [metric for name, metric in record["metrics"].items() if name.startswith("max_norm, ")]
        for layer, metric in enumerate(layers, 1):
            share = wilson(metric["agree"], metric["total"])
            x = place + 0.16 * (layer - (len(layers) + 1) / 2)
            reach, color, marker = 100 * _reach(share), COLORS["LPS"], MARKERS[antialias]
            ax.errorbar(x, 100 * share.value, yerr=reach, color=color, fmt=marker, markersize=6, elinewidth=1)
            ax.annotate(str(layer), (x, 100 * share.value), xytext=(5, 3), textcoords="offset points", color=MUTED)
    ax.axhline(100 / len(PHASES), color=MUTED, linewidth=0.8, linestyle="--")
    ax.text(len(studied) - 0.6, 100 / len(PHASES) + 1.5, "chance", color=MUTED)
    ax.set_xticks(range(len(studied)), [_filter(_LABELS[record["experiment"]][1]) for record in studied])
    ax.set(ylim=(0, 100), xlim=(-0.6, len(studied) - 0.4), ylabel="LPD keeps the largest norm (%)")
    return figure


def replaced(studied: Sequence[Record], chance: float) -> Figure:
    """Accuracy of trained networks as they are and with APS in place of LPD, with the accuracy of guessing."""
    figure, ax = plt.subplots(figsize=(7.5, 0.6 + 0.5 * len(studied)))
    for row, record in enumerate(studied):
        before, after = (record["metrics"][name]["value"] for name in ("acc", "acc_max_norm"))
        ax.plot([after, before], [row, row], color=RULE, linewidth=3, zorder=0)
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 10,
            "markerfacecolor": "none",
            "markeredgewidth": 2,
            "linestyle": "none",
        }
        ax.plot(before, row, color=COLORS["LPS"], label="LPD" if row == 0 else None, **ring)
        ax.plot(after, row, "s", color=COLORS["APS"], markersize=5, label="APS in its place" if row == 0 else None)
    ax.axvline(chance, color=MUTED, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(studied)), [_filter(_LABELS[record["experiment"]][1]) for record in studied])
    ax.invert_yaxis()
    ax.set(xlabel="accuracy (%)", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def activations(components: Tensor, kept: int, largest: int) -> Figure:
    """Figure 4: components ``(P, channels, H, W)``, a row for each phase, the choices of LPD and of the norm boxed."""
    phases, channels = components.shape[:2]
    figure, axes = plt.subplots(phases, channels, figsize=(0.9 * channels, 0.95 * phases), squeeze=False)
    limit = float(components.max()) or 1.0
    frames = {kept: (0.0, COLORS["APS"], "-")}, {largest: (0.09, COLORS["LPS"], "--")}
    for (phase, channel), ax in np.ndenumerate(axes):
        ax.imshow(components[phase, channel], vmin=0, vmax=limit)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        for inset, color, dash in (choice[phase] for choice in frames if phase in choice):
            side = 1 - 2 * inset
            box = Rectangle((inset, inset), side, side, transform=ax.transAxes, fill=False, clip_on=False)
            box.set(edgecolor=color, linewidth=2.2, linestyle=dash)
            ax.add_patch(box)
    for phase, ax in enumerate(axes[:, 0]):
        ax.set_ylabel(f"k = {phase}")
    handles = [
        Line2D([], [], color=COLORS["APS"], label="kept by LPD"),
        Line2D([], [], color=COLORS["LPS"], linestyle="--", label="largest norm"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
