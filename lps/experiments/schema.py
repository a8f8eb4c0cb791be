"""The form of what comes in: settings and records are checked here, once, where they are read."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

Shape = Any
"""What a value has to be: a type, an annotation (``int | None``, ``Literal``, ``Annotated`` with rules), or one of

- a dictionary of shapes: an object with these names, but for those that end in ``?``, and perhaps others, which are of
  the shape ``*`` where there is one;
- a list: of one shape for any number of entries, of several for as many;
- a tuple: all of several shapes at once;
- a rule: a function of a value and its place that raises ``ValueError``.
"""

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "{...}", list: "[...]"}


@dataclass(frozen=True)
class Range:
    """The rule of finite numbers from ``low`` on, or above it, to ``high``."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __call__(self, value: float, where: str) -> None:
        if (value > self.low if self.above else value >= self.low) and value <= self.high and math.isfinite(value):
            return
        kind = "" if math.isfinite(value) else "a finite number, "
        most = f" and at most {self.high}" if self.high < math.inf else ""
        raise ValueError(f"{where} is {value}; expected {kind}{'above' if self.above else 'at least'} {self.low}{most}")


def conform(value: Any, shape: Any, where: str = "") -> None:
    """Raise ``ValueError``, with the place below ``where``, for a value of another shape."""
    if isinstance(shape, type):
        if type(value) is not shape and not (shape is float and type(value) is int):
            shown = repr(value) if isinstance(value, str | int | float | None) else f"of type {type(value).__name__}"
            raise ValueError(f"{where or 'the whole'} is {shown:.60}; expected {_WORDS[shape]}")
        return
    kind: Any = get_origin(shape)
    parts = get_args(shape)
    if kind is Annotated:
        conform(value, parts, where)
    elif kind in (Union, UnionType):  # of something and None
        if value is not None:
            conform(value, parts[0], where)
    elif kind is Literal:
        if value not in parts:
            raise ValueError(f"{where} is {value!r}; it must be one of {', '.join(map(str, parts))}")
    elif isinstance(shape, tuple):
        for part in shape:
            conform(value, part, where)
    elif isinstance(shape, dict):
        conform(value, dict, where)
        for key, inner in shape.items():
            for name in value if key == "*" else [key.removesuffix("?")]:
                there = f"{where}.{name}".removeprefix(".")
                if name in value:
                    conform(value[name], inner, there)
                elif name == key:
                    raise ValueError(f"{there} is missing")
    elif isinstance(shape, list):
        conform(value, list, where)
        if len(value) != len(shape) > 1:
            raise ValueError(f"{where} has {len(value)} entries; expected {len(shape)}")
        for place, inner in enumerate(value):
            conform(inner, shape[0], f"{where}[{place}]")
    else:
        shape(value, where)


def among(known: Callable[[], Collection[str]]) -> Shape:
    """A text that is one of those known."""

    def check(value: Any, where: str) -> None:
        conform(value, str, where)
        if value not in known():
            raise ValueError(f"{where} is {value!r}, which is not known here")

    return check


def moment(value: Any, where: str) -> None:
    """A time, as :func:`~lps.experiments.records.now` writes it."""
    conform(value, str, where)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{where} is {value!r}; expected a time as in 2026-01-31T12:00:00+00:00") from None


LARGEST = 2**53
"""Of the counts of a record: above it a float would be another number."""
COUNT = Annotated[int, Range(0, LARGEST)]
SOME = Annotated[int, Range(1, LARGEST)]
REAL = Annotated[float, Range()]
POSITIVE = Annotated[float, Range(0)]
PERCENT = Annotated[float, Range(0, 100)]


def meant(name: str, known: Collection[str]) -> str:
    """A question after a name that is not known, where others are near."""
    near = get_close_matches(name, known)
    return f"did you mean {' or '.join(near)}? " if near else ""


class _Strict(yaml.SafeLoader):
    """Plain values only, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Traversable) -> Any:
    """What is in a YAML file. Raises ``ValueError`` with the file and the line where it cannot be read."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{path}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
