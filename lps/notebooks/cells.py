"""The code cells of the notebooks, executed by their tags: what they try and measure is at hand without a kernel."""

import json
import linecache
from collections.abc import Mapping
from types import CodeType
from typing import Any

from ..paths import NOTEBOOKS
from .parameters import declared_parameters


def read(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def run(name: str, notebook: Mapping[str, Any], values: dict[str, Any], tag: str = "") -> None:
    """Execute the code cells of a notebook, or those with a tag; their names come into ``values``."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (not tag or tag in cell["metadata"].get("tags", [])):
            exec(compiled("".join(cell["source"]), f"{name}.ipynb, cell {cell['id']}"), values)


def left_by(name: str, tag: str) -> dict[str, Any]:
    """The names that the cells with a tag leave behind, at the notebook's own parameters."""
    notebook = read(name)
    values = declared_parameters(notebook)
    run(name, notebook, values, tag)
    return values


def compiled(source: str, name: str) -> CodeType:
    """Code whose lines a traceback shows, and whose assertions ``python -O`` leaves in."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return compile(source, name, "exec", optimize=0)
