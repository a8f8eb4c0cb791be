"""One experiment with one seed, from its data to its record."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from torch import distributed as dist
from torch import nn

from ..data import data_root, load
from ..machine import hardware, versions
from . import weights
from .config import SECTIONS, Data, Experiment, Photographs, Seed
from .records import code_version, command, determinism, now, read_record, run_id, short_hash, write_json
from .rows import Row, by_value
from .schema import conform
from .signals import Report, Stop

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")


@dataclass(frozen=True)
class Run:
    """One experiment with one seed and its place on disk.

    ``base`` stands for all of it but the weights that it starts from, ``start`` for these, by their SHA-256, once they
    are settled: until then the id is that of the weights which are there.
    """

    experiment: Experiment
    seed: int
    base: str
    results: Path
    start: str = ""

    @property
    def id(self) -> str:
        return self._with(self.start or self.starts_from())

    def _with(self, start: str) -> str:
        return f"{self.base.rpartition('-')[0]}-{short_hash([self.base, start])}" if start else self.base

    def starts_from(self) -> str:
        """SHA-256 of the weights that it would start from now, or, where these are gone, of those of its newest record;
        empty for random ones, and where there are none yet."""
        if self.experiment.task != "segmentation":
            return ""
        from .backbone import find_backbone

        try:
            path = find_backbone(self.experiment, self.seed, self.results)
            return weights.sha256(path) if path else ""
        except (ValueError, FileNotFoundError):  # told when it is trained
            made = (self.results / self.experiment.name).glob(f"{self.base.rpartition('-')[0]}-*.json")
            for path in sorted(made, key=lambda path: path.stat().st_mtime, reverse=True):
                start = read_record(path).get("weights", {}).get("backbone", "")
                if start and path.stem == self._with(start):
                    return cast(str, start)
            return ""

    def __post_init__(self) -> None:
        conform(self.seed, Seed, "the seed")

    @property
    def title(self) -> str:
        return f"{self.experiment.name} seed {self.seed}"

    @property
    def record(self) -> Path:
        return self.results / self.experiment.name / f"{self.id}.json"

    @property
    def weights(self) -> Path:
        return self.record.with_suffix(".pt")

    @property
    def work(self) -> Path:
        """Folder of the checkpoint, removed when the run is recorded."""
        return self.results / self.experiment.name / f"{self.id}.work"

    @property
    def done(self) -> bool:
        return self.record.exists()

    @property
    def shared(self) -> bool:
        """Do several processes, one for each device, train it together?"""
        return self.experiment.engine.shared


def leads() -> bool:
    """Is this the one process, or the first of those that share a run? The others record nothing."""
    from pytorch_lightning.utilities import rank_zero

    return bool(cast(Any, rank_zero.rank_zero_only).rank == 0)


class DataCache:
    """Data sets already loaded in this process, with their fingerprints."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.loaded: dict[Data, tuple[Any, str]] = {}

    def __call__(self, data: Data) -> tuple[Any, str]:
        """The ``ImageSet`` or ``PhotographSet`` that the settings describe, and its fingerprint."""
        if data not in self.loaded:
            images = self._load(data)
            self.loaded[data] = images, images.fingerprint()
        return self.loaded[data]

    def _load(self, data: Data) -> Any:
        if not isinstance(data, Photographs):
            images = load(data.name, data.train, data.test, data.seed, self.root)
            if data.name.startswith("cifar10"):
                from ..data import cifar10

                all_of = (part for part in ("train", "test") if getattr(data, part) is None)
                cifar10.require_whole(images, data_root(self.root), all_of)
            return images
        from ..data import photographs

        chosen = (data.name, data.folder, data.train, data.test, data.seed, data.resize)
        return photographs.load(*chosen, lambda: data_root(self.root))


def plan(
    rows: Sequence[Row],
    experiment_of: Callable[[Row], Experiment],
    seeds: Sequence[int],
    results: Path,
    data: DataCache,
) -> list[Run]:
    """All runs, the most valuable first: every row once before any row twice."""
    runs = []
    for seed in seeds:
        for row in by_value(tuple(rows)):
            experiment = experiment_of(row)
            _, fingerprint = data(experiment.data)
            runs.append(Run(experiment, seed, run_id(experiment, seed, fingerprint), results))
    return runs


