"""Configuration of an experiment: frozen, complete, checked once here."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import inf
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from .. import sampling
from ..exact.convolution import Padding
from ..filters import AntiAlias
from ..metrics import PAPER_SHIFTS
from ..resnet import OutputStride, Stem
from ..sampling import Sampling, Source
from .schema import Range, Shape, conform, meant

Method = Literal[sampling.Method, "own"]
"""``own`` is a reader's: see :class:`Own`."""

_SELECTING = ("aps", "lps", "own")

Task = Literal["images", "photographs", "segmentation"]
"""Classify small images in memory, classify photographs, segment them."""

Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]


def shapes(section: type) -> dict[str, Shape]:
    """The shape of each setting of a section, as its annotation has it."""
    hints = get_type_hints(section, include_extras=True)
    return {f.name: hints[f.name] for f in fields(section)}


@dataclass(frozen=True)
class Section:
    """Settings that belong together: checked whenever some are made."""

    def __post_init__(self) -> None:
        where = next(SECTIONS[kinds.index(type(self))] for kinds in TABLES.values() if type(self) in kinds)
        for name, shape in shapes(type(self)).items():
            value = getattr(self, name)
            if type(value) is int and float in get_args(shape):
                object.__setattr__(self, name, value := float(value))
            conform(value, shape, f"{where}.{name}")


@dataclass(frozen=True)
class Data(Section):
    """Images to train and test on; ``train`` and ``test`` limit their number, ``None`` takes all."""

    name: str
    train: Count | None
    test: Count | None
    seed: Seed


@dataclass(frozen=True)
class Small(Data):
    """Small images of one size, all of them in memory."""

    name: Literal["drawn", "cifar10", "cifar10-parity"]


@dataclass(frozen=True)
class Photographs(Data):
    """Images of any size, read one by one; ``folder`` below the data root holds them in the layout ``name``.

    ``voc``, ``drawn-masks`` and ``drawn-objects`` have a label for each pixel. Images to train on are cut to ``crop``
    pixels a side: the middle of a shorter side of ``resize``, a random part of random area and shape, or a random part
    of the image scaled by 0.5 to 2, from a shorter side of ``base`` where that is given. Images to test on are the
    middle of a shorter side of ``resize``, classified through windows of ``crop`` pixels and segmented whole.
    """

    name: Literal["drawn", "drawn-masks", "drawn-objects", "imagenet", "voc"]
    folder: str
    augment: Literal["center", "random-resized", "random-scale"]
    resize: Count
    crop: Count
    base: Count | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize < self.crop:
            raise ValueError(f"windows of {self.crop} pixels do not fit images of {self.resize}")


@dataclass(frozen=True)
class Model(Section):
    """A network and its sampling method. The logit network of LPD has ``channels / hidden_divisor`` channels.

    ``choice`` says how LPD mixes components in training: by a Gumbel-softmax sample, by the softmax itself, or by the
    largest of logits with noise alone (``hard``).
    """

    method: Method
    antialias: AntiAlias
    depth: Count
    stem: Stem
    width: Count
    padding: Padding
    hidden_divisor: Count
    groups: Count
    select_from: Source
    choice: Literal["gumbel", "convex", "hard"] = "gumbel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "own":
            Sampling.named(self.method, self.antialias)


@dataclass(frozen=True, kw_only=True)
class Segmenter(Model):
    """DeepLabV3+ on the network. ``unpool`` brings maps back by LPU (LPS), otherwise bilinearly (LPD only).

    ``backbone`` is ``random``, the row of a classifier whose weights it starts from, made with the same profile, its
    settings and the same seed, or one run of a classifier, by its name: ``table2/lps/full-seed0-0123456789``.
    """

    output_stride: OutputStride
    unpool: bool
    head_padding: Padding
    head_channels: Count
    backbone: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unpool and self.method not in _SELECTING:
            raise ValueError(f"LPU puts back what a selection took: {self.method} makes none")


