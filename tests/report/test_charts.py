"""Charts show every number that they are given."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lps.experiments.rows import matching
from lps.report import charts
from lps.report.paper import TABLES, paper_table
from lps.report.statistics import Interval
from lps.report.tables import MEASURED

pytestmark = pytest.mark.usefixtures("quiet_canvas")


@pytest.mark.parametrize("name", MEASURED)
def test_every_printed_value_is_in_the_figure(name: str) -> None:
    panels = charts.rows_of_a_table(name).axes[: len(TABLES[name].metrics)]
    for panel, metric in zip(panels, TABLES[name].metrics, strict=True):
        drawn = {float(line.get_xdata()[0]) for line in panel.lines}  # type: ignore[index, arg-type]
        assert {float(row[metric]) for row in paper_table(name) if row[metric]} <= drawn


def test_an_interval_is_a_mark_with_a_line_and_without_one_where_its_ends_are_unknown() -> None:
    _, ax = plt.subplots()
    charts.interval(ax, Interval(1.0, 0.5, 2.0), 3)
    charts.interval(ax, Interval(1.0, -math.inf, math.inf), 3, upright=True)
    lines: Any = ax.collections
    known, unknown = (np.array(bar.get_segments()) for bar in lines)
    assert known.tolist() == [[[0.5, 3], [2, 3]]] and unknown.size == 0
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 3]], [[3, 1]]]  # type: ignore[union-attr]


def test_phase_shares_are_drawn_where_they_are_recorded() -> None:
    line = {"epoch": 1.0, **{f"a.select.phase{k}": share for k, share in enumerate((0.1, 0.2, 0.3, 0.4))}}
    run = {"experiment": "table1/lps-tri-3", "profile": "reduced", "seed": 0, "history": [line]}
    older = {**run, "history": [{"epoch": 1.0}]}
    figure = charts.phase_shares([older, run])
    assert figure is not None
    (ax,) = figure.axes
    assert np.array([line.get_ydata() for line in ax.lines[1:]]).flatten().tolist() == pytest.approx([10, 20, 30, 40])
    assert charts.phase_shares([older]) is None


def test_a_row_keeps_its_look() -> None:
    """The colour is the method's, the marker the filter's; a name of its own is a hollow mark."""
    lps, lpd = (charts.look(row) for row in matching(["table5/lp?-adapt-3"]) if row.method == "lps")
    assert lps["color"] == lpd["color"] == charts.COLORS["LPS"] and lps["marker"] == charts.MARKERS["Adapt-3"]
    assert {lps["markerfacecolor"], lpd["markerfacecolor"]} == {charts.COLORS["LPS"], "white"}
