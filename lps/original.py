"""The original release: the names of its parameters, and its checkpoints as networks of this library.

A checkpoint of the original is a pickle that names classes of its code. None of that code is needed or run: each class
becomes an inert stand-in, and a name that the format does not call for refuses the file.
"""

import pickletools
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .exact.convolution import Padding
from .filters import AdaptiveLowPass, LowPass
from .paths import require_intact
from .resnet import DEPTHS, BasicBlock, Bottleneck, ResNet, Stem
from .sampling import Sampling, Source
from .selection import LearnedPhase, MaxNorm

Method = Literal["Decimation", "APS", "LPS"]
Kind = Literal["LPF", "DDAC"]
_Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

_RESNET: _Rules = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^maxpool\.[02]\.", "stem.samplers.0."),  # 2 where conv1 keeps its stride: the stem's only sampling layer
    (r"^maxpool\.3\.", "stem.samplers.1."),
    (r"^fc\.", "head."),
    (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"\.downsample\.0\.", ".shortcut.downsample."),
    (r"\.downsample\.1\.", ".shortcut.conv."),
    (r"\.downsample\.2\.", ".shortcut.norm."),
    (r"\.0\.conv[23]\.0\.", ".0.downsample."),
    (r"\.0\.conv([23])\.1\.", r".0.conv\1."),
    (r"\.bn([123])\.", r".norm\1."),
)
_SEGMENTATION: _Rules = (
    (r"^classifier\.aspp\.convs\.4\.([12])\.", lambda m: f"aspp.image.{int(m[1]) - 1}."),
    (r"^classifier\.aspp\.convs\.", "aspp.branches."),
    (r"^classifier\.classifier\.", "decoder."),
    (r"^classifier\.unpool\.", "features_up."),
    (r"^classifier\.", ""),
    (r"^unpool\.", "logits_up."),
)
_SAMPLING: _Rules = (
    (r"\.component_selection\.get_logits\.", ".select."),
    (r"\.component_selection\.gumbel_tau$", ".select.tau"),
    (r"\._antialias_layer\.filt$", ".antialias.kernel"),
    (r"\._antialias_layer\.bn\.", ".antialias.norm."),
    (r"\._antialias_layer\.", ".antialias."),
)
_UNREAD = re.compile(r"(shortcut\.downsample|_up\.\d)\.select\.tau$")
"""Temperatures of layers that follow the choice of another."""


def names(keys: Collection[str]) -> dict[str, str]:
    """Name in this library of each key of an original state_dict; temperatures that nothing reads are left out.

    Keys under ``core.`` belong to a :class:`~lps.resnet.ResNet`, those under ``model.`` to a
    :class:`~lps.deeplab.DeepLabV3Plus`. What no rule knows keeps its name.
    """
    unsampled = {key.removesuffix("0.weight") for key in keys if key.endswith(".downsample.0.weight")}

    def rename(key: str) -> str:
        # a shortcut without a sampling layer counts its parts from one less
        name = re.sub(r"(.*\.downsample\.)(\d)", lambda m: f"{m[1]}{int(m[2]) + (m[1] in unsampled)}", key)
        prefix = next((p for p in ("core.", "model.backbone.", "model.") if name.startswith(p)), "")
        name = name.removeprefix(prefix)
        for pattern, replacement in (*(_SEGMENTATION if prefix == "model." else _RESNET), *_SAMPLING):
            name = re.sub(pattern, replacement, name)
        return f"backbone.{name}" if prefix == "model.backbone." else name

    renamed = {key: rename(key) for key in keys}
    return {key: name for key, name in renamed.items() if not _UNREAD.search(name)}


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state``, the state_dict of an original network, into ``network``, which must be of the same make.

    Binomial filters are constants here, so they are compared. Raises ``ValueError`` with the keys that have no place,
    another shape or other filter taps, and the parameters that get no value; ``network`` is then unchanged.
    """
    left = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    targets = {key: left.pop(name, None) for key, name in names(state.keys()).items()}
    pairs = {key: (state[key], target) for key, target in targets.items() if target is not None}
    misshapen = {key for key, (value, target) in pairs.items() if value.shape != target.shape}
    fixed = {key for key in pairs.keys() - misshapen if key.endswith("._antialias_layer.filt")}
    problems = {
        "no place for": targets.keys() - pairs.keys(),
        "no value for": left.keys(),
        "another shape of": misshapen,
        "other filter taps in": {
            key for key in fixed if not torch.equal(pairs[key][0].to(pairs[key][1]), pairs[key][1])
        },
    }
    if any(problems.values()):
        found = "; ".join(f"{problem} {_listed(keys)}" for problem, keys in problems.items() if keys)
        raise ValueError(f"the parameters do not fit this network: {found}")
    with torch.no_grad():
        for key in pairs.keys() - fixed:
            value, target = pairs[key]
            target.copy_(value)


def _listed(found: Collection[object]) -> str:
    first = sorted(map(str, found))[:4]
    return ", ".join(first) + (f" and {len(found) - len(first)} more" if len(found) > len(first) else "")


@dataclass(frozen=True)
class Filter:
    """The anti-alias filter of every sampling layer but the first of the stem."""

    kind: Kind
    size: int
    padding: Padding
    groups: int = 1

    @property
    def name(self) -> str:
        """As the paper's tables have it: Rect-2, Tri-3, Bin-5 or Adapt-3."""
        return f"{'Adapt' if self.kind == 'DDAC' else {2: 'Rect', 3: 'Tri'}.get(self.size, 'Bin')}-{self.size}"

    def layer(self, channels: int) -> nn.Module:
        """The filter for a map of ``channels``."""
        if self.kind == "LPF":
            return LowPass(channels, self.size, self.padding)
        return AdaptiveLowPass(channels, self.size, self.groups, self.padding)


