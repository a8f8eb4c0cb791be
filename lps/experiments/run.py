"""One experiment with one seed, from its data to its record."""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from torch import nn

from ..data import data_root, load, require_whole
from ..processes import ALONE, Session, gather
from . import weights
from .config import SECTIONS, Data, Experiment, Own, Photographs, Seed
from .evaluate import Metrics, measure
from .model import find_backbone, fresh, started
from .profiles import load_profile
from .records import command, determinism, made_with, read_record, run_id, short_hash, write_json
from .rows import by_value, matching
from .schema import conform


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

    def __post_init__(self) -> None:
        conform(self.seed, Seed, "the seed")

    @property
    def id(self) -> str:
        return self._with(self.start or self.starts_from())

    def _with(self, start: str) -> str:
        return f"{self.base.rpartition('-')[0]}-{short_hash([self.base, start])}" if start else self.base

    def starts_from(self) -> str:
        """SHA-256 of the weights that it would start from now, or, where these are gone, of those of its newest record;
        empty for random ones, and where there are none yet."""
        try:
            path = find_backbone(self.experiment, self.seed, self.results)
            return weights.sha256(path) if path else ""
        except (ValueError, FileNotFoundError):  # told when it is trained
            made = (self.results / self.experiment.name).glob(f"{self.base.rpartition('-')[0]}-*.json")
            for path in sorted(made, key=lambda path: path.stat().st_mtime, reverse=True):
                start: str = read_record(path).get("weights", {}).get("backbone", "")
                if start and path.stem == self._with(start):
                    return start
            return ""

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
        return self.record.with_suffix(".work")

    @property
    def done(self) -> bool:
        return self.record.exists()


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
        from ..data import photographs

        if isinstance(data, Photographs):
            chosen = (data.name, data.folder, data.train, data.test, data.seed, data.resize)
            sought = f"the folder {data.folder}, laid out as {data.name},"
            return photographs.load(*chosen, lambda: data_root(self.root, sought))
        images = load(data.name, data.train, data.test, data.seed, self.root)
        if data.name.startswith("cifar10"):
            whole = (part for part in ("train", "test") if getattr(data, part) is None)
            require_whole(images, data_root(self.root), whole)
        return images


def plan(
    patterns: Iterable[str],
    profile: str,
    seeds: Iterable[int],
    changes: Mapping[str, str],
    results: Path,
    data: DataCache,
    own: tuple[str, Own] | None = None,
) -> list[Run]:
    """The runs of :func:`asked`, whose ids take their data."""
    return [
        Run(experiment, seed, run_id(experiment, seed, data(experiment.data)[1]), results)
        for experiment, seed in asked(patterns, profile, seeds, changes, own)
    ]


def asked(
    patterns: Iterable[str],
    profile: str,
    seeds: Iterable[int],
    changes: Mapping[str, str],
    own: tuple[str, Own] | None = None,
) -> Iterator[tuple[Experiment, int]]:
    """The experiments of the rows that match any of the patterns, or of a reader's ``own`` like these, with their
    seeds; the most valuable ones first: every row once before any row twice."""
    for seed, row in product(seeds, by_value(matching(patterns))):
        experiment = load_profile(profile).row(row)
        if own is not None:
            model = replace(experiment.model, method="own", antialias="none")
            experiment = replace(experiment, name=own[0], model=model, own=own[1])
        yield experiment.override(changes), seed


def describe(run: Run, images: Any, fingerprint: str, sections: Iterable[str] = SECTIONS) -> dict[str, Any]:
    """What the record of a run, and of each study of its network, says of the run and its data."""
    settings = run.experiment.as_dict()
    return {
        "experiment": run.experiment.name,
        "profile": run.experiment.profile,
        "seed": run.seed,
        "config": {section: settings[section] for section in sections},
        "data": {
            "name": images.name,
            "source": images.source,
            "fingerprint": fingerprint,
            "train": len(images.train),
            "test": len(images.test),
            "classes": list(images.classes),
        },
    }


def perform(run: Run, data: DataCache, session: Session = ALONE) -> bool:
    """Train, evaluate and record one run unless it is recorded already; true if it did anything.

    A lock keeps two processes from training the same run; the second waits and finds the record.
    """
    from .fit import Batches, fit, write_log
    from .learner import Learner

    run, shared = replace(run, start=run.starts_from()), run.experiment.engine.shared
    run.record.parent.mkdir(parents=True, exist_ok=True)
    # the other processes of this run do not see the lock: to wait, and then to find the record, would leave them behind
    lock = FileLock(run.record.with_suffix(".lock"), timeout=0 if shared else -1)
    with lock if leads() else nullcontext():
        if run.done:
            return False
        images, fingerprint = data(run.experiment.data)
        began, made = time.perf_counter(), made_with(run.experiment.task)
        network, backbone = started(run.experiment, images, run.seed, run.results)
        if backbone and weights.sha256(backbone) != run.start:
            raise ValueError(f"{backbone} was written anew while its run was to start: run the same command again")
        learner = Learner(network, run.experiment, run.seed, images.ignored)
        learner.log_history = partial(write_log, path=run.record.with_suffix(".csv"))
        fit(learner, Batches(images, run.experiment, run.seed), run.work, session)
        metrics, convolutions = measure(network, images, run.experiment)
        if leads():
            history, own = learner.history, run.experiment.own
            weights.save(network.cpu().state_dict(), run.weights)
            record = {
                **describe(run, images, fingerprint),
                "metrics": metrics,
                "history": history,
                "parameters": sum(p.numel() for p in network.parameters()),
                **made,
                "determinism": determinism() | {"tf32": run.experiment.engine.tf32, "convolutions": convolutions},
                "backbone": backbone and backbone.relative_to(run.results).with_suffix("").as_posix(),
                "weights": weights.about(run.weights) | ({"backbone": run.start} if backbone else {}),
                "seconds": {
                    "training": sum(epoch["seconds"] for epoch in history),
                    "this_session": time.perf_counter() - began,
                },
                "processor_seconds": sum(epoch["processor_seconds"] for epoch in history),
                "command": command(run.experiment, run.seed),
            }
            write_json(run.record, record | ({"own": own.as_dict()} if own else {}))
            shutil.rmtree(run.work)
        gather(None)  # the others go on once the record is there
        return True


def trained(run: Run, experiment: Experiment, images: Any) -> nn.Sequential:
    """The network of a recorded run, or of another ``experiment`` with the same network, with the trained weights."""
    if not run.weights.exists():
        missing = f"{run.title} has no weights in {run.results}; {run.weights.name} is expected there"
        made = "" if run.done else f", and made by: {command(run.experiment, run.seed)}"
        raise FileNotFoundError(missing + made)
    network = fresh(experiment, images, run.seed)
    try:
        network.load_state_dict(weights.read_weights(run.weights))
    except RuntimeError as error:
        raise ValueError(f"{run.weights} holds the weights of another network") from error
    return network


def measure_again(run: Run, data: DataCache, changes: Mapping[str, str]) -> Metrics:
    """Metrics of the trained weights of a run, under other settings of ``evaluate``, ``engine`` or ``data``."""
    if made := [name for name in changes if name.startswith(("model.", "train."))]:
        raise ValueError(f"{', '.join(made)}: how weights were made cannot change any more; give it with --set instead")
    experiment = run.experiment.override(changes)
    images, _ = data(experiment.data)
    network = trained(run, experiment, images)
    try:
        return measure(network, images, experiment)[0]
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"{run.title}: {error}") from error
