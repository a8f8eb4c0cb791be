"""Charts of run records: one colour for each method, one marker for each filter, in every chart."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from ..experiments.rows import TABLE1
from .figures import COLORS, INK, MUTED, PHASES, RULE
from .statistics import CONFIDENCE, POWER, average_difference, difference, failure_bound, power, wilson
from .tables import PAPER_SEEDS, Record, frame, paper_frame, printed_samples

MARKERS = {"-": "o", "Rect-2": "s", "Tri-3": "^", "Bin-5": "p", "Adapt-3": "D"}
_LABELS = {row.name: row.labels for row in TABLE1}


def accuracy_and_consistency(records: Sequence[Record]) -> Figure:
    """C-Cons. against accuracy: the paper's Table 1 on the left, the runs on the right, each on its own scale."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    for ax, values, title in zip(axes, (paper_frame(), frame(records)), ("The paper", "Here"), strict=True):
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
        x="Acc.",
        y="C-Cons.",
        hue="Method",
        style="Anti-Alias",
        palette=COLORS,
        markers=MARKERS,
        s=70,
        alpha=0.85,
        legend=False,
        ax=ax,
    )
    ax.set_xlabel("accuracy (%)")
    ax.set_ylabel("circular consistency (%)")


def learning_curves(records: Sequence[Record]) -> Figure:
    """Training accuracy and the temperature of LPD at the end of each epoch."""
    figure, (accuracy, tau) = plt.subplots(1, 2, figsize=(9, 3.2))
    for record in records:
        method, antialias = _LABELS[record["experiment"]]
        history = pd.DataFrame(record["history"])
        style = {"color": COLORS[method], "marker": MARKERS[antialias], "markersize": 4, "linewidth": 1.2}
        accuracy.plot(history["epoch"], history["accuracy"], **style)
        if method == "LPS":
            tau.plot(history["epoch"], history["tau"], **style)
    accuracy.set(xlabel="epoch", ylabel="training accuracy (%)")
    tau.set(xlabel="epoch", ylabel="temperature τ", yscale="log")
    methods = [Line2D([], [], color=c, label=m) for m, c in COLORS.items()]
    figure.legend(handles=methods, loc="outside right center", frameon=False)
    return figure


def gains(confidence: float = CONFIDENCE, chance: float = POWER, most: int = 30) -> Figure:
    """LPS over APS in the paper's Table 1: differences with their intervals, and the power of a number of seeds."""
    pairs = printed_samples("LPS", "APS")
    intervals = {name: difference(*pair, confidence) for name, pair in pairs.items()}
    intervals["mean"] = average_difference(list(pairs.values()), confidence)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    left.axvline(0, color=MUTED, linewidth=0.8)
    for row, (name, interval) in enumerate(intervals.items()):
        color = COLORS["LPS"] if interval.decides else MUTED
        left.plot([interval.low, interval.high], [row, row], color=color)
        left.plot(interval.value, row, color=color, marker=MARKERS.get(name, "|"), markersize=8)
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
    right.set(xlabel="seeds of each method", ylabel="chance to find the gain", ylim=(0, 1.02))
    right.legend(loc="center right")
    return figure


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
            ax.plot([x, x], [100 * share.low, 100 * share.high], color=COLORS["LPS"], linewidth=1)
            ax.plot(x, 100 * share.value, MARKERS[antialias], color=COLORS["LPS"], markersize=6)
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
