"""A network in training.

Everything that changes during training (learning rate, temperature, order of images, noise) is a function of the
seed and the progress, so a run that was killed continues from its last checkpoint to the same bits.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn

from ..processes import gather
from ..selection import LearnedPhase
from ..watch import Choice
from .config import Experiment, Finetune, Small, Train


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


LOWEST_TEMPERATURE = 1e-30  # below it logits over tau leave float32, and the loss is nan


def temperature(train: Train, epoch: float) -> float:
    """Temperature tau of the Gumbel-softmax at ``epoch`` (Sec. 4.1)."""
    if not train.tau_line:
        return max(train.tau_decay ** (epoch // train.tau_every), train.tau_floor)
    line = [(0.0, 1.0), *train.tau_points()]
    for (start, before), (end, after) in pairwise(line):
        if epoch < end:
            return before + (after - before) * (epoch - start) / (end - start)
    return line[-1][1]


def flip_some(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2, on the device of ``images``."""
    flipped = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


@dataclass
class Tally:
    """What one process adds up over an epoch. ``choices`` counts, for each layer that selects, how often its largest
    score fell on each phase, and ends with the sum of its leads over the second."""

    loss: Tensor
    correct: Tensor
    counted: Tensor
    seen: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    waited: float = 0.0
    choices: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._until = time.perf_counter(), time.process_time()

    def lap(self) -> float:
        """Count the time since the last call, or since this tally was made."""
        (wall, processor), self._until = self._until, (time.perf_counter(), time.process_time())
        self.seconds += (lasted := self._until[0] - wall)
        self.processor_seconds += self._until[1] - processor
        return lasted

    def note(self, choice: Choice) -> None:
        scores = choice.scores.float()
        first, second = scores.topk(2).values.sum(0)
        found = torch.cat([scores.argmax(1).bincount(minlength=scores.shape[1]), (first - second)[None]])
        self.choices[choice.layer] = self.choices.get(choice.layer, 0) + found


class Learner(pl.LightningModule):
    """A network in training: its schedules, its sums over an epoch and its history, a line for each epoch.

    ``network`` maps uint8 images to logits, and is all that evaluation needs. Targets equal to ``ignored`` count
    nowhere. ``log_history`` is called after every epoch, in the first of several processes.
    """

    def __init__(self, network: nn.Module, experiment: Experiment, seed: int, ignored: int = -100) -> None:
        super().__init__()
        self.network = network
        self.recipe, self.engine, self.seed, self.ignored = experiment.train, experiment.engine, seed, ignored
        self.flips = isinstance(experiment.data, Small) and self.recipe.flip  # photographs are flipped as they are read
        self.temperatures = [layer for layer in network.modules() if isinstance(layer, LearnedPhase)]
        last = temperature(self.recipe, self.recipe.epochs)
        if self.temperatures and last < LOWEST_TEMPERATURE:
            raise ValueError(
                f"{self.recipe.epochs} epochs with train.tau_every {self.recipe.tau_every:g} lower the temperature of "
                f"LPD to {last:.1g}, and below {LOWEST_TEMPERATURE:g} Eq. (17) divides by nothing; raise "
                "train.tau_every with the epochs, or set train.tau_floor"
            )
        self.history: list[dict[str, float]] = []
        self.kept: list[dict[str, Any]] = []
        self.log_history: Callable[[list[dict[str, float]]], None] = lambda history: None
        # a function, for a module would put its weights into the checkpoint once more
        self.logits = torch.compile(network.forward) if self.engine.compile else network.forward

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD; the logit networks of LPD carry no weight decay, as in the original, and backbones learn more slowly."""
        free = {id(p) for layer in self.temperatures for p in layer.parameters()}
        backbone_lr = self.recipe.backbone_lr if isinstance(self.recipe, Finetune) else 1.0
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in self.network.named_parameters():
            scale = backbone_lr if name.startswith("1.backbone.") else 1.0
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

    @property
    def epoch(self) -> float:
        """Epochs behind this step, in fractions."""
        return self.global_step / self.trainer.num_training_batches

    def on_train_epoch_start(self) -> None:
        # each device draws its own noise
        torch.manual_seed(1_000_003 * (self.seed + 1) + self.current_epoch + 500_009 * self.global_rank)
        zero = partial(torch.zeros, (), device=self.device)
        self.tally = Tally(zero(), correct=zero(dtype=torch.int64), counted=zero(dtype=torch.int64))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.tally.waited += self.tally.lap()
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.recipe, self.epoch) * group["scale"]
        for layer in self.temperatures:
            layer.tau.fill_(temperature(self.recipe, self.epoch))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.logits(flip_some(images) if self.flips else images)
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
            self.tally.loss += loss * len(labels)
            self.tally.correct += (logits.argmax(1) == labels).sum()
            self.tally.counted += (labels != self.ignored).sum()
            self.tally.seen += len(labels)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.tally.lap()

    def on_train_epoch_end(self) -> None:
        """Add up over the devices and remember; ``waiting`` is the share of the time without a batch at hand."""
        tally = self.tally
        tally.lap()
        images = tally.seen * self.trainer.world_size
        last = (self.global_step - 1) / self.trainer.num_training_batches

        def total(of: Tensor) -> Any:
            return self.trainer.strategy.reduce(of, reduce_op="sum").tolist()

        line = {
            "epoch": self.current_epoch + 1,
            "loss": total(tally.loss) / images,
            "accuracy": 100 * total(tally.correct) / max(total(tally.counted), 1),
            "lr": learning_rate(self.recipe, last),
            "tau": temperature(self.recipe, last),
            "seconds": tally.seconds,
            "processor_seconds": tally.processor_seconds,
            "images_per_second": images / tally.seconds,
            "waiting": tally.waited / tally.seconds,
        }
        for name, found in tally.choices.items():
            *counts, lead = total(found)
            line |= {f"{name}.phase{k}": count / sum(counts) for k, count in enumerate(counts)}
            line[f"{name}.lead"] = lead / sum(counts)
        self.history.append(line)
        if self.global_rank == 0:
            self.log_history(self.history)

    def on_train_end(self) -> None:
        """Batch statistics of the first device for all, as for the weights that are saved."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The history, too, and the sums over the epoch and the random states of each process."""
        self.tally.lap()
        mine = {"tally": move_data_to_device(asdict(self.tally), "cpu"), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            mine["random_cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint |= {"history": self.history, "processes": gather(mine)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.kept = checkpoint["history"], checkpoint["processes"]

    def on_train_start(self) -> None:
        """Go on where the checkpoint was; the next epoch, if its own is over, begins with seeds and sums of its own."""
        if not self.kept:
            return
        mine = self.kept[self.global_rank]
        self.tally = Tally(**move_data_to_device(mine["tally"], self.device))
        torch.set_rng_state(mine["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["random_cuda"], self.device)
