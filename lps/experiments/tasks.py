"""From an experiment and its data to a network in training and its batches."""

from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn

from ..data import ImageSet
from ..data.photographs import NOT_IGNORED, PhotographSet
from .backbone import find_backbone, load_backbone
from .batches import ImageBatches, PhotographBatches
from .config import Experiment, Segmenter
from .learner import Learner, Normalize
from .model import build_model, build_segmenter


class Job(NamedTuple):
    """A network in training, its batches, and the weights that it starts from, where it does."""

    learner: Learner
    batches: pl.LightningDataModule
    backbone: Path | None


def fresh(experiment: Experiment, data: ImageSet | PhotographSet, seed: int) -> nn.Sequential:
    """A network with random weights throughout, from uint8 images to logits."""
    torch.manual_seed(seed)
    config, classes = experiment.model, len(data.classes)
    model: nn.Module
    if isinstance(config, Segmenter):
        model = build_segmenter(config, classes, experiment.own)
    else:
        model = build_model(config, classes, own=experiment.own)
    return nn.Sequential(Normalize(*data.statistics()), model)


def prepare(experiment: Experiment, data: ImageSet | PhotographSet, seed: int, results: Path) -> Job:
    """The job of a run; ``results`` holds the weights that a backbone may start from."""
    backbone = find_backbone(experiment, seed, results) if experiment.task == "segmentation" else None
    network = fresh(experiment, data, seed)
    if backbone is not None:
        load_backbone(network, backbone)
    if isinstance(data, ImageSet):
        batches: pl.LightningDataModule = ImageBatches(data, experiment, seed)
    else:
        batches = PhotographBatches(data, experiment, seed)
    return Job(Learner(network, experiment, seed, getattr(data, "ignored", NOT_IGNORED)), batches, backbone)
