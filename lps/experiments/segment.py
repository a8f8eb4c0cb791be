"""DeepLabV3+ in training and in evaluation (Tables 5 and 6)."""

from math import isnan
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import filters
from ..data.photographs import PhotographSet
from ..deeplab import DeepLabV3Plus
from ..metrics import PAPER, Batches
from ..sampling import Sampling, Upsample
from ..segmentation import confusion, mascc, mascc_original, massc, massc_original
from .config import Experiment, Own, Segmenter
from .evaluate import as_dict, predictor
from .learner import Learner, Normalize
from .model import build_model, sampling
from .profiles import changed, load_profile
from .records import read_record
from .rows import matching
from .weights import read_weights


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


def learner(experiment: Experiment, data: PhotographSet, seed: int, backbone: Path | None) -> Learner:
    """DeepLabV3+ in training; its backbone starts at random or from the weights in ``backbone``."""
    config = cast(Segmenter, experiment.model)
    torch.manual_seed(seed)
    model = build_segmenter(config, len(data.classes), experiment.own)
    network = nn.Sequential(Normalize(*data.statistics()), model)
    if backbone is not None:
        load_backbone(network, backbone)
    backbone_lr = cast(Any, experiment.train).backbone_lr
    return Learner(network, experiment, seed, ignored=data.ignored, slow="1.backbone.", slow_lr=backbone_lr)


def find_backbone(experiment: Experiment, seed: int, results: Path) -> Path | None:
    """The weights in ``results`` that ``model.backbone`` names, of the same network: those of a run, or the newest of a
    row with this profile, its settings and this seed; ``None`` for ``random``."""
    ours = cast(Segmenter, experiment.model)
    named = ours.backbone
    if named == "random":
        return None
    row, profile = "/".join(named.split("/")[:2]), experiment.profile
    of_row = (results / row).glob(f"{profile}-seed{seed}-*.pt")
    paths = sorted(of_row, key=lambda path: path.stat().st_mtime) if row == named else [results / f"{named}.pt"]
    found = {path: read_record(path.with_suffix(".json")) for path in reversed(paths) if path.exists()}
    if not found:
        raise FileNotFoundError(
            f"{experiment.name} starts from {named}, which has no weights in {results}; make them with: python -m lps "
            f"run {row} --profile {profile} --seed {seed}, or start with --set model.backbone=random"
        )
    words = ""
    for path, record in found.items():
        theirs = record["config"]["model"]
        apart = [f"{name} is {value} there" for name, value in theirs.items() if getattr(ours, name) != value]
        (base,) = matching([row])
        other = changed(record, load_profile(profile).row(base), ("data", "model", "train")) if row == named else []
        if not apart and not other:
            return path
        words = words or (
            f"are of another network: {', '.join(apart)}; train that row with the settings of this one"
            if apart
            else f"are not those of the profile {profile}: {', '.join(other)}; name one run, with --set "
            f"model.backbone={record['id']}, or train that row as it is"
        )
    raise ValueError(
        f"{experiment.name} starts from {named}, whose weights in {results} {words}, or start with --set "
        "model.backbone=random"
    )


def load_backbone(network: nn.Sequential, path: Path) -> None:
    """Weights of a classifier, and the normalisation that goes with them."""
    parts: tuple[dict[str, Tensor], ...] = ({}, {})
    for name, value in read_weights(path).items():
        if not name.startswith("1.head."):
            parts[int(name[0])][name[2:]] = value
    network[0].load_state_dict(parts[0])
    cast(DeepLabV3Plus, network[1]).backbone.load_state_dict(parts[1])


MARGIN = PAPER.high


def evaluate(
    network: nn.Module, data: PhotographSet, experiment: Experiment, device: torch.device
) -> dict[str, dict[str, Any]]:
    """mIoU, pixel accuracy, mASCC and mASSC on the test images, in float32, as counts and percentages.

    The windows of mASSC by the paper's protocol are 32 pixels smaller than the images.
    """
    settings = experiment.evaluate
    predict = predictor(network, device)

    def batches() -> Batches:
        return data.batches(settings.batch_size, experiment.engine.workers)

    matrix = confusion(predict, batches(), len(data.classes))
    pairs, seed = settings.pairs, settings.seed
    counts = {
        "pixel_acc": matrix.accuracy,
        "mascc": mascc(predict, batches(), pairs=pairs, seed=seed),
        "mascc_original": mascc_original(predict, batches(), times=pairs, seed=seed),
        "massc": massc(predict, batches(), data.size - MARGIN, pairs=pairs, seed=seed),
        "massc_original": massc_original(predict, batches(), times=pairs, seed=seed),
    }
    classes = [None if isnan(value) else value for value in matrix.iou.tolist()]
    miou = {"value": matrix.miou, "classes": classes, "confusion": matrix.counts.tolist()}
    return {"miou": miou} | {name: as_dict(count) for name, count in counts.items()}
