"""The templates of the results on a page, and what they know besides their data."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

DASH = "\N{EN DASH}"
"""Stands where there is no value."""

SYMBOLS = {
    "holds": "✓",
    "holds+": "✓+",
    "direction only": "≈",
    "undecided": "?",
    "fails": "✗",
    "not run": "○",
    "not checkable": DASH,
}


def code(words: str) -> Markup:
    """Escaped words; those between backquotes become code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))


def spread(value: dict[str, Any]) -> str:
    """``{mean, std, n}`` as ``94.80 ± 0.14``; the spread is left out where one run gives none."""
    if value.get("mean") is None:
        return DASH
    return f"{value['mean']:.2f}" + ("" if value.get("std") is None else f" ± {value['std']:.2f}")


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a record as short text, with dotted names, but for what stands above them and its history."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield prefix + key, f"{value:.6g}"
        elif prefix or key not in ("history", "command", "experiment", "profile", "seed", "path", "id", "apart"):
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
templates.filters |= {
    "code": code,
    "entry_label": lambda entry: "entry-" + nodes.make_id(entry["id"]),
    "flat": flat,
    "make_id": nodes.make_id,
    "record_label": lambda identity: "record-" + nodes.make_id(identity),
    "spread": spread,
    "verdict_class": lambda name: "lps-" + nodes.make_id(name.replace("+", "-plus")),
}
templates.globals |= {"symbols": SYMBOLS, "dash": DASH}
templates.globals["macros"] = templates.get_template("macros.html").module


def render(name: str, **data: Any) -> nodes.raw:
    """A template filled with data, as it stands on the page."""
    return nodes.raw("", templates.get_template(f"{name}.html").render(data), format="html")


def block(tag: str, content: str, *classes: str) -> nodes.raw:
    """An element of its own on the page, of words in HTML."""
    return nodes.raw("", f'<{tag} class="{" ".join(classes)}">{content}</{tag}>', format="html")


def listing(items: Any) -> nodes.raw:
    return block("ul", "".join(f"<li>{item}</li>" for item in items))


def table(caption: str, name: str, *classes: str, **data: Any) -> nodes.table:
    """A numbered table whose head and body are a template."""
    return nodes.table("", nodes.title("", caption), render(name, **data), classes=["lps-table", *classes])
