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
from typing import Any

import pandas as pd
from docutils import nodes
from lps_html import NONE, SYMBOLS, block, command, details, fields, listing, span, table, text, verdict, verdict_class
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lps.experiments.profiles import load_profile
from lps.experiments.records import read_record
from lps.experiments.schema import read_yaml
from lps.notebooks.execute import plan
from lps.report import conversion, frame, times
from lps.report.coverage import find
from lps.report.paper import paper_table
from lps.studies.trained import STUDIES, read_study

FORMATS = {"csv": "CSV", "json": "JSON", "tex": "LaTeX"}
GROUPS = {"theorem": "Theory", "cell": "Cells", "ordering": "Orderings", "sentence": "Sentences"}
NUMBER = "lps-number"


def executed_notebook(config: Config, name: str) -> Path:
    """Where ``make reproduce`` leaves the executed copy of ``notebooks/<name>.ipynb``."""
    root = Path(__file__).resolve().parents[2]
    return root / "build" / "notebooks" / config.lps_profile / f"{name}.ipynb"


def spread(value: dict[str, Any] | None) -> str:
    """``{mean, std, n}`` as ``94.80 ± 0.14``; the spread is left out where one run gives none."""
    if value is None or value.get("mean") is None:
        return NONE
    shown = f"{value['mean']:.2f}"
    return shown if value.get("std") is None else f"{shown} ± {value['std']:.2f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def plain(value: Any) -> str:
    """A value of a record as short text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return text(value if isinstance(value, str) else json.dumps(value))


def record_label(identity: str) -> str:
    return "record-" + nodes.make_id(identity)


def entry_label(entry: dict[str, Any]) -> str:
    return "entry-" + nodes.make_id(entry["id"])


class ResultDirective(SphinxDirective):
    """Base of the directives: finds files from the book's root and notes them as dependencies of the page."""

    def path(self, name: str) -> Path:
        return Path(self.env.srcdir, name)

    def load(self, name: str) -> Any:
        """Content of a JSON file, or ``None`` where it has not been made yet."""
        path = self.path(name)
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def absent(self, what: str, made_by: str) -> list[nodes.Node]:
        """What stands in place of a result that is not there."""
        words = text(f"{what} has not been computed in this checkout. `{made_by}` makes it.")
        return [nodes.note("", block("p", words))]

    def page(self, name: str, words: str, anchor: str = "") -> str:
        """Link to a page of this book, or to an anchor on it."""
        uri = self.env.app.builder.get_relative_uri(self.env.docname, name)
        return f'<a class="reference internal" href="{uri}{"#" if anchor else ""}{anchor}">{words}</a>'

    def runs(self, identities: Sequence[str], records: dict[str, dict[str, Any]]) -> str:
        """A link for each run record, named by its seed."""
        return ", ".join(
            self.page("book/records", str(records[identity]["seed"]), record_label(identity)) for identity in identities
        )

    def download(self, path: str, words: str) -> str:
        """Link to a file of the checkout, which becomes part of the book."""
        self.env.note_dependency(path)
        stored = self.env.dlfiles.add_file(self.env.docname, path)
        up = "../" * self.env.docname.count("/")
        return f'<a class="reference download internal" download="" href="{up}_downloads/{stored}">{words}</a>'

    def take_away(self, stem: str) -> str:
        """Links to one thing in several formats, those that there are."""
        found = {suffix: words for suffix, words in FORMATS.items() if self.path(f"{stem}.{suffix}").is_file()}
        return ", ".join(self.download(f"{stem}.{suffix}", words) for suffix, words in found.items())

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
                try:
                    record = (read_study if path.parents[2].name in STUDIES else read_record)(path)
                except ValueError as error:
                    raise ExtensionError(str(error)) from error
                identity = path.relative_to(folder).with_suffix("").as_posix()
                record["path"] = path.relative_to(root.parent).as_posix()
                records[f"{part}/{identity}" if identity in records else identity] = record
        return records


