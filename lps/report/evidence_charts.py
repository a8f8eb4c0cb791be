"""Charts of what the records of trained networks show, in the colours and markers of :mod:`lps.report.charts`."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..experiments.rows import TABLE1
from ..studies.evidence import BINS, DIRECTIONS
from .charts import MARKERS
from .figures import COLORS, INK, MUTED, PHASES
from .frame import Record, grouped, named

_LABELS = {row.name: row.labels for row in TABLE1}

ROUNDING = 2.0**-24
"""Half the distance between 1 and the next float32, relative to 1."""


def _title(record: Record) -> str:
    method, antialias = _LABELS[record["experiment"]]
    return method if antialias == "-" else f"{method}, {antialias}"


def _legend(figure: Figure, records: Iterable[Record]) -> None:
    """The methods and filters that occur, beside the panels."""
    labels = [_LABELS[record["experiment"]] for record in records]
    methods, filters = ({label[i] for label in labels} for i in (0, 1))
    handles = [
        *(Line2D([], [], color=color, linewidth=3, label=m) for m, color in COLORS.items() if m in methods),
        *(
            Line2D([], [], color=MUTED, marker=m, linestyle="none", label="no filter" if f == "-" else f)
            for f, m in MARKERS.items()
            if f in filters
        ),
    ]
    figure.legend(handles=handles, loc="outside right center")


def kept_by_shift(studied: Sequence[Record]) -> Figure:
    """Share of test images whose label is kept, against the size of a circular shift, by its direction."""
    figure, axes = plt.subplots(1, len(DIRECTIONS), figsize=(9, 3.4), sharey=True)
    for ax, direction in zip(axes, DIRECTIONS, strict=True):
        for record in studied:
            method, antialias = _LABELS[record["experiment"]]
            shares = 100 * np.array(record["kept"][direction]) / record["data"]["test"]
            style = {"marker": MARKERS[antialias], "markersize": 3.5, "linewidth": 1, "alpha": 0.85}
            ax.plot(shares, color=COLORS[method], zorder=3 if method == "LPS" else 2, **style)
        ax.set(title={"diagonal": "both axes"}.get(direction, direction), xlabel="shift (pixels)")
    axes[0].set_ylabel("label kept (% of images)")
    _legend(figure, studied)
    return figure


def accuracy_by_consistency(records: Sequence[Record]) -> Figure:
    """C-Cons. against accuracy, one mark for each run, one panel for each profile and data set."""
    groups = grouped(records)
    figure, axes = plt.subplots(1, len(groups), figsize=(1.6 + 3.7 * len(groups), 3.6), squeeze=False)
    for ax, (key, title) in zip(axes[0], named(groups).items(), strict=True):
        ax.axhline(100, color=MUTED, linewidth=0.8, linestyle="--")
        for record in groups[key]:
            method, antialias = _LABELS[record["experiment"]]
            accuracy, consistency = (record["metrics"][name]["value"] for name in ("acc", "c_cons"))
            ax.plot(accuracy, consistency, MARKERS[antialias], color=COLORS[method], markersize=6, alpha=0.8)
        ax.set(title=title, xlabel="accuracy (%)", ylabel="circular consistency (%)")
    _legend(figure, records)
    return figure


def with_phases(records: Iterable[Record]) -> list[Record]:
    """The runs of LPS whose history holds the phases that each layer chose."""
    return [
        record
        for record in records
        if record["config"]["model"]["method"] == "lps" and any(".phase0" in key for key in record["history"][0])
    ]


def phase_shares(records: Sequence[Record]) -> Figure:
    """How often the largest logit fell on each phase in training: a row for each run, a column for each layer."""
    layers = [key.removesuffix(".phase0") for key in records[0]["history"][0] if key.endswith(".phase0")]
    size = (9, 0.7 + 1.5 * len(records))
    figure, axes = plt.subplots(len(records), len(layers), figsize=size, sharex="col", sharey=True, squeeze=False)
    for record, row in zip(records, axes, strict=True):
        epochs = [line["epoch"] for line in record["history"]]
        for layer, ax in zip(layers, row, strict=True):
            ax.axhline(100 / len(PHASES), color=MUTED, linewidth=0.8, linestyle="--")
            for phase, (color, marker) in enumerate(zip(PHASES, "os^D", strict=True)):
                shares = [100 * line[f"{layer}.phase{phase}"] for line in record["history"]]
                ax.plot(epochs, shares, color=color, marker=marker, markersize=4, linewidth=1.2)
        row[0].set_ylabel(f"{_title(record)}\nseed {record['seed']} (%)")
    for place, ax in enumerate(axes[0], 1):
        ax.set_title(f"layer {place}")
    for ax in axes[-1]:
        ax.set(xlabel="epoch", xlim=(0.5, max(len(record["history"]) for record in records) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        Line2D([], [], color=color, marker=marker, label=f"phase {phase}")
        for phase, (color, marker) in enumerate(zip(PHASES, "os^D", strict=True))
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def margin_histograms(studied: Sequence[Record]) -> Figure:
    """Leads of the chosen phases beside rounding of the same scores: a row for each network, a column for each layer.

    The dotted line is the rounding of a single float32 number.
    """
    columns = max(len(record["layers"]) for record in studied)
    size = (9, 0.8 + 1.5 * len(studied))
    figure, axes = plt.subplots(len(studied), columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for record, row in zip(studied, axes, strict=True):
        for place, (layer, ax) in enumerate(zip(record["layers"], row, strict=True), 1):
            _histograms(ax, record, layer)
            inside = record["metrics"][f"within, layer {place}"]
            ax.set_title(f"layer {place}: {inside['agree']:,} of {inside['total']:,} within", fontsize=8.5)
        row[0].set_ylabel(f"{_title(record)}\n% of images")
    for ax in axes[-1]:
        ax.set_xlabel("relative to the largest score")
    handles = [
        *(
            Line2D([], [], color=COLORS[m], linewidth=3, label=f"lead, {m}")
            for m in COLORS
            if any(_LABELS[record["experiment"]][0] == m for record in studied)
        ),
        Line2D([], [], color=MUTED, label="rounding"),
        Line2D([], [], color=INK, linestyle="--", label="change by a shift,\nplain sums"),
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def _histograms(ax: Axes, record: Record, layer: Record) -> None:
    low, high = record["powers_of_ten"]
    edges = 10 ** np.linspace(low, high, BINS + 1)
    method, _ = _LABELS[record["experiment"]]
    ax.axvline(ROUNDING, color=MUTED, linewidth=0.8, linestyle=":")
    for kind, color, dash in (("lead", COLORS[method], "-"), ("rounding", MUTED, "-"), ("moved", INK, "--")):
        shares = 100 * np.array(layer[kind]) / record["data"]["test"]
        ax.stairs(shares, edges, color=color, linestyle=dash, linewidth=1.4 if kind == "lead" else 1)
    ax.set_xscale("log")
