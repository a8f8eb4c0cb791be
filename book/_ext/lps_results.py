"""Roles and directives that put computed results on a page.

They render plain data files and compute nothing: ``build/claims.json`` (the ledger), ``build/tables/*.json``,
the run records under ``results/``, the sidecars of executed notebooks, and the paper's transcribed values.
Every file read is noted as a dependency of the page, so a changed result rebuilds the pages that show it.
"""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from lps_html import DASH, block, code, listing, render, table
from markupsafe import Markup
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

Record = dict[str, Any]
Nodes = list[nodes.Node]

FORMATS = {"csv": "CSV", "json": "JSON", "tex": "LaTeX"}
GROUPS = {"theorem": "Theory", "cell": "Cells", "ordering": "Orderings", "sentence": "Sentences"}
NUMBER = "lps-number"


def executed_notebook(config: Config, name: str) -> Path:
    """Where ``make reproduce`` leaves the executed copy of ``notebooks/<name>.ipynb``."""
    root = Path(__file__).resolve().parents[2]
    return root / "build" / "notebooks" / config.lps_profile / f"{name}.ipynb"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def columns(*titles: str, classes: str = "") -> list[tuple[str, str]]:
    return [(title, classes) for title in titles]


class Result(SphinxDirective):
    """A directive that shows a file of results, or says what makes the file; :func:`shows` makes one."""

    has_content = True
    show: Callable[..., Nodes]
    reads = what = made_by = ""

    def run(self) -> Nodes:
        if not self.reads:
            return self.show()
        data = self.load(self.reads.format(self.argument))
        return self.absent(self.what.format(self.argument), self.made_by) if data is None else self.show(data)

    @property
    def argument(self) -> str:
        return self.arguments[0] if self.arguments else ""

    def path(self, name: str) -> Path:
        return Path(self.env.srcdir, name)

    def load(self, name: str) -> Any:
        """Content of a JSON file, or ``None`` where it has not been made yet."""
        path = self.path(name)
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def absent(self, what: str, made_by: str) -> Nodes:
        """What stands in place of a result that is not there."""
        words = f"{what} has not been computed in this checkout. `{made_by.format(self.argument)}` makes it."
        return [nodes.note("", block("p", code(words)))]

    def uri(self, name: str, anchor: str = "") -> str:
        found = self.env.app.builder.get_relative_uri(self.env.docname, name)
        return f"{found}#{anchor}" if anchor else found

    def link(self, name: str, words: str, anchor: str = "") -> Markup:
        """Link to a page of this book, or to an anchor on it."""
        return Markup('<a class="reference internal" href="{}">{}</a>').format(self.uri(name, anchor), words)

    def download(self, path: str, words: str) -> Markup:
        """Link to a file of the checkout, which becomes part of the book."""
        self.env.note_dependency(path)
        href = "../" * self.env.docname.count("/") + f"_downloads/{self.env.dlfiles.add_file(self.env.docname, path)}"
        link = '<a class="reference download internal" download="" href="{}">{}</a>'
        return Markup(link).format(href, words)

    def take_away(self, stem: str) -> str:
        """Links to one thing in several formats, those that there are."""
        found = {suffix: words for suffix, words in FORMATS.items() if self.path(f"{stem}.{suffix}").is_file()}
        return ", ".join(self.download(f"{stem}.{suffix}", words) for suffix, words in found.items())

    def records(self) -> dict[str, Record]:
        """All run records by their id, ``table1/lps/quick-seed0-1a2b3c4d5e``, shipped ones first.

        Those of the studies of trained networks begin with ``section53/``. ``path`` is added to each; a repetition of
        a shipped run has its id and comes under ``local/<id>``.
        """
        root = self.path("results")
        self.env.note_dependency(str(root))  # a folder counts as outdated, so new records are found
        records: dict[str, Record] = {}
        for part in ("shipped", "local"):
            folder = root / part
            for path in sorted([*folder.glob("table*/*/*.json"), *folder.glob("*/table*/*/*.json")]):
                self.env.note_dependency(str(path))
                identity = path.relative_to(folder).with_suffix("").as_posix()
                record = {**read(path), "path": path.relative_to(root.parent).as_posix()}
                records[f"{part}/{identity}" if identity in records else identity] = record
        return records


@cache
def read(path: Path) -> Record:
    """A record, read once for all pages."""
    try:
        return (read_study if path.parents[2].name in STUDIES else read_record)(path)
    except ValueError as error:
        raise ExtensionError(str(error)) from error


DIRECTIVES: dict[str, type[Result]] = {}


