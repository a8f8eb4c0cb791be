"""Table 1: ResNet-18 on CIFAR-10, circular shifts. A row is a method and a filter."""

from dataclasses import dataclass
from fnmatch import fnmatch

from .config import AntiAlias, Method


@dataclass(frozen=True)
class Row:
    """One row; ``label`` is the paper's spelling."""

    method: Method
    antialias: AntiAlias

    @property
    def name(self) -> str:
        return f"table1/{self.method}" + ("" if self.antialias == "none" else f"-{self.antialias}")

    @property
    def labels(self) -> tuple[str, str]:
        """Method and filter as the paper writes them."""
        method = "Baseline" if self.method == "baseline" else self.method.upper()
        return method, "-" if self.antialias == "none" else self.antialias.capitalize()


ROWS = (
    Row("baseline", "none"),
    Row("aps", "none"),
    Row("lps", "none"),
    Row("lpf", "rect-2"),
    Row("aps", "rect-2"),
    Row("lps", "rect-2"),
    Row("lpf", "tri-3"),
    Row("aps", "tri-3"),
    Row("lps", "tri-3"),
    Row("lpf", "bin-5"),
    Row("aps", "bin-5"),
    Row("lps", "bin-5"),
    Row("ddac", "adapt-3"),
    Row("aps", "adapt-3"),
    Row("lps", "adapt-3"),
)
"""In the order of the table."""

_FIRST = ("baseline", "lps", "aps", "lpf-tri-3", "lps-tri-3", "aps-tri-3")


def by_value(rows: tuple[Row, ...] = ROWS) -> list[Row]:
    """Most informative rows first: one of each method, then the filters."""
    rank = {f"table1/{name}": i for i, name in enumerate(_FIRST)}
    return sorted(rows, key=lambda row: rank.get(row.name, len(rank)))


def matching(patterns: list[str]) -> tuple[Row, ...]:
    """Rows whose names match any of the patterns (``table1/*``, ``table1/lps-*``), in the order of the table."""
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in ROWS):
            raise ValueError(f"no experiment matches {pattern!r}; known: {', '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if any(fnmatch(row.name, pattern) for pattern in patterns))
