"""Every row of every table as a named experiment: a method, a filter, and what sets it apart from its table.

A table's settings are in the profile ``full``, with the paper's values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from re import compile, fullmatch
from typing import Any, cast

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


_WORDS: dict[str, tuple[Method, str]] = {
    **{method: (method, shown) for method, shown in SHOWN.items()},
    "deeplabv3plus": ("baseline", "DeepLabV3+"),
    "lpd": ("lps", "LPD only"),
}
_NAME = compile(
    r"(?P<table>table\d)(-ablations)?/(resnet\d+-)?(?P<method>[a-z\d]+)(-(?P<filter>rect-2|tri-3|bin-5|adapt-3))?(-.*)?"
)


def _row(name: str, settings: Mapping[str, Any], shown: str = "") -> Row:
    """A row by its name, which holds its table, method and filter."""
    found = _NAME.fullmatch(name)
    assert found is not None
    method, usual = _WORDS[found["method"]]
    antialias = cast(AntiAlias, found["filter"] or "none")
    return Row(name, method, antialias, shown or usual, found["table"], tuple(settings.items()))


TABLE1 = tuple(
    _row(f"table1/{name}", {})
    for name in (
        *("baseline", "aps", "lps"),
        *("lpf-rect-2", "aps-rect-2", "lps-rect-2"),
        *("lpf-tri-3", "aps-tri-3", "lps-tri-3"),
        *("lpf-bin-5", "aps-bin-5", "lps-bin-5"),
        *("ddac-adapt-3", "aps-adapt-3", "lps-adapt-3"),
    )
)
"""ResNet-18 on CIFAR-10, circular shifts."""

TABLE2 = tuple(
    _row(row.name.replace("table1", "table2"), {}) for row in TABLE1 if row.antialias not in ("tri-3", "bin-5")
)
"""ResNet-18 on ImageNet, circular shifts."""

_R101 = {"model.depth": 101}

TABLE3 = (
    *(_row(f"table3/resnet50-{name}", {"model.depth": 50}) for name in ("baseline", "lpf-tri-3", "lps-tri-3")),
    *(_row(f"table3/resnet101-{name}", _R101) for name in ("baseline", "lpf-tri-3", "lps-tri-3")),
    # DDAC's own recipe; the starred row is DDAC in the recipe of the others
    _row("table3/resnet101-ddac-adapt-3", _R101 | {"train.warmup": 15.0}),
    _row("table3/resnet101-ddac-adapt-3-retrained", _R101, "DDAC*"),
    _row("table3/resnet101-lps-adapt-3", _R101),
)
"""ResNet-50 and ResNet-101 on ImageNet, standard shifts."""

_BILINEAR = {"model.unpool": False, "model.head_padding": "zeros"}

TABLE5 = (
    _row("table5/deeplabv3plus", {"model.backbone": "table2/baseline"} | _BILINEAR),
    _row("table5/lpf-rect-2", {"model.backbone": "table2/lpf-rect-2"} | _BILINEAR),
    _row("table5/ddac-adapt-3", {"model.backbone": "table2/ddac-adapt-3"} | _BILINEAR),
    _row("table5/aps-adapt-3", {"model.backbone": "table2/aps-adapt-3"} | _BILINEAR),
    _row("table5/lpd-adapt-3", {"model.backbone": "table2/lps-adapt-3"} | _BILINEAR),
    _row("table5/lps-adapt-3", {"model.backbone": "table2/lps-adapt-3"}),
)
"""DeepLabV3+ with ResNet-18 on PASCAL VOC, circular shifts."""

_DILATED = {"model.unpool": False, "model.output_stride": 16}
_RETRAINED = "ddac-adapt-3-retrained"

TABLE6 = (
    _row("table6/deeplabv3plus", {"model.backbone": "table3/resnet101-baseline"} | _DILATED),
    _row("table6/lpf-tri-3", {"model.backbone": "table3/resnet101-lpf-tri-3"} | _DILATED),
    _row("table6/ddac-adapt-3", {"model.backbone": "table3/resnet101-ddac-adapt-3"} | _DILATED),
    _row(f"table6/{_RETRAINED}", {"model.backbone": f"table3/resnet101-{_RETRAINED}"} | _DILATED, "DDAC*"),
    _row("table6/lps-adapt-3", {"model.backbone": "table3/resnet101-lps-adapt-3"}),
)
"""DeepLabV3+ with ResNet-101 on PASCAL VOC, standard shifts."""

ABLATIONS = (
    _row("table1-ablations/lps-tri-3-unfiltered", {"model.select_from": "unfiltered"}),
    _row("table1-ablations/lps-tri-3-convex", {"model.choice": "convex"}),
    _row("table1-ablations/lps-tri-3-wide-logits", {"model.hidden_divisor": 1}),
    _row("table1-ablations/lps-tri-3-tau-constant", {"train.tau_decay": 1.0}),
    _row("table1-ablations/lps-tri-3-tau-half", {"train.tau_floor": 0.5}),
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