def shows(name: str, reads: str = "", what: str = "", made_by: str = "", required: int = 0, optional: int = 0) -> Any:
    """Make a function of the page, and of what the file holds that it ``reads``, the directive ``lps-<name>``.

    Where there is no such file, ``what`` has not been computed and the command ``made_by`` makes it. ``{}`` stands for
    the directive's argument.
    """

    def register(show: Callable[..., Nodes]) -> Callable[..., Nodes]:
        about = {"reads": reads, "what": what, "made_by": made_by}
        arguments = {"required_arguments": required, "optional_arguments": optional}
        DIRECTIVES[name] = type(f"Shows{name.title()}", (Result,), {"show": show, **about, **arguments})
        return show

    return register


@shows("answers", optional=1)
def answers(page: Result) -> Nodes:
    """The questions of a reader, each with its outcome, the scale it was seen at, and the page with the evidence.

    Argument: a page, to have only the questions whose evidence it is, if there are any.
    """
    ledger = page.load("build/claims.json")
    if ledger is None:
        return [] if page.arguments else page.absent("The answers", "make claims")
    return [render("answers", page=page, answers=[a for a in ledger["answers"] if page.argument in ("", a["page"])])]


@shows("scoreboard", "build/claims.json", "The claims scoreboard", "make claims")
def scoreboard(page: Result, ledger: Record) -> Nodes:
    """How many entries of the ledger have which verdict, and one square for each entry."""
    return [render("scoreboard", page=page, ledger=ledger, groups=group_entries(ledger["entries"]))]


def group_entries(entries: Iterable[Record]) -> dict[str, list[Record]]:
    """Entries by the table or figure they belong to, else by their kind; in the ledger's order."""
    groups = defaultdict(list)
    for entry in entries:
        numbered = re.search(r"(Table|Figure) \d+", entry["place"])
        theorem = entry["kind"] == "theorem"
        groups[numbered[0] if numbered and not theorem else GROUPS[entry["kind"]]].append(entry)
    return dict(groups)


@shows("ledger", "build/claims.json", "The ledger of claims", "make claims")
def ledger(page: Result, found: Record) -> Nodes:
    """Every entry of the ledger with the paper's value, ours, the rule, the verdict and the evidence."""
    records, groups = page.records(), group_entries(found["entries"])
    names = {group: group.lower() if group in GROUPS.values() else group for group in groups}
    return [
        table(f"Ledger: {names[group]}", "ledger", "lps-ledger", page=page, entries=entries, records=records)
        for group, entries in groups.items()
    ]


COMPARED = "The comparison with the paper ({})"


@shows("table", "build/tables/{}.json", COMPARED, "make reproduce NB={}", required=1)
def result_table(page: Result, data: Record) -> Nodes:
    """A table of the paper beside ours, one for each group of runs. Argument: its name, ``table1``."""
    about = {"page": page, "columns": data["columns"], "records": page.records()}
    result: Nodes = []
    for group in data["groups"]:
        if group["differs"]:
            result.append(render("differs", group=group))
        rows = [row for row in group["rows"] if row["runs"]] or group["rows"]
        left_out = " Rows without a run are left out." if len(rows) < len(group["rows"]) else ""
        caption = f"The paper: {data['title']}. The runs here: {group['label']}.{left_out}"
        result.append(table(caption, "comparison", "lps-comparison", rows=rows, **about))
        if any(row["stale"] for row in rows):
            note = "† computed, in part at least, before `lps` last changed; `python -m lps run` computes it again."
            result.append(block("p", code(note), "lps-source"))
    files = f"Take it away: {page.take_away(f'build/tables/{page.argument}')}."
    return [*result, block("p", files, "lps-source")]


@shows("records")
def run_records(page: Result) -> Nodes:
    """Every run record with all its fields, each under an anchor that the numbers of this book link to."""
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for identity, record in page.records().items():
        groups[identity.removeprefix("local/").rpartition("/")[0]][identity] = record
    if not groups:
        return page.absent("A run record", "python -m lps run 'table1/*'")
    for members in groups.values():
        given = {identity: re.findall(r"--set (\S+)", record["command"]) for identity, record in members.items()}
        common = set.intersection(*map(set, given.values()))
        for identity, settings in given.items():  # what tells runs of one row and seed apart
            members[identity]["apart"] = [setting for setting in settings if setting not in common]
    return [render("records", page=page, groups=groups)]


