"""Training with Lightning: stopped when asked, resumed within an epoch to the same bits.

Batches come in an order, and with looks of the images, that follow from the seed and the step alone.
"""

import csv
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ..data import ImageSet
from ..data.photographs import Augmented, PhotographSet, augmentation, heed_the_parent
from ..processes import Session, kept_back, release
from ..watch import watch
from . import weights
from .config import Experiment, Photographs
from .learner import Learner
from .weights import CHECKPOINT, read_checkpoint

EVERY = 600.0  # seconds between checkpoints within an epoch: the epochs of large data sets are too long to lose


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


class Interrupted(Exception):
    """Training stopped before its end, on request; what is done is kept."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are read without unpickling anything but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        weights.save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return cast(dict[str, Any], weights.load(Path(path), map_location or "cpu"))


class Place(Callback):
    """Keeps the place of a run: every ten minutes, and when it is to stop, which it is between two batches, or between
    two epochs where the next one would pass the deadline."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path, self.session = path, session
        self.saved = time.monotonic()

    def setup(self, trainer: pl.Trainer, learner: Any, stage: str) -> None:
        if learner.engine.shared:
            release()  # all processes are there

    def on_train_epoch_start(self, trainer: pl.Trainer, learner: Any) -> None:
        last = learner.history[-1]["seconds"] if learner.history else 0.0
        deadline = self.session.deadline
        over = deadline is not None and time.monotonic() + last > deadline
        _interrupt(trainer, over, "the time budget is used up")
        _interrupt(trainer, self.session.stop(), "interrupted")

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, *_: Any) -> None:
        # after the last batch of an epoch, a run stops when the epoch is finished
        _interrupt(trainer, self.session.stop() and not trainer.is_last_batch, "interrupted")
        self.session.report(trainer.global_step, int(trainer.estimated_stepping_batches))
        due = not trainer.is_last_batch and time.monotonic() > self.saved + EVERY
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()

    def on_exception(self, trainer: pl.Trainer, learner: Any, exception: BaseException) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        # Lightning's own exception comes between two batches
        if isinstance(exception, Interrupted | SIGTERMException) and 0 < batches < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)


def _interrupt(trainer: pl.Trainer, asked: bool, reason: str) -> None:
    """Raise :class:`Interrupted` in all processes where it is asked for in one."""
    if trainer.strategy.reduce_boolean_decision(asked, all=False):
        raise Interrupted(reason)


def write_log(history: Sequence[dict[str, float]], path: Path) -> None:
    """The history of a run as a CSV file, and its last epoch in TensorBoard's where that is installed."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[-1]))
        writer.writeheader()
        writer.writerows(history)
    if find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(path.with_suffix(".tensorboard"))) as board:
            for name, value in history[-1].items():
                board.add_scalar(name, value, int(history[-1]["epoch"]))


def fit(learner: Learner, batches: pl.LightningDataModule, folder: Path, session: Session) -> None:
    """Train, continuing from the checkpoint in ``folder`` where there is one.

    Raises :class:`Interrupted` when the ``session`` is to stop or the next epoch would pass its deadline,
    ``FloatingPointError`` when the loss is not finite, ``ValueError`` where the checkpoint cannot be read or is of
    another network.
    """
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        states = (read_checkpoint(checkpoint)["state_dict"], learner.state_dict())
        shapes = [{name: value.shape for name, value in state.items()} for state in states]
        if other := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
            network = f"another network, which differs in {other[0]}"
            raise ValueError(f"{checkpoint} holds {network}; remove it to start over")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    recipe, engine = learner.recipe, learner.engine
    torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = engine.tf32
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
            Place(checkpoint, session),
            ModelCheckpoint(
                folder, filename=checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
            ),
        ],
    )
    if engine.shared:
        # Lightning's handler of SIGTERM broadcasts, whatever the process is at, and all wait for one another for ever
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    seen = nullcontext() if engine.compile else watch(learner.network, lambda choice: learner.tally.note(choice))
    with warnings.catch_warnings(), seen, kept_back() if engine.shared else nullcontext():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\b")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
        trainer.fit(learner, batches, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    torch.set_float32_matmul_precision("highest")
