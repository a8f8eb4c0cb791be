"""The networks of Table 4, the arrangements beside them that exist for comparison only, and a U-Net."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lps import Downsample, LowPass, ResNet, Sampling, Selection, polyphase
from lps.exact.convolution import Conv2d, MaxPool
from lps.polyphase import steps
from lps.resnet import BasicBlock, Bottleneck, Stem

LPF, LPS = "lpf-tri-3", "lps-tri-3"
STRIDED, NAIVE, NAIVE_LPF = f"{LPF}-strided", f"{LPS}-naive", f"{LPF}-naive"


def classifier(row: str, depth: int, stem: Stem, width: int = 64) -> ResNet:
    """The network of a row: of Table 4 (``lps-tri-3``), or one for comparison; 10 classes."""
    method, _, antialias = row.removesuffix("-strided").removesuffix("-naive").partition("-")
    sampling = Sampling.named(cast(Any, method), cast(Any, antialias or "none"))
    if row == STRIDED and stem == "imagenet":
        stem = "imagenet-strided"
    network = ResNet(depth, classes=10, sampling=sampling, stem=stem, width=width)
    if row == STRIDED:
        filter_then_stride(network)
    elif row == NAIVE:
        rearrange(network, SplitFirst)
    elif row == NAIVE_LPF:
        rearrange(network, FilterDensely)
        use_torchs_own(network)
    return network


def filter_then_stride(network: ResNet) -> None:
    """Give a network with Tri-3 back its strides: filter, then a strided convolution, as early as can be.

    The library's LPF is the original's: convolve at stride 1, then filter at a stride. This network computes another
    function with the least arithmetic that keeps a filter before each loss of samples: a lower bound.
    """
    for block in network.modules():
        if isinstance(block, BasicBlock | Bottleneck) and block.downsample is not None:
            name = "conv1" if isinstance(block, BasicBlock) else "conv2"
            convolution = cast(nn.Conv2d, getattr(block, name))
            convolution.stride = steps(block.downsample.stride, 2)
            setattr(block, name, nn.Sequential(LowPass(convolution.in_channels, 3), convolution))
            block.downsample = None


class Arrangement(nn.Module):
    """Another way to compute what a ``layer`` does, with its parameters; equal up to rounding."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer


def rearrange(network: ResNet, arrangement: type[Arrangement]) -> None:
    """Replace every sampling layer of a network by its arrangement."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Downsample):
            network.set_submodule(name, arrangement(layer))


def split_logits(select: Any, components: Tensor) -> Tensor:
    """The logits of LPD as they are written down: ``f_theta`` of each component."""
    return cast(Tensor, select.component_logit(components.flatten(0, 1)).unflatten(0, components.shape[:2]))


class SplitFirst(Arrangement):
    """LPD as it is written down, and as the original computes it: filter, split, a logit for each part, gather."""

    def forward(self, x: Tensor, selection: Selection | None = None, origin: Any = None) -> tuple[Tensor, Selection]:
        layer = self.layer
        components = polyphase(x if layer.antialias is None else layer.antialias(x), layer.stride)
        if selection is None:
            selection = self.choose(split_logits(layer.select, components), layer.select.tau)
        if selection.phase is not None:
            return components[torch.arange(len(x), device=x.device), selection.phase], selection
        weights = selection.z.to(components.dtype)[..., None, None, None]
        return (weights * components).sum(1), selection

    def choose(self, logits: Tensor, tau: Tensor) -> Selection:
        if self.training:
            return Selection(logits, F.gumbel_softmax(logits, cast(float, tau)))
        phase = logits.argmax(1)
        return Selection(logits, F.one_hot(phase, logits.shape[1]).to(logits.dtype), phase)


class SplitLogits(Arrangement):
    """The choice of LPD alone as it is written down."""

    def forward(self, x: Tensor) -> Tensor:
        return split_logits(self.layer, polyphase(x, self.layer.stride))


class FilterDensely(Arrangement):
    """LPF as it is written down, and as the original computes it: torch's border, a dense filter, a slice."""

    def forward(self, x: Tensor, selection: Any = None, origin: Any = None) -> tuple[Tensor, None]:
        down, right = steps(self.layer.stride, 2)
        if self.layer.antialias is not None:
            lowpass = self.layer.antialias
            x = F.conv2d(F.pad(x, lowpass.reach * 2, mode="circular"), lowpass.kernel, groups=x.shape[1])
        return x[..., ::down, ::right], None


def use_torchs_own(network: ResNet) -> None:
    """Replace the convolutions and the pooling of a network, which are ours, by torch's."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv2d):
            (size, _), (stride, _) = layer.kernel_size, layer.stride
            border: Any = {"padding": size // 2, "padding_mode": layer.padding_mode} if size > 1 else {}
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, size, stride, bias=False, **border)
            plain.weight = layer.weight
            network.set_submodule(name, plain)
        if isinstance(layer, MaxPool):
            wrapped = nn.CircularPad2d((0, layer.size - 1) * 2)
            network.set_submodule(name, nn.Sequential(wrapped, nn.MaxPool2d(layer.size, 1)))


class UNet(nn.Module):
    """A U-Net as its paper draws it, a quarter as wide, with batch norm and padding: maps of the size of its images."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 256), classes: int = 2) -> None:
        super().__init__()

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            layers = [(nn.Conv2d(c, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()) for c in (inputs, outputs)]
            return nn.Sequential(*chain(*layers))

        pairs = list(pairwise(channels))
        self.down = nn.ModuleList([twice(3, channels[0]), *(twice(a, b) for a, b in pairs)])
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.up = nn.ModuleList(twice(2 * a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.down[0](x)]
        for layer in self.down[1:]:
            kept.append(layer(F.max_pool2d(kept[-1], 2)))
        y = kept.pop()
        for lift, layer in zip(self.raise_, self.up, strict=True):
            y = layer(torch.cat([kept.pop(), lift(y)], 1))
        return self.head(y)
