"""Batches to train on: in an order, and with looks of the images, that follow from the seed and the step alone."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ..data import ImageSet
from ..data.photographs import Augmented, PhotographSet, augmentation, heed_the_parent
from .config import Experiment, Photographs


class EpochOrder(Sampler[list[Any]]):
    """Index lists, one per batch, in an order that depends on the seed and the epoch alone, from the next step on.

    Each of ``world`` devices gets its equal share of every batch; what does not divide is left out of the epoch.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, step: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} images cannot be shared equally by {world} devices")
        self.count, self.batch_size, self.seed, self.step = count // world * world, batch_size, seed, step
        self.rank, self.world = rank, world

    @property
    def epoch(self) -> int:
        return self.step() // len(self)

    def __iter__(self) -> Iterator[list[Any]]:
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + self.epoch)
        order = torch.randperm(self.count, generator=generator)
        left = order.split(self.batch_size)[self.step() % len(self) :]
        return (chunk[self.rank :: self.world].tolist() for chunk in left)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)


class Looks(EpochOrder):
    """Batches of ``(epoch, image)``, for images that look different in each epoch."""

    def __iter__(self) -> Iterator[list[Any]]:
        epoch = self.epoch
        return ([(epoch, image) for image in batch] for batch in super().__iter__())


class Batches(pl.LightningDataModule):
    """Batches to train on: of small images from the memory of the device, of photographs read and augmented by worker
    processes."""

    def __init__(self, data: ImageSet | PhotographSet, experiment: Experiment, seed: int) -> None:
        super().__init__()
        self.data, self.experiment, self.seed = data, experiment, seed

    def train_dataloader(self) -> DataLoader[Any]:
        trainer, batch_size = cast(pl.Trainer, self.trainer), self.experiment.train.batch_size
        rank, world = trainer.global_rank, trainer.world_size

        def step() -> int:  # not the epoch: a resumed trainer counts its epochs on only after the order is drawn
            return trainer.global_step

        # a generator of its own, or each new iterator takes a number from the one that the noise comes from
        generator = torch.Generator()
        if isinstance(self.data, ImageSet):
            device, train = trainer.strategy.root_device, self.data.train
            images = TensorDataset(train.images.to(device), train.labels.to(device))
            order = EpochOrder(len(images), batch_size, self.seed, step, rank, world)
            return DataLoader(images, sampler=order, batch_size=None, generator=generator)
        settings, engine = cast(Photographs, self.experiment.data), self.experiment.engine
        kind, flip = (settings.augment, settings.resize, settings.crop, settings.base), self.experiment.train.flip
        count = len(self.data.train)
        if self.experiment.task == "segmentation" and not engine.sync_batchnorm:
            # DeepLabV3+ normalises one value of each channel and image, which takes two images
            if batch_size // world == 1:
                raise ValueError(
                    f"batches of {batch_size} leave each of {world} devices one image, and batch norm needs two: "
                    "use fewer devices, larger batches, or engine.sync_batchnorm=true"
                )
            if count // world % (batch_size // world) == 1:
                count -= world
        return DataLoader(
            Augmented(self.data.train, augmentation(*kind, flip, self.data.ignored), self.seed),
            batch_sampler=Looks(count, batch_size, self.seed, step, rank, world),
            num_workers=engine.workers,
            worker_init_fn=heed_the_parent,
            persistent_workers=engine.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=generator,
        )
