"""The cells of a notebook: its parameters, plain assignments in the one tagged ``parameters``, and its code by tags, so
that what it tries and measures is at hand without a kernel."""

import ast
import json
import linecache
import shlex
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Any

from ..paths import NOTEBOOKS


def declared_parameters(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Names and defaults in the cell tagged ``parameters``: plain assignments of literals."""
    cells = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    defaults = {}
    for statement in ast.parse("".join(next(cells, {"source": ""})["source"])).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if isinstance(targets[0], ast.Name) and (value := getattr(statement, "value", None)):
            defaults[targets[0].id] = ast.literal_eval(value)
    return defaults


def check_parameters(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a parameter that notebook ``name`` does not declare, or a value of another type than declared."""
    for key, value in given.items():
        if key not in defaults:
            raise ValueError(f"notebook {name} has no parameter {key!r}; known: {', '.join(defaults) or 'none'}")
        expected = type(defaults[key])
        accepted = (int, float) if expected is float else expected
        wrong = not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool)
        if defaults[key] is not None and wrong:
            raise ValueError(
                f"parameter {key!r} of notebook {name} is of type {expected.__name__} "
                f"(default {defaults[key]!r}); given: {value!r}"
            )


def parse_overrides(name: str, defaults: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``["antialias=bin-5", "seed=3"]`` as values of the types that notebook ``name`` declares."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"a parameter is given as name=value; given: {override!r}")
        try:
            values[key] = _parsed(text, defaults.get(key))
        except (ValueError, KeyError, SyntaxError):
            values[key] = text
        check_parameters(name, defaults, {key: values[key]})
    return values


def _parsed(text: str, default: Any) -> Any:
    """``text`` as the type of ``default``; commas separate a list, and a default of None takes any literal."""
    if isinstance(default, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(default, list):
        return [_parsed(item, default[0] if default else None) for item in text.split(",") if item]
    return ast.literal_eval(text) if default is None else type(default)(text)


def words(text: str) -> list[str]:
    """``text`` at its spaces, but for those in quotes, as a shell splits it; nothing in it is run."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the parameters {text!r} cannot be told apart: {error}") from None


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
