"""The source of a reader's own sampling: the text that stands for it in a record and in the id of its runs."""

import ast
import dis
import inspect
import linecache
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Literal

import torch

from ..machine import PACKAGE
from ..sampling import Sampling

_LIBRARIES = (PACKAGE, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")))
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_NO_SOURCE = (
    "the source of {} cannot be had, and a run is known by it: give a function, a lambda or a class with a method, "
    "written in a file or in a cell of a notebook"
)

Place = tuple[int, int]


def source_of(sampling: Sampling) -> str:
    """A program that defines ``sampling``: every class, function and plain value of the reader's own that it uses.

    What an installed package defines is known by its name. Raises ``ValueError`` where a part has no source.
    """
    program = _Program()
    parts = [f"{name}={program.factory(getattr(sampling, name), name)}" for name in ("select", "antialias")]
    last = (
        f"sampling = lps.Sampling({', '.join(parts)}, stride={sampling.stride}, select_from={sampling.select_from!r})"
    )
    return "\n\n".join([*program.parts, last]) + "\n"


class _Program:
    """Definitions, each after those that it uses."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.seen: set[Any] = set()

    def factory(self, value: Any, name: str) -> str:
        """The expression of a part of a sampling."""
        if value is None:
            return "None"
        if isinstance(value, partial):
            given = [self.argument(each, name) for each in value.args]
            words = [*given, *(f"{key}={self.argument(each, name)}" for key, each in value.keywords.items())]
            return f"partial({', '.join([self.factory(value.func, name), *words])})"
        if isinstance(value, FunctionType) and value.__name__ == "<lambda>":
            return self.define(value, name)
        if not isinstance(value, type | FunctionType):
            raise ValueError(_NO_SOURCE.format(f"{name}, of type {type(value).__name__},"))
        self.add(value, value.__name__)
        return value.__name__

    def argument(self, value: Any, name: str) -> str:
        """The expression of what a part is given."""
        if isinstance(value, type | FunctionType):
            return self.factory(value, name)
        if not _plain(value):
            raise ValueError(_NO_SOURCE.format(f"an argument of {name}"))
        return repr(value)

    def add(self, value: Any, name: str) -> None:
        """Whatever the reader's source calls ``name``."""
        if isinstance(value, type | FunctionType | ModuleType):
            if value in self.seen or _installed(value):
                return
            self.seen.add(value)
            if isinstance(value, ModuleType):
                self.parts.append(inspect.getsource(value).strip())
                return
            text = self.define(value, name)
            self.parts.append(text if value.__name__ == name else f"{text}\n{name} = {value.__name__}")
            if value.__name__ == "<lambda>":
                self.parts[-1] = f"{name} = {text}"
        elif _plain(value):
            if name not in self.seen:
                self.seen.add(name)
                self.parts.append(f"{name} = {value!r}")
        elif not isinstance(value, BuiltinFunctionType) and type(value).__module__ != "typing":
            raise ValueError(_NO_SOURCE.format(f"{name}, of type {type(value).__name__},"))

    def define(self, value: Any, name: str) -> str:
        """The text of a definition; what it looks up, in the closures and then the globals of its functions, goes
        before it."""
        node, text = _definition(value, name)
        known: dict[str, Any] = {}
        for function in _functions(value):
            known = function.__globals__ | known
        for function in _functions(value):
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            known |= {free: cell.cell_contents for free, cell in cells if free != "__class__"}
        mode: Literal["eval", "exec"] = "eval" if isinstance(node, ast.expr) else "exec"
        whole: Any = ast.Expression(node) if isinstance(node, ast.expr) else ast.Module([node], [])
        for used in dict.fromkeys(_looked_up(compile(whole, name, mode))):
            if used in known and not used.startswith("__"):
                self.add(known[used], used)
        return text


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_plain, [*value.keys(), *value.values()]))
    return all(map(_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _functions(value: Any) -> list[FunctionType]:
    """The functions of a class, or the function itself."""
    members = [value] if isinstance(value, FunctionType) else vars(value).values()
    inner = (getattr(member, "__func__", getattr(member, "fget", member)) for member in members)
    return [member for member in inner if isinstance(member, FunctionType)]


def _installed(value: Any) -> bool:
    """Is it defined by Python, by this library or by another package?"""
    module = value if isinstance(value, ModuleType) else inspect.getmodule(value)
    functions = [] if isinstance(value, ModuleType) else _functions(value)
    files = [getattr(module, "__file__", None), *(function.__code__.co_filename for function in functions)]
    places = [Path(file).resolve() for file in files if file]
    if not places:
        return getattr(module, "__name__", None) != "__main__"
    return any(place.is_relative_to(folder) for place in places for folder in _LIBRARIES)


def _looked_up(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _looked_up(inner)


def _definition(value: Any, name: str) -> tuple[Any, str]:
    """The definition of a class or function in its file or cell: parsed, and as text."""
    for function in _functions(value):
        code = function.__code__
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        try:
            nodes = [node for node in ast.walk(ast.parse(text)) if _defines(node, value, code)]
        except SyntaxError:
            continue
        if nodes:
            node = max(nodes, key=_span)  # of lambdas that hold one another the innermost
            return node, _text(text, node)
    try:  # a class without a method, in a file
        text = dedent(inspect.getsource(value)).strip()
        return ast.parse(text).body[0], text
    except (OSError, TypeError, SyntaxError):
        raise ValueError(_NO_SOURCE.format(name)) from None


def _defines(node: ast.AST, value: Any, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        (start, end), (first, last) = _span(node.body), _extent(code)
        return code.co_name == "<lambda>" and start <= first and last <= end
    if isinstance(value, type):
        inner = node.body if isinstance(node, ast.ClassDef) and node.name == value.__name__ else []
        return any(isinstance(each, ast.FunctionDef) and _first_line(each) == code.co_firstlineno for each in inner)
    return isinstance(node, ast.FunctionDef) and node.name == code.co_name and _first_line(node) == code.co_firstlineno


def _first_line(node: Any) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _text(text: str, node: Any) -> str:
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment(text, node) or ""
    return dedent("".join(text.splitlines(keepends=True)[_first_line(node) - 1 : node.end_lineno])).strip()


def _span(node: Any) -> tuple[Place, Place]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _extent(code: CodeType) -> tuple[Place, Place]:
    """Where the body of a lambda begins and ends."""
    known = [((a, c), (b, d)) for a, b, c, d in code.co_positions() if None not in (a, b, c, d)]
    places = [(start, end) for start, end in known if start != end] or known
    return min(start for start, _ in places), max(end for _, end in places)  # type: ignore[return-value]