def perform(
    run: Run,
    data: DataCache,
    changes: Mapping[str, str],
    report: Report = lambda step, steps: None,
    stop: Stop = lambda: False,
    deadline: float | None = None,
) -> bool:
    """Train, evaluate and record one run unless it is recorded already; true if it did anything.

    A lock keeps two processes from training the same run; the second waits and finds the record.
    """
    from .backbone import started
    from .batches import Batches
    from .evaluate import measure
    from .fit import fit, write_log
    from .learner import Learner

    run = replace(run, start=run.starts_from())
    run.record.parent.mkdir(parents=True, exist_ok=True)
    # the other processes of this run do not see the lock: to wait, and then to find the record, would leave them behind
    lock = FileLock(run.record.with_suffix(".lock"), timeout=0 if run.shared else -1)
    with lock if leads() else nullcontext():
        if run.done:
            return False
        images, fingerprint = data(run.experiment.data)
        moment, began = now(), time.perf_counter()
        version = code_version(run.experiment.task)
        network, backbone = started(run.experiment, images, run.seed, run.results)
        if backbone and weights.sha256(backbone) != run.start:
            raise ValueError(f"{backbone} was written anew while its run was to start: run the same command again")
        learner = Learner(network, run.experiment, run.seed, images.ignored)
        learner.log_history = partial(write_log, path=run.record.with_suffix(".csv"))
        fit(learner, Batches(images, run.experiment, run.seed), run.work, report, stop, deadline)
        metrics, convolutions = measure(network, images, run.experiment)
        if leads():
            settings, history = run.experiment.as_dict(), learner.history
            weights.save(network.cpu().state_dict(), run.weights)
            record = {
                "experiment": run.experiment.name,
                "profile": run.experiment.profile,
                "seed": run.seed,
                "config": {section: settings[section] for section in SECTIONS},
                "data": {
                    "name": images.name,
                    "source": images.source,
                    "fingerprint": fingerprint,
                    "train": len(images.train),
                    "test": len(images.test),
                    "classes": list(images.classes),
                },
                "metrics": metrics,
                "history": history,
                "parameters": sum(p.numel() for p in network.parameters()),
                "code": version,
                "versions": versions(PACKAGES),
                "hardware": hardware(),
                "determinism": determinism() | {"tf32": run.experiment.engine.tf32, "convolutions": convolutions},
                "backbone": backbone and backbone.relative_to(run.results).with_suffix("").as_posix(),
                "weights": weights.about(run.weights) | ({"backbone": run.start} if backbone else {}),
                "started": moment,
                "seconds": {
                    "training": sum(epoch["seconds"] for epoch in history),
                    "this_session": time.perf_counter() - began,
                },
                "processor_seconds": sum(epoch["processor_seconds"] for epoch in history),
                "command": command(run.experiment, run.seed, dict(changes)),
            }
            write_json(run.record, record | {name: settings[name] for name in ("own",) if name in settings})
            shutil.rmtree(run.work)
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # the others go on once the record is there
        return True


def trained(run: Run, experiment: Experiment, images: Any) -> nn.Module:
    """The network of a recorded run, or of another ``experiment`` with the same network, with the trained weights."""
    from .model import fresh

    if not run.weights.exists():
        raise FileNotFoundError(f"{run.title} has no weights in {run.results}; {run.weights.name} is expected there")
    network = fresh(experiment, images, run.seed)
    weights.load_weights(network, run.weights)
    return network


def measure_again(run: Run, data: DataCache, changes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Metrics of the trained weights of a run, under other settings of ``evaluate``, ``engine`` or ``data``."""
    from .evaluate import measure

    if made := [name for name in changes if name.startswith(("model.", "train."))]:
        raise ValueError(f"{', '.join(made)}: how weights were made cannot change any more; give it with --set instead")
    experiment = run.experiment.override(changes)
    images, _ = data(experiment.data)
    network = trained(run, experiment, images)
    try:
        return measure(network, images, experiment)[0]
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"{run.title}: {error}") from error
