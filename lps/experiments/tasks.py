"""What it takes to train and to measure, by the task of an experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from torch import nn

from ..data import ImageSet
from ..data.photographs import PhotographSet
from . import photographs, segment
from .config import Evaluate, Experiment
from .evaluate import evaluate
from .learner import Classifier, ImageBatches, Learner


class Job(NamedTuple):
    """A network in training, its batches, how it is measured on a device afterwards, and the weights it starts from."""

    learner: Learner
    batches: pl.LightningDataModule
    measure: Callable[[nn.Module, torch.device], dict[str, dict[str, Any]]]
    backbone: Path | None = None


def prepare(experiment: Experiment, data: ImageSet | PhotographSet, seed: int, results: Path) -> Job:
    """The job of a run; ``results`` holds the weights that a backbone may start from."""
    if isinstance(data, ImageSet):
        protocol = cast(Evaluate, experiment.evaluate)
        return Job(
            Classifier(experiment, data, seed),
            ImageBatches(data, experiment.train.batch_size, seed),
            lambda network, device: evaluate(network, data, protocol, device),
        )
    batches = photographs.PhotographBatches(data, experiment, seed)
    backbone = None
    if experiment.task == "photographs":
        learner: Learner = Classifier(experiment, data, seed)
        measure = photographs.evaluate
    else:
        backbone = segment.find_backbone(experiment, seed, results)
        learner = segment.learner(experiment, data, seed, backbone)
        measure = segment.evaluate
    return Job(learner, batches, lambda network, device: measure(network, data, experiment, device), backbone)


def fresh(experiment: Experiment, data: ImageSet | PhotographSet, seed: int) -> Job:
    """The job with random weights throughout, for others to be loaded."""
    start = {"model.backbone": "random"} if experiment.task == "segmentation" else {}
    return prepare(experiment.override(start), data, seed, Path())
