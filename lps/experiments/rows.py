"""Every row of every table as a named experiment: a method, a filter, and what sets it apart from its table.

A table's settings are in the profile ``full``, with the paper's values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from re import fullmatch
from typing import Any

from .config import AntiAlias, Method


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


def _row(
    table: str,
    method: Method,
    antialias: AntiAlias = "none",
    shown: str = "",
    prefix: str = "",
    suffix: str = "",
    base: str = "",
    **settings: Any,
) -> Row:
    """A row named after its method and filter; ``__`` stands for the dot in the name of a setting."""
    word = {"DeepLabV3+": "deeplabv3plus", "LPD only": "lpd"}.get(shown, method)
    name = f"{table}/{prefix}{word}{'' if antialias == 'none' else '-' + antialias}{suffix}"
    changes = tuple((key.replace("__", "."), value) for key, value in settings.items())
    return Row(name, method, antialias, shown or SHOWN[method], base or table, changes)


TABLE1 = (
    _row("table1", "baseline"),
    _row("table1", "aps"),
    _row("table1", "lps"),
    *(
        _row("table1", method, antialias)
        for antialias in ("rect-2", "tri-3", "bin-5")
        for method in ("lpf", "aps", "lps")
    ),
    *(_row("table1", method, "adapt-3") for method in ("ddac", "aps", "lps")),
)
"""ResNet-18 on CIFAR-10, circular shifts."""

TABLE2 = (
    _row("table2", "baseline"),
    _row("table2", "aps"),
    _row("table2", "lps"),
    *(_row("table2", method, "rect-2") for method in ("lpf", "aps", "lps")),
    *(_row("table2", method, "adapt-3") for method in ("ddac", "aps", "lps")),
)
"""ResNet-18 on ImageNet, circular shifts."""

_R50: dict[str, Any] = {"prefix": "resnet50-", "model__depth": 50}
_R101: dict[str, Any] = {"prefix": "resnet101-", "model__depth": 101}

TABLE3 = (
    _row("table3", "baseline", **_R50),
    _row("table3", "lpf", "tri-3", **_R50),
    _row("table3", "lps", "tri-3", **_R50),
    _row("table3", "baseline", **_R101),
    _row("table3", "lpf", "tri-3", **_R101),
    _row("table3", "lps", "tri-3", **_R101),
    # DDAC's own recipe; the starred row is DDAC in the recipe of the others
    _row("table3", "ddac", "adapt-3", **_R101, train__warmup=15.0),
    _row("table3", "ddac", "adapt-3", "DDAC*", suffix="-retrained", **_R101),
    _row("table3", "lps", "adapt-3", **_R101),
)
"""ResNet-50 and ResNet-101 on ImageNet, standard shifts."""


def _segmenter(
    table: str, method: Method, antialias: AntiAlias, backbone: str, shown: str = "", suffix: str = "", **settings: Any
) -> Row:
    return _row(table, method, antialias, shown, suffix=suffix, model__backbone=backbone, **settings)


_BILINEAR: dict[str, Any] = {"model__unpool": False, "model__head_padding": "zeros"}

TABLE5 = (
    _segmenter("table5", "baseline", "none", "table2/baseline", "DeepLabV3+", **_BILINEAR),
    _segmenter("table5", "lpf", "rect-2", "table2/lpf-rect-2", **_BILINEAR),
    _segmenter("table5", "ddac", "adapt-3", "table2/ddac-adapt-3", **_BILINEAR),
    _segmenter("table5", "aps", "adapt-3", "table2/aps-adapt-3", **_BILINEAR),
    _segmenter("table5", "lps", "adapt-3", "table2/lps-adapt-3", "LPD only", **_BILINEAR),
    _segmenter("table5", "lps", "adapt-3", "table2/lps-adapt-3"),
)
"""DeepLabV3+ with ResNet-18 on PASCAL VOC, circular shifts."""

_DILATED: dict[str, Any] = {"model__unpool": False, "model__output_stride": 16}

TABLE6 = (
    _segmenter("table6", "baseline", "none", "table3/resnet101-baseline", "DeepLabV3+", **_DILATED),
    _segmenter("table6", "lpf", "tri-3", "table3/resnet101-lpf-tri-3", **_DILATED),
    _segmenter("table6", "ddac", "adapt-3", "table3/resnet101-ddac-adapt-3", **_DILATED),
    _segmenter(
        "table6", "ddac", "adapt-3", "table3/resnet101-ddac-adapt-3-retrained", "DDAC*", "-retrained", **_DILATED
    ),
    _segmenter("table6", "lps", "adapt-3", "table3/resnet101-lps-adapt-3"),
)
"""DeepLabV3+ with ResNet-101 on PASCAL VOC, standard shifts."""

_CHOICES: dict[str, dict[str, Any]] = {
    "unfiltered": {"model__select_from": "unfiltered"},
    "convex": {"model__choice": "convex"},
    "wide-logits": {"model__hidden_divisor": 1},
    "tau-constant": {"train__tau_decay": 1.0},
    "tau-half": {"train__tau_floor": 0.5},
}

ABLATIONS = tuple(
    _row("table1-ablations", "lps", "tri-3", suffix=f"-{name}", base="table1", **settings)
    for name, settings in _CHOICES.items()
)
"""LPS with Tri-3 of Table 1, one choice of it changed at a time."""

ROWS = (*TABLE1, *TABLE2, *TABLE3, *TABLE5, *TABLE6, *ABLATIONS)
"""In the order of the tables."""

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
            raise ValueError(f"no experiment matches {pattern!r}; known: {', '.join(known)}")
    return [name for name in known if any(fnmatch(name, pattern) for pattern in patterns)]


def matching(patterns: Iterable[str]) -> tuple[Row, ...]:
    """Rows whose names match any of the patterns, in the order of the tables."""
    names = named(patterns, [row.name for row in ROWS])
    return tuple(row for row in ROWS if row.name in names)


def own_name(name: str, where: str = "the name of a row of your own") -> None:
    """Raise ``ValueError`` for a name under which a reader's own row would not stand apart from the paper's."""
    if not isinstance(name, str) or not fullmatch(r"mine/[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"{where} is {name!r}; expected mine/ and a word, as in mine/min-norm")
