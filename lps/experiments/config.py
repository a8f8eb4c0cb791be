"""Configuration of an experiment: frozen, complete, checked once here."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from ..convolution import Padding
from ..resnet import Stem
from ..sampling import Source

T = TypeVar("T")

Method = Literal["baseline", "lpf", "ddac", "aps", "lps"]
AntiAlias = Literal["none", "rect-2", "tri-3", "bin-5", "adapt-3"]


@dataclass(frozen=True)
class Data:
    """Images to train and test on; ``train`` and ``test`` limit their number, ``None`` takes all."""

    name: Literal["drawn", "cifar10"]
    train: int | None
    test: int | None
    seed: int


@dataclass(frozen=True)
class Model:
    """A network and its sampling method. The logit network of LPD has ``channels / hidden_divisor`` channels."""

    method: Method
    antialias: AntiAlias
    depth: int
    stem: Stem
    width: int
    padding: Padding
    hidden_divisor: int
    groups: int
    select_from: Source

    def __post_init__(self) -> None:
        if (self.method == "ddac") != (self.antialias == "adapt-3") and self.method in ("lpf", "ddac"):
            raise ValueError(f"{self.method.upper()} does not go with the filter {self.antialias}")
        if (self.antialias == "none") and self.method in ("lpf", "ddac"):
            raise ValueError(f"{self.method.upper()} is a filter: choose one of rect-2, tri-3, bin-5, adapt-3")
        if self.method == "baseline" and self.antialias != "none":
            raise ValueError("the baseline has no filter: with one it is called lpf or ddac")


@dataclass(frozen=True)
class Train:
    """The training recipe.

    ``schedule`` ``step`` multiplies the learning rate by ``decay`` every ``decay_every`` epochs; ``one-cycle``
    raises it linearly over ``warmup`` epochs and lowers it linearly to zero. The temperature of LPD is
    ``tau_decay ** floor(epoch / tau_every)``, epochs counted in fractions.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    schedule: Literal["step", "one-cycle"]
    decay: float
    decay_every: float
    warmup: float
    tau_decay: float
    tau_every: float
    flip: bool
    precision: Literal["32", "bf16-mixed"]


@dataclass(frozen=True)
class Evaluate:
    """``pairs`` random pairs of shifts of each test image, drawn from ``seed``; all pairs of ``exhaustive`` images."""

    batch_size: int
    pairs: int
    seed: int
    exhaustive: int


@dataclass(frozen=True)
class Experiment:
    """One row of a table under one profile; with a seed it is a run."""

    name: str
    profile: str
    data: Data
    model: Model
    train: Train
    evaluate: Evaluate

    def override(self, settings: Mapping[str, str]) -> Self:
        """Change settings by dotted name: ``{"train.epochs": "5"}``."""
        changed = self
        for name, text in settings.items():
            section, _, field = name.partition(".")
            part = getattr(changed, section, None) if section in _SECTIONS else None
            if part is None or field not in {f.name for f in fields(part)}:
                raise ValueError(f"unknown setting {name!r}; known: {', '.join(setting_names())}")
            value = _parse(text, get_type_hints(type(part))[field], name)
            changed = replace(changed, **{section: replace(part, **{field: value})})
        return changed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_SECTIONS: dict[str, type] = {"data": Data, "model": Model, "train": Train, "evaluate": Evaluate}


def setting_names() -> list[str]:
    """Dotted names of all settings."""
    return [f"{section}.{f.name}" for section, cls in _SECTIONS.items() for f in fields(cls)]


def parse_changes(assignments: list[str]) -> dict[str, str]:
    """``["train.epochs=5"]`` to a dictionary for :meth:`Experiment.override`."""
    for text in assignments:
        if "=" not in text:
            raise ValueError(f"{text!r} is not a setting: expected name=value, for example train.epochs=5")
    return dict(text.split("=", 1) for text in assignments)


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Dataclass ``cls`` from plain values: every field given, none unknown, each of its type."""
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(hints)}")
    if missing := [name for name in hints if name not in values]:
        raise ValueError(f"{where}: missing setting {', '.join(missing)}")
    parts = {}
    for name, hint in hints.items():
        value = values[name]
        if is_dataclass(hint):
            parts[name] = build(hint, value, f"{where}.{name}")  # type: ignore[arg-type]
        else:
            parts[name] = _check(value, hint, f"{where}.{name}")
    return cls(**parts)


def _check(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where} is {value!r}; it must be one of {', '.join(map(str, get_args(hint)))}")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) not in (get_args(hint) or (hint,)):
        raise ValueError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value


def _parse(text: str, hint: Any, where: str) -> Any:
    """A value written on the command line, read as the type of its setting."""
    if get_origin(hint) is Literal or hint is str:
        return _check(text, hint, where)
    try:
        value = json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except json.JSONDecodeError:
        value = text
    return _check(value, hint, where)