class Answers(ResultDirective):
    """The questions of a reader, each with its outcome, the scale it was seen at, and the page with the evidence.

    Argument: a page, to have only the questions whose evidence it is, if there are any.
    """

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return [] if self.arguments else self.absent("The answers", "make claims")
        return [self.answer(a) for a in ledger["answers"] if not self.arguments or a["page"] == self.arguments[0]]

    def answer(self, found: dict[str, str]) -> nodes.raw:
        outcome = span(found["outcome"], "lps-outcome", outcome_class(found["outcome"]))
        scale = " " + span("Scale: " + text(found["scale"]) + ".", "lps-source") if found["scale"] else ""
        question = f'<p class="lps-question">{self.page(found["page"], text(found["question"]))}</p>'
        return block("div", f"{question}<p>{outcome}. {text(found['text'])}{scale}</p>", "lps-answer")


def outcome_class(outcome: str) -> str:
    """Colours say what the word says: seen, not decided, or against the paper."""
    against = ("the other way round", "not seen")
    return "lps-holds" if outcome == "seen" else "lps-fails" if outcome in against else "lps-undecided"


class Scoreboard(ResultDirective):
    """How many entries of the ledger have which verdict, and one square for each entry."""

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return self.absent("The claims scoreboard", "make claims")
        tiles = "".join(
            f'<p class="lps-tile">{span(str(ledger["counts"][name]), "lps-count")}{verdict(name)}</p>'
            for name in SYMBOLS
            if ledger["counts"].get(name)
        )
        groups = {group: "".join(map(self.square, of)) for group, of in group_entries(ledger["entries"]).items()}
        rows = "".join(
            f'<p class="lps-row">{span(group, "lps-group")}{span(squares, "lps-squares")}</p>'
            for group, squares in groups.items()
        )
        source = (
            f"{len(ledger['entries'])} entries, checked {ledger['generated'][:10]} on {text(ledger['machine'])}. "
            f"Each square is one entry: {self.page('book/claims', 'the whole ledger')}."
        )
        tiles = f'<div class="lps-tiles container">{tiles}</div>'
        return [block("div", f'{tiles}{rows}<p class="lps-source">{source}</p>', "lps-scoreboard", "container")]

    def square(self, entry: dict[str, Any]) -> str:
        """One entry as a symbol that links to the ledger; its title, read out too, says what it is."""
        title = text(f"{entry['place']}: {entry['statement']} ({entry['verdict']})").replace("<code>", "")
        title = title.replace("</code>", "")
        words = SYMBOLS[entry["verdict"]] + span(title, "visually-hidden")
        link = self.page("book/claims", words, entry_label(entry)).replace("<a ", f'<a title="{title}" ', 1)
        return span(link, "lps-square", verdict_class(entry["verdict"]))


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

    COLUMNS = (
        ("Where", "lps-place"),
        ("Statement", "lps-statement"),
        ("Paper", "lps-paper"),
        ("Here", "lps-ours"),
        ("Verdict", "lps-verdict-cell"),
    )

    def run(self) -> list[nodes.Node]:
        ledger = self.load("build/claims.json")
        if ledger is None:
            return self.absent("The ledger of claims", "make claims")
        records = self.records()
        return [
            table(
                f"Ledger: {group.lower() if group in GROUPS.values() else group}",
                self.COLUMNS,
                [(entry_label(entry), self.row(entry, records)) for entry in entries],
                "lps-ledger",
            )
            for group, entries in group_entries(ledger["entries"]).items()
        ]

    def row(self, entry: dict[str, Any], records: dict[str, Any]) -> list[str]:
        facts = {
            "Rule": text(entry["rule"]),
            "Evidence": text(entry["evidence"]),
            "Runs, by seed": self.runs(entry["run"], records),
        }
        more = fields((name, value) for name, value in facts.items() if value or name == "Rule")
        more += command(entry["command"]) if entry["command"] else ""
        return [
            self.page(entry["page"], entry["place"]) if entry["page"] else text(entry["place"]),
            text(entry["statement"]) + details("rule, evidence and command", more),
            text(entry["paper"] or NONE),
            text(entry["ours"] or NONE),
            verdict(entry["verdict"]),
        ]


