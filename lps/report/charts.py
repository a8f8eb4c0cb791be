"""Charts that several pages share: one colour for each method, one marker for each filter."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ..experiments.rows import BY_NAME, SHOWN, Row
from .figures import COLORS, MUTED, PHASES
from .figures import INK as INK
from .figures import RULE as RULE
from .figures import style as style
from .frame import Record
from .paper import TABLES
from .statistics import Interval
from .tables import by_place, table

MARKERS = {"-": "o", "Rect-2": "s", "Tri-3": "^", "Bin-5": "p", "Adapt-3": "D"}


def row_of(record: Record) -> Row:
    """The row that a run belongs to."""
    return BY_NAME[record["experiment"]]


def title_of(row: Row) -> str:
    """Method, filter and depth of a row."""
    method, antialias = row.labels
    depth = dict(row.settings).get("model.depth")
    return ", ".join([method, *([] if antialias == "-" else [antialias]), *([f"ResNet-{depth}"] if depth else [])])


def look(row: Row) -> dict[str, Any]:
    """Colour of the method, marker of the filter; hollow where the paper gives the method a name of its own."""
    color = COLORS[SHOWN[row.method]]
    fill = color if row.shown in (*COLORS, "DeepLabV3+") else "white"
    return {"color": color, "marker": MARKERS[row.labels[1]], "markerfacecolor": fill}


def name_filters(legend: Legend) -> None:
    """The words of this book in place of the names of columns in a legend that seaborn has made."""
    for text in legend.texts:
        text.set_text({"antialias": "filter", "-": "no filter"}.get(text.get_text(), text.get_text()))


def interval(ax: Axes, value: Interval, place: float, upright: bool = False, **style: Any) -> None:
    """A value with its interval, as a mark with a line, at a ``place`` on the other axis; no line to unknown ends."""
    reach = np.array([[value.value - value.low], [value.high - value.value]])
    known = np.where(np.isfinite(reach), np.maximum(reach, 0), np.nan)
    if upright:
        ax.errorbar(place, value.value, yerr=known, **style)
    else:
        ax.errorbar(value.value, place, xerr=known, **style)


def rows_of_a_table(name: str) -> Figure:
    """The metrics of a table, a line for each row: the paper's values, and those of each group of runs."""
    content = table(name, by_place())
    groups = [group for group in content["groups"] if any(row["ours"] for row in group["rows"])]
    lines = content["groups"][0]["rows"]
    rows = [BY_NAME[line["row"]] for line in lines]
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
                    mean, std = value["mean"], value["std"] or 0
                    interval(ax, Interval(mean, mean - std, mean + std), place, markersize=7, **look(row))
            if metric in ("c_cons", "mascc"):
                ax.axvline(100, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
            ax.set(xlabel=f"{heading} (%)", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
            ax.grid(axis="y")
            ax.margins(x=0.08)
        panels[0].set_yticklabels(map(title_of, rows))
        label = "The paper" if group is None else group["label"]
        panels[0].set_title(label[:1].upper() + label[1:], loc="left")
    return figure


def learning_curves(records: Sequence[Record]) -> Figure:
    """Loss, training accuracy and the temperature of LPD at the end of each epoch: panels for each profile and data, a
    line for each row, the mean over its seeds."""
    groups = defaultdict[tuple[str, str], dict[str, list[Record]]](lambda: defaultdict(list))
    for record in records:
        groups[record["profile"], record["data"]["fingerprint"]][record["experiment"]].append(record)
    shape, size = (max(1, len(groups)), 3), (9.5, 0.6 + 2.6 * max(1, len(groups)))
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False)
    for panels, ((profile, _), rows) in zip(axes, groups.items(), strict=False):
        panels[0].set_title(f"profile {profile}", loc="left")
        for made in rows.values():
            row = row_of(made[0])
            histories = pd.concat(pd.DataFrame(record["history"]) for record in made)
            history = histories.groupby("epoch").mean(numeric_only=True)
            style = {**look(row), "markersize": 4, "linewidth": 1.2, "markevery": max(1, len(history) // 12)}
            for ax, name in zip(panels, ("loss", "accuracy", "tau"), strict=True):
                if name in history and (name != "tau" or row.method == "lps"):
                    ax.plot(history.index, history[name], label=SHOWN[row.method], **style)
    for panels in axes:
        for ax, label in zip(panels, ("training loss", "training accuracy (%)", "temperature τ"), strict=True):
            ax.set(xlabel="epoch", ylabel=label)
            ax.xaxis.get_major_locator().set_params(integer=True)
        panels[2].set_yscale("log")
    methods = dict.fromkeys(SHOWN[row_of(record).method] for record in records)
    handles = [Line2D([], [], color=COLORS[method], label=method) for method in methods]
    figure.legend(handles=handles, loc="outside upper center", ncols=max(1, len(handles)))
    return figure


def phase_shares(records: Iterable[Record]) -> Figure | None:
    """How often the largest score fell on each phase in training: a line of panels for each run, one for each layer.

    ``None`` where no record says it.
    """
    said = [record for record in records if any(".phase0" in name for name in record["history"][0])]
    if not said:
        return None
    layers = [name.removesuffix(".phase0") for name in said[0]["history"][0] if name.endswith(".phase0")]
    shape, size = (len(said), len(layers)), (9.5, 1.2 + 1.5 * len(said))
    figure, axes = plt.subplots(*shape, figsize=size, sharex="col", sharey=True, squeeze=False)
    for record, panels in zip(said, axes, strict=True):
        history = pd.DataFrame(record["history"])
        for number, (layer, ax) in enumerate(zip(layers, panels, strict=True), 1):
            ax.axhline(100 / len(PHASES), color=MUTED, linewidth=0.8, linestyle="--")
            for phase, (color, marker) in enumerate(zip(PHASES, "os^D", strict=True)):
                style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.2}
                ax.plot(history["epoch"], 100 * history[f"{layer}.phase{phase}"], label=f"phase {phase}", **style)
            if record is said[0]:
                ax.set_title(f"sampling layer {number}")
            ax.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set(ylabel=f"{title_of(row_of(record))}\n{record['profile']}, seed {record['seed']}", ylim=(0, 100))
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    figure.supylabel("largest score (% of images)", fontsize="medium")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(PHASES))
    return figure
