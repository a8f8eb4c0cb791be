"""Checkpoints within an epoch: the epochs of large data sets are too long to lose."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed as dist

from .learner import AtomicCheckpoints, Interrupted, Learner
from .logs import Logbook

EVERY = 600.0
"""Seconds between checkpoints within an epoch."""

SUMS = ("loss_sum", "correct", "counted", "seen", "waited")
"""What a :class:`Learner` adds up over an epoch."""


def check(path: Path, learner: Learner) -> None:
    """Raise ``ValueError`` where the checkpoint in ``path`` cannot be read, or is of another network."""
    if not path.exists():
        return
    found = AtomicCheckpoints().load_checkpoint(path, "meta")
    if not isinstance(found, dict) or not {"state_dict", "history"} <= found.keys():
        raise ValueError(f"{path} is no checkpoint of a run; remove it to start over")
    states = (found["state_dict"], learner.state_dict())
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if other := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
        raise ValueError(f"{path} holds another network, which differs in {other[0]}; remove it to start over")


class MidEpoch(Callback):
    """Keeps the place within an epoch in ``path``, every ten minutes and when training is stopped.

    A checkpoint holds the sums, the random states and the counts of ``logbook`` of each process besides what all
    checkpoints hold, so that a run goes on to the same bits. Give :meth:`asked` to the training in place of ``stop``.
    """

    def __init__(self, path: Path, stop: Callable[[], bool], logbook: Logbook) -> None:
        self.path, self.stop, self.logbook = path, stop, logbook
        self.kept: list[dict[str, Any]] = []
        self.last = False
        self.saved = time.monotonic()

    def asked(self) -> bool:
        """Stop after this batch? After the last one of an epoch only once the epoch is finished."""
        return self.stop() and not self.last

    def state_dict(self) -> dict[str, Any]:
        return {"processes": self.kept} if self.kept else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict["processes"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on where the checkpoint was within its epoch."""
        assert isinstance(pl_module, Learner)
        if not self.kept:
            return
        mine, self.kept = self.kept[trainer.global_rank], []
        for name, value in mine["sums"].items():
            setattr(pl_module, name, value.to(pl_module.device) if isinstance(value, torch.Tensor) else value)
        pl_module.idle_since = time.perf_counter()
        pl_module.began = pl_module.idle_since - mine["seconds"]
        pl_module.processor_began = time.process_time() - mine.get("processor_seconds", 0.0)
        for name, counts in mine["choices"].items():
            self.logbook.choices[name].sums = counts.to(pl_module.device)
        torch.set_rng_state(mine["random"])
        if pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(mine["random_cuda"], pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stop(), all=False):
            raise Interrupted("interrupted")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.last = trainer.is_last_batch

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        due = not self.last and time.monotonic() > self.saved + EVERY
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._keep(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        # Lightning's own exception comes between two batches
        if isinstance(exception, Interrupted | SIGTERMException) and 0 < batches < trainer.num_training_batches:
            self._keep(trainer, pl_module)

    def _keep(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        assert isinstance(learner, Learner)
        sums = {name: getattr(learner, name) for name in SUMS}
        mine = {
            "sums": {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in sums.items()},
            "seconds": time.perf_counter() - learner.began,
            "processor_seconds": time.process_time() - learner.processor_began,
            "choices": {name: c.sums.cpu() for name, c in self.logbook.choices.items() if c.sums is not None},
            "random": torch.get_rng_state(),
        }
        if learner.device.type == "cuda":
            mine["random_cuda"] = torch.cuda.get_rng_state(learner.device)
        self.kept = [mine] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(self.kept, mine)
        trainer.save_checkpoint(self.path)
        self.kept = []
        self.saved = time.monotonic()