class ResultTable(ResultDirective):
    """A table of the paper beside ours, one for each group of runs. Argument: its name, ``table1``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        data = self.load(f"build/tables/{name}.json")
        if data is None:
            return self.absent(f"The comparison with the paper ({name})", f"make reproduce NB={name}")
        records = self.records()
        columns = [("Method", "lps-first")]
        for title in data["columns"].values():
            columns += [
                (f"{title} (%), paper", NUMBER),
                ("here", f"{NUMBER} lps-ours"),
                ("verdict", "lps-verdict-cell"),
            ]
        columns.append(("Seeds", "lps-runs"))
        result: list[nodes.Node] = []
        for group in data["groups"]:
            if group["differs"]:
                items = listing(map(text, group["differs"])).astext()
                summary = f"What differs from the paper: {group['label']}"
                result.append(nodes.raw("", details(summary, items, unfolded=True), format="html"))
            rows = [(nodes.make_id(row["row"]), self.row(row, data["columns"], records)) for row in group["rows"]]
            result.append(table(f"{data['title']}; {group['label']}.", columns, rows, "lps-comparison"))
            if any(row["stale"] for row in group["rows"]):
                note = "† computed, in part at least, before `lps` last changed; `python -m lps run` computes it again."
                result.append(block("p", text(note), "lps-source"))
        return [*result, block("p", f"Take it away: {self.take_away(f'build/tables/{name}')}.", "lps-source")]

    def row(self, row: dict[str, Any], metrics: Iterable[str], records: dict[str, Any]) -> list[str]:
        method = ", ".join(row[key] for key in ("method", "antialias", "model") if row.get(key, "-") != "-")
        cells = [method + (" †" if row["stale"] else "")]
        for metric in metrics:
            ours = (row["ours"] or {}).get(metric) or {}
            shown = self.page("book/records", spread(ours), record_label(row["runs"][0])) if row["runs"] else NONE
            if ours.get("total"):
                shown += f'<p class="lps-small">{ours["agree"]:,} of {ours["total"]:,}</p>'
            cells += [spread(row["paper"][metric]), shown, verdict(row["verdict"][metric])]
        return [*cells, self.runs(row["runs"], records) or NONE]


class Records(ResultDirective):
    """Every run record with all its fields, each under an anchor that the numbers of this book link to."""

    def run(self) -> list[nodes.Node]:
        records = self.records()
        if not records:
            return self.absent("A run record", "python -m lps run 'table1/*'")
        groups = defaultdict(list)
        for identity, record in records.items():
            groups[identity.removeprefix("local/").rpartition("/")[0]].append(self.record(identity, record))
        return [
            node
            for experiment, members in sorted(groups.items())
            for node in (nodes.rubric("", experiment), nodes.raw("", "".join(members), format="html"))
        ]

    def record(self, identity: str, record: dict[str, Any]) -> str:
        metrics = ", ".join(f"{name} {counted(value)}" for name, value in record["metrics"].items())
        where = "shipped" if record["path"].startswith("results/shipped/") else "yours"
        summary = f"{record['profile']}, seed {record['seed']} ({where}): {metrics}"
        file = self.download(record["path"], f"<code>{record['path']}</code>")
        again = f"<p>The command that repeats it (record: {file}):</p>{command(record['command'])}"
        skipped = ("history", "command", "experiment", "profile", "seed", "path", "id")
        facts = flat({key: value for key, value in record.items() if key not in skipped})
        content = again + fields(((key, plain(value)) for key, value in facts), "lps-dense")
        return details(summary, content, record_label(identity), "lps-record")


def flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of a nested dictionary with dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def counted(value: dict[str, Any]) -> str:
    """A metric of a record, with its counts where it is a share."""
    counts = f" ({value['agree']:,} of {value['total']:,})" if "agree" in value else ""
    return f"{value['value']:.2f} %{counts}"


class Costs(ResultDirective):
    """What the notebooks and the runs behind this book took, on which hardware."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for path in sorted(executed_notebook(self.config, "any").parent.glob("*.json")):
            side = self.load(path.as_posix())
            cells = (
                duration(side["seconds"]),
                f"{side['peak_memory_mb']:,.0f} MB",
                text(frame.machine(side["hardware"])),
            )
            rows.append(("", [self.page(f"notebooks/{path.stem}", path.stem), *cells]))
        if not rows:
            return [*self.absent("The cost of the notebooks", "make reproduce"), *self.trained()]
        columns = [("Notebook", ""), ("Time", NUMBER), ("Peak memory", NUMBER), ("Hardware", "")]
        caption = f"Cost of the notebooks in the profile {self.config.lps_profile}."
        return [table(caption, columns, rows), *self.trained()]

    def trained(self) -> list[nodes.Node]:
        groups = defaultdict(list)
        for record in self.records().values():
            if record["seconds"]["training"]:
                key = record["profile"], record["data"]["name"], frame.machine(record["hardware"])
                groups[key].append(record["seconds"]["training"])
        rows = []
        for key, seconds in sorted(groups.items()):
            times = " to ".join(dict.fromkeys((duration(min(seconds)), duration(max(seconds)))))
            rows.append(("", [*map(text, key), str(len(seconds)), times, duration(sum(seconds))]))
        columns = [(title, "") for title in ("Profile", "Data", "Hardware")]
        columns += [(title, NUMBER) for title in ("Runs", "Training takes", "All of them")]
        caption = "Cost of the training runs behind this book, from their records."
        return [table(caption, columns, rows)] if rows else []


