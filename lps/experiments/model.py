"""From a configuration to a network."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import filters
from ..deeplab import DeepLabV3Plus
from ..resnet import OutputStride, ResNet
from ..sampling import Sampling, Upsample
from ..selection import LearnedPhase
from .config import Experiment, Model, Own, Segmenter


class Normalize(nn.Module):
    """Images uint8 ``(N, C, H, W)`` to float32 with zero mean and unit deviation per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("deviation", deviation.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.deviation


class ConvexPhase(LearnedPhase):
    """LPD trained without noise: ``z`` is the softmax of the logits at temperature ``tau``. An ablation."""

    def sample(self, logits: Tensor) -> Tensor:
        return (logits / self.tau).softmax(1)


def sampling(config: Model, own: Own | None = None) -> Sampling | None:
    """``None`` for the baseline, whose convolutions are strided."""
    if config.method == "own":
        if own is None or own.sampling is None:
            raise ValueError("a record holds the source of a sampling of your own: hand it to lps.experiments.train")
        return own.sampling
    return Sampling.named(
        config.method,
        config.antialias,
        hidden_divisor=config.hidden_divisor,
        learned=ConvexPhase if config.choice == "convex" else LearnedPhase,
        groups=config.groups,
        padding=config.padding,
        select_from=config.select_from,
    )


def build_model(config: Model, classes: int, output_stride: OutputStride = 32, own: Own | None = None) -> ResNet:
    """A freshly initialised network; draws from torch's global generator."""
    return ResNet(
        config.depth,
        classes=classes,
        sampling=sampling(config, own),
        stem=config.stem,
        width=config.width,
        padding=config.padding,
        output_stride=output_stride,
    )


def build_segmenter(config: Segmenter, classes: int, own: Own | None = None) -> DeepLabV3Plus:
    """A freshly initialised network; draws from torch's global generator."""
    return DeepLabV3Plus(
        build_model(config, classes, config.output_stride, own),
        classes=classes,
        upsample=upsample(config, own) if config.unpool else None,
        padding=config.head_padding,
        channels=config.head_channels,
    )


class Gain(nn.Sequential):
    """A filter that carries the gain of an upsampling by 2 (Sec. 4.3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * cast(Tensor, super().forward(x))


def upsample(config: Segmenter, own: Own | None = None) -> Any:
    """LPUs from a number of channels. Adaptive filters work in one group, for the number of classes may be prime."""
    if own is not None:
        smooth = cast(Sampling, sampling(config, own)).antialias
        return lambda channels: Upsample(None if smooth is None else Gain(smooth(channels)))
    low_pass = filters.named(config.antialias, padding=config.padding, groups=1, gain=4.0)
    return lambda channels: Upsample(None if low_pass is None else low_pass(channels))


def fresh(experiment: Experiment, data: Any, seed: int) -> nn.Sequential:
    """The network of an experiment with random weights throughout, from uint8 images to logits."""
    torch.manual_seed(seed)
    config, classes = experiment.model, len(data.classes)
    model: nn.Module
    if isinstance(config, Segmenter):
        model = build_segmenter(config, classes, experiment.own)
    else:
        model = build_model(config, classes, own=experiment.own)
    return nn.Sequential(Normalize(*data.statistics()), model)