@dataclass(frozen=True)
class Logits:
    """The logit networks of LPS: hidden channels by the channels of the layer, and their border."""

    hidden: Mapping[int, int]
    padding: Padding


@dataclass(frozen=True)
class Layers:
    """The sampling layers of a network."""

    method: Method
    antialias: Filter | None
    select_from: Source = "filtered"
    logits: Logits | None = None

    def sampling(self) -> Sampling:
        """The same as this library's networks take it."""
        logits, antialias = self.logits, self.antialias

        def select(channels: int) -> nn.Module:
            if logits is None:
                return MaxNorm()
            return LearnedPhase(channels, logits.hidden[channels], padding=logits.padding)

        chooses = self.method != "Decimation"
        filters = antialias.layer if antialias else None
        return Sampling(select if chooses else None, filters, select_from=self.select_from)


@dataclass(frozen=True)
class Named:
    """A class of the training, by its name, and the arguments it was given."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """How a network was trained.

    ``temperature`` is the schedule of ``tau``; with ``convex`` the mixture of Eq. (17) took the plain softmax instead
    of a Gumbel sample. ``epoch`` counts from 0.
    """

    optimizer: Named | None
    learning_rate: float
    scheduler: Named | None
    warmup_epochs: int
    temperature: Named | None
    convex: bool
    epoch: int


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of its network, and of the training behind it.

    ``layers`` is ``None`` for the strided baseline.
    """

    depth: int
    classes: int
    stem: Stem
    padding: Padding
    pool_padding: Padding
    layers: Layers | None
    training: Training | None = None


def build(settings: Settings) -> ResNet:
    """The network that ``settings`` describe, with fresh parameters."""
    return ResNet(
        settings.depth,
        classes=settings.classes,
        sampling=settings.layers.sampling() if settings.layers else None,
        stem=settings.stem,
        padding=settings.padding,
        pool_padding=settings.pool_padding,
    )


def load_checkpoint(path: Path) -> tuple[ResNet, Settings]:
    """A checkpoint of the original's classifiers as a network of this library, in evaluation mode, and its settings.

    Nothing in the file is executed. Raises ``FileNotFoundError``, and ``ValueError`` for a file that is no such
    checkpoint, names what the format does not call for, or does not fit the network that it describes.
    """
    checkpoint = _read(path)
    settings = _settings(checkpoint)
    network = build(settings)
    fill(network, checkpoint["state_dict"])
    return network.eval(), settings


_TENSORS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool")),
}
_INERT = re.compile(
    r"functools\.partial|(layers|models\.paramscheduler|torch\.optim|pytorch_lightning\.callbacks)(\.\w+)+"
)


class _Partial:
    """Stand-in for ``functools.partial``: holds what would be called and with what, and cannot be called."""

    def __init__(self, func: object) -> None:
        self.func, self.args, self.keywords = func, (), dict[str, object]()

    def __setstate__(self, state: tuple[object, tuple[()], dict[str, object], object]) -> None:
        self.func, self.args, self.keywords, _ = state


