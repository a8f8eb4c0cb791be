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
from typing import Any

import torch

from ..machine import PACKAGE
from ..sampling import Sampling

_LIBRARIES = (PACKAGE, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")))
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_NO_SOURCE = (
    "the source of {} cannot be had, and a run is known by it: give a function, a lambda or a class with a method, "
    "written in a file or in a cell of a notebook"
)


def source_of(sampling: Sampling) -> str:
    """A program that defines ``sampling``: every class, function and plain value of the reader's own that it uses.

    What an installed package defines is known by its name. Raises ``ValueError`` where a part has no source.
    """
    program = _Program()
    parts = [f"{name}={program.part(getattr(sampling, name), name)}" for name in ("select", "antialias")]
    last = (
        f"sampling = lps.Sampling({', '.join(parts)}, stride={sampling.stride}, select_from={sampling.select_from!r})"
    )
    return "\n\n".join([*program.texts, last]) + "\n"


class _Program:
    """Definitions, each after those that it uses."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.seen: set[Any] = set()

    def part(self, value: Any, name: str) -> str:
        """The expression of a part of a sampling, or of what a part is given."""
        if isinstance(value, partial):
            inner = f"an argument of {name}"
            given = [self.part(each, inner) for each in value.args]
            given += [f"{key}={self.part(each, inner)}" for key, each in value.keywords.items()]
            return f"partial({', '.join([self.part(value.func, name), *given])})"
        if _plain(value):
            return repr(value)
        if not isinstance(value, type | FunctionType):
            raise ValueError(_NO_SOURCE.format(f"{name}, of type {type(value).__name__},"))
        if value.__name__ == "<lambda>":
            return self.define(value, name)
        self.add(value, value.__name__)
        return value.__name__

    def add(self, value: Any, name: str) -> None:
        """Whatever the reader's source calls ``name``."""
        if isinstance(value, BuiltinFunctionType) or type(value).__module__ == "typing":
            return
        defined = isinstance(value, type | FunctionType | ModuleType)
        if not defined and not _plain(value):
            raise ValueError(_NO_SOURCE.format(f"{name}, of type {type(value).__name__},"))
        key = value if defined else name
        if key in self.seen or (defined and _installed(value)):
            return
        self.seen.add(key)
        if isinstance(value, ModuleType):
            self.texts.append(inspect.getsource(value).strip())
        elif not defined or value.__name__ == "<lambda>":
            self.texts.append(f"{name} = {self.define(value, name) if defined else repr(value)}")
        else:
            text = self.define(value, name)
            self.texts.append(text if value.__name__ == name else f"{text}\n{name} = {value.__name__}")

    def define(self, value: Any, name: str) -> str:
        """The text of a definition; what it looks up, in the closures and then the globals of its functions, goes
        before it."""
        text, code = _definition(value, name)
        known: dict[str, Any] = {}
        for function in _functions(value):
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            closed = {free: cell.cell_contents for free, cell in cells if free != "__class__"}
            known = function.__globals__ | known | closed
        steps = (step for each in _codes(code) for step in dis.get_instructions(each))
        for used in dict.fromkeys(step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")):
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


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a definition, and of those inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _places(code: CodeType) -> Any:
    """Where in its file a function stands, which tells it from the others there."""
    return code.co_firstlineno, {place for place in code.co_positions() if None not in place}


def _definition(value: Any, name: str) -> tuple[str, CodeType]:
    """The definition of a class or function in its file or cell: as text, and compiled."""
    kind: Any = ast.ClassDef if isinstance(value, type) else ast.FunctionDef | ast.Lambda
    for function in _functions(value):
        code = function.__code__
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        try:
            nodes = list(ast.walk(ast.parse(text)))
        except SyntaxError:
            continue
        for node in reversed(nodes):  # of lambdas that hold one another the innermost
            if isinstance(node, kind) and getattr(node, "name", "<lambda>") == value.__name__:
                compiled = _compiled(node, name)
                if any(_places(inner) == _places(code) for inner in _codes(compiled)):
                    return _text(text, node), compiled
    try:  # a class without a method, in a file
        text = dedent(inspect.getsource(value)).strip()
        return text, compile(text, name, "exec")
    except (OSError, TypeError, SyntaxError):
        raise ValueError(_NO_SOURCE.format(name)) from None


def _compiled(node: Any, name: str) -> CodeType:
    if isinstance(node, ast.Lambda):
        return compile(ast.Expression(node), name, "eval")
    return compile(ast.Module([node], []), name, "exec")


def _text(text: str, node: Any) -> str:
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment(text, node) or ""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return dedent("".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])).strip()