@shows("costs")
def costs(page: Result) -> Nodes:
    """What the notebooks and the runs behind this book took, on which hardware."""
    rows: list[list[str]] = []
    machines: set[str] = set()
    for path in sorted(executed_notebook(page.config, "any").parent.glob("*.json")):
        side = page.load(path.as_posix())
        took = duration(side["seconds"]), f"{side['peak_memory_mb']:,.0f} MB"
        rows.append([page.link(f"notebooks/{path.stem}", path.stem), *took])
        machines.add(frame.machine(side["hardware"]))
    heads = columns("Notebook") + columns("Time", "Peak memory", classes=NUMBER)
    caption = f"Cost of the notebooks in the profile {page.config.lps_profile}, on {' and '.join(sorted(machines))}."
    absent = page.absent("The cost of the notebooks", "make reproduce")
    found = [table(caption, "rows", columns=heads, rows=rows)] if rows else absent

    runs = defaultdict(list)
    for record in page.records().values():
        if seconds := record["seconds"]["training"]:
            runs[record["profile"], frame.images(record["data"]), frame.machine(record["hardware"])].append(seconds)
    rows = [
        [*key, str(len(s)), " to ".join(dict.fromkeys(map(duration, (min(s), max(s))))), duration(sum(s))]
        for key, s in sorted(runs.items())
    ]
    heads = columns("Profile", "Data", "Hardware") + columns("Runs", "Training takes", "All of them", classes=NUMBER)
    caption = "Cost of the training runs behind this book, from their records."
    return [*found, table(caption, "rows", columns=heads, rows=rows)] if rows else found


@shows("shipped")
def shipped(page: Result) -> Nodes:
    """What is shipped of each table: rows, seeds, machines, and records of earlier code."""
    runs = frame.frame(r for r in page.records().values() if r["path"].startswith("results/shipped/table"))
    runs = runs.assign(runs=frame.labels(runs)).drop_duplicates("run")
    lines = []
    for (name, words), made in runs.groupby(["table", "runs"]):
        rows = made.groupby("row")["seed"].nunique().value_counts().sort_index()
        seeds = ", ".join(f"{n} with {k} {'seeds' if k > 1 else 'seed'}" for k, n in rows.items())
        machines = ", ".join(f"{n} on {where}" for where, n in made["machine"].value_counts().sort_index().items())
        old = f", {made['stale'].sum()} of them made before `lps` last changed" if made["stale"].any() else ""
        whole = f"{rows.sum()} of {len(paper_table(name))} rows"
        lines.append(code(f"Table {name[5:]}, {words}: {whole} ({seeds}); {len(made)} runs ({machines}){old}."))
    return [listing(lines)]


@shows("downloads")
def downloads(page: Result) -> Nodes:
    """Everything computed that can be taken away as a file: the tables and the ledger."""
    stems = {f"tables/table{n}": f"Table {n}" for n in range(1, 7)}
    stems |= {"claims": "The ledger", "seeds": "What our seeds tell"}
    items = {title: page.take_away(f"build/{stem}") for stem, title in stems.items()}
    found = [f"{title}: {links}." for title, links in items.items() if links]
    return [listing(found)] if found else page.absent("The files", "make claims")


@shows("coverage", "build/coverage.json", "The check of completeness", "make claims")
def coverage(page: Result, found: Record) -> Nodes:
    """What the check for things left out has found."""
    if found["problems"]:
        return [nodes.warning("", block("p", "Something is missing:"), listing(map(code, found["problems"])))]
    planned = f"; without one: {', '.join(found['planned'])}" if found["planned"] else ""
    words = (
        f"The map lists {found['items']} items of the paper, among them all {found['numbered']} that carry a number. "
        f"{found['with_page']} have a page in this book{planned}. Each of the {found['entries']} entries of the ledger "
        "has a verdict, and each that was not run says why."
    )
    return [block("p", code(words))]


@shows("items", required=1)
def items(page: Result) -> Nodes:
    """Part of the map of the paper. Argument: a section of ``results/paper/items.yml``; content: the caption."""
    path = page.path("results/paper/items.yml")
    page.env.note_dependency(str(path))
    section = read_yaml(path)[page.argument]
    about = {"page": page, "items": section, "line": partial(source_line, page.env)}
    return [table(" ".join(page.content), "items", "lps-items", **about)]


SETUP = """!git clone -q --depth 1 {url} companion && pip install -q pytorch-lightning myst-nb
%cd companion/notebooks
import sys; sys.path.insert(0, "..")"""
"""What a hosted notebook needs that has torch, but neither ``lps`` nor the records."""


