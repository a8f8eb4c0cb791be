"""Directives of the retrospective: tables over all shipped records, by what ``lps.report.retrospective`` finds."""

import math
from typing import Any

from docutils import nodes
from lps_nodes import NONE, Cell, paragraph, table
from lps_results import ResultDirective, duration
from sphinx.application import Sphinx

from lps.report import retrospective
from lps.report.paper import paper_number
from lps.report.statistics import Interval
from lps.report.tables import SHOWN_DATA


def numbers(*texts: str) -> list[Cell]:
    return [Cell(text, ("lps-number",)) for text in texts]


class Retrospective(ResultDirective):
    """Base: the shipped records, of runs or of everything."""

    def shipped(self) -> list[dict[str, Any]]:
        return [record for record in self.records().values() if record["path"].startswith("results/shipped/")]

    def runs(self) -> list[dict[str, Any]]:
        return [record for record in self.shipped() if record["path"].startswith("results/shipped/table")]

    def none(self, what: str) -> list[nodes.Node]:
        return [paragraph(f"{what}: no shipped record says anything about it yet.")]


class Costs(Retrospective):
    """Hours of all shipped runs and studies, by hardware."""

    def run(self) -> list[nodes.Node]:
        lines = retrospective.costs(self.shipped())
        head = [[Cell("Hardware"), *numbers("Records", "Training", "With measuring")]]
        body = [
            ("", [Cell(x["hardware"]), *numbers(str(x["records"]), duration(x["training"]), duration(x["all"]))])
            for x in lines
        ]
        return [table("What the shipped records took.", head, body)] if lines else self.none("Cost")


class Guarantees(Retrospective):
    """How many pairs of shifts have equal predictions, with and without a guarantee."""

    def run(self) -> list[nodes.Node]:
        lines = retrospective.guarantees(self.runs())
        head = [[Cell("Table, profile, data"), Cell("Counted"), Cell("Guarantee")]]
        head[0] += numbers("Runs", "all equal", "Pairs equal", "of")
        body = [
            (
                "",
                [
                    Cell(f"{x['table']}, {x['profile']}, {x['data']}"),
                    Cell(f"`{x['metric']}`"),
                    Cell("yes" if x["guaranteed"] else "no"),
                    *numbers(str(x["runs"]), str(x["exact"]), f"{x['agree']:,}", f"{x['total']:,}"),
                ],
            )
            for x in lines
        ]
        return [table("Equal predictions under pairs of circular shifts.", head, body)] if lines else self.none("Pairs")


class Scales(Retrospective):
    """Accuracies of Table 1 in the paper and in each profile, with intervals over seeds."""

    def run(self) -> list[nodes.Node]:
        rows = retrospective.by_scale(self.runs())
        profiles = sorted({profile for row in rows for profile in row["profiles"]})
        head = [[Cell("Row"), *numbers("Paper", *profiles)]]
        body = [
            ("", [Cell(f"`{row['row']}`"), *numbers(f"{row['paper']:.2f}", *(self.value(row, p) for p in profiles))])
            for row in rows
        ]
        caption = "Accuracy on CIFAR-10: mean over seeds with its 95 % interval, and their number."
        return [table(caption, head, body)] if profiles else self.none("Accuracy at another scale")

    def value(self, row: dict[str, Any], profile: str) -> str:
        if profile not in row["profiles"]:
            return NONE
        interval: Interval
        interval, n = row["profiles"][profile]
        if n == 1:
            return f"{interval.value:.2f} (n = 1)"
        return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}] (n = {n})"


class Prices(Retrospective):
    """What a guarantee costs in accuracy, or gains: differences in the paper and in each profile."""

    def run(self) -> list[nodes.Node]:
        profiles = retrospective.accuracies(self.runs())
        found = {
            profile: [p for method in ("APS", "LPS") for p in retrospective.prices(method, rows)]
            for profile, rows in sorted(profiles.items())
        }
        if not found:
            return self.none("The price of a guarantee")
        head = [[Cell("Method"), Cell("Filter"), *numbers("Paper", *found)]]
        body = [
            (
                "",
                [
                    Cell(lines[0].method),
                    Cell({"-": NONE, "mean": "mean of all"}.get(lines[0].antialias, lines[0].antialias)),
                    *numbers(gap(lines[0].paper), *(f"{gap(x.ours)} (n = {x.n})" if x.n else NONE for x in lines)),
                ],
            )
            for lines in zip(*found.values(), strict=True)
        ]
        caption = "Accuracy less that of the row with the same filter that keeps phase 0, in points."
        return [table(caption, head, body)]


def gap(value: Interval) -> str:
    """A difference, with its interval where there is one."""
    bounds = f" [{value.low:+.2f}, {value.high:+.2f}]" if math.isfinite(value.low) else ""
    return f"{value.value:+.2f}{bounds}"


