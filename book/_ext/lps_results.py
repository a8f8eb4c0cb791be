"""Roles and directives that put computed results on a page.

They render plain data files and compute nothing: ``build/claims.json`` (the ledger), ``build/tables/*.json``,
the run records under ``results/``, the sidecars of executed notebooks, and the paper's transcribed values.
Every file read is noted as a dependency of the page, so a changed result rebuilds the pages that show it.
"""

import csv
import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
from docutils import nodes
from lps_nodes import (
    NONE,
    SYMBOLS,
    Cell,
    Inline,
    block,
    depart_details,
    details,
    fields,
    link,
    listing,
    page,
    paragraph,
    span,
    table,
    verdict,
    verdict_class,
    visit_details,
)
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lps.experiments.records import read_record
from lps.report import frame
from lps.report.paper import paper_table
from lps.studies.trained import STUDIES, read_study

TITLES = {"claims": "The ledger", "seeds": "What our seeds tell"}

FORMATS = {"csv": "CSV", "json": "JSON", "tex": "LaTeX"}

HEADS = {"Acc.": "Accuracy"}
"""Headings spelt out; the others are the paper's."""

GROUPS = {"theorem": "Theory", "cell": "Cells", "ordering": "Orderings", "sentence": "Sentences"}


def executed_notebook(config: Config, name: str) -> Path:
    """Where ``make reproduce`` leaves the executed copy of ``notebooks/<name>.ipynb``."""
    root = Path(__file__).resolve().parents[2]
    return root / "build" / "notebooks" / config.lps_profile / f"{name}.ipynb"


def spread(value: dict[str, Any] | None) -> str:
    """``{mean, std, n}`` as ``94.80 ± 0.14``; the spread is left out where one run gives none."""
    if value is None or value.get("mean") is None:
        return NONE
    text = f"{value['mean']:.2f}"
    return text if value.get("std") is None else f"{text} ± {value['std']:.2f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def plain(value: Any) -> str:
    """A value of a record as short text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of a nested dictionary with dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def record_label(identity: str) -> str:
    return "record-" + nodes.make_id(identity)


def entry_label(entry: dict[str, Any]) -> str:
    return "entry-" + nodes.make_id(entry["id"])


def hardware(values: dict[str, Any]) -> str:
    """The GPU where there was one, otherwise the processor and its cores, as a record or sidecar has them."""
    return values["gpu"] or f"{values['cpu']}, {values['cores']} cores"


class ResultDirective(SphinxDirective):
    """Base of the directives: finds files from the book's root and notes them as dependencies of the page."""

    def path(self, name: str) -> Path:
        return Path(self.env.srcdir, name)

    def load(self, name: str) -> Any:
        """Content of a JSON file, or ``None`` where it has not been made yet."""
        path = self.path(name)
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def absent(self, what: str, command: str) -> list[nodes.Node]:
        """What stands in place of a result that is not there."""
        text = f"{what} has not been computed in this checkout. `{command}` makes it."
        return [nodes.note("", paragraph(text))]

    def download(self, path: str, text: str) -> addnodes.download_reference:
        """Link to a file of the checkout, which becomes part of the book."""
        node = addnodes.download_reference("", "", reftarget=f"/{path}", refdoc=self.env.docname, refdomain="")
        node += nodes.inline("", text)
        return node

    def take_away(self, stem: str, suffixes: Sequence[str]) -> nodes.paragraph:
        """A line of downloads of one thing in several formats."""
        found = [suffix for suffix in suffixes if self.path(f"{stem}.{suffix}").is_file()]
        links: list[str | nodes.Node] = ["Take it away: "]
        for suffix in found:
            links += [self.download(f"{stem}.{suffix}", FORMATS[suffix]), ", "]
        return paragraph([*links[:-1], "."] if found else [], "lps-source")

    def anchor(self, label: str, title: str) -> None:
        """Make ``label`` a target of :func:`link`."""
        standard = cast(StandardDomain, self.env.get_domain("std"))
        standard.anonlabels[label] = self.env.docname, label
        standard.labels[label] = self.env.docname, label, title

    def records(self) -> dict[str, dict[str, Any]]:
        """All run records by their id, ``table1/lps/quick-seed0-1a2b3c4d5e``, shipped ones first.

        Those of the studies of trained networks begin with ``section53/``. ``path`` is added to each; a repetition of
        a shipped run has its id and comes under ``local/<id>``.
        """
        root = self.path("results")
        self.env.note_dependency(str(root))  # a folder counts as outdated, so new records are found
        records: dict[str, dict[str, Any]] = {}
        for part in ("shipped", "local"):
            folder = root / part
            for path in sorted([*folder.glob("table*/*/*.json"), *folder.glob("*/table*/*/*.json")]):
                self.env.note_dependency(str(path))
                study = path.parents[2].name in STUDIES
                try:
                    record = (read_study if study else read_record)(path)
                except ValueError as error:
                    raise ExtensionError(str(error)) from error
                identity = path.relative_to(folder).with_suffix("").as_posix()
                record["path"] = path.relative_to(root.parent).as_posix()
                records[f"{part}/{identity}" if identity in records else identity] = record
        return records