@shows("provenance")
def provenance(page: Result) -> Nodes:
    """How the notebook of this page was executed, how to do it again or otherwise, and what can be taken away: folded
    into one line. Content: the parameters with their values."""
    name, profile = page.env.docname.rpartition("/")[2], page.config.lps_profile
    executed = executed_notebook(page.config, name)
    side = page.load(executed.with_suffix(".json").as_posix())
    summary, words = f"Made with the profile `{profile}`", ""
    if side is not None:
        summary += f" in {duration(side['seconds'])}"
        words = f" on {frame.machine(side['hardware'])}, with at most {side['peak_memory_mb']:,.0f} MB"
    summary += ": parameters, commands, downloads"
    page.env.note_dependency(str(page.path("lps")))  # a folder counts as outdated, so a later change is found
    (job,) = plan(profile, load_profile(profile).notebooks, [name], root=page.path(""))
    if side is not None and side["hash"] != job.hash:
        summary += ". † `lps` or this notebook has changed since; the numbers below are those of the earlier state"
    made = page.download(f"notebooks/{name}.ipynb", f"notebooks/{name}.ipynb")
    found = [block("p", made + code(f"{words}. Again: `make reproduce PROFILE={profile} NB={name}`"))]
    if page.content:
        found.append(nodes.literal_block("", "\n".join(page.content), language="python"))
        other = (
            f'`make variant NB={name} P="name=value"` executes it with other parameters, into a page of its own: '
            f"`build/variants/{name}/*.html`, whose name it prints."
        )
        found.append(block("p", code(other)))
    if repository := page.config.html_theme_options.get("repository_url"):
        found.append(block("p", code("Binder opens the page as it is. In Colab this is the first cell to run:")))
        found.append(nodes.literal_block("", SETUP.format(url=repository), language="ipython3"))
    figures = [path for kind in ("svg", "pdf") for path in executed.parent.glob(f"{executed.stem}-*.{kind}")]
    figures.sort(key=lambda path: (int(path.stem.rpartition("-")[2]), path.suffix != ".svg"))
    files = {"executed notebook": executed}
    files |= {f"figure {p.stem.rpartition('-')[2]} ({p.suffix[1:].upper()})": p for p in figures}
    links = (page.download(path.relative_to(page.path("")).as_posix(), title) for title, path in files.items())
    found.append(block("p", f"Take it away: {', '.join(links)}."))
    title = f'<details class="lps-provenance"><summary>{code(summary)}</summary>'
    return [nodes.raw("", title, format="html"), *found, nodes.raw("", "</details>", format="html")]


@shows("picture", required=1)
def picture(page: Result) -> Nodes:
    """The picture at the top of another page, with its words for those who cannot see it. Argument: the notebook;
    content: the caption."""
    executed = executed_notebook(page.config, page.argument)
    notebook = page.load(executed.as_posix())
    if notebook is None:
        return page.absent("This picture", "make reproduce NB={}")
    outputs = [(c["metadata"], o) for c in notebook["cells"] for o in c.get("outputs", [])]
    drawn = [metadata for metadata, output in outputs if "image/svg+xml" in output.get("data", {})]
    number = next((n for n, metadata in enumerate(drawn) if "lede" in metadata.get("tags", [])), 0)
    alt = drawn[number]["mystnb"]["image"]["alt"]
    path = executed.with_name(f"{executed.stem}-{number + 1}.svg").relative_to(page.path(""))
    image = nodes.image("", uri=f"/{path.as_posix()}", alt=alt, width="100%")
    caption = nodes.caption()
    page.state.nested_parse(page.content, page.content_offset, caption)
    words = [child for paragraph in caption.children for child in paragraph.children]
    return [nodes.figure("", image, nodes.caption("", "", *words), classes=["lps-picture-of"])]


CONVERTED = {"families": "make families", "borders": "python -m lps survey borders"}
"""Records of networks that were converted, and the commands that make them."""


@shows("converted", required=1)
def converted(page: Result) -> Nodes:
    """A record of ``python -m lps survey`` in tables, and the machine that made it. Argument: the record's name."""
    name, path = page.argument, f"results/shipped/convert/{page.argument}.json"
    record = page.load(path)
    if record is None:
        return page.absent("This table", CONVERTED[name])
    rows, made_of = record["rows"], record["code"]
    shown = (borders,) if name == "borders" else (conversion.families, conversion.refused)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()) if version)
    commits = {row["commit"][:8] for row in rows.values() if "commit" in row}
    made_by = " and ".join(sorted(commits)) or made_of.get("commit", made_of.get("convert"))[:8]
    made = f"{record['made'][:10]}, {record['hardware']['cpu']}, {versions}; code {made_by}."
    line = f"{code(f'{made} Again: `{CONVERTED[name]}`. ')}{page.download(path, 'JSON')}."
    return [*(shown_as_text(show(rows)) for show in shown), block("p", line, "lps-source")]


