"""Pieces of a page: text, folded blocks and fields in HTML, and numbered tables of such cells."""

import html
import re
from collections.abc import Iterable, Sequence
from itertools import repeat

from docutils import nodes

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


def text(words: str) -> str:
    """Escaped words; those between backquotes become code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))


def span(content: str, *classes: str) -> str:
    return f'<span class="{" ".join(classes)}">{content}</span>'


def block(tag: str, content: str, *classes: str) -> nodes.raw:
    """An element of its own on the page."""
    return nodes.raw("", f'<{tag} class="{" ".join(classes)}">{content}</{tag}>', format="html")


def listing(items: Iterable[str]) -> nodes.raw:
    return nodes.raw("", f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>", format="html")


def details(summary: str, content: str, anchor: str = "", classes: str = "", unfolded: bool = False) -> str:
    """A foldable block with its one-line title."""
    about = (f' id="{anchor}"' if anchor else "") + (f' class="{classes}"' if classes else "")
    return f"<details{about}{' open' if unfolded else ''}><summary>{text(summary)}</summary>{content}</details>"


def fields(pairs: Iterable[tuple[str, str]], classes: str = "") -> str:
    """Names and values, these in HTML."""
    lines = (f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs)
    return f'<dl class="lps-fields {classes}">{"".join(lines)}</dl>'


def command(line: str) -> str:
    return f'<div class="highlight"><pre>{html.escape(line)}</pre></div>'


def verdict_class(name: str) -> str:
    return "lps-" + nodes.make_id(name.replace("+", "-plus"))


def verdict(name: str) -> str:
    """A verdict as symbol and word: never by colour alone."""
    return span(f"{SYMBOLS[name]} {name}", "lps-verdict", verdict_class(name))


def table(
    caption: str,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[Sequence[str]],
    *classes: str,
    anchors: Iterable[str] = repeat(""),
) -> nodes.table:
    """A numbered table: headings with the classes of their columns, and rows of cells in HTML, each with an anchor.

    The last cell of a short row is as wide as the rest of the table.
    """

    def row(cells: Sequence[str], anchor: str = "") -> nodes.row:
        line = nodes.row(ids=[anchor] if anchor else [])
        for content, (_, names) in zip(cells, columns, strict=False):
            line += nodes.entry("", nodes.raw("", content, format="html"), classes=names.split())
        if short := len(columns) - len(cells):
            line[-1]["morecols"] = short
        return line

    head, body = row([text(title) for title, _ in columns]), map(row, rows, anchors)
    specs = [nodes.colspec(colwidth=1) for _ in columns]
    group = nodes.tgroup("", *specs, nodes.thead("", head), nodes.tbody("", *body), cols=len(columns))
    return nodes.table("", nodes.title("", caption), group, classes=["lps-table", *classes])
