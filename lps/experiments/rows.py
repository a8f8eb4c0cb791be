"""Every row of every table as a named experiment: a method, a filter, and what sets it apart from its table.

They are listed in the profile ``full``, below the settings of their tables with the paper's values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from re import compile, fullmatch
from typing import Any, cast

from .config import AntiAlias, Method
from .schema import meant, read_yaml


@dataclass(frozen=True)
class Row:
    """One row: ``name`` is ``table1/lps-tri-3``, ``shown`` the paper's name of the method.

    ``settings`` are dotted names and values on top of those of ``table``.
    """

    name: str
    method: Method
    antialias: AntiAlias
    shown: str
    table: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def labels(self) -> tuple[str, str]:
        """Method and filter as the paper writes them."""
        return self.shown, "-" if self.antialias == "none" else self.antialias.capitalize()


SHOWN: dict[Method, str] = {"baseline": "Baseline", "lpf": "LPF", "ddac": "DDAC", "aps": "APS", "lps": "LPS"}


_WORDS: dict[str, tuple[Method, str]] = {
    **{method: (method, shown) for method, shown in SHOWN.items()},
    "deeplabv3plus": ("baseline", "DeepLabV3+"),
    "lpd": ("lps", "LPD only"),
}
_NAME = compile(
    r"(?P<table>table\d)(-ablations)?/(resnet\d+-)?(?P<method>[a-z\d]+)(-(?P<filter>rect-2|tri-3|bin-5|adapt-3))?(-.*)?"
)


def _row(name: str, settings: Mapping[str, Any] | None) -> Row:
    """A row by its name, which holds its table, method and filter."""
    found = _NAME.fullmatch(name)
    assert found is not None
    method, usual = _WORDS[found["method"]]
    apart = dict(settings or {})
    shown, antialias = apart.pop("shown", usual), cast(AntiAlias, found["filter"] or "none")
    return Row(name, method, antialias, shown, found["table"], tuple(apart.items()))


ROWS = tuple(_row(*entry) for entry in read_yaml(files("lps") / "profiles" / "full.yml")["rows"].items())
"""In the order of the tables."""

BY_NAME = {row.name: row for row in ROWS}
TABLE1 = tuple(row for row in ROWS if row.name.startswith("table1/"))
_FIRST = ("baseline", "lps", "aps", "lpf-tri-3", "lps-tri-3", "aps-tri-3")


def by_value(rows: Iterable[Row] = TABLE1) -> list[Row]:
    """Most informative rows first: one of each method, then the filters, then the other tables."""
    rank = {f"table1/{name}": i for i, name in enumerate(_FIRST)}
    return sorted(rows, key=lambda row: rank.get(row.name, len(rank)))


def named(patterns: Iterable[str], known: Sequence[str]) -> list[str]:
    """Those of the known names that match any of the patterns (``table1/*``, ``table1/lps-*``), in their order."""
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            own = "rows of your own are trained by lps.experiments.train; " if pattern.startswith("mine/") else ""
            near = meant(pattern, known)
            raise ValueError(f"no experiment matches {pattern!r}; {near}{own}`python -m lps list` names all")
    return [name for name in known if any(fnmatch(name, pattern) for pattern in patterns)]


def matching(patterns: Iterable[str]) -> tuple[Row, ...]:
    """Rows whose names match any of the patterns, in the order of the tables."""
    return tuple(BY_NAME[name] for name in named(patterns, [*BY_NAME]))


def own_name(name: str, where: str = "the name of a row of your own") -> None:
    """Raise ``ValueError`` for a name under which a reader's own row would not stand apart from the paper's."""
    if not isinstance(name, str) or not fullmatch(r"mine/[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"{where} is {name!r}; expected mine/ and a word, as in mine/min-norm")
