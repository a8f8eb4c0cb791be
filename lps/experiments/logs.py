"""What a training run looks like while it goes on: a CSV file, and TensorBoard where it is installed."""

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..selection import LearnedPhase, MaxNorm, Selection
from .learner import Learner


class Choices:
    """How often a layer's largest score fell on each phase, and by how much it led, since the last :meth:`take`."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: Any, selection: Selection) -> None:
        if not layer.training:
            return
        scores = selection.scores.detach().float()
        first, second = scores.topk(2).values.sum(0)
        found = torch.cat([scores.argmax(1).bincount(minlength=scores.shape[1]), (first - second)[None]])
        self.sums = found if self.sums is None else self.sums + found

    def take(self, trainer: pl.Trainer) -> tuple[list[float], float]:
        """Shares of the phases and the mean lead, over all devices."""
        assert self.sums is not None
        *counts, lead = trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        self.sums = None
        return [count / sum(counts) for count in counts], lead / sum(counts)


class Logbook(Callback):
    """A line for each epoch in ``path``: loss, accuracy, learning rate, temperature, speed, and the choices of each
    layer that selects. Changes nothing in the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, float]] = []
        self.choices: dict[str, Choices] = {}
        self.hooks: list[RemovableHandle] = []
        self.pending: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        for name, layer in pl_module.network.named_modules():
            if isinstance(layer, LearnedPhase | MaxNorm) and not pl_module.engine.compile:
                self.choices[name] = Choices()
                self.hooks.append(layer.register_forward_hook(self.choices[name]))

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines, "pending": self.pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines, self.pending = state_dict["lines"], state_dict["pending"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # the epoch enters the history after this hook: its line is written when the next one starts
        for name, choices in self.choices.items():
            shares, lead = choices.take(trainer)
            self.pending |= {f"{name}.phase{k}": share for k, share in enumerate(shares)} | {f"{name}.lead": lead}

    def finish(self, learner: Learner) -> None:
        """After training, also where a checkpoint left nothing to train: the line of the last epoch."""
        self._write(learner)
        for hook in self.hooks:
            hook.remove()

    def _write(self, learner: pl.LightningModule) -> None:
        assert isinstance(learner, Learner)
        if (not self.pending and len(self.lines) == len(learner.history)) or learner.global_rank > 0:
            return
        line = {**learner.history[-1], **self.pending}
        self.lines.append(line)
        self.pending = {}
        with self.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for known in self.lines for name in known)))
            writer.writeheader()
            writer.writerows(self.lines)
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(self.path.with_suffix(".tensorboard"))) as board:
                for name, value in line.items():
                    board.add_scalar(name, value, int(line["epoch"]))
