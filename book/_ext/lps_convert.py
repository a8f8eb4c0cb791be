"""Directives of the pages on conversion: every family with its cost, and what is left at the borders."""

from collections.abc import Sequence
from typing import Any

from docutils import nodes
from lps_nodes import NONE, Cell, Inline, paragraph, table
from lps_results import ResultDirective
from sphinx.application import Sphinx


def cells(*contents: Inline) -> list[Cell]:
    return [Cell(content) for content in contents]


def ratio(before: float, after: float) -> str:
    return f"{after / before:.2f}"


class ConvertResult(ResultDirective):
    """A record of ``python -m lps convert`` as a table, with a line on the machine that made it."""

    record: str
    command: str

    def run(self) -> list[nodes.Node]:
        record = self.load(f"results/shipped/convert/{self.record}.json")
        if record is None:
            return self.absent("This table", self.command)
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()) if version)
        source: Inline = [
            f"{record['made'][:10]}, {record['hardware']['cpu']}, {versions}; code {record['code']['convert'][:8]}. "
            f"Again: `{self.command}`. ",
            self.download(f"results/shipped/convert/{self.record}.json", "JSON"),
            ".",
        ]
        return [self.table(record), paragraph(source, "lps-source")]

    def table(self, record: dict[str, Any]) -> nodes.table:
        raise NotImplementedError


class Families(ConvertResult):
    """One row for each network tried: what became of it, and its cost beside the original's."""

    record, command = "families-behind", "make families"
    placement = "behind"

    def table(self, record: dict[str, Any]) -> nodes.table:
        head = cells("network", "outcome", "stride", "choices", "parameters", "multiply-adds", "memory", "time")
        body = [("", self.row(name, row)) for name, row in record["rows"].items()]
        caption = (
            f"Sampling {self.placement} convolutions: exact under all shifts modulo the stride, or refused; "
            "cost over the original's"
        )
        return table(caption, [head], body, "lps-families")

    def row(self, name: str, row: dict[str, Any]) -> Sequence[Cell]:
        if row["outcome"] == "refused":
            return [Cell(f"`{name}`"), Cell(f"refused: {row['layer']}: {row['reason']}", across=7)]
        outcome = row["outcome"] + (f": {row['reason']}" if "reason" in row else "")
        pooled = ", head pooled" if row["head"] == "pool" else ""
        ratios = (ratio(*row[key]) for key in ("parameters", "macs", "bytes"))
        return cells(
            f"`{name}`",
            outcome + pooled,
            str(row["stride"]),
            f"{row['choices']} of {row['strides']}",
            *ratios,
            f"{row['time_ratio']:.2f}",
        )


class FamiliesBefore(Families):
    """The same networks with their sampling in front of the convolutions."""

    record, command = "families-before", "python -m lps convert --families --placement before"
    placement = "before"


class Finetuning(ConvertResult):
    """Accuracy and consistency of each network of the notebook on fine-tuning, converted and at the end."""

    record, command = "finetuning", "OMP_NUM_THREADS=1 python -m lps convert --finetuning"

    def table(self, record: dict[str, Any]) -> nodes.table:
        head = cells("network", "converted: accuracy", "C-Cons.", "fine-tuned: accuracy", "C-Cons.")
        keys = ("accuracy", "c_cons")
        body = [
            ("", cells(name, *(f"{point[key]:.1f}" for point in (points[0], points[-1]) for key in keys)))
            for name, points in record["rows"].items()
        ]
        config = record["config"]
        caption = (
            f"{record['data']['source']}: {config['train']:,} images to train on, {config['test']:,} to test; "
            f"{config['epochs']} epochs, and {config['tune']} of fine-tuning; seed {record['seed']}; per cent"
        )
        return table(caption, [head], body)


class Borders(ConvertResult):
    """How much of the difference between two images a shift makes, by network and kind of shift."""

    record, command = "borders", "python -m lps convert --borders"

    def table(self, record: dict[str, Any]) -> nodes.table:
        kinds = list(next(iter(record["rows"].values())))
        head = cells("network", *kinds)
        body = [
            ("", cells(name, *(f"{row[kind]:.3g} %" if row[kind] is not None else NONE for kind in kinds)))
            for name, row in record["rows"].items()
        ]
        return table("Change of the outputs under a shift, in per cent of that between two images", [head], body)


def setup(app: Sphinx) -> None:
    app.add_directive("lps-families", Families)
    app.add_directive("lps-families-before", FamiliesBefore)
    app.add_directive("lps-finetuning", Finetuning)
    app.add_directive("lps-borders", Borders)
