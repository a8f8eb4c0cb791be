"""Training: Lightning on top of the plain network.

Everything that changes during training (learning rate, temperature, order of images, noise) is a function of the
seed and the progress, so a run that was killed continues from its last checkpoint to the same bits.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LambdaCallback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ..archive import require_intact
from ..data import Described, ImageSet
from ..selection import LearnedPhase
from .config import Experiment, Small, Train
from .model import build_model
from .signals import kept_back, release

CHECKPOINT = "last.ckpt"
_DAMAGED = "{} is not a readable checkpoint ({}); remove it to start over"


def learning_rate(train: Train, epoch: float) -> float:
    """Learning rate at ``epoch``, counted in fractions from 0."""
    peak = train.lr if train.lr_batch is None else train.lr * train.batch_size / train.lr_batch
    if epoch < train.warmup:
        return peak * epoch / train.warmup
    if train.schedule == "step":
        return peak * train.decay ** (epoch // train.decay_every)
    if train.schedule == "poly":
        return peak * (1 - epoch / train.epochs) ** train.decay
    return peak * (train.epochs - epoch) / (train.epochs - train.warmup)


def temperature(train: Train, epoch: float) -> float:
    """Temperature tau of the Gumbel-softmax at ``epoch`` (Sec. 4.1)."""
    if not train.tau_line:
        return max(train.tau_decay ** (epoch // train.tau_every), train.tau_floor)
    line = [(0.0, 1.0), *train.tau_points()]
    for (start, before), (end, after) in pairwise(line):
        if epoch < end:
            return before + (after - before) * (epoch - start) / (end - start)
    return line[-1][1]


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


def flip_some(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror each image left to right with probability 1/2, on the device of ``images``."""
    flipped = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images), labels


