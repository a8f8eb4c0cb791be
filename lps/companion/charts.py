"""Charts of run records: one colour for each method, one marker for each filter, in every chart."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..experiments.table1 import ROWS
from .figures import COLORS, MUTED
from .tables import Record, frame, paper_frame

MARKERS = {"-": "o", "Rect-2": "s", "Tri-3": "^", "Bin-5": "p", "Adapt-3": "D"}
_LABELS = {row.name: row.labels for row in ROWS}


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
