"""All outstanding runs: how far they are, and their training, one after the other or each in a process of its own."""

import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process, resource_tracker
from pathlib import Path
from statistics import mean
from threading import Lock, Thread
from typing import Any, Literal, NamedTuple

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..machine import hardware
from ..processes import ALONE, Session, Stop, forks, gather, kept_back, stop_on_signal
from .run import DataCache, Run, leads, perform
from .weights import CHECKPOINT, read_checkpoint

PRELOADED = ["lps.experiments.fit"]
"""What trains, with Lightning, takes seconds to import: once for all processes where they can be forked."""


class Outcome(NamedTuple):
    state: Literal["recorded", "stopped", "failed"]
    reason: str = ""


class RunsFailed(RuntimeError):
    """Some runs ended in an error: which, and in which; the others are not touched by it."""


def attempt(run: Run, data: DataCache, session: Session = ALONE) -> Outcome:
    """:func:`~lps.experiments.run.perform`, where an error is an outcome: it ends this run and no other."""
    from .fit import Interrupted

    try:
        perform(run, data, session)
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


class Turn(NamedTuple):
    """A run of a call, and how it is told of."""

    run: Run
    title: str
    deadline: float | None
    quiet: bool

    def take(self, data: DataCache, stop: Stop, place: int = 0) -> Outcome:
        """Attempt the run under a bar, the ``place``-th on the terminal."""
        began = time.monotonic()
        # None: no bar where there is no terminal, whose log the line below suits better
        options: Any = {"disable": self.quiet or None, "leave": False, "mininterval": 1.0, "position": place}
        with tqdm(desc=self.title, unit="step", file=sys.stderr, **options) as bar:

            def report(step: int, steps: int) -> None:
                bar.total = steps
                bar.update(step - bar.n)

            outcome = attempt(self.run, data, Session(report, stop, self.deadline))
        if outcome.state == "failed" or not self.quiet:
            reason = f": {outcome.reason}" if outcome.reason else ""
            tqdm.write(f"{self.title}: {outcome.state} after {time.monotonic() - began:.0f} s{reason}", file=sys.stderr)
        return outcome


def default_jobs() -> int:
    """A run for each core that this process may use, or one at a time where there is a GPU.

    ``LPS_JOBS`` says otherwise: notebooks that are executed beside others share the cores with them.
    """
    if torch.cuda.is_available():
        return 1
    if given := os.environ.get("LPS_JOBS", ""):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    runs: Sequence[Run],
    data: DataCache,
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
    if jobs > 1 and any(run.experiment.engine.shared for run in runs):
        raise ValueError(f"runs on several devices go one at a time; {jobs} jobs were asked for")
    deadline = None if budget is None else time.monotonic() + budget
    outstanding = [run for run in runs if not run.done]
    turns = [
        Turn(run, f"[{index}/{len(outstanding)}] {run.title}", deadline, quiet)
        for index, run in enumerate(outstanding, 1)
    ]
    with stop_on_signal() as stop:
        ends = _one_by_one(turns, data, threads, stop) if jobs == 1 else _abreast(turns, data.root, threads, jobs, stop)
    left = sum(not run.done for run in runs)
    stopped = [outcome.reason for _, outcome in ends if outcome.state == "stopped"]
    if left and leads() and (stopped or stop()):
        print(f"stopped: {[*stopped, 'interrupted'][0]}; run the same command to go on", file=sys.stderr)
    if failed := [f"{run.title}: {outcome.reason}" for run, outcome in ends if outcome.state == "failed"]:
        raise RunsFailed("; ".join(failed))
    return left


Ends = list[tuple[Run, Outcome]]


def _one_by_one(turns: Sequence[Turn], data: DataCache, threads: int | None, stop: Stop) -> Ends:
    if threads is not None:
        torch.set_num_threads(threads)
    ends = Ends()
    for turn in turns:
        outcome = turn.take(data, stop)
        ends.append((turn.run, outcome))
        # the other processes of a run that failed wait for this one, and end with it
        if outcome.state == "stopped" or (outcome.state == "failed" and turn.run.experiment.engine.shared):
            break
        if any(gather(stop())):
            ends.append((turn.run, Outcome("stopped", "interrupted")))
            break
    return ends