def _stand_in(name: str) -> type:
    """An empty class that goes by ``name``, which is how torch finds it."""
    module, _, own = name.rpartition(".")
    return type(own, (_Partial,) if name == "functools.partial" else (), {"__module__": module})


def _read(path: Path) -> dict[str, Any]:
    """The pickled dictionary, with a stand-in for each class of the original's code."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is cut short or no checkpoint: torch 1.6 and later write zip archives")
    named = _names_in(path)
    strange = {name for name in named if name not in _TENSORS and not _INERT.fullmatch(name)}
    if strange:
        raise ValueError(f"{path} is refused: a checkpoint of the original does not name {_listed(strange)}")
    try:
        with torch.serialization.safe_globals([_stand_in(name) for name in named - _TENSORS]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or forged pickle can fail in any way
        raise ValueError(f"{path} cannot be read as a checkpoint: {type(error).__name__} in its pickle") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters", "epoch"} <= checkpoint.keys():
        raise ValueError(
            f"{path} lacks state_dict, hyper_parameters or epoch: the original's training did not write it"
        )
    state = checkpoint["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} holds something other than named tensors in its state_dict")
    return checkpoint


def _names_in(path: Path) -> set[str]:
    """Every name that the pickle in an archive asks for, found without loading it."""
    try:
        require_intact(path)
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            opcodes = list(pickletools.genops(archive.read(pickled)))
    except Exception as error:  # an archive can be damaged in as many ways as it has parts
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    protocol = max(opcode.proto for opcode, _, _ in opcodes)
    if protocol > 2:
        raise ValueError(f"{path} is refused: it is pickled by protocol {protocol}, the original's checkpoints by 2")
    return {str(argument).replace(" ", ".") for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}


class _Entries:
    """A dictionary of the file, taken apart entry by entry, so that what is left at the end is unknown."""

    def __init__(self, name: str, entries: object) -> None:
        if not isinstance(entries, dict):
            raise ValueError(f"{name} should be a dictionary, got {entries!r}")
        self.name, self.left = name, dict(entries)

    def take(self, key: str, *default: Any) -> Any:
        if key not in self.left and not default:
            raise ValueError(f"{self.name} lacks {key}")
        return self.left.pop(key, *default)

    def one_of(self, allowed: Mapping[Any, Any], key: str, *default: Any) -> Any:
        """What ``allowed`` has for the entry; a class goes by its name."""
        value = self.take(key, *default)
        value = getattr(value, "__name__", value)
        for known, meaning in allowed.items():
            if type(value) is type(known) and value == known:
                return meaning
        raise ValueError(f"{self.name}: {key} is {value!r}, known are {', '.join(map(repr, allowed))}")

    def whole(self, key: str) -> int:
        value = self.take(key)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.name}: {key} should be a positive integer, got {value!r}")
        return value

    def named(self, key: str) -> Named | None:
        """A class under ``key`` and its arguments under ``key_kwargs``."""
        value, arguments = self.take(key, None), self.take(f"{key}_kwargs", {})
        if value is not None and not isinstance(value, type):
            raise ValueError(f"{self.name}: {key} should be a class, got {value!r}")
        return None if value is None else Named(value.__name__, arguments)

    def close(self) -> None:
        if self.left:
            raise ValueError(f"{self.name} holds unknown entries: {_listed(self.left)}")


_PADDINGS: dict[str, Padding] = {
    "circular": "circular",
    "reflect": "reflect",
    **dict.fromkeys(("zeros", "zero", "constant"), "zeros"),
}
_CHANNELS = {"maxpool": 64, "layer2": 128, "layer3": 256, "layer4": 512}


def _settings(checkpoint: Mapping[str, Any]) -> Settings:
    given = _Entries("hyper_parameters", checkpoint["hyper_parameters"])
    extras = _Entries("extras_model", given.take("extras_model"))
    hidden = _hidden(extras.take("logits_channels", None))
    imagenet = extras.one_of({True: True, False: False}, "inc_conv1_support")
    stem = extras.one_of({True: "imagenet-strided", False: "imagenet"}, "conv1_stride", False)
    extras.one_of({imagenet: None}, "apply_maxpool")
    extras.one_of({True: None}, "maxpool_no_antialias", True)
    extras.one_of({False: None}, "swap_conv_pool")
    for how_selections_are_passed_on in ("ret_prob", "ret_logits", "forward_pool_method"):
        extras.take(how_selections_are_passed_on, None)
    layers, convex = _layers(given.take("pooling_layer"), hidden)
    settings = Settings(
        depth=_depth(checkpoint["state_dict"]),
        classes=given.whole("num_classes"),
        stem=stem if imagenet else "cifar",
        padding=given.one_of(_PADDINGS, "padding_mode"),
        pool_padding=extras.one_of({True: "zeros", False: "circular"}, "maxpool_zpad", False),
        layers=layers,
        training=Training(
            optimizer=given.named("optimizer"),
            learning_rate=given.take("learning_rate"),
            scheduler=given.named("scheduler"),
            warmup_epochs=given.take("warmup_epochs", 0),
            temperature=given.named("param_scheduler"),
            convex=convex,
            epoch=checkpoint["epoch"],
        ),
    )
    given.take("input_shape")
    given.close()
    extras.close()
    return settings


def _layers(given: object, hidden: Mapping[int, int]) -> tuple[Layers | None, bool]:
    """The sampling layers from the factory that made them, and whether training mixed by the plain softmax."""
    if given is None:
        return None, False
    name, entries = _factory("pooling_layer", given)
    antialias, convex = _filter(entries.take("antialias_layer")), False
    if name == "Decimation":
        entries.one_of({2: None}, "stride")
        layers = Layers("Decimation", antialias)
    elif name == "PolyphaseInvariantDown2D":
        method = entries.one_of({"LPS": "LPS", "max_p_norm": "APS"}, "component_selection")
        source = entries.one_of({False: "filtered", True: "unfiltered"}, "selection_noantialias", False)
        logits = None
        if method == "LPS":
            entries.one_of({"LPSLogitLayersV2": None}, "get_logits")
            logits = Logits(hidden, entries.one_of(_PADDINGS, "logits_pad", "circular"))
            convex = entries.one_of({False: False, True: True}, "comp_train_convex", False)
            for evaluates_by_a_mixture in ("comp_convex", "comp_fix_train"):
                entries.one_of({False: None}, evaluates_by_a_mixture, False)
        layers = Layers(method, antialias, source, logits)
    else:
        raise ValueError(f"pooling_layer: no sampling layer here corresponds to {name}")
    entries.close()
    return layers, convex


def _filter(given: object) -> Filter | None:
    if given is None:
        return None
    name, entries = _factory("antialias_layer", given)
    if name == "LowPassFilter":
        entries.one_of({"same": None}, "padding", "same")
        entries.one_of({1: None}, "filter_scale", 1)
        found = Filter("LPF", entries.whole("filter_size"), entries.one_of(_PADDINGS, "padding_mode"))
    elif name == "DDAC":
        entries.one_of({1: None}, "kernel_scale", 1)
        size, groups = entries.whole("kernel_size"), entries.whole("group")
        found = Filter("DDAC", size, entries.one_of(_PADDINGS, "pad_type"), groups)
    else:
        raise ValueError(f"antialias_layer: no filter here corresponds to {name}")
    entries.close()
    return found


def _factory(name: str, given: object) -> tuple[str, _Entries]:
    """Name and keyword arguments of a pickled ``functools.partial``."""
    if not isinstance(given, _Partial) or not isinstance(given.func, type) or given.args:
        raise ValueError(f"{name} should be a class with keyword arguments, got {given!r}")
    return given.func.__name__, _Entries(name, given.keywords)


def _hidden(given: object) -> dict[int, int]:
    """Hidden channels by the channels of the layer; as many where nothing is given."""
    entries = _Entries("logits_channels", dict(_CHANNELS) if given is None else given)
    hidden = {channels: entries.whole(layer) for layer, channels in _CHANNELS.items()}
    entries.close()
    return hidden


def _depth(state: Mapping[str, Tensor]) -> int:
    """Depth of the ResNet with as many blocks of that kind."""
    blocks = tuple(len({key.split(".")[2] for key in state if key.startswith(f"core.layer{k}.")}) for k in (1, 2, 3, 4))
    kind = Bottleneck if "core.layer1.0.conv3.weight" in state else BasicBlock
    for depth, known in DEPTHS.items():
        if known == (kind, blocks):
            return depth
    raise ValueError(f"no ResNet here has {blocks} blocks of kind {kind.__name__}")