@dataclass(frozen=True)
class Train(Section):
    """The training recipe. ``batch_size`` counts the images of a step over all devices.

    ``schedule`` ``step`` multiplies the learning rate by ``decay`` every ``decay_every`` epochs; ``poly`` multiplies
    it by ``(1 - epoch / epochs) ** decay``; both rise linearly over ``warmup`` epochs. ``one-cycle`` raises it
    linearly over ``warmup`` epochs and lowers it linearly to zero. With ``lr_batch``, ``lr`` is meant for batches of
    that many images and grows in proportion with ``batch_size``.

    The temperature of LPD is ``tau_decay ** floor(epoch / tau_every)``, epochs counted in fractions, and at least
    ``tau_floor``. With ``tau_line``, as in ``10:0.5 60:0.15``, it is the line from 1 at epoch 0 through these points.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    momentum: Annotated[float, Range(0, 1)]
    weight_decay: NotNegative
    nesterov: bool
    schedule: Literal["step", "one-cycle", "poly"]
    decay: NotNegative
    decay_every: Positive
    warmup: NotNegative
    tau_decay: Positive
    tau_every: Positive
    flip: bool
    precision: Literal["32", "bf16-mixed"]
    lr_batch: Count | None
    tau_floor: NotNegative
    tau_line: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("train.nesterov is true and train.momentum 0; Nesterov's way takes a momentum above 0")
        self.tau_points()

    def tau_points(self) -> list[tuple[float, float]]:
        """The points of ``tau_line``."""
        pairs, where = [point.partition(":") for point in self.tau_line.split()], f"train.tau_line is {self.tau_line!r}"
        try:
            points = [(float(epoch), float(tau)) for epoch, _, tau in pairs]
        except ValueError:
            raise ValueError(f"{where}; expected epoch:tau, as in '10:0.5 60:0.15'") from None
        if not all(0 <= epoch < inf and 0 < tau < inf for epoch, tau in points):
            raise ValueError(f"{where}; its epochs are at least 0, and its temperatures above 0")
        if points != sorted(points):
            raise ValueError(f"{where}; its epochs must rise")
        return points


@dataclass(frozen=True)
class Finetune(Train):
    """The learning rate of a backbone is ``backbone_lr`` times that of the head."""

    backbone_lr: NotNegative


@dataclass(frozen=True)
class Protocol(Section):
    """``pairs`` random pairs of shifts of each test image, drawn from ``seed``."""

    batch_size: Count
    pairs: Count
    seed: Seed


@dataclass(frozen=True)
class Evaluate(Protocol):
    """All pairs of shifts of the first ``exhaustive`` test images, besides."""

    exhaustive: Natural


@dataclass(frozen=True)
class Engine(Section):
    """How the machine is used, which changes a result by no more than rounding.

    ``devices`` and ``nodes`` share a batch by Lightning's ``strategy``; ``sync_batchnorm`` shares its statistics, too.
    ``workers`` processes read photographs. ``channels_last`` concerns GPUs only.
    """

    devices: Count
    nodes: Count
    strategy: str
    sync_batchnorm: bool
    workers: Natural
    tf32: bool
    channels_last: bool
    compile: bool
    fused: bool

    @property
    def shared(self) -> bool:
        """Do several processes, one for each device, train together?"""
        return self.devices * self.nodes > 1


@dataclass(frozen=True)
class Own:
    """A reader's own sampling, in an experiment that is ``like`` a row in all else. Its ``source`` stands for it in ids
    and records; the one of a record that is read is ``None``."""

    like: str
    source: str
    sampling: Sampling | None = None

    def as_dict(self) -> dict[str, str]:
        return {"like": self.like, "source": self.source}


@dataclass(frozen=True)
class Experiment:
    """One row of a table under one profile; with a seed it is a run. ``changes`` are those made to it by
    :meth:`override`, which a command that repeats the run has to name."""

    name: str
    profile: str
    data: Data
    model: Model
    train: Train
    evaluate: Protocol
    engine: Engine
    own: Own | None = None
    changes: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if (self.model.method == "own") != (self.own is not None):
            raise ValueError(
                f"{self.name}: model.method is {self.model.method!r}; own is for a sampling of your own, handed to "
                "lps.experiments.train"
            )
        if not isinstance(self.data, Photographs):
            return
        sizes = {"resize": self.data.resize, "crop": self.data.crop}
        if self.task == "photographs" and sizes["resize"] < (needed := sizes["crop"] + PAPER_SHIFTS.high):
            raise ValueError(
                f"data.resize is {sizes['resize']}: windows of {sizes['crop']} pixels, shifted by up to "
                f"{PAPER_SHIFTS.high}, need images of at least {needed}"
            )
        stride = self.model.output_stride if isinstance(self.model, Segmenter) else 32  # a classifier's
        for name, size in sizes.items():
            if self.model.method in _SELECTING and size % stride:
                raise ValueError(f"data.{name} is {size}: a network that selects phases needs a multiple of {stride}")

    @property
    def task(self) -> Task:
        if isinstance(self.model, Segmenter):
            return "segmentation"
        return "photographs" if isinstance(self.data, Photographs) else "images"

    def override(self, settings: Mapping[str, str]) -> Self:
        """Change settings by dotted name, ``{"train.epochs": "5"}``; checked when all of them are made."""
        new: dict[str, dict[str, Any]] = {}
        known = self.setting_names()
        for name, text in settings.items():
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; {meant(name, known)}known: {', '.join(known)}")
            section, _, setting = name.partition(".")
            new.setdefault(section, {})[setting] = _read(text, shapes(type(getattr(self, section)))[setting])
        sections: dict[str, Any] = {name: replace(getattr(self, name), **values) for name, values in new.items()}
        return replace(self, **sections, changes={**self.changes, **settings})

    def setting_names(self) -> list[str]:
        """Dotted names of all settings."""
        return [f"{section}.{f.name}" for section in SECTIONS for f in fields(getattr(self, section))]

    def as_dict(self) -> dict[str, Any]:
        content = {"name": self.name, "profile": self.profile} | {s: asdict(getattr(self, s)) for s in SECTIONS}
        # the ids of the paper's rows are older than "own"
        return content | ({"own": self.own.as_dict()} if self.own else {})


SECTIONS = ("data", "model", "train", "evaluate", "engine")
_CLASSIFIER: tuple[type[Section], ...] = (Photographs, Model, Train, Protocol, Engine)
_SEGMENTER: tuple[type[Section], ...] = (Photographs, Segmenter, Finetune, Protocol, Engine)
TABLES: dict[str, tuple[type[Section], ...]] = {
    "table1": (Small, Model, Train, Evaluate, Engine),
    "table2": _CLASSIFIER,
    "table3": _CLASSIFIER,
    "table5": _SEGMENTER,
    "table6": _SEGMENTER,
}
"""The sections of settings of each table."""


def parse_changes(assignments: list[str]) -> dict[str, str]:
    """``["train.epochs=5"]`` to a dictionary for :meth:`Experiment.override`."""
    for text in assignments:
        if "=" not in text:
            raise ValueError(f"a setting is given as name=value, for example train.epochs=5; given: {text!r}")
    return dict(text.split("=", 1) for text in assignments)


def build(table: str, settings: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Sections of a table from plain values: those without a default given, none unknown."""
    classes, sections = dict(zip(SECTIONS, TABLES[table], strict=True)), {}
    for section, values in settings.items():
        if section not in classes:
            raise ValueError(f"{where}.{section} is no section of settings; known: {', '.join(classes)}")
        known = {f.name: f.default is MISSING for f in fields(classes[section])}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"{where}.{section}: unknown setting {', '.join(unknown)}; known: {', '.join(known)}")
        if missing := [name for name, needed in known.items() if needed and name not in values]:
            raise ValueError(f"{where}.{section}: missing setting {', '.join(missing)}")
        sections[section] = classes[section](**values)
    return sections


def _read(text: str, shape: Shape) -> Any:
    """A value written on the command line."""
    if shape is str or text in get_args(shape):
        return text
    try:
        return json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except json.JSONDecodeError:
        return text