class Learner(pl.LightningModule):
    """A network in training: its schedules, its sums over an epoch and its history.

    ``network`` maps uint8 images to logits, and is all that evaluation needs. ``augment`` changes a batch on the
    device. Targets equal to ``ignored`` count nowhere. Parameters whose names start with ``slow`` learn at
    ``slow_lr`` times the learning rate.
    """

    def __init__(
        self,
        network: nn.Module,
        experiment: Experiment,
        seed: int,
        augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda images, labels: (images, labels),
        ignored: int = -100,
        slow: str = "",
        slow_lr: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe, self.engine, self.seed = experiment.train, experiment.engine, seed
        self.augment, self.ignored, self.slow, self.slow_lr = augment, ignored, slow, slow_lr
        self.temperatures = [m for m in self.modules() if isinstance(m, LearnedPhase)]
        self.history: list[dict[str, float]] = []
        # a function, for a module would put its weights into the checkpoint once more
        self.logits = torch.compile(network.forward) if self.engine.compile else network.forward

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD; the logit networks of LPD carry no weight decay, as in the original."""
        free = {id(p) for m in self.temperatures for p in m.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in self.network.named_parameters():
            scale = self.slow_lr if name.startswith(self.slow) else 1.0
            decay = 0.0 if id(p) in free else self.recipe.weight_decay
            groups.setdefault((scale, decay), []).append(p)
        return torch.optim.SGD(
            [{"params": ps, "scale": scale, "weight_decay": decay} for (scale, decay), ps in groups.items()],
            lr=self.recipe.lr,
            momentum=self.recipe.momentum,
            nesterov=self.recipe.nesterov,
            fused=self.engine.fused,
        )

    def on_fit_start(self) -> None:
        if self.device.type == "cuda" and self.engine.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def on_train_epoch_start(self) -> None:
        # each device draws its own noise
        torch.manual_seed(1_000_003 * (self.seed + 1) + self.current_epoch + 500_009 * self.global_rank)
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.counted = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seen, self.waited = 0, 0.0
        self.began = self.idle_since = time.perf_counter()
        self.processor_began = time.process_time()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.idle_since
        epoch = self.global_step / self.trainer.num_training_batches
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.recipe, epoch) * group["scale"]
        for layer in self.temperatures:
            layer.tau.fill_(temperature(self.recipe, epoch))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = self.augment(*batch)
        logits = self.logits(images)
        loss = nn.functional.cross_entropy(logits, labels, ignore_index=self.ignored)
        if not torch.isfinite(loss):
            if (labels == self.ignored).all():
                loss = 0 * logits.sum()  # a mean over nothing, which costs nothing
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} in epoch {self.current_epoch}, step {self.global_step}; "
                    "lower train.lr and run again: the last good epoch is kept"
                )
        with torch.no_grad():
            self.loss_sum += loss * len(labels)
            self.correct += (logits.argmax(1) == labels).sum()
            self.counted += (labels != self.ignored).sum()
            self.seen += len(labels)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.idle_since = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Add up over the devices and remember; ``waiting`` is the share of the time without a batch at hand."""
        seconds = time.perf_counter() - self.began
        images = self.seen * self.trainer.world_size
        loss, correct, counted = (
            self.trainer.strategy.reduce(total, reduce_op="sum").item()
            for total in (self.loss_sum, self.correct, self.counted)
        )
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": loss / images,
                "accuracy": 100 * correct / max(counted, 1),
                "lr": learning_rate(self.recipe, (self.global_step - 1) / self.trainer.num_training_batches),
                "tau": temperature(self.recipe, (self.global_step - 1) / self.trainer.num_training_batches),
                "seconds": seconds,
                "processor_seconds": time.process_time() - self.processor_began,
                "images_per_second": images / seconds,
                "waiting": self.waited / seconds,
            }
        )

    def on_train_end(self) -> None:
        """Batch statistics of the first device for all, as for the weights that are saved."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


class Classifier(Learner):
    """A classifier in training, freshly initialised; in-memory images are augmented on the device."""

    def __init__(self, experiment: Experiment, data: Described, seed: int) -> None:
        torch.manual_seed(seed)
        model = build_model(experiment.model, len(data.classes), own=experiment.own)
        network = nn.Sequential(Normalize(*data.statistics()), model)
        if isinstance(experiment.data, Small) and experiment.train.flip:
            super().__init__(network, experiment, seed, flip_some)
        else:
            super().__init__(network, experiment, seed)


class EpochOrder(Sampler[list[int]]):
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

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + self.epoch)
        order = torch.randperm(self.count, generator=generator)
        left = order.split(self.batch_size)[self.step() % len(self) :]
        return (chunk[self.rank :: self.world].tolist() for chunk in left)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    @classmethod
    def of(cls, count: int, batch_size: int, seed: int, trainer: pl.Trainer) -> Self:
        # the step, not the epoch: a resumed trainer counts its epochs on only after the order is drawn
        return cls(count, batch_size, seed, lambda: trainer.global_step, trainer.global_rank, trainer.world_size)


class ImageBatches(pl.LightningDataModule):
    """Training batches of an image set that lives in the memory of the device."""

    def __init__(self, data: ImageSet, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed = data.train, batch_size, seed

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = cast(pl.Trainer, self.trainer)
        order = EpochOrder.of(len(self.images), self.batch_size, self.seed, trainer)
        device = trainer.strategy.root_device
        images = TensorDataset(self.images.images.to(device), self.images.labels.to(device))
        # a generator of its own, or each new iterator takes a number from the one that the noise comes from
        return DataLoader(images, sampler=order, batch_size=None, generator=torch.Generator())


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are read without unpickling anything but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = Path(path).with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        content = BytesIO()  # a full disk is then an OSError with its own words
        torch.save(checkpoint, content)
        with partial.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            require_intact(Path(path))
        except ValueError as error:
            raise ValueError(_DAMAGED.format(path, error)) from error
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:  # torch's words are about its own arguments
            raise ValueError(_DAMAGED.format(path, "it holds more than tensors and plain values")) from error


class Interrupted(Exception):
    """Training stopped before its end, on request; the last finished epoch is kept."""


class Watch(Callback):
    """Reports progress and stops when told to: at once for ``stop()``, between epochs for the deadline."""

    def __init__(
        self, report: Callable[[int, int, float], None], stop: Callable[[], bool], deadline: float | None
    ) -> None:
        self.report, self.stop, self.deadline = report, stop, deadline

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        last = pl_module.history[-1]["seconds"] if pl_module.history else 0.0
        over = self.deadline is not None and time.monotonic() + last > self.deadline
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            raise Interrupted("the time budget is used up")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Learner)
        if trainer.strategy.reduce_boolean_decision(self.stop(), all=False):
            raise Interrupted("interrupted")
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), pl_module.seen)


def fit(
    learner: Learner,
    batches: pl.LightningDataModule,
    folder: Path,
    report: Callable[[int, int, float], None] = lambda step, steps, seen: None,
    stop: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train, continuing from the checkpoint in ``folder`` where there is one.

    Raises :class:`Interrupted` when ``stop()`` turns true or the next epoch would pass ``deadline``
    (``time.monotonic`` seconds), ``FloatingPointError`` when the loss is not finite.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    recipe, engine = learner.recipe, learner.engine
    torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
    checkpoint = folder / CHECKPOINT
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        precision="32-true" if recipe.precision == "32" else "bf16-mixed",
        accelerator="auto",
        devices=engine.devices,
        num_nodes=engine.nodes,
        strategy=engine.strategy,
        sync_batchnorm=engine.sync_batchnorm,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpoints()],
        callbacks=[
            *([LambdaCallback(setup=lambda *_, **__: release())] if engine.shared else []),  # all are there
            Watch(report, stop, deadline),
            *callbacks,
            ModelCheckpoint(
                folder,
                filename=Path(CHECKPOINT).stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
        ],
    )
    if engine.shared:
        # Lightning's handler of SIGTERM broadcasts, whatever the process is at, and all wait for one another for ever
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    with warnings.catch_warnings(), kept_back() if engine.shared else nullcontext():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\b")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
        trainer.fit(learner, batches, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    torch.set_float32_matmul_precision("highest")
