"""Train what is outstanding and record it."""

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from filelock import FileLock
from torch import distributed as dist
from torch import nn
from tqdm import tqdm

from ..data import data_root, load
from ..machine import hardware, versions
from .config import SECTIONS, Data, Experiment, Photographs, Seed
from .records import code_version, command, determinism, now, read_record, run_id, short_hash, write_json
from .rows import Row, by_value
from .schema import conform
from .signals import SIGNALS, Stop, any_stops, stop_on_signal

if TYPE_CHECKING:
    from .tasks import Job

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")

Measure = Callable[[nn.Module, torch.device], dict[str, dict[str, Any]]]
Report = Callable[[int, int, float], None]


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
        from .segment import find_backbone
        from .weights import sha256

        try:
            path = find_backbone(self.experiment, self.seed, self.results)
            return sha256(path) if path else ""
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
            if data.name == "cifar10":
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
    report: Report = lambda step, steps, seen: None,
    stop: Stop = lambda: False,
    deadline: float | None = None,
) -> bool:
    """Train, evaluate and record one run unless it is recorded already; true if it did anything.

    A lock keeps two processes from training the same run; the second waits and finds the record.
    """
    from . import weights
    from .learner import CHECKPOINT, AtomicCheckpoints, fit
    from .logs import Logbook
    from .resume import MidEpoch, check
    from .tasks import prepare

    run = replace(run, start=run.starts_from())
    run.record.parent.mkdir(parents=True, exist_ok=True)
    # the other processes of this run do not see the lock: to wait, and then to find the record, would leave them behind
    lock = FileLock(run.record.with_suffix(".lock"), timeout=0 if run.shared else -1)
    with lock if leads() else nullcontext():
        if run.done:
            return False
        images, fingerprint = data(run.experiment.data)
        started = now()
        began = time.perf_counter()
        version = code_version(run.experiment.task)
        learner, batches, measure, backbone = prepare(run.experiment, images, run.seed, run.results)
        if backbone and weights.sha256(backbone) != run.start:
            raise ValueError(f"{backbone} was written anew while its run was to start: run the same command again")
        log = Logbook(run.record.with_suffix(".csv"))
        check(run.work / CHECKPOINT, learner)
        middle = MidEpoch(run.work / CHECKPOINT, stop, log)
        torch.backends.cudnn.allow_tf32 = run.experiment.engine.tf32
        fit(learner, batches, run.work, report, middle.asked, deadline, [log, middle])
        log.finish(learner)
        metrics, convolutions = measured(learner.network, measure, run.experiment, images)
        if leads():
            settings = run.experiment.as_dict()
            AtomicCheckpoints().save_checkpoint(learner.network.cpu().state_dict(), run.weights)
            write_json(
                run.record,
                {
                    "experiment": run.experiment.name,
                    "profile": run.experiment.profile,
                    "seed": run.seed,
                    "config": {section: settings[section] for section in SECTIONS},
                    **({"own": settings["own"]} if "own" in settings else {}),
                    "data": {
                        "name": images.name,
                        "source": images.source,
                        "fingerprint": fingerprint,
                        "train": len(images.train),
                        "test": len(images.test),
                        "classes": list(images.classes),
                    },
                    "metrics": metrics,
                    "history": log.lines,
                    "parameters": sum(p.numel() for p in learner.parameters()),
                    "code": version,
                    "versions": versions(PACKAGES),
                    "hardware": hardware(),
                    "determinism": determinism() | {"tf32": run.experiment.engine.tf32, "convolutions": convolutions},
                    "backbone": backbone and backbone.relative_to(run.results).with_suffix("").as_posix(),
                    "weights": weights.about(run.weights) | ({"backbone": run.start} if backbone else {}),
                    "started": started,
                    "seconds": {
                        "training": sum(epoch["seconds"] for epoch in learner.history),
                        "this_session": time.perf_counter() - began,
                    },
                    "processor_seconds": sum(epoch.get("processor_seconds", 0.0) for epoch in learner.history),
                    "command": command(run.experiment, run.seed, dict(changes)),
                },
            )
            shutil.rmtree(run.work)
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # the others go on once the record is there
        return True