def _abreast(turns: Sequence[Turn], root: Path | None, threads: int | None, jobs: int, stop: Stop) -> Ends:
    """``jobs`` runs at a time, each in a process with a pool of its own: where it is killed, the others are not."""
    context = forks(PRELOADED)
    resource_tracker.ensure_running()  # here, for it lets in the signals that are kept back below
    halt = context.RawValue("b", 0)  # without a lock, which a process that is killed may hold
    waiting, ends = iter(turns), Ends()

    def lane(place: int) -> None:
        """Turn after turn in a process, and in another where that one is killed."""
        pool = None
        for turn in waiting:
            if halt.value or any(outcome.state == "stopped" for _, outcome in ends):
                break  # those that go on may still fit into the budget
            pool = pool or ProcessPoolExecutor(1, context, _begin, (root, threads or 1, halt))
            try:
                with kept_back():  # signals are for this process, which stops the others
                    future = pool.submit(_take, turn, place)
                outcome = future.result()
            except BrokenProcessPool:
                reason = "out of memory, or called by a script without `if __name__ == '__main__':`?"
                outcome, pool = Outcome("failed", f"its process was ended: {reason}"), None
            ends.append((turn.run, outcome))
        if pool:
            pool.shutdown()

    with ThreadPoolExecutor(jobs) as abreast:
        lanes = [abreast.submit(lane, place) for place in range(min(jobs, len(turns)))]
        try:
            while wait(lanes, timeout=0.2).not_done:
                halt.value = halt.value or stop()
        finally:
            halt.value = 1
    for ended in lanes:
        ended.result()
    return ends


_BUSY = Lock()
_begun: list[Any] = []
"""In a process of its own: data, and whether to stop."""


def _begin(root: Path | None, threads: int, halt: Any) -> None:
    torch.set_num_threads(threads)
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        with _BUSY:  # a run that goes on stops after its batch
            os._exit(1)

    _begun[:] = DataCache(root), lambda: bool(halt.value) or not parent.is_alive()
    Thread(target=end, daemon=True).start()


def _take(turn: Turn, place: int) -> Outcome:
    with _BUSY:
        data, stop = _begun
        return turn.take(data, stop, place)


History = Sequence[Mapping[str, float]]


def state(run: Run) -> tuple[str, History]:
    """``done``, ``running`` in another process, ``begun`` or ``outstanding``, and the epochs that are kept."""
    if run.done:
        return "done", ()
    lock, checkpoint = run.record.with_suffix(".lock"), run.work / CHECKPOINT
    if lock.exists():
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            return "running", ()
    if not checkpoint.exists():
        return "outstanding", ()
    try:
        history = read_checkpoint(checkpoint)["history"]
    except Exception:  # whatever is wrong with it, the run itself will say
        return "begun, checkpoint not readable", ()
    return f"begun, {len(history)} of {run.experiment.train.epochs} epochs", history


def estimate(run: Run, records: Sequence[Mapping[str, Any]], history: History = ()) -> float | None:
    """Seconds that a run still takes after the epochs of ``history``, by records of this machine's kind: of its row,
    else of its table. Where there is none of the same profile, data and number of epochs, training alone by
    ``history``, or ``None``.
    """

    def kind(name: str, profile: str, machine: Any, config: Mapping[str, Any]) -> tuple[Any, ...]:
        return name.split("/")[0], profile, machine, config["data"], config["train"]["epochs"]

    experiment = run.experiment
    ours = kind(experiment.name, experiment.profile, hardware(), experiment.as_dict())
    alike = [r for r in records if kind(r["experiment"], r["profile"], r["hardware"], r["config"]) == ours]
    closest = [record for record in alike if record["experiment"] == experiment.name] or alike
    if closest:
        training = mean(record["seconds"]["training"] for record in closest)
        whole = mean(max(record["seconds"].values()) for record in closest)
        return whole - training * len(history) / experiment.train.epochs
    left = experiment.train.epochs - len(history)
    return left * mean(epoch["seconds"] for epoch in history) if history else None


def overview(runs: Sequence[Run], records: Sequence[Mapping[str, Any]]) -> str:
    """A line for each run, and the time that the outstanding ones need together, one after the other."""
    lines, total, unknown = [], 0.0, 0
    for run in runs:
        word, history = state(run)
        if word != "done":
            seconds = estimate(run, records, history)
            total, unknown = total + (seconds or 0), unknown + (seconds is None)
            word += ", time unknown" if seconds is None else f", about {clock(seconds)}"
        lines.append(f"{run.experiment.name:<36} seed {run.seed}  {word}")
    left = sum(not run.done for run in runs)
    guess = f"about {clock(total)}" + (f" and {unknown} of unknown length" if unknown else "")
    return "\n".join([*lines, f"{len(runs) - left} of {len(runs)} done" + (f", {left} to go: {guess}" if left else "")])


def clock(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