class Shipped(ResultDirective):
    """What is shipped of each table: rows, seeds, machines, and records of earlier code."""

    def run(self) -> list[nodes.Node]:
        runs = frame.frame(r for r in self.records().values() if r["path"].startswith("results/shipped/table"))
        runs = runs.assign(runs=frame.labels(runs)).drop_duplicates("run")
        return [listing(self.line(name, words, made) for (name, words), made in runs.groupby(["table", "runs"]))]

    def line(self, name: str, words: str, made: pd.DataFrame) -> str:
        rows = made.groupby("row")["seed"].nunique().value_counts().sort_index()
        seeds = ", ".join(f"{n} with {k} {'seeds' if k > 1 else 'seed'}" for k, n in rows.items())
        machines = ", ".join(f"{n} on {where}" for where, n in made["machine"].value_counts().sort_index().items())
        old = f", {made['stale'].sum()} of them made before `lps` last changed" if made["stale"].any() else ""
        total = len(paper_table(name))
        return text(
            f"Table {name[5:]}, {words}: {rows.sum()} of {total} rows ({seeds}); {len(made)} runs ({machines}){old}."
        )


class Downloads(ResultDirective):
    """Everything computed that can be taken away as a file: the tables and the ledger."""

    def run(self) -> list[nodes.Node]:
        stems = {f"tables/table{n}": f"Table {n}" for n in range(1, 7)}
        stems |= {"claims": "The ledger", "seeds": "What our seeds tell"}
        items = {title: self.take_away(f"build/{stem}") for stem, title in stems.items()}
        found = [f"{title}: {links}." for title, links in items.items() if links]
        return [listing(found)] if found else self.absent("The files", "make claims")


class Coverage(ResultDirective):
    """What the check for things left out has found."""

    def run(self) -> list[nodes.Node]:
        found = self.load("build/coverage.json")
        if found is None:
            return self.absent("The check of completeness", "make claims")
        planned = ", ".join(found["planned"])
        words = (
            f"The map lists {found['items']} items of the paper, among them all {found['numbered']} that carry a "
            f"number. {found['with_page']} have a page in this book"
            + (f"; without one: {planned}" if planned else "")
            + ". Each "
            f"of the {found['entries']} entries of the ledger has a verdict, and each that was not run says why."
        )
        if not found["problems"]:
            return [block("p", text(words))]
        return [nodes.warning("", block("p", "Something is missing:"), listing(map(text, found["problems"])))]


class Seeds(ResultDirective):
    """What the seeds of our runs tell about LPS against APS, beside the paper's difference."""

    HEAD = ("Paper", "Seeds it takes", "Here", "95 % interval", "Seeds", "Gap they would find")

    def run(self) -> list[nodes.Node]:
        lines = self.load("build/seeds.json")
        if lines is None:
            return self.absent("What our seeds tell", "make claims")
        groups = defaultdict(list)
        for line in lines:
            groups[line["label"]].append(("", self.row(line)))
        columns = [("Filter", ""), *((title, NUMBER) for title in self.HEAD)]
        return [
            table(f"Accuracy of LPS over APS, in points; {label}.", columns, rows) for label, rows in groups.items()
        ] or [block("p", "No run of Table 1 is recorded in this checkout.")]

    def row(self, line: dict[str, Any]) -> list[str]:
        bounded = line["low"] is not None
        return [
            "no filter" if line["antialias"] == "-" else line["antialias"],
            f"{line['paper']:+.2f}",
            str(line["needed"]),
            NONE if line["difference"] is None else f"{line['difference']:+.2f}",
            f"{line['low']:+.2f} to {line['high']:+.2f}" if bounded else NONE,
            str(line["n"]),
            f"{line['gap']:.2f}" if bounded else NONE,
        ]