class Headline(ResultDirective):
    """Two sentences that say how the paper fares, from the ledger and from Table 1."""

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return self.absent("The summary of the results", "make claims")
        entries = ledger["entries"]
        theory = [e for e in entries if e["kind"] == "theorem"]
        good = sum(e["verdict"] in ("holds", "holds+") for e in theory)
        sentences: list[Inline] = [
            f"Lemma 1 and Claims 1 to 4: {good} of {len(theory)} checks of the theory hold on this machine, "
            "for every shift tried. "
        ]
        results = self.load("build/tables/table1.json") or {"groups": []}
        groups = sorted(results["groups"], key=lambda group: group["data"] != "cifar10")  # real images first
        rows = [row for group in groups[:1] for row in group["rows"] if row["ours"]]
        exact = [row for row in rows if row["method"] in ("APS", "LPS")]
        loose = [row for row in rows if row not in exact]
        if exact and loose:
            agree, total = (sum(row["ours"]["c_cons"][key] for row in exact) for key in ("agree", "total"))
            low, high = (pick(row["ours"]["c_cons"]["mean"] for row in loose) for pick in (min, max))
            sentences += [
                f"Networks trained here with APS or LPS kept their prediction in {agree:,} of {total:,} "
                "pairs of shifted images; strided and low-pass filtered networks did so in "
                f"{low:.1f} % to {high:.1f} % of them (",
                page("notebooks/table1", "Table 1"),
                f", {groups[0]['label']}).",
            ]
        return [paragraph(sentences, "lps-headline")]


class Scoreboard(ResultDirective):
    """How many entries of the ledger have which verdict, and one square for each entry."""

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return self.absent("The claims scoreboard", "make claims")
        tiles = [
            paragraph([span(str(ledger["counts"][name]), "lps-count"), verdict(name)], "lps-tile")
            for name in SYMBOLS
            if ledger["counts"].get(name)
        ]
        rows = []
        for group, entries in group_entries(ledger["entries"]).items():
            squares = [self.square(entry) for entry in entries]
            rows.append(paragraph([span(group, "lps-group"), span(squares, "lps-squares")], "lps-row"))
        source: Inline = [
            f"{len(ledger['entries'])} entries, checked {ledger['generated'][:10]} on {ledger['machine']}. ",
            "Each square is one entry: ",
            page("book/claims", "the whole ledger"),
            ".",
        ]
        return [block([block(tiles, "lps-tiles"), *rows, paragraph(source, "lps-source")], "lps-scoreboard")]

    def square(self, entry: dict[str, Any]) -> nodes.inline:
        """One entry as a symbol that links to the ledger; its title, read out too, says what it is."""
        title = f"{entry['place']}: {entry['statement']} ({entry['verdict']})"
        uri = self.env.app.builder.get_relative_uri(self.env.docname, "book/claims")
        target = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry_label(entry)}", reftitle=title)
        target += [nodes.Text(SYMBOLS[entry["verdict"]]), span(title, "visually-hidden")]
        return span(target, "lps-square", verdict_class(entry["verdict"]))


