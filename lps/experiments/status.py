"""How far runs are, and how long the outstanding ones will take on this machine."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from filelock import FileLock, Timeout

from ..machine import hardware
from .fit import CHECKPOINT, read_checkpoint
from .run import Run

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
