"""Small builders of docutils nodes: folded blocks, verdicts, links, fields and captioned tables."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from docutils import nodes
from sphinx import addnodes

Inline: TypeAlias = str | nodes.Node | Sequence[str | nodes.Node]

NONE = "\N{EN DASH}"
"""Stands where there is no value."""

SYMBOLS = {
    "holds": "✓",
    "holds+": "✓+",
    "direction only": "≈",
    "undecided": "?",
    "fails": "✗",
    "not run": "○",
    "not checkable": NONE,
}


class details(nodes.General, nodes.Element):
    """A foldable block; ``summary`` is its one-line title, ``open`` whether it starts unfolded."""


def visit_details(self: Any, node: details) -> None:
    self.body.append(self.starttag(node, "details", **({"open": "open"} if node.get("open") else {})))
    self.body.append(f"<summary>{self.encode(node['summary'])}</summary>")


def depart_details(self: Any, node: details) -> None:
    self.body.append("</details>\n")


def inline(content: Inline) -> list[nodes.Node]:
    """Strings and nodes to a list of nodes; text between backquotes becomes code."""
    if isinstance(content, nodes.Node):
        return [content]
    if not isinstance(content, str):
        return [node for part in content for node in inline(part)]
    parts = re.split(r"`([^`]+)`", content)
    return [nodes.literal(text=part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


def paragraph(content: Inline, *classes: str) -> nodes.paragraph:
    node = nodes.paragraph(classes=list(classes))
    node += inline(content)
    return node


def span(content: Inline, *classes: str) -> nodes.inline:
    node = nodes.inline(classes=list(classes))
    node += inline(content)
    return node


def block(children: Iterable[nodes.Node], *classes: str) -> nodes.container:
    node = nodes.container(classes=list(classes))
    node += list(children)
    return node


def verdict_class(name: str) -> str:
    return "lps-" + nodes.make_id(name.replace("+", "-plus"))


def verdict(name: str) -> nodes.inline:
    """A verdict as symbol and word: never by colour alone."""
    return span(f"{SYMBOLS[name]} {name}", "lps-verdict", verdict_class(name))


def link(label: str, text: str) -> addnodes.pending_xref:
    """Link to a label of this book, resolved once all pages are read."""
    node = addnodes.pending_xref(
        "", refdomain="std", reftype="ref", reftarget=label.lower(), refexplicit=True, refwarn=True
    )
    node += nodes.inline("", text)
    return node


def page(docname: str, text: str) -> addnodes.pending_xref:
    """Link to a page of this book."""
    node = addnodes.pending_xref(
        "", refdomain="std", reftype="doc", reftarget="/" + docname, refexplicit=True, refwarn=True
    )
    node += nodes.inline("", text)
    return node


def listing(command: str) -> nodes.literal_block:
    return nodes.literal_block(command, command, language="console" if command.startswith("$") else "bash")


def fields(pairs: Iterable[tuple[str, Inline]], *classes: str) -> nodes.definition_list:
    """Name and value pairs."""
    items = []
    for name, value in pairs:
        definition = nodes.definition("", paragraph(value))
        items.append(nodes.definition_list_item("", nodes.term("", name), definition))
    return nodes.definition_list("", *items, classes=["lps-fields", *classes])


class Cell(NamedTuple):
    """A cell of a :func:`table`; ``blocks`` follow the text."""

    content: Inline
    classes: tuple[str, ...] = ()
    blocks: tuple[nodes.Node, ...] = ()
    across: int = 1
    down: int = 1


def table(
    caption: str, head: Sequence[Sequence[Cell]], body: Sequence[tuple[str, Sequence[Cell]]], *classes: str
) -> nodes.table:
    """A captioned table; each row of ``body`` has an anchor (or an empty string) and its cells."""

    def row(cells: Sequence[Cell], anchor: str = "") -> nodes.row:
        node = nodes.row(ids=[anchor] if anchor else [])
        for cell in cells:
            entry = nodes.entry(classes=list(cell.classes))
            if cell.across > 1:
                entry["morecols"] = cell.across - 1
            if cell.down > 1:
                entry["morerows"] = cell.down - 1
            entry += paragraph(cell.content)
            entry += list(cell.blocks)
            node += entry
        return node

    columns = sum(cell.across for cell in head[0])
    group = nodes.tgroup(cols=columns)
    group += [nodes.colspec(colwidth=1) for _ in range(columns)]
    group += nodes.thead("", *(row(cells) for cells in head))
    group += nodes.tbody("", *(row(cells, anchor) for anchor, cells in body))
    node = nodes.table(classes=["lps-table", *classes])
    title = nodes.title()
    title += inline(caption)
    node += [title, group]
    return node
