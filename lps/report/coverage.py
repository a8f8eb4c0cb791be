"""Is anything of the paper left out, and is any result typed by hand? The paper's items and the book's pages."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from ..experiments.schema import read_yaml
from ..paths import PAPER, ROOT

EXPECTED = (
    "Lemma 1",
    *(f"Claim {n}" for n in range(1, 5)),
    *(f"Eq. ({n})" for n in range(1, 28)),
    *(f"Figure {n}" for n in range(1, 5)),
    *(f"Table {n}" for n in range(1, 7)),
)
"""The items that the paper numbers."""


RESULT = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?=\s?(?:%|per cent|points\b|ms\b|[GM]B\b))|(?<![\w.])\d+\.\d+(?![\w.])")
"""What a result looks like in prose: a percentage, points, a time, memory, or any decimal number."""
NOT_PROSE = re.compile(
    "|".join(
        (
            r"^(`{3,})(?!\{)[^\n]*\n.*?^\1`*$",  # code; a directive is prose
            r"`[^`\n]*`",  # code, and roles, which read a value from its file
            r"\$\$.*?\$\$|\$[^$\n]*\$",
            r"\]\([^)\n]*\)",  # targets of links
            r"^:\w+:.*?$",  # options of directives
            r"Secs?\. ?\d\.\d(?: (?:and|to) \d\.\d)?",
        )
    ),
    re.M | re.S,
)
SETTINGS = {
    "book/index": {"3.11"},
    "book/reproduce": {"3.11", "6"},
    "book/original-checkpoints": {"1.4"},
    "book/deviations": {"0.85", "0.825", "0.025", "0.01", "0.9"},
    "book/experiments": {"95"},
    "notebooks/finetune": {"0.02"},
    "notebooks/statistics": {"95", "80"},
    "notebooks/table2": {"1.28"},
    "notebooks/table4": {"1.25"},
    "notebooks/tau": {"85"},
}
"""Numbers on a page that are no results: versions, settings, tolerances, the size of ImageNet in millions."""


@cache
def items() -> list[dict[str, Any]]:
    """All entries of ``results/paper/items.yml``."""
    sections: dict[str, list[dict[str, Any]]] = read_yaml(PAPER / "items.yml")
    return [entry for section in sections.values() for entry in section]


def problems(listed: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What is missing: an item of the paper, its page or plan, a page of the book, a piece of code."""
    listed = list(listed)
    names = [entry["item"] for entry in listed]
    yield from (f"{name} is not listed" for name in EXPECTED if name not in names)
    yield from (f"{name} is listed {names.count(name)} times" for name in set(names) if names.count(name) > 1)
    chapters = pages()
    for entry in listed:
        if not entry.get("page") and not entry.get("plan"):
            yield f"{entry['item']} has neither a page nor a plan"
        if entry.get("page") and entry["page"] not in chapters:
            yield f"{entry['item']}: there is no page {entry['page']} in the book"
        yield from (f"{entry['item']}: there is no {name}" for name in entry.get("code", []) if find(name) is None)


def pages() -> set[str]:
    """Names of the pages in the book's table of contents."""
    contents = read_yaml(ROOT / "_toc.yml")
    return {contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])}


def typed(page: str, text: str) -> Iterator[str]:
    """Results in the text of a page that its author typed: neither a bound of 0 or 100 % nor a value of the paper."""
    allowed = {"0", "100", *paper_values(), *SETTINGS.get(page, ())}
    for found in RESULT.finditer(NOT_PROSE.sub(" ", text)):
        if found[0] not in allowed:
            yield f"{page}: {found[0]} is typed; show a result through a role, a directive or a cell"


@cache
def paper_values() -> set[str]:
    """Every number of the paper's tables and text, as it is printed."""
    values = set()
    for path in PAPER.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            values |= {cell for line in csv.DictReader(file) for cell in line.values()}
    return values


def prose(page: str) -> str:
    """The written text of a page of the book."""
    path = ROOT / f"{page}.md"
    if path.exists():
        return path.read_text(encoding="utf-8")
    cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def find(name: str) -> Any:
    """The object of a dotted name, ``None`` where there is none."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found
    return None


def report(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the check found, for the book: counts of items and of ledger entries, and every problem."""
    listed, entries = items(), list(entries)
    found = [*problems(listed), *(f"{e['id']} has no verdict" for e in entries if not e["verdict"])]
    found += [problem for page in sorted(pages()) for problem in typed(page, prose(page))]
    found += [
        f"{e['id']}: no word on why" for e in entries if e["verdict"] in ("not run", "undecided") and not e["evidence"]
    ]
    return {
        "items": len(listed),
        "numbered": len(EXPECTED),
        "with_page": sum(bool(entry.get("page")) for entry in listed),
        "planned": [entry["item"] for entry in listed if not entry.get("page")],
        "entries": len(entries),
        "problems": found,
    }