class Items(ResultDirective):
    """Part of the map of the paper. Argument: a section of ``results/paper/items.yml``; content: the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = self.path("results/paper/items.yml")
        self.env.note_dependency(str(path))
        rows = [("", self.row(item)) for item in read_yaml(path)[self.arguments[0]]]
        columns = [("Item", "lps-place"), ("Says", "lps-statement"), ("Page", ""), ("Code", "")]
        return [table(" ".join(self.content), columns, rows, "lps-items")]

    def row(self, item: dict[str, Any]) -> list[str]:
        plan = f'<p class="lps-small">{text(item["plan"])}</p>' if "plan" in item else ""
        return [
            ", ".join(item[key] for key in ("item", "place") if key in item),
            text(item["says"]) + plan,
            self.page(item["page"], "page") if "page" in item else NONE,
            ", ".join(source_line(self.env, name) for name in item.get("code", [])) or NONE,
        ]


def source_line(env: BuildEnvironment, name: str) -> str:
    """Link to the listing of an object of ``lps``: its name, file and line as they are now."""
    found = find(name)
    if found is None:
        raise ValueError(f"there is no {name}")
    module = inspect.getmodule(found)
    assert module is not None
    env.note_dependency(str(module.__file__))
    inside = name.removeprefix(f"{module.__name__}").removeprefix(".")
    line = max(inspect.getsourcelines(found)[1] if inside else 1, 1)
    words = f"<code>{inside or module.__name__}</code> ({module.__name__.replace('.', '/')}.py:{line})"
    api = Path(env.srcdir, "book", "api.md")
    env.note_dependency(str(api))
    if f":: {module.__name__}\n" not in api.read_text(encoding="utf-8"):  # then there is no listing of its source
        return words
    uri = env.app.builder.get_relative_uri(env.docname, "_modules/" + module.__name__.replace(".", "/"))
    return f'<a class="reference internal" href="{uri}{"#" if inside else ""}{inside}">{words}</a>'


class ResultRole(SphinxRole):
    """Base of the roles: what they show, or an error with the line of the page."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [nodes.raw("", self.shown(), format="html")], []
        except (ValueError, KeyError, StopIteration, OSError) as error:
            problem = self.inliner.reporter.error(f"{self.name} {self.text!r}: {error!r}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [problem]

    def shown(self) -> str:
        raise NotImplementedError


class SourceLine(ResultRole):
    """``{line}`lps.polyphase.polyphase` ``: link to the listing of an object, with its file and line."""

    def shown(self) -> str:
        return source_line(self.env, self.text)


class PaperValue(ResultRole):
    """A value of the paper with its spread, if it has one, or its lead over that of another row.

    ``{paper}`table1:lps-tri-3:acc` ``, ``{paper}`table1:lps-tri-3:acc:aps-tri-3` ``.
    """

    def shown(self) -> str:
        file, key, column, *other = self.text.split(":")
        path = Path(self.env.srcdir, "results", "paper", f"{file}.csv")
        self.env.note_dependency(str(path))
        with path.open(encoding="utf-8", newline="") as stream:
            rows = {row["row"].rpartition("/")[2]: row for row in csv.DictReader(stream)}
        value, deviation = rows[key][column], rows[key].get(f"{column}_std")
        if other:
            return span(f"{float(value) - float(rows[other[0]][column]):+.2f}", "lps-paper-value")
        return span(f"{value} ± {deviation}" if deviation else value, "lps-paper-value")


class Price(ResultRole):
    """``{price}`before` ``: what conversion cost there, or ``finetuning`` what accuracy did, from records, in words."""

    def shown(self) -> str:
        if self.text != "finetuning":
            self.env.note_dependency(str(Path(self.env.srcdir, "results")))
            return text(conversion.price(times.read(), self.text))
        path = Path(self.env.srcdir, "results", "shipped", "convert", "finetuning.json")
        self.env.note_dependency(str(path))
        return text(fall(json.loads(path.read_text(encoding="utf-8"))["rows"]))


def fall(rows: dict[str, list[dict[str, float]]]) -> str:
    """Accuracy of the plain network, after conversion to APS, and fine-tuned."""
    plain, converted, tuned = rows["plain"][0], rows["APS"][0], rows["APS"][-1]
    return (
        f"from {plain['accuracy']:.1f} to {converted['accuracy']:.1f} % by the conversion, and to "
        f"{tuned['accuracy']:.1f} % by fine-tuning, with which the plain network reached "
        f"{rows['plain'][-1]['accuracy']:.1f} %"
    )


SETUP = """!git clone -q --depth 1 {url} companion && pip install -q pytorch-lightning myst-nb
%cd companion/notebooks
import sys; sys.path.insert(0, "..")"""
"""What a hosted notebook needs that has torch, but neither ``lps`` nor the records."""


class Provenance(ResultDirective):
    """How the notebook of this page was executed, how to do it again or otherwise, and what can be taken away: folded
    into one line. Content: the parameters with their values."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        name, profile = self.env.docname.rpartition("/")[2], self.config.lps_profile
        executed = executed_notebook(self.config, name)
        made = self.download(f"notebooks/{name}.ipynb", f"notebooks/{name}.ipynb")
        summary, words = f"Made with the profile `{profile}`", ""
        side = self.load(executed.with_suffix(".json").as_posix())
        if side is not None:
            summary += f" in {duration(side['seconds'])}"
            words = f" on {frame.machine(side['hardware'])}, with at most {side['peak_memory_mb']:,.0f} MB"
        summary += ": parameters, commands, downloads"
        if side is not None and self.outdated(name, side):
            summary += ". † `lps` or this notebook has changed since; the numbers below are those of the earlier state"
        again = f"{words}. Again: `make reproduce PROFILE={profile} NB={name}`"
        given: list[nodes.Node] = []
        if self.content:
            given.append(nodes.literal_block("", "\n".join(self.content), language="python"))
            other = (
                f'`make variant NB={name} P="name=value"` executes it with other parameters, into a page of its own: '
            )
            given.append(block("p", text(f"{other}`build/variants/{name}/*.html`, whose name it prints.")))
        if repository := self.config.html_theme_options.get("repository_url"):
            given.append(block("p", text("Binder opens the page as it is. In Colab this is the first cell to run:")))
            given.append(nodes.literal_block("", SETUP.format(url=repository), language="ipython3"))
        return [
            nodes.raw("", f'<details class="lps-provenance"><summary>{text(summary)}</summary>', format="html"),
            block("p", made + text(again)),
            *given,
            block("p", self.results(executed)),
            nodes.raw("", "</details>", format="html"),
        ]

    def outdated(self, name: str, side: dict[str, Any]) -> bool:
        """Whether the executed copy was made from another notebook, other sources or other versions."""
        self.env.note_dependency(str(self.path("lps")))  # a folder counts as outdated, so a later change is found
        profile = self.config.lps_profile
        (job,) = plan(profile, load_profile(profile).notebooks, [name], root=self.path(""))
        return bool(side["hash"] != job.hash)

    def results(self, executed: Path) -> str:
        """Downloads of the executed notebook and of its figures."""
        figures = [path for kind in ("svg", "pdf") for path in executed.parent.glob(f"{executed.stem}-*.{kind}")]
        figures.sort(key=lambda path: (int(path.stem.rpartition("-")[2]), path.suffix != ".svg"))
        files = {"executed notebook": executed}
        files |= {f"figure {p.stem.rpartition('-')[2]} ({p.suffix[1:].upper()})": p for p in figures}
        links = (self.download(path.relative_to(self.path("")).as_posix(), title) for title, path in files.items())
        return f"Take it away: {', '.join(links)}."


class Picture(ResultDirective):
    """The picture at the top of another page, with its words for those who cannot see it. Argument: the notebook;
    content: the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        executed = executed_notebook(self.config, self.arguments[0])
        notebook = self.load(executed.as_posix())
        if notebook is None:
            return self.absent("This picture", f"make reproduce NB={self.arguments[0]}")
        outputs = [(c["metadata"], o) for c in notebook["cells"] for o in c.get("outputs", [])]
        drawn = [metadata for metadata, output in outputs if "image/svg+xml" in output.get("data", {})]
        number = next((n for n, metadata in enumerate(drawn) if "lede" in metadata.get("tags", [])), 0)
        alt = drawn[number]["mystnb"]["image"]["alt"]
        path = executed.with_name(f"{executed.stem}-{number + 1}.svg").relative_to(self.path(""))
        picture = nodes.image("", uri=f"/{path.as_posix()}", alt=alt, width="100%")
        caption = nodes.caption()
        self.state.nested_parse(self.content, self.content_offset, caption)
        words = [child for paragraph in caption.children for child in paragraph.children]
        return [nodes.figure("", picture, nodes.caption("", "", *words), classes=["lps-picture-of"])]


CONVERTED = {
    "families": "make families",
    "finetuning": "OMP_NUM_THREADS=1 python -m lps convert --finetuning",
    "borders": "python -m lps convert --borders",
}
"""Records of networks that were converted, and the commands that make them."""


class Converted(ResultDirective):
    """A record of ``python -m lps convert`` in tables, and the machine that made it. Argument: the record's name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        path = f"results/shipped/convert/{name}.json"
        record = self.load(path)
        if record is None:
            return self.absent("This table", CONVERTED[name])
        made: list[nodes.Node]
        if name == "families":
            made = [shown_as_text(show(record["rows"])) for show in (conversion.families, conversion.refused)]
        else:
            made = [table(*{"finetuning": finetuning, "borders": borders}[name](record, name))]
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()) if version)
        code = record["code"]
        commits = {row["commit"][:8] for row in record["rows"].values() if "commit" in row}
        made_by = " and ".join(sorted(commits)) or code.get("commit", code.get("convert"))[:8]
        source = f"{record['made'][:10]}, {record['hardware']['cpu']}, {versions}; code {made_by}. "
        source += f"Again: `{CONVERTED[name]}`. "
        return [*made, block("p", f"{text(source)}{self.download(path, 'JSON')}.", "lps-source")]


def shown_as_text(shown: conversion.Shown) -> nodes.table:
    rows = [("", [*map(text, cells)]) for cells in shown.rows]
    return table(shown.caption, [(title, "") for title in shown.columns], rows, "lps-families")


class Slowdown(ResultDirective):
    """What conversion costs by the newest records of ``python -m benchmarks``, by network, and the targets."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.path("results")))
        found = conversion.costs(times.read())
        made: list[nodes.Node] = []
        for threads, networks in found.items():
            made += [
                shown_as_text(conversion.cost_table(networks, threads)),
                block("p", text(conversion.misses(networks))),
            ]
        return made or self.absent("The cost of conversion", conversion.COMMAND)


def finetuning(record: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Accuracy and consistency of each network of the notebook on fine-tuning, converted and at the end."""
    columns = ("network", "converted: accuracy", "C-Cons.", "fine-tuned: accuracy", "C-Cons.")
    rows = [
        ("", [network, *(f"{points[at][key]:.1f}" for at in (0, -1) for key in ("accuracy", "c_cons"))])
        for network, points in record["rows"].items()
    ]
    config = record["config"]
    caption = (
        f"{record['data']['source']}: {config['train']:,} images to train on, {config['test']:,} to test; "
        f"{config['epochs']} epochs, and {config['tune']} of fine-tuning; seed {record['seed']}; per cent"
    )
    return caption, [(title, "") for title in columns], rows


def borders(record: dict[str, Any], name: str) -> tuple[Any, ...]:
    """How much of the difference between two images a shift makes, by network and kind of shift."""
    kinds = list(next(iter(record["rows"].values())))
    rows = [
        ("", [network, *(f"{row[kind]:.3g} %" if row[kind] is not None else NONE for kind in kinds)])
        for network, row in record["rows"].items()
    ]
    caption = "Change of the outputs under a shift, in per cent of that between two images"
    return caption, [(title, "") for title in ("network", *kinds)], rows


DIRECTIVES = {
    "answers": Answers,
    "scoreboard": Scoreboard,
    "ledger": Ledger,
    "table": ResultTable,
    "records": Records,
    "costs": Costs,
    "provenance": Provenance,
    "picture": Picture,
    "coverage": Coverage,
    "downloads": Downloads,
    "items": Items,
    "seeds": Seeds,
    "shipped": Shipped,
    "converted": Converted,
    "slowdown": Slowdown,
}


def setup(app: Sphinx) -> None:
    """Called by the extension ``lps_book``."""
    app.add_role("paper", PaperValue())
    app.add_role("price", Price())
    app.add_role("line", SourceLine())
    for name, directive in DIRECTIVES.items():
        app.add_directive(f"lps-{name}", directive)