class Orders(Retrospective):
    """How many pairs of rows stand in the same order in two sources."""

    def run(self) -> list[nodes.Node]:
        lines = retrospective.same_order(self.runs())
        head = [[Cell("One source"), Cell("Another"), *numbers("Rows of both", "Pairs in the same order", "of")]]
        body = [
            ("", [Cell(x["first"]), Cell(x["second"]), *numbers(str(x["rows"]), str(x["agree"]), str(x["pairs"]))])
            for x in lines
        ]
        return [table("Orders of mean accuracy compared.", head, body)] if lines else self.none("Orders")


class Replaced(Retrospective):
    """Accuracy of each studied network before and after APS takes the place of LPD, Sec. 5.3."""

    def run(self) -> list[nodes.Node]:
        made = [r for r in self.shipped() if r["path"].startswith("results/shipped/section53/")]
        lines = retrospective.replaced(made)
        if not lines:
            return self.none("APS in the place of LPD")
        head = [[Cell("Row, profile, data, seed"), *numbers("LPD", "APS in its place", "Change")]]
        body = [
            (
                "",
                [
                    Cell(f"`{x['row']}`, {x['profile']}, {x['data']}, {x['seed']}"),
                    *numbers(f"{x['before']:.2f}", f"{x['after']:.2f}", f"{x['after'] - x['before']:+.2f}"),
                ],
            )
            for x in lines
        ]
        before, after = paper_number("replaced-before"), paper_number("replaced-after")
        falls = sum(x["falls"] for x in lines)
        text = (
            f"The paper's network falls from {before:g} % to {after:g} %. Here accuracy falls, the 95 % intervals "
            f"apart, in {falls} of {len(lines)} networks"
            + ("." if falls else ": the paper's drop is not seen at this scale.")
        )
        return [table("Accuracy in per cent when APS chooses where LPD did.", head, body), paragraph(text)]


class Shipped(Retrospective):
    """What is shipped of each table: rows, seeds, machines, and records of earlier code."""

    def run(self) -> list[nodes.Node]:
        items = [nodes.list_item("", paragraph(self.line(x))) for x in retrospective.shipped_runs(self.runs())]
        return [nodes.bullet_list("", *items)] if items else self.none("The tables")

    def line(self, found: dict[str, Any]) -> str:
        seeds = ", ".join(
            f"{rows} with {n} {'seeds' if n > 1 else 'seed'}" for n, rows in sorted(found["seeds"].items())
        )
        machines = ", ".join(f"{runs} on {name}" for name, runs in sorted(found["machines"].items()))
        rows, runs = found["seeds"].total(), found["machines"].total()
        where = f"Table {found['table'].removeprefix('table')}, profile {found['profile']}"
        old = f", {found['stale']} of them made before `lps` last changed" if found["stale"] else ""
        data = SHOWN_DATA.get(found["data"], found["data"])
        return f"{where}, {data}: {rows} of {found['rows']} rows ({seeds}); {runs} runs ({machines}){old}."


class Engine(Retrospective):
    """What settings of ``engine`` and the precision change in accuracy, consistency and speed."""

    def run(self) -> list[nodes.Node]:
        made = [r for r in self.shipped() if r["path"].startswith("results/shipped/engine/")]
        lines = retrospective.engine_effects(made)
        head = [[Cell("Row"), Cell("Setting")]]
        head[0] += numbers("Seeds", "Speed", "Acc.", "change", "C-Cons.", "change")
        body = [
            (
                "",
                [
                    Cell(f"`{x['row']}`"),
                    Cell(x["use"] if x["use"] == retrospective.PLAIN else f"`{x['use']}`"),
                    *numbers(str(x["seeds"]), f"{x['speed']:.2f}"),
                    *numbers(f"{x['acc']:.2f}", self.change(x, "acc")),
                    *numbers(f"{x['c_cons']:.2f}", self.change(x, "c_cons")),
                ],
            )
            for x in lines
        ]
        caption = "Training with other settings of the machine: paired changes from the first line of each row."
        if not lines:
            return self.none("Settings of the machine")
        images = sorted({f"{r['data']['train']:,} images of {r['data']['name']}" for r in made})
        epochs = sorted({f"{r['config']['train']['epochs']} epochs" for r in made})
        machines = sorted({x["machine"] for x in lines})
        source = f"{', '.join(images)}, {', '.join(epochs)}; {', '.join(machines)}. "
        return [table(caption, head, body), paragraph(source, "lps-source")]

    def change(self, line: dict[str, Any], metric: str) -> str:
        """With its interval, where there is one."""
        change: Interval = line["change"][metric]
        if line["use"] == retrospective.PLAIN:
            return NONE
        return gap(change)


def setup(app: Sphinx) -> None:
    for directive in (Costs, Guarantees, Scales, Prices, Orders, Replaced, Shipped, Engine):
        app.add_directive(f"lps-retrospective-{directive.__name__.lower()}", directive)
