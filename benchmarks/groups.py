"""What is timed: groups of cases that take turns, for a CPU and for a GPU, the most informative first."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lps import DeepLabV3Plus, Downsample, LearnedPhase, LowPass, MaxNorm, Upsample, convert
from lps.resnet import Stem
from lps.studies.families import named
from lps.watch import tensors

from .measure import Case, Work
from .networks import LPF, LPS, NAIVE, NAIVE_LPF, STRIDED, SplitLogits, UNet, classifier

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "tf32", "bf16"]
ALL = (LPF, NAIVE_LPF, LPS, NAIVE, STRIDED, "baseline", "aps-tri-3", "ddac-adapt-3", "lps-adapt-3")
METHODS = (LPF, LPS, "aps-tri-3", "ddac-adapt-3")
COMPILED = (LPF, LPS, NAIVE, "ddac-adapt-3")
PROFILED = (LPF, LPS, "ddac-adapt-3")
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """How a network is run; ``precision`` ``bf16`` is autocast, ``tf32`` the GPU's shortened float32.

    Without ``threads`` a processor takes those that torch has.
    """

    device: Device
    precision: Precision = "float32"
    compiled: bool = False
    channels_last: bool = False
    threads: int | None = None

    @property
    def name(self) -> str:
        words = f"{self.precision}-{'compiled' if self.compiled else 'eager'}"
        words += "-nhwc" if self.channels_last else ""
        return words if self.threads is None else f"{words}-threads{self.threads}"

    def apply(self) -> None:
        """Set torch's switches, for a GPU, and forget what was compiled; autocast is part of each step."""
        torch.compiler.reset()  # each class compiles for a few networks only, then runs eagerly
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.benchmark = True

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def place(self, thing: Any) -> Any:
        """A network, or a batch of maps, on the device and in its memory format."""
        return thing.to(self.device, memory_format=torch.channels_last if self.channels_last else None)

    def runs(self, network: nn.Module) -> Any:
        return torch.compile(network, fullgraph=True) if self.compiled else network

    def inference(self, network: nn.Module, *inputs: Any) -> Work:
        run = self.runs(self.place(network).eval())

        def step() -> None:
            with torch.no_grad(), self.autocast():
                run(*inputs)

        return Work(step, lambda: chain(network.parameters(), network.buffers(), tensors(inputs)), network)

    def training(self, network: nn.Module, images: Tensor, labels: Tensor) -> Work:
        """Forward, backward and SGD step; no gradient outlives it. A small rate keeps repeated steps finite."""
        run = self.runs(self.place(network).train())
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

        def step() -> None:
            with self.autocast():
                loss = F.cross_entropy(run(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        def held() -> chain[Tensor]:
            momenta = (state["momentum_buffer"] for state in optimizer.state.values())
            return chain(network.parameters(), network.buffers(), momenta, [images, labels])

        return Work(step, held, network)


def calibrated(network: nn.Module, images: Tensor) -> nn.Module:
    """Give ``network`` in evaluation the batch statistics of ``images``: maps of the scale of a trained network's.

    With fresh statistics they grow with depth until the softmax of Adapt-3 underflows, and a processor takes several
    times as long for numbers that small.
    """
    network.eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train().momentum = 1.0
    with torch.no_grad():
        network(images)
    return network.eval()


@dataclass(frozen=True)
class Group:
    """Cases that take turns. ``seconds`` is its share of a budget, ``config`` what a record says of it.

    With ``in_a_row`` each case also runs so many steps one after the other in every round. A group that takes long is
    measured where its name is asked for, ``by_name``.
    """

    name: str
    setting: Setting
    cases: dict[str, Case]
    config: dict[str, Any]
    seconds: float
    profiled: tuple[str, ...] = ()
    in_a_row: int | None = None
    by_name: bool = False

    def describe(self) -> dict[str, Any]:
        said = {**self.config, **asdict(self.setting), "in_a_row": self.in_a_row}
        return {key: value for key, value in said.items() if value is not None}


def classifiers(
    setting: Setting,
    rows: Sequence[str],
    depth: int,
    stem: Stem,
    batch: int,
    size: int,
    seconds: float,
    train: bool = False,
    profiled: tuple[str, ...] = (),
    width: int = 64,
) -> Group:
    """Networks of Table 4, or of Table 1 with ``stem="cifar"``, in evaluation or in training, over LPF Tri-3."""

    def build(row: str) -> Work:
        images = setting.place(torch.randn(batch, 3, size, size))
        network = setting.place(classifier(row, depth, stem, width))
        if not train:
            return setting.inference(calibrated(network, images), images)
        return setting.training(network, images, torch.randint(10, (batch,), device=setting.device))

    kind = f"{'cifar-' if stem == 'cifar' else ''}resnet{depth}-{'train' if train else 'eval'}"
    config = {"depth": depth, "stem": stem, "batch": batch, "size": size, "training": train}
    config |= {} if width == 64 else {"width": width}
    cases = {row: Case(partial(build, row), LPF) for row in rows}
    return Group(f"{kind}-{setting.name}", setting, cases, config, seconds, profiled)


def in_a_row(group: Group, batch: int, steps: int) -> Group:
    """A group of networks that are also run several times one after the other, as its user would."""
    return replace(group, name=f"{group.name}-batch{batch}", in_a_row=steps, by_name=True)


def segmentation(setting: Setting, batch: int, size: int, seconds: float) -> Group:
    """DeepLabV3+ on ResNet-18: LPD with bilinear upsampling, with LPU, and LPF with bilinear."""

    def build(row: str, by_lpu: bool) -> Work:
        images = setting.place(torch.randn(batch, 3, size, size))
        upsample = upsampler if by_lpu else None
        network = setting.place(DeepLabV3Plus(classifier(row, 18, "imagenet"), classes=21, upsample=upsample))
        return setting.inference(calibrated(network, images), images)

    cases = {
        "lpd-bilinear": Case(partial(build, LPS, False), "lpd-bilinear"),
        "lpd-lpu": Case(partial(build, LPS, True), "lpd-bilinear"),
        "lpf-bilinear": Case(partial(build, LPF, False), "lpd-bilinear"),
    }
    config = {"depth": 18, "batch": batch, "size": size, "classes": 21}
    return Group(f"deeplab-eval-{setting.name}", setting, cases, config, seconds)


def upsampler(channels: int) -> Upsample:
    return Upsample(LowPass(channels, 3, gain=4))


def upsampling(setting: Setting, batch: int, maps: Sequence[tuple[int, int]], seconds: float) -> Group:
    """LPU alone beside bilinear interpolation of the same map, by two; ``maps`` are channels and size."""

    def build(channels: int, size: int, by_lpu: bool) -> Work:
        y = setting.place(torch.randn(batch, channels, size, size))
        if not by_lpu:
            return setting.inference(nn.Upsample(scale_factor=2, mode="bilinear"), y)
        selection = MaxNorm()(torch.randn(batch, 1, 2 * size, 2 * size, device=setting.device))
        return setting.inference(upsampler(channels), y, selection)

    cases = {}
    for channels, size in maps:
        shape = f"{channels}@{size}"
        facts = {"shape": [batch, channels, size, size]}
        for name, by_lpu in (("bilinear", False), ("lpu", True)):
            cases[f"{name} {shape}"] = Case(partial(build, channels, size, by_lpu), f"bilinear {shape}", facts)
    return Group(f"upsampling-{setting.name}", setting, cases, {"batch": batch}, seconds, profiled=tuple(cases))


RESNET_101 = ((64, 224), (64, 112), (128, 56), (256, 28), (512, 14))
"""Channels and size of the maps that the five LPDs of ResNet-101 choose from, at 224x224."""


def roofline(setting: Setting, batch: int, seconds: float) -> Group:
    """The logits of ResNet-101's LPDs, by our arrangement and as written down, with the machine's two limits.

    ``flops`` counts two for each multiplication of the first convolution and of the collapsed second one; ``bytes``
    reads the map once and the weights once. The limits are, in the same rounds, a copy, and the faster of a square
    matrix product and a wide convolution, which are not of one library on a processor.
    """

    def logits(channels: int, size: int, split: bool) -> Work:
        select = LearnedPhase(channels, channels // 8)
        x = setting.place(torch.randn(batch, channels, size, size))
        return setting.inference(SplitLogits(select) if split else select, x)

    length, side = (GIB // 4, 8192) if setting.device == "cuda" else (GIB // 16, 1024)

    def limit(copy: bool) -> Work:
        a = torch.randn(length if copy else (side, side), device=setting.device)
        b = torch.empty_like(a) if copy else torch.randn_like(a)

        def step() -> None:
            with torch.no_grad(), setting.autocast():
                b.copy_(a) if copy else a @ b

        return Work(step, lambda: [a, b])

    def wide() -> Work:
        x, conv = setting.place(torch.randn(batch, 256, 28, 28)), nn.Conv2d(256, 256, 3, padding=1, bias=False)
        return setting.inference(conv, x)

    products = 2 * 9 * 256**2 * batch * 28**2
    cases = {
        "copy": Case(partial(limit, True), "copy", {"flops": 0, "bytes": 8 * length}),
        "matmul": Case(partial(limit, False), "matmul", {"flops": 2 * side**3, "bytes": 12 * side**2}),
        "convolution": Case(wide, "convolution", {"flops": products, "bytes": 4 * (512 * batch * 28**2 + 9 * 256**2)}),
    }
    for channels, size in RESNET_101:
        hidden, positions = channels // 8, batch * size**2
        facts = {
            "shape": [batch, channels, size, size],
            "flops": 2 * positions * hidden * (9 * channels + 1),
            "bytes": 4 * (positions * channels + 9 * hidden * (channels + hidden)),
        }
        for name, split in (("split", True), ("choice", False)):
            case = Case(partial(logits, channels, size, split), f"split {channels}@{size}", facts)
            cases[f"{name} {channels}@{size}"] = case
    return Group(f"roofline-{setting.name}", setting, cases, {"batch": batch}, seconds)


def scaling(setting: Setting, batch: int, size: int, seconds: float) -> Group:
    """One sampling layer with Tri-3, alone: batch, resolution, channels and stride vary one at a time."""
    channels = 64
    axes = {
        "batch": [(batch * k, channels, size, 2) for k in (1, 2, 4, 8)],
        "resolution": [(batch, channels, size * k // 2, 2) for k in (1, 2, 4, 8)],
        "channels": [(batch, c, size, 2) for c in (16, 32, 64, 128, 256)],
        "stride": [(batch, channels, size, s) for s in (2, 4, 8)],
    }

    def build(method: str, shape: tuple[int, int, int, int]) -> Work:
        n, c, width, stride = shape
        select = None if method == "lpf" else LearnedPhase(c, c // 8, stride)
        layer = Downsample(select, LowPass(c, 3), stride)
        return setting.inference(layer, setting.place(torch.randn(n, c, width, width)))

    def label(method: str, shape: tuple[int, int, int, int]) -> str:
        return f"{method} {shape[0]}x{shape[1]}@{shape[2]}/{shape[3]}"

    cases = {
        label(method, shape): Case(partial(build, method, shape), label("lpf", shape), {"shape": list(shape)})
        for shape in dict.fromkeys(chain.from_iterable(axes.values()))
        for method in ("lpf", "lps")
    }
    points = {axis: [list(shape) for shape in shapes] for axis, shapes in axes.items()}
    return Group(f"scaling-{setting.name}", setting, cases, {"axes": points}, seconds)


CONVERTED = (
    *("torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0", "timm:regnety_002"),
    *("torchvision:resnet18", "torchvision:resnet50", "torchvision:densenet121", "timm:convnext_atto", "unet"),
    "torchvision:vgg11_bn",
)
"""Networks that are timed before and after :func:`lps.convert`."""


def conversion(setting: Setting, name: str, batch: int, size: int, seconds: float) -> Group:
    """A network and what it is converted to, sampling before its convolutions or behind them."""
    short = name.rpartition(":")[2]

    def build(method: Any = None, antialias: Any = None, placement: Any = None) -> Work:
        images = setting.place(torch.randn(batch, 3, size, size))
        network: Any = UNet() if short == "unet" else named(name)
        if short.startswith("vgg"):  # its linear layers read 7 x 7 windows, and so it does not convert as it is
            network.avgpool, network.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4096)
        network = calibrated(network, images)
        if method:
            network = convert(network, method, antialias, placement=placement, example=images[:1])
        return setting.inference(network, images)

    cases = {"original": Case(build, "original")}
    for placement in ("before", "behind"):
        for method, antialias in (("aps", "none"), ("aps", "tri-3"), ("lps", "tri-3")):
            cases[f"{method}-{antialias} {placement}"] = Case(partial(build, method, antialias, placement), "original")
    config = {"network": short, "batch": batch, "size": size}
    return Group(f"converted-{short}-{setting.name}", setting, cases, config, seconds, by_name=True)


def plan(device: Device, batch: int | None) -> list[Group]:
    """Groups in the order in which a budget is spent; ``batch`` replaces the number of images of the networks."""
    return on_gpu(batch) if device == "cuda" else on_cpu(batch)


def on_cpu(batch: int | None) -> list[Group]:
    eager, bf16, compiled = Setting("cpu"), Setting("cpu", "bf16"), Setting("cpu", compiled=True)
    images, small = batch or 2, batch or 16
    return [
        classifiers(eager, ALL, 101, "imagenet", batch or 4, 224, 90, profiled=PROFILED),
        classifiers(eager, ALL, 18, "cifar", small, 32, 90, train=True, profiled=PROFILED),
        *in_turn_and_in_a_row(),
        upsampling(eager, images, ((256, 14), (256, 28), (21, 56), (21, 112)), 10),
        roofline(eager, images, 15),
        scaling(eager, 2, 56, 20),
        classifiers(eager, ALL, 50, "imagenet", images, 224, 40),
        classifiers(eager, ALL, 18, "imagenet", images, 224, 20),
        segmentation(eager, 2, 256, 20),
        classifiers(compiled, METHODS, 18, "imagenet", images, 224, 60),
        classifiers(bf16, METHODS, 18, "imagenet", images, 224, 15),
        *(conversion(eager, name, batch or 8, 128, 10) for name in CONVERTED),
    ]


def in_turn_and_in_a_row() -> list[Group]:
    """A training step of the networks of ``reduced``, and Table 4, with batches and threads as they are used."""
    short: list[Group] = []
    long: list[Group] = []
    for threads in (1, 2):
        for precision in ("float32", "bf16"):
            setting = Setting("cpu", precision, threads=threads)
            step = classifiers(setting, (LPF, LPS), 18, "cifar", 64, 32, 15, True, (LPF, LPS), width=16)
            short.append(in_a_row(step, 64, 3))
        setting = Setting("cpu", threads=threads)
        table4 = classifiers(
            setting, (NAIVE_LPF, *METHODS), 101, "imagenet", 4, 224, 60 / threads, profiled=(NAIVE_LPF, *METHODS)
        )
        short.append(in_a_row(table4, 4, 3))
        few = (NAIVE_LPF, LPF, LPS, "aps-tri-3")  # ten minutes are for all groups
        long.append(in_a_row(classifiers(setting, few, 101, "imagenet", 16, 224, 200 / threads), 16, 2))
    return short + long[::-1]


def on_gpu(batch: int | None) -> list[Group]:
    def at(precision: Precision, compiled: bool = False, channels_last: bool = True) -> Setting:
        return Setting("cuda", precision, compiled, channels_last)

    images, small = batch or 32, batch or 128
    return [
        classifiers(at("bf16"), ALL, 101, "imagenet", images, 224, 25, profiled=PROFILED),
        classifiers(at("bf16", compiled=True), COMPILED, 101, "imagenet", images, 224, 150),
        classifiers(at("tf32", channels_last=False), ALL, 101, "imagenet", images, 224, 25),
        classifiers(at("tf32"), ALL, 18, "cifar", small, 32, 25, train=True, profiled=PROFILED),
        upsampling(at("tf32"), images, ((256, 32), (256, 64), (21, 128), (21, 256)), 10),
        roofline(at("tf32"), images, 10),
        scaling(at("tf32"), 8, 112, 15),
        classifiers(at("bf16", compiled=True), (LPF, LPS, "ddac-adapt-3"), 18, "cifar", small, 32, 90, train=True),
        classifiers(at("bf16", channels_last=False), ALL, 101, "imagenet", images, 224, 20),
        classifiers(at("float32", channels_last=False), ALL, 101, "imagenet", images, 224, 25),
        classifiers(at("bf16"), ALL, 18, "cifar", small, 32, 20, train=True),
        segmentation(at("bf16"), 8, 512, 15),
        classifiers(at("bf16"), ALL, 50, "imagenet", images, 224, 15),
        classifiers(at("bf16"), ALL, 18, "imagenet", images, 224, 15),
        classifiers(at("tf32", compiled=True), METHODS, 18, "imagenet", images, 224, 60),
    ]
