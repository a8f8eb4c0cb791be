"""Training: Lightning on top of the plain network.

Everything that changes during training (learning rate, temperature, order of images, noise) is a function of the
seed and the progress, so a run that was killed continues from its last checkpoint to the same bits.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ..data import ImageSet
from ..selection import LearnedPhase
from .config import Experiment, Train
from .model import build_model

CHECKPOINT = "last.ckpt"


def learning_rate(train: Train, epoch: float) -> float:
    """Learning rate at ``epoch``, counted in fractions from 0."""
    if train.schedule == "step":
        return train.lr * train.decay ** (epoch // train.decay_every)
    if epoch < train.warmup:
        return train.lr * epoch / train.warmup
    return train.lr * (train.epochs - epoch) / (train.epochs - train.warmup)


def temperature(train: Train, epoch: float) -> float:
    """Temperature tau of the Gumbel-softmax at ``epoch`` (Sec. 4.1)."""
    return train.tau_decay ** (epoch // train.tau_every)


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


class Classifier(pl.LightningModule):
    """A network in training. ``network`` maps uint8 images to logits and is all that evaluation needs."""

    def __init__(self, experiment: Experiment, data: ImageSet, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        model = build_model(experiment.model, len(data.classes))
        self.network = nn.Sequential(Normalize(*data.statistics()), model)
        self.recipe, self.seed = experiment.train, seed
        self.temperatures = [m for m in self.modules() if isinstance(m, LearnedPhase)]
        self.history: list[dict[str, float]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD; the logit networks of LPD carry no weight decay, as in the original."""
        free = [p for m in self.temperatures for p in m.parameters()]
        decayed = [p for p in self.parameters() if not any(p is q for q in free)]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}]
        if free:
            groups.append({"params": free, "weight_decay": 0.0})
        return torch.optim.SGD(groups, lr=self.recipe.lr, momentum=self.recipe.momentum, nesterov=self.recipe.nesterov)

    def on_fit_start(self) -> None:
        if self.device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(1_000_003 * (self.seed + 1) + self.current_epoch)
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seen = 0
        self.began = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        epoch = self.global_step / self.trainer.num_training_batches
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.recipe, epoch)
        for layer in self.temperatures:
            layer.tau.fill_(temperature(self.recipe, epoch))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.recipe.flip:
            flipped = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        logits = self.network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, step {self.global_step}; "
                "lower train.lr and run again: the last good epoch is kept"
            )
        with torch.no_grad():
            self.loss_sum += loss * len(labels)
            self.correct += (logits.argmax(1) == labels).sum()
            self.seen += len(labels)
        return loss

    def on_train_epoch_end(self) -> None:
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": self.loss_sum.item() / self.seen,
                "accuracy": 100 * self.correct.item() / self.seen,
                "lr": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
                "tau": temperature(self.recipe, (self.global_step - 1) / self.trainer.num_training_batches),
                "seconds": time.perf_counter() - self.began,
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


class EpochOrder(Sampler[list[int]]):
    """Index lists, one per batch, in an order that depends on the seed and the epoch alone."""

    def __init__(self, count: int, batch_size: int, seed: int, step: Callable[[], int]) -> None:
        self.count, self.batch_size, self.seed, self.step = count, batch_size, seed, step

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + self.step() // len(self))
        order = torch.randperm(self.count, generator=generator)
        return (chunk.tolist() for chunk in order.split(self.batch_size))

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)


class ImageBatches(pl.LightningDataModule):
    """Training batches of an image set that lives in memory."""

    def __init__(self, data: ImageSet, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed = data.train, batch_size, seed

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = cast(pl.Trainer, self.trainer)
        # the step, not the epoch: a resumed trainer counts its epochs on only after the order is drawn
        order = EpochOrder(len(self.images), self.batch_size, self.seed, lambda: trainer.global_step)
        images = TensorDataset(self.images.images, self.images.labels)
        # a generator of its own, or each new iterator takes a number from the one that the noise comes from
        return DataLoader(images, sampler=order, batch_size=None, generator=torch.Generator())


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are read without unpickling anything but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = Path(path).with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class Interrupted(Exception):
    """Training stopped before its end, on request; the last finished epoch is kept."""


class Watch(Callback):
    """Reports progress and stops when told to: at once for ``stop()``, between epochs for the deadline."""

    def __init__(
        self, report: Callable[[int, int, float], None], stop: Callable[[], bool], deadline: float | None
    ) -> None:
        self.report, self.stop, self.deadline = report, stop, deadline

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        last = pl_module.history[-1]["seconds"] if pl_module.history else 0.0
        if self.deadline is not None and time.monotonic() + last > self.deadline:
            raise Interrupted("the time budget is used up")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Classifier)
        if self.stop():
            raise Interrupted("interrupted")
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), pl_module.seen)


def fit(
    experiment: Experiment,
    data: ImageSet,
    seed: int,
    folder: Path,
    report: Callable[[int, int, float], None] = lambda step, steps, seen: None,
    stop: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
) -> Classifier:
    """Train, continuing from the checkpoint in ``folder`` where there is one.

    Raises :class:`Interrupted` when ``stop()`` turns true or the next epoch would pass ``deadline``
    (``time.monotonic`` seconds), ``FloatingPointError`` when the loss is not finite.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    classifier = Classifier(experiment, data, seed)
    checkpoint = folder / CHECKPOINT
    trainer = pl.Trainer(
        max_epochs=experiment.train.epochs,
        precision="32-true" if experiment.train.precision == "32" else "bf16-mixed",
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpoints()],
        callbacks=[
            Watch(report, stop, deadline),
            ModelCheckpoint(
                folder,
                filename=Path(CHECKPOINT).stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
        ],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\b")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
        batches = ImageBatches(data, experiment.train.batch_size, seed)
        trainer.fit(classifier, batches, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    return classifier