def group_entries(entries: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Entries by the table or figure they belong to, else by their kind; in the ledger's order."""
    groups = defaultdict(list)
    for entry in entries:
        numbered = re.search(r"(Table|Figure) \d+", entry["place"])
        theorem = entry["kind"] == "theorem"
        groups[numbered[0] if numbered and not theorem else GROUPS[entry["kind"]]].append(entry)
    return dict(groups)


class Ledger(ResultDirective):
    """Every entry of the ledger with the paper's value, ours, the rule, the verdict and the evidence."""

    HEAD = (
        Cell("Where", ("lps-place",)),
        Cell("Statement"),
        Cell("Paper", ("lps-paper",)),
        Cell("Here", ("lps-ours",)),
        Cell("Verdict"),
    )

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return self.absent("The ledger of claims", "make claims")
        runs = self.records()
        result: list[nodes.Node] = []
        for group, entries in group_entries(ledger["entries"]).items():
            body = [(entry_label(entry), self.row(entry, runs)) for entry in entries]
            caption = f"Ledger: {group.lower() if group in GROUPS.values() else group}"
            result.append(table(caption, [self.HEAD], body, "lps-ledger"))
        return result

    def row(self, entry: dict[str, Any], runs: dict[str, Any]) -> list[Cell]:
        self.anchor(entry_label(entry), entry["statement"])
        facts: list[tuple[str, Inline]] = [("Rule", entry["rule"])]
        if entry["evidence"]:
            facts.append(("Evidence", entry["evidence"]))
        if entry["run"]:
            facts.append(("Runs, by seed", run_links(entry["run"], runs)))
        more = details("", fields(facts), summary="rule, evidence and command")
        if entry["command"]:
            more += listing(entry["command"])
        place: Inline = page(entry["page"], entry["place"]) if entry["page"] else entry["place"]
        return [
            Cell(place, ("lps-place",)),
            Cell(entry["statement"], ("lps-statement",), (more,)),
            Cell(entry["paper"] or NONE, ("lps-paper",)),
            Cell(entry["ours"] or NONE, ("lps-ours",)),
            Cell(verdict(entry["verdict"]), ("lps-verdict-cell",)),
        ]


def run_links(identities: Sequence[str], runs: dict[str, dict[str, Any]]) -> list[nodes.Node]:
    """A link for each run record, named by its seed."""
    links: list[nodes.Node] = []
    for identity in identities:
        links += [link(record_label(identity), str(runs[identity]["seed"])), nodes.Text(", ")]
    return links[:-1]


class ResultTable(ResultDirective):
    """A table of the paper beside ours, one for each group of runs. Argument: its name, ``table1``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        data = self.load(f"build/tables/{name}.json")
        if data is None:
            return self.absent(f"The comparison with the paper ({name})", f"make reproduce NB={name}")
        runs = self.records()
        result: list[nodes.Node] = []
        for group in data["groups"]:
            if group["differs"]:
                items = [nodes.list_item("", paragraph(text)) for text in group["differs"]]
                summary = f"What differs from the paper: {group['label']}"
                result.append(details("", nodes.bullet_list("", *items), summary=summary, open=True))
            caption = f"{data['title']}; {group['label']}."
            result.append(self.comparison(caption, data["columns"], group["rows"], runs))
            if any(row["stale"] for row in group["rows"]):
                note = "† computed, in part at least, before `lps` last changed; `python -m lps run` computes it again."
                result.append(paragraph(note, "lps-source"))
        return [*result, self.take_away(f"build/tables/{name}", ("csv", "json", "tex"))]

    def comparison(
        self, caption: str, columns: dict[str, str], rows: Sequence[dict[str, Any]], runs: dict[str, Any]
    ) -> nodes.table:
        head = [
            [
                Cell("Method", ("lps-first",), down=2),
                *(Cell(f"{HEADS.get(title, title)} (%)", ("lps-across",), across=3) for title in columns.values()),
                Cell("Seeds", down=2),
            ],
            [Cell("paper", ("lps-number",)), Cell("here", ("lps-number",)), Cell("verdict")] * len(columns),
        ]
        body = []
        for row in rows:
            self.anchor(nodes.make_id(row["row"]), row["row"])
            method = ", ".join(row[key] for key in ("method", "antialias", "model") if row.get(key, "-") != "-")
            cells = [Cell(method + (" †" if row["stale"] else ""), ("lps-first",))]
            for metric in columns:
                cells += self.metric(row, metric)
            cells.append(Cell(run_links(row["runs"], runs) or NONE, ("lps-runs",)))
            body.append((nodes.make_id(row["row"]), cells))
        return table(caption, head, body, "lps-comparison")

    def metric(self, row: dict[str, Any], metric: str) -> list[Cell]:
        ours = (row["ours"] or {}).get(metric)
        counts: tuple[nodes.Node, ...] = ()
        if ours and ours.get("total"):
            counts = (paragraph(f"{ours['agree']:,} of {ours['total']:,}", "lps-small"),)
        shown: Inline = link(record_label(row["runs"][0]), spread(ours)) if row["runs"] else NONE
        return [
            Cell(spread(row["paper"][metric]), ("lps-number",)),
            Cell(shown, ("lps-number", "lps-ours"), counts),
            Cell(verdict(row["verdict"][metric]), ("lps-verdict-cell",)),
        ]


class Records(ResultDirective):
    """Every run record with all its fields, each under an anchor that the numbers of this book link to."""

    def run(self) -> list[nodes.Node]:
        records = self.records()
        if not records:
            return self.absent("A run record", "python -m lps run 'table1/*'")
        groups = defaultdict(list)
        for identity, record in records.items():
            groups[identity.removeprefix("local/").rpartition("/")[0]].append((identity, record))
        sections: list[nodes.Node] = []
        for experiment, members in sorted(groups.items()):
            heading = nodes.rubric("", experiment)
            sections += [heading, *(self.record(identity, record) for identity, record in members)]
        return sections

    def record(self, identity: str, record: dict[str, Any]) -> details:
        label = record_label(identity)
        self.anchor(label, identity)
        metrics = ", ".join(f"{name} {counted(value)}" for name, value in record["metrics"].items())
        where = "shipped" if record["path"].startswith("results/shipped/") else "yours"
        summary = f"{record['profile']}, seed {record['seed']} ({where}): {metrics}"
        node = details("", summary=summary, ids=[label], classes=["lps-record"])
        file = addnodes.download_reference(
            "", "", reftarget="/" + record["path"], refdoc=self.env.docname, refdomain=""
        )
        file += nodes.literal(text=record["path"])
        node += [paragraph(["The command that repeats it (record: ", file, "):"]), listing(record["command"])]
        skipped = ("history", "command", "experiment", "profile", "seed", "path", "id")
        facts = flat({key: value for key, value in record.items() if key not in skipped})
        node += fields(((key, plain(value)) for key, value in facts), "lps-dense")
        return node


def counted(value: dict[str, Any]) -> str:
    """A metric of a record, with its counts where it is a share."""
    counts = f" ({value['agree']:,} of {value['total']:,})" if "agree" in value else ""
    return f"{value['value']:.2f} %{counts}"


class Costs(ResultDirective):
    """What the notebooks and the runs behind this book took, on which hardware."""

    def run(self) -> list[nodes.Node]:
        folder = executed_notebook(self.config, "any").parent
        body = []
        for path in sorted(folder.glob("*.json")):
            side = self.load(path.as_posix())
            cells = [
                Cell(page(f"notebooks/{path.stem}", path.stem)),
                Cell(duration(side["seconds"]), ("lps-number",)),
                Cell(f"{side['peak_memory_mb']:,.0f} MB", ("lps-number",)),
                Cell(hardware(side["hardware"])),
            ]
            body.append(("", cells))
        if not body:
            result = self.absent("The cost of the notebooks", "make reproduce")
        else:
            head = [[Cell("Notebook"), Cell("Time", ("lps-number",)), Cell("Peak memory", ("lps-number",))]]
            head[0].append(Cell("Hardware"))
            result = [table(f"Cost of the notebooks in the profile {self.config.lps_profile}.", head, body)]
        return result + self.runs()

    def runs(self) -> list[nodes.Node]:
        groups = defaultdict(list)
        trained = (record for record in self.records().values() if record["seconds"]["training"])
        for record in trained:
            key = record["profile"], record["data"]["name"], hardware(record["hardware"])
            groups[key].append(record["seconds"]["training"])
        if not groups:
            return []
        head = [[Cell(t) for t in ("Profile", "Data", "Hardware")]]
        head[0] += [Cell(t, ("lps-number",)) for t in ("Runs", "Training takes", "All of them")]
        body = []
        for (profile, data, machine), seconds in sorted(groups.items()):
            times = " to ".join(dict.fromkeys((duration(min(seconds)), duration(max(seconds)))))
            numbers = [Cell(t, ("lps-number",)) for t in (str(len(seconds)), times, duration(sum(seconds)))]
            body.append(("", [Cell(profile), Cell(data), Cell(machine), *numbers]))
        return [table("Cost of the training runs behind this book, from their records.", head, body)]


class Shipped(ResultDirective):
    """What is shipped of each table: rows, seeds, machines, and records of earlier code."""

    def run(self) -> list[nodes.Node]:
        runs = frame.frame(r for r in self.records().values() if r["path"].startswith("results/shipped/table"))
        runs = runs.assign(runs=frame.labels(runs)).drop_duplicates("run")
        items = [self.line(table, words, made) for (table, words), made in runs.groupby(["table", "runs"])]
        return [nodes.bullet_list("", *(nodes.list_item("", paragraph(item)) for item in items))]

    def line(self, table: str, words: str, made: pd.DataFrame) -> str:
        rows = made.groupby("row")["seed"].nunique().value_counts().sort_index()
        seeds = ", ".join(f"{n} with {k} {'seeds' if k > 1 else 'seed'}" for k, n in rows.items())
        machines = ", ".join(f"{n} on {name}" for name, n in made["machine"].value_counts().sort_index().items())
        old = f", {made['stale'].sum()} of them made before `lps` last changed" if made["stale"].any() else ""
        total = len(paper_table(table))
        return (
            f"Table {table[5:]}, {words}: {rows.sum()} of {total} rows ({seeds}); {len(made)} runs ({machines}){old}."
        )


class Downloads(ResultDirective):
    """Everything computed that can be taken away as a file: the tables and the ledger."""

    def run(self) -> list[nodes.Node]:
        stems = [f"tables/table{n}" for n in range(1, 7)] + ["claims", "seeds"]
        items = []
        for stem in stems:
            line = self.take_away(f"build/{stem}", tuple(FORMATS))
            if line.children:
                title = TITLES.get(stem) or f"Table {stem[-1]}"
                items.append(nodes.list_item("", paragraph([f"{title}: ", *line.children[1:]])))
        return [nodes.bullet_list("", *items)] if items else self.absent("The files", "make claims")


class Coverage(ResultDirective):
    """What the check for things left out has found."""

    def run(self) -> list[nodes.Node]:
        found = self.load("build/coverage.json")
        if found is None:
            return self.absent("The check of completeness", "make claims")
        planned = ", ".join(found["planned"])
        text = (
            f"{found['items']} items are listed, the {found['numbered']} that the paper numbers among them. "
            f"{found['with_page']} have a page of this book" + (f"; not {planned}" if planned else "") + f". Of "
            f"{found['entries']} entries of the ledger each has a verdict, and each that was not run says why."
        )
        if not found["problems"]:
            return [paragraph(text)]
        items = [nodes.list_item("", paragraph(problem)) for problem in found["problems"]]
        return [nodes.warning("", paragraph("Something is missing:"), nodes.bullet_list("", *items))]


class Seeds(ResultDirective):
    """What the seeds of our runs tell about LPS against APS, beside the paper's difference."""

    HEAD = ("Filter", "Paper", "Seeds it takes", "Here", "95 % interval", "Seeds", "Gap they would find")

    def run(self) -> list[nodes.Node]:
        lines = self.load("build/seeds.json")
        if lines is None:
            return self.absent("What our seeds tell", "make claims")
        groups = defaultdict(list)
        for line in lines:
            groups[line["label"]].append(line)
        head = [[Cell(self.HEAD[0]), *(Cell(title, ("lps-number",)) for title in self.HEAD[1:])]]
        return [
            table(f"Accuracy of LPS over APS, in points; {label}.", head, [("", self.row(line)) for line in members])
            for label, members in groups.items()
        ] or [paragraph("No run of Table 1 is recorded in this checkout.")]

    def row(self, line: dict[str, Any]) -> list[Cell]:
        bounded = line["low"] is not None
        numbers = (
            f"{line['paper']:+.2f}",
            str(line["needed"]),
            NONE if line["difference"] is None else f"{line['difference']:+.2f}",
            f"{line['low']:+.2f} to {line['high']:+.2f}" if bounded else NONE,
            str(line["n"]),
            f"{line['gap']:.2f}" if bounded else NONE,
        )
        first = "no filter" if line["antialias"] == "-" else line["antialias"]
        return [Cell(first), *(Cell(number, ("lps-number",)) for number in numbers)]


class Items(ResultDirective):
    """Part of the map of the paper. Argument: a section of ``results/paper/items.yml``; content: the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        import yaml

        path = self.path("results/paper/items.yml")
        self.env.note_dependency(str(path))
        body = [("", self.row(item)) for item in yaml.safe_load(path.read_text(encoding="utf-8"))[self.arguments[0]]]
        head = [[Cell("Item", ("lps-place",)), Cell("Says"), Cell("Page"), Cell("Code")]]
        return [table(" ".join(self.content), head, body, "lps-items")]

    def row(self, item: dict[str, Any]) -> list[Cell]:
        where: list[str | nodes.Node] = [page(item["page"], "page")] if "page" in item else []
        plan = (paragraph(item["plan"], "lps-small"),) if "plan" in item else ()
        code: list[str | nodes.Node] = []
        for name in item.get("code", []):
            code += [source_line(self.env, name), ", "]
        return [
            Cell(", ".join(item[key] for key in ("item", "place") if key in item), ("lps-place",)),
            Cell(item["says"], ("lps-statement",), plan),
            Cell(where or NONE),
            Cell(code[:-1] or NONE),
        ]


def source_line(env: BuildEnvironment, name: str) -> nodes.Node:
    """Link to the listing of an object of ``lps``: its name, file and line as they are now."""
    from lps.report.coverage import find

    found = find(name)
    if found is None:
        raise ValueError(f"there is no {name}")
    module = inspect.getmodule(found)
    assert module is not None
    env.note_dependency(str(module.__file__))
    inside = name.removeprefix(f"{module.__name__}").removeprefix(".")
    line = inspect.getsourcelines(found)[1] if inside else 1
    text = f"{module.__name__.replace('.', '/')}.py:{max(line, 1)}"
    label = nodes.literal(text=inside or module.__name__)
    api = Path(env.srcdir, "book", "api.md")
    env.note_dependency(str(api))
    if f":: {module.__name__}\n" not in api.read_text(encoding="utf-8"):  # then there is no listing of its source
        return span([label, f" ({text})"])
    uri = env.app.builder.get_relative_uri(env.docname, "_modules/" + module.__name__.replace(".", "/"))
    target = nodes.reference("", "", internal=True, refuri=f"{uri}#{inside}" if inside else uri)
    target += [label, nodes.Text(f" ({text})")]
    return target


class SourceLine(SphinxRole):
    """``{line}`lps.polyphase.polyphase` ``: link to the listing of an object, with its file and line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [source_line(self.env, self.text)], []
        except ValueError as error:
            problem = self.inliner.reporter.error(str(error), line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [problem]


class Provenance(ResultDirective):
    """How the notebook of this page was executed, what that took, how to do it again, and what can be taken away."""

    def run(self) -> list[nodes.Node]:
        name = self.env.docname.rpartition("/")[2]
        profile = self.config.lps_profile
        executed = executed_notebook(self.config, name)
        source = self.download(f"notebooks/{name}.ipynb", f"notebooks/{name}.ipynb")
        text: list[str | nodes.Node] = [source, f", executed with the profile `{profile}`"]
        side = self.load(executed.with_suffix(".json").as_posix())
        if side is not None:
            memory = f"{side['peak_memory_mb']:,.0f} MB"
            text.append(f" in {duration(side['seconds'])}, at most {memory}, on {hardware(side['hardware'])}")
        text.append(f". Again: `make reproduce PROFILE={profile} NB={name}`")
        card = [paragraph(text, "lps-provenance")]
        if side is not None and self.outdated(name, side):
            note = "† `lps` or this notebook has changed since; the numbers below are those of the earlier state."
            card.append(paragraph(note, "lps-provenance"))
        return [*card, self.results(executed)]

    def outdated(self, name: str, side: dict[str, Any]) -> bool:
        """Whether the executed copy was made from another notebook, other sources or other versions."""
        from lps.experiments.profiles import load_profile
        from lps.notebooks.execute import plan

        self.env.note_dependency(str(self.path("lps")))  # a folder counts as outdated, so a later change is found
        profile = self.config.lps_profile
        (job,) = plan(profile, load_profile(profile).notebooks, [name], root=self.path(""))
        return bool(side["hash"] != job.hash)

    def results(self, executed: Path) -> nodes.paragraph:
        """Downloads of the executed notebook and of its figures."""
        files = {"executed notebook": executed}
        figures = [path for kind in ("svg", "pdf") for path in executed.parent.glob(f"{executed.stem}-*.{kind}")]
        for path in sorted(figures, key=lambda path: (int(path.stem.rpartition("-")[2]), path.suffix != ".svg")):
            files[f"figure {path.stem.rpartition('-')[2]} ({path.suffix[1:].upper()})"] = path
        links: list[str | nodes.Node] = ["Take it away: "]
        for title, path in files.items():
            links += [self.download(path.relative_to(self.path("")).as_posix(), title), ", "]
        return paragraph([*links[:-1], "."], "lps-provenance")


class PaperValue(SphinxRole):
    """``{paper}`table1:lps-tri-3:acc` ``: a value of the paper, with its spread if it has one."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            file, key, column = self.text.split(":")
            path = Path(self.env.srcdir, "results", "paper", f"{file}.csv")
            self.env.note_dependency(str(path))
            with path.open(encoding="utf-8", newline="") as stream:
                row = next(row for row in csv.DictReader(stream) if row["row"].rpartition("/")[2] == key)
            value, deviation = row[column], row.get(f"{column}_std")
        except (ValueError, KeyError, StopIteration, OSError) as error:
            message = f"the paper's value {self.text!r} is not in results/paper: {error!r}"
            problem = self.inliner.reporter.error(message, line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [problem]
        shown = f"{value} ± {deviation}" if deviation else value
        return [span(shown, "lps-paper-value")], []


def setup(app: Sphinx) -> None:
    """Called by the extension ``lps_book``."""
    app.add_node(details, html=(visit_details, depart_details))
    app.add_role("paper", PaperValue())
    app.add_role("line", SourceLine())
    directives = {
        "headline": Headline,
        "scoreboard": Scoreboard,
        "ledger": Ledger,
        "table": ResultTable,
        "records": Records,
        "costs": Costs,
        "provenance": Provenance,
        "coverage": Coverage,
        "downloads": Downloads,
        "items": Items,
        "seeds": Seeds,
        "shipped": Shipped,
    }
    for name, directive in directives.items():
        app.add_directive(f"lps-{name}", directive)
