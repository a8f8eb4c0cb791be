"""From a configuration to the network that a run starts with."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import filters
from ..deeplab import DeepLabV3Plus
from ..resnet import ResNet
from ..sampling import Sampling, Upsample
from ..selection import LearnedPhase
from .config import Experiment, Segmenter
from .profiles import changed, experiment_of
from .records import read_record
from .weights import read_weights


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


class HardPhase(LearnedPhase):
    """LPD trained on one component: ``z`` is one-hot at the largest of logits with noise, and the gradient that of the
    sample which LPD would take (*straight through*). An ablation."""

    def sample(self, logits: Tensor) -> Tensor:
        return F.gumbel_softmax(logits, float(self.tau), hard=True)


LEARNED = {"gumbel": LearnedPhase, "convex": ConvexPhase, "hard": HardPhase}
"""How LPD is trained, by ``model.choice``."""


def sampling(experiment: Experiment) -> Sampling | None:
    """``None`` for the baseline, whose convolutions are strided."""
    config, own = experiment.model, experiment.own
    if config.method == "own":
        if own is None or own.sampling is None:
            raise ValueError("a record holds the source of a sampling of your own: hand it to lps.experiments.train")
        return own.sampling
    return Sampling.named(
        config.method,
        config.antialias,
        hidden_divisor=config.hidden_divisor,
        learned=LEARNED[config.choice],
        groups=config.groups,
        padding=config.padding,
        select_from=config.select_from,
    )


class Gain(nn.Sequential):
    """A filter that carries the gain of an upsampling by 2 (Sec. 4.3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * cast(Tensor, super().forward(x))


def upsample(experiment: Experiment) -> Any:
    """LPUs from a number of channels. Adaptive filters work in one group, for the number of classes may be prime."""
    config = experiment.model
    if experiment.own is not None:
        smooth = cast(Sampling, sampling(experiment)).antialias
        return lambda channels: Upsample(None if smooth is None else Gain(smooth(channels)))
    low_pass = filters.named(config.antialias, padding=config.padding, groups=1, gain=4.0)
    return lambda channels: Upsample(None if low_pass is None else low_pass(channels))


def fresh(experiment: Experiment, data: Any, seed: int) -> nn.Sequential:
    """The network of an experiment with random weights throughout, from uint8 images to logits."""
    torch.manual_seed(seed)
    config, classes = experiment.model, len(data.classes)
    normalize = Normalize(*data.statistics())
    network = ResNet(
        config.depth,
        classes=classes,
        sampling=sampling(experiment),
        stem=config.stem,
        width=config.width,
        padding=config.padding,
        output_stride=config.output_stride if isinstance(config, Segmenter) else 32,
    )
    if not isinstance(config, Segmenter):
        return nn.Sequential(normalize, network)
    segmenter = DeepLabV3Plus(
        network,
        classes=classes,
        upsample=upsample(experiment) if config.unpool else None,
        padding=config.head_padding,
        channels=config.head_channels,
    )
    return nn.Sequential(normalize, segmenter)


def started(experiment: Experiment, data: Any, seed: int, results: Path) -> tuple[nn.Sequential, Path | None]:
    """The network that a run starts with, and the weights that its backbone starts from, where it does: those of a
    classifier in ``results``, with the normalisation that goes with them."""
    path, network = find_backbone(experiment, seed, results), fresh(experiment, data, seed)
    if path is not None:
        parts: tuple[dict[str, Tensor], ...] = ({}, {})
        for name, value in read_weights(path).items():
            if not name.startswith("1.head."):
                parts[int(name[0])][name[2:]] = value
        network[0].load_state_dict(parts[0])
        cast(DeepLabV3Plus, network[1]).backbone.load_state_dict(parts[1])
    return network, path


def find_backbone(experiment: Experiment, seed: int, results: Path) -> Path | None:
    """The weights in ``results`` that ``model.backbone`` names, of the same network: those of a run, or the newest of a
    row with this profile, its settings and this seed; ``None`` for ``random``, and for a classifier."""
    ours, profile = experiment.model, experiment.profile
    if not isinstance(ours, Segmenter) or ours.backbone == "random":
        return None
    named, row = ours.backbone, "/".join(ours.backbone.split("/")[:2])
    of_row = (results / row).glob(f"{profile}-seed{seed}-*.pt")
    paths = sorted(of_row, key=lambda path: path.stat().st_mtime) if row == named else [results / f"{named}.pt"]
    why = []
    for path in reversed([path for path in paths if path.exists()]):
        record = read_record(path.with_suffix(".json"))
        theirs = record["config"]["model"]
        apart = [f"{name} is {value} there" for name, value in theirs.items() if getattr(ours, name) != value]
        if apart:
            why.append(f"are of another network: {', '.join(apart)}; train that row with the settings of this one")
        elif row == named and (other := changed(record, experiment_of(row, profile), ("data", "model", "train"))):
            why.append(
                f"are not those of the profile {profile}: {', '.join(other)}; name one run, with --set "
                f"model.backbone={record['id']}, or train that row as it is"
            )
        else:
            return path
    if not why:
        raise FileNotFoundError(
            f"{experiment.name} starts from {named}, which has no weights in {results}; make them with: python -m lps "
            f"run {row} --profile {profile} --seed {seed}, or start with --set model.backbone=random"
        )
    raise ValueError(
        f"{experiment.name} starts from {named}, whose weights in {results} {why[0]}, or start with --set "
        "model.backbone=random"
    )