def trained(run: Run, experiment: Experiment, images: Any) -> "Job":
    """The job of a recorded run, or of another ``experiment`` with the same network, with the trained weights."""
    from .tasks import fresh
    from .weights import load_weights

    if not run.weights.exists():
        raise FileNotFoundError(f"{run.title} has no weights in {run.results}; {run.weights.name} is expected there")
    job = fresh(experiment, images, run.seed)
    load_weights(job.learner.network, run.weights)
    return job


def measure_again(run: Run, data: DataCache, changes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Metrics of the trained weights of a run, under other settings of ``evaluate``, ``engine`` or ``data``."""
    if made := [name for name in changes if name.startswith(("model.", "train."))]:
        raise ValueError(f"{', '.join(made)}: how weights were made cannot change any more; give it with --set instead")
    experiment = run.experiment.override(changes)
    images, _ = data(experiment.data)
    job = trained(run, experiment, images)
    try:
        metrics, _ = measured(job.learner.network, job.measure, experiment, images)
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"{run.title}: {error}") from error
    return metrics


def measured(
    network: nn.Module, measure: Measure, experiment: Experiment, images: Any
) -> tuple[dict[str, dict[str, Any]], str]:
    """Metrics of a trained network, and the convolutions that they were measured with: see
    :func:`~lps.experiments.evaluate.exact_convolutions`, tried here on images and batches of the size measured."""
    from .evaluate import exact_convolutions

    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    batch_size = experiment.evaluate.batch_size
    some, _ = next(iter(images.batches(batch_size)))
    if experiment.task == "photographs":
        crop = cast(Photographs, experiment.data).crop
        some = some[..., :crop, :crop]
    with exact_convolutions(network, some, batch_size, device) as convolutions:
        return measure(network, device), convolutions


class Outcome(NamedTuple):
    """How an attempt at a run ended."""

    state: Literal["recorded", "stopped", "failed"]
    reason: str = ""


class RunsFailed(RuntimeError):
    """Some runs ended in an error: which, and in which; the others are not touched by it."""


def attempt(
    run: Run, data: DataCache, changes: Mapping[str, str], report: Report, stop: Stop, deadline: float | None
) -> Outcome:
    """:func:`perform`, where an error is an outcome: it ends this run and no other."""
    from .learner import Interrupted

    try:
        perform(run, data, changes, report, stop, deadline)
    except Interrupted as reason:
        return Outcome("stopped", str(reason))
    except SystemExit:  # Lightning's answer to a SIGTERM between two of its callbacks
        return Outcome("stopped", "interrupted")
    except (ValueError, OSError, FloatingPointError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # a process that reads photographs adds where its error arose, and repeats the kind of it
        sentence = lines[-1] if lines[0].startswith("Caught ") else " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
        return Outcome("failed", sentence.removeprefix(f"{type(error).__name__}: "))
    except Exception as error:
        traceback.print_exc()
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return Outcome("recorded")


class Worker:
    """Performs one run at a time in a process of its own, which is started when there is none (any more)."""

    def __init__(self, root: Path | None, changes: Mapping[str, str], deadline: float | None, threads: int) -> None:
        self.settings = root, dict(changes), deadline, threads
        self.line: Connection | None = None

    def attempt(self, run: Run, report: Report, stop: Stop) -> Outcome:
        if self.line is None:
            context = get_context("spawn")
            self.line, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, *self.settings))
            self.process.start()
            theirs.close()
        try:
            self.line.send(run)
            while not isinstance(word := self.line.recv(), Outcome):
                report(*word)
                if stop():
                    self.line.send(None)
            return word
        except (EOFError, ConnectionError):
            self.close()
            return Outcome("failed", f"its process ended with code {self.process.exitcode}; out of memory, perhaps?")

    def close(self) -> None:
        """End the process, in the middle of a run after the current batch."""
        if self.line is not None:
            self.line.close()
            self.process.join()
            self.line = None


def serve(
    line: Connection, root: Path | None, changes: Mapping[str, str], deadline: float | None, threads: int
) -> None:
    """The other end of a :class:`Worker`: perform the runs that come. A word during a run, or a line cut, is a stop."""
    torch.set_num_threads(threads)
    data = DataCache(root)
    with suppress(EOFError, ConnectionError):
        for run in iter(line.recv, None):
            line.send(attempt(run, data, changes, lambda *progress: line.send(progress), line.poll, deadline))


def default_jobs() -> int:
    """A run for each core that this process may use, or one at a time where there is a GPU."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    runs: Sequence[Run],
    data: DataCache,
    changes: Mapping[str, str],
    budget: float | None = None,
    quiet: bool = False,
    jobs: int = 1,
    threads: int | None = None,
) -> int:
    """Perform the outstanding runs, the first ones first; the number that is left.

    One job runs in this process. More run side by side, each in a process of its own that takes the next run as soon
    as it is free. ``threads`` is the number of CPU threads of each; by default torch's for one job, 1 for more, as a
    small network gains more from a second run than from a second thread.

    Stops cleanly when ``budget`` (seconds) is used up or on Ctrl-C; the next call goes on from the last checkpoints.
    An error ends its run and no other; when all are through, :class:`RunsFailed` names the runs that it ended.
    """
    if jobs < 1:
        raise ValueError(f"{jobs} jobs were asked for; expected 1 or more")
    if jobs > 1 and any(run.shared for run in runs):
        raise ValueError(f"runs on several devices go one at a time; {jobs} jobs were asked for")
    deadline = None if budget is None else time.monotonic() + budget
    outstanding = [run for run in runs if not run.done]
    waiting = iter(enumerate(outstanding, 1))
    stopped: list[str] = []
    failed: list[str] = []

    def work(attempt: Callable[[Run, Report, Stop], Outcome]) -> None:
        """Perform runs until none is waiting, or one was stopped."""
        for index, run in waiting:
            began = time.monotonic()
            title = f"[{index}/{len(outstanding)}] {run.title}"
            # None: no bar where there is no terminal, whose log the lines below suit better
            hidden = True if quiet else None
            with tqdm(desc=title, unit="step", file=sys.stderr, disable=hidden, leave=False, mininterval=1.0) as bar:

                def report(step: int, steps: int, seen: float, bar: Any = bar) -> None:
                    bar.total = steps
                    bar.update(step - bar.n)

                outcome = attempt(run, report, stop)
            if outcome.state == "failed" or not quiet:
                reason = f": {outcome.reason}" if outcome.reason else ""
                seconds = time.monotonic() - began
                tqdm.write(f"{title}: {outcome.state} after {seconds:.0f} s{reason}", file=sys.stderr)
            if outcome.state == "failed":
                failed.append(f"{run.title}: {outcome.reason}")
                if run.shared:
                    return  # its other processes wait for this one: they end with it
            if outcome.state == "stopped":
                stopped.append(outcome.reason)
            elif any_stops(stop):
                stopped.append("interrupted")
            if stopped:
                return

    def work_apart() -> None:
        with closing(Worker(data.root, changes, deadline, threads or 1)) as worker:
            work(worker.attempt)

    with stop_on_signal() as stop:
        if jobs == 1:
            if threads is not None:
                torch.set_num_threads(threads)
            work(lambda run, report, stop: attempt(run, data, changes, report, stop, deadline))
        else:
            resource_tracker.ensure_running()  # here, for it lifts the mask that the threads and their children get
            mask = (signal.SIG_BLOCK, SIGNALS)  # signals are for this process, which stops the others
            with ThreadPoolExecutor(jobs, initializer=signal.pthread_sigmask, initargs=mask) as pool:
                lanes = [pool.submit(work_apart) for _ in range(min(jobs, len(outstanding)))]
                # a signal that reaches another thread is handled only when this one wakes up
                while wait(lanes, timeout=0.5).not_done:
                    pass
                for lane in lanes:
                    lane.result()
    left = sum(not run.done for run in runs)
    if stopped and left and leads():
        print(f"stopped: {stopped[0]}; run the same command to go on", file=sys.stderr)
    if failed:
        raise RunsFailed("; ".join(failed))
    return left
