"""Train what is outstanding and record it."""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm import tqdm

from ..data import ImageSet, load
from ..machine import hardware, versions
from .config import Data, Experiment
from .records import code_hash, code_version, command, determinism, now, run_id, write_json
from .table1 import Row, by_value

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")


@dataclass(frozen=True)
class Run:
    """One experiment with one seed and its place on disk."""

    experiment: Experiment
    seed: int
    id: str
    results: Path

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


class DataCache:
    """Data sets already loaded in this process, with their fingerprints."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.loaded: dict[Data, tuple[ImageSet, str]] = {}

    def __call__(self, data: Data) -> tuple[ImageSet, str]:
        if data not in self.loaded:
            images = load(data.name, data.train, data.test, data.seed, self.root)
            self.loaded[data] = images, images.fingerprint()
        return self.loaded[data]


def plan(
    rows: Sequence[Row],
    experiment_of: Callable[[Row], Experiment],
    seeds: Sequence[int],
    results: Path,
    data: DataCache,
) -> list[Run]:
    """All runs, the most valuable first: every row once before any row twice."""
    code = code_hash()
    runs = []
    for seed in seeds:
        for row in by_value(tuple(rows)):
            experiment = experiment_of(row)
            _, fingerprint = data(experiment.data)
            runs.append(Run(experiment, seed, run_id(experiment, seed, fingerprint, code), results))
    return runs


def perform(
    run: Run,
    data: DataCache,
    changes: Mapping[str, str],
    report: Callable[[int, int, float], None] = lambda step, steps, seen: None,
    stop: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
) -> bool:
    """Train, evaluate and record one run unless it is recorded already; true if it did anything.

    A lock keeps two processes from training the same run; the second waits and finds the record.
    """
    from .evaluate import evaluate
    from .train import fit

    run.record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(run.record.with_suffix(".lock")):
        if run.done:
            return False
        images, fingerprint = data(run.experiment.data)
        started = now()
        began = time.perf_counter()
        version = code_version()
        classifier = fit(run.experiment, images, run.seed, run.work, report, stop, deadline)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        metrics = evaluate(classifier.network, images, run.experiment.evaluate, device)
        settings = run.experiment.as_dict()
        partial = run.weights.with_suffix(".partial")
        torch.save(classifier.network.cpu().state_dict(), partial)
        partial.replace(run.weights)
        write_json(
            run.record,
            {
                "experiment": run.experiment.name,
                "profile": run.experiment.profile,
                "seed": run.seed,
                "config": {section: settings[section] for section in ("data", "model", "train", "evaluate")},
                "data": {
                    "name": images.name,
                    "source": images.source,
                    "fingerprint": fingerprint,
                    "train": len(images.train),
                    "test": len(images.test),
                    "classes": list(images.classes),
                },
                "metrics": metrics,
                "history": classifier.history,
                "parameters": sum(p.numel() for p in classifier.parameters()),
                "code": version,
                "versions": versions(PACKAGES),
                "hardware": hardware(),
                "determinism": determinism(),
                "started": started,
                "seconds": {
                    "training": sum(epoch["seconds"] for epoch in classifier.history),
                    "this_session": time.perf_counter() - began,
                },
                "command": command(run.experiment, run.seed, dict(changes)),
            },
        )
        shutil.rmtree(run.work)
        return True


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current batch."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: received.append(number)) for number in signals]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def run_all(
    runs: Sequence[Run],
    data: DataCache,
    changes: Mapping[str, str],
    budget: float | None = None,
    quiet: bool = False,
) -> int:
    """Perform the outstanding runs in order; the number that is left.

    Stops cleanly when ``budget`` (seconds) is used up or on Ctrl-C; the next call goes on from the last checkpoint.
    """
    from .train import Interrupted

    deadline = None if budget is None else time.monotonic() + budget
    outstanding = [run for run in runs if not run.done]
    with stop_on_signal() as stop:
        for index, run in enumerate(outstanding):
            title = f"[{index + 1}/{len(outstanding)}] {run.experiment.name} seed {run.seed}"
            bar: Any = tqdm(desc=title, unit="step", file=sys.stderr, disable=quiet, mininterval=1.0)

            def report(step: int, steps: int, seen: float, bar: Any = bar) -> None:
                bar.total = steps
                bar.update(step - bar.n)

            try:
                perform(run, data, changes, report, stop, deadline)
            except Interrupted as reason:
                bar.close()
                print(f"stopped: {reason}; run the same command to go on", file=sys.stderr)
                break
            bar.close()
    return sum(not run.done for run in runs)
