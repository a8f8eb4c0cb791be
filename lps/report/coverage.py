"""Is anything of the paper left out? Its items, the book's pages and the code that they name."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pkgutil import resolve_name
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


def find(name: str) -> Any:
    """The object of a dotted name, ``None`` where there is none."""
    try:
        return resolve_name(name)
    except (AttributeError, ModuleNotFoundError):
        return None


def report(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the check found, for the book: counts of items and of ledger entries, and every problem."""
    listed, entries = items(), list(entries)
    found = [*problems(listed), *(f"{e['id']} has no verdict" for e in entries if not e["verdict"])]
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
