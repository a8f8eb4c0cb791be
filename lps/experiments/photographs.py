"""Photographs in training and in evaluation (Tables 2 and 3)."""

from collections.abc import Iterator
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from ..data.photographs import Augmented, PhotographSet, augmentation, heed_the_parent
from ..metrics import PAPER, Batches, Shifts, accuracy, circular_consistency, shift_consistency
from .config import Experiment, Photographs
from .evaluate import as_dict, predictor
from .learner import EpochOrder

ORIGINAL_CIRCULAR = Shifts(-32, 31, per_image=False)
"""What the original code draws for C-Cons. on ImageNet: one shift for a batch."""
ORIGINAL_STANDARD = Shifts(0, 31, per_image=False)
"""What the original code draws for S-Cons. on ImageNet: one corner for a batch."""


class Looks(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, image)``, for images that look different in each epoch."""

    def __init__(self, order: EpochOrder) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.order.epoch
        return ([(epoch, image) for image in batch] for batch in self.order)

    def __len__(self) -> int:
        return len(self.order)


class PhotographBatches(pl.LightningDataModule):
    """Training batches, read and augmented by worker processes."""

    def __init__(self, data: PhotographSet, experiment: Experiment, seed: int) -> None:
        super().__init__()
        settings = cast(Photographs, experiment.data)
        augment = augmentation(
            settings.augment, settings.resize, settings.crop, settings.base, experiment.train.flip, data.ignored
        )
        self.images = Augmented(data.train, augment, seed)
        self.batch_size, self.seed, self.workers = experiment.train.batch_size, seed, experiment.engine.workers
        self.pairs = experiment.task == "segmentation" and not experiment.engine.sync_batchnorm

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = cast(pl.Trainer, self.trainer)
        count, world = len(self.images), trainer.world_size
        if self.pairs:  # DeepLabV3+ normalises one value of each channel and image, which takes two images
            if self.batch_size // world == 1:
                raise ValueError(
                    f"batches of {self.batch_size} leave each of {world} devices one image, and batch norm needs two: "
                    "use fewer devices, larger batches, or engine.sync_batchnorm=true"
                )
            if count // world % (self.batch_size // world) == 1:
                count -= world
        order = EpochOrder.of(count, self.batch_size, self.seed, trainer)
        return DataLoader(
            self.images,
            batch_sampler=Looks(order),
            num_workers=self.workers,
            worker_init_fn=heed_the_parent,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # as for ImageBatches
        )


def evaluate(
    network: nn.Module, data: PhotographSet, experiment: Experiment, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Accuracy, C-Cons. and S-Cons. on the test images, in float32, as counts and percentages.

    Accuracy and ``c_cons``, Eq. (26), look at the middle ``crop`` pixels; ``s_cons``, Eq. (27), at windows of that
    size. The original code shifts whole test images for ``c_cons_original``, and draws both kinds of shifts for a
    batch.
    """
    crop, settings = cast(Photographs, experiment.data).crop, experiment.evaluate
    predict = predictor(network, device)

    def whole() -> Batches:
        return data.batches(settings.batch_size, experiment.engine.workers)

    def middle() -> Batches:
        edge = (data.size - crop) // 2
        return ((images[..., edge : edge + crop, edge : edge + crop], labels) for images, labels in whole())

    pairs, seed = settings.pairs, settings.seed
    counts = {
        "acc": accuracy(predict, middle()),
        "c_cons": circular_consistency(predict, middle(), PAPER, pairs, seed),
        "c_cons_original": circular_consistency(predict, whole(), ORIGINAL_CIRCULAR, pairs, seed),
        "s_cons": shift_consistency(predict, whole(), crop, PAPER, pairs, seed),
        "s_cons_original": shift_consistency(predict, whole(), crop, ORIGINAL_STANDARD, pairs, seed),
    }
    return {name: as_dict(count) for name, count in counts.items()}