def shown_as_text(shown: conversion.Shown) -> nodes.table:
    rows = [[*map(code, cells)] for cells in shown.rows]
    return table(shown.caption, "rows", "lps-families", columns=columns(*shown.columns), rows=rows)


def borders(rows: Record) -> conversion.Shown:
    """How much of the difference between two images a shift makes, by network and kind of shift."""
    changes = pd.DataFrame(rows).T
    shown = changes.map(lambda share: f"{share:.3g} %", na_action="ignore").fillna(DASH).reset_index()
    caption = "Change of the outputs under a shift, in per cent of that between two images"
    return conversion.Shown(caption, ["network", *changes], shown.to_numpy().tolist())


@shows("slowdown")
def slowdown(page: Result) -> Nodes:
    """What conversion costs by the newest records of ``python -m benchmarks``, by network, and the targets."""
    page.env.note_dependency(str(page.path("results")))
    made: Nodes = []
    for threads, networks in conversion.costs(times.read()).items():
        words = block("p", code(conversion.misses(networks)))
        made += [shown_as_text(conversion.cost_table(networks, threads)), words]
    return made or page.absent("The cost of conversion", conversion.COMMAND)


def source_line(env: BuildEnvironment, name: str) -> Markup:
    """Link to the listing of an object of ``lps``: its name, file and line as they are now."""
    found = find(name)
    if found is None:
        raise ValueError(f"there is no {name}")
    module = inspect.getmodule(found)
    assert module is not None
    inside = name.removeprefix(f"{module.__name__}").removeprefix(".")
    line = max(inspect.getsourcelines(found)[1] if inside else 1, 1)
    words = Markup(f"<code>{inside or module.__name__}</code> ({module.__name__.replace('.', '/')}.py:{line})")
    api = Path(env.srcdir, "book", "api.md")
    for path in (str(module.__file__), str(api)):
        env.note_dependency(path)
    if f":: {module.__name__}\n" not in api.read_text(encoding="utf-8"):  # then there is no listing of its source
        return words
    uri = env.app.builder.get_relative_uri(env.docname, "_modules/" + module.__name__.replace(".", "/"))
    return Markup(f'<a class="reference internal" href="{uri}{"#" if inside else ""}{inside}">{words}</a>')


def paper_value(env: BuildEnvironment, name: str) -> str:
    """A value of the paper with its spread, if it has one, or its lead over that of another row.

    ``{paper}`table1:lps-tri-3:acc` ``, ``{paper}`table1:lps-tri-3:acc:aps-tri-3` ``.
    """
    file, key, column, *other = name.split(":")
    env.note_dependency(str(Path(env.srcdir, "results", "paper", f"{file}.csv")))
    rows = {row["row"].rpartition("/")[2]: row for row in paper_table(file)}
    value, deviation = rows[key][column], rows[key].get(f"{column}_std")
    if other:
        value, deviation = f"{float(value) - float(rows[other[0]][column]):+.2f}", ""
    return f'<span class="lps-paper-value">{value}{f" ± {deviation}" if deviation else ""}</span>'


def price(env: BuildEnvironment, name: str) -> str:
    """``{price}`before` ``: what conversion cost there, or ``finetuning`` what accuracy did, from records, in words."""
    if name != "finetuning":
        env.note_dependency(str(Path(env.srcdir, "results")))
        return code(conversion.price(times.read(), name))
    path = Path(env.srcdir, "results", "shipped", "convert", "finetuning.json")
    env.note_dependency(str(path))
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    (plain, *_, plain_tuned), (converted, *_, tuned) = (
        [f"{point['accuracy']:.1f}" for point in rows[network]] for network in ("plain", "APS")
    )
    return (
        f"from {plain} to {converted} % by the conversion, and to {tuned} % by fine-tuning, with which the plain "
        f"network reached {plain_tuned} %"
    )


class ResultRole(SphinxRole):
    """A role that shows what a function says of its text, or an error with the line of the page."""

    def __init__(self, shown: Callable[[BuildEnvironment, str], str]) -> None:
        super().__init__()
        self.shown = shown

    def run(self) -> tuple[Nodes, list[nodes.system_message]]:
        try:
            return [nodes.raw("", self.shown(self.env, self.text), format="html")], []
        except (ValueError, KeyError, StopIteration, OSError) as error:
            problem = self.inliner.reporter.error(f"{self.name} {self.text!r}: {error!r}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [problem]


def setup(app: Sphinx) -> None:
    """Called by the extension ``lps_book``."""
    for role, shown in {"paper": paper_value, "price": price, "line": source_line}.items():
        app.add_role(role, ResultRole(shown))
    for name, directive in DIRECTIVES.items():
        app.add_directive(f"lps-{name}", directive)
