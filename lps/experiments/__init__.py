"""The paper's experiments: rows of its tables, and a reader's own beside them, trained and recorded in one call."""

from collections import UserList
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from torch import nn

from ..paths import LOCAL
from ..sampling import Sampling
from .config import Own
from .jobs import RunsFailed, default_jobs, run_all
from .records import read_record
from .rows import matching, own_name
from .run import DataCache, Run, plan, trained
from .source import source_of

__all__ = ["NotFinished", "Runs", "RunsFailed", "Trained", "train"]


class NotFinished(RuntimeError):
    """Training was stopped before its end; what is done is kept."""


@dataclass(frozen=True)
class Trained:
    """A recorded run: ``record`` is what its file says, ``data`` the images that it has seen."""

    run: Run
    _cache: DataCache

    @property
    def record(self) -> dict[str, Any]:
        return read_record(self.run.record)

    @property
    def data(self) -> Any:
        """The ``ImageSet`` or ``PhotographSet``."""
        return self._cache(self.run.experiment.data)[0]

    def network(self) -> nn.Module:
        """The trained network in evaluation mode, uint8 images to logits."""
        return trained(self.run, self.run.experiment, self.data).eval()

    def __repr__(self) -> str:
        """``table1/lps seed 0  acc 34.50  c_cons 100.00``"""
        values = (f"{name} {metric['value']:.2f}" for name, metric in self.record["metrics"].items())
        return "  ".join([self.run.title, *values])


class Runs(UserList[Trained]):
    """Recorded runs, seed after seed."""

    @property
    def records(self) -> list[dict[str, Any]]:
        return [one.record for one in self]

    def table(self) -> Any:
        """A line for each row: its metrics in per cent, means over its seeds. A pandas frame, or a dictionary of
        dictionaries where there is no pandas."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for record in self.records:
            found.setdefault(record["experiment"], []).append(record["metrics"])
        lines: dict[str, dict[str, float]] = {}
        for row, each in found.items():
            lines[row] = {name: mean(metrics[name]["value"] for metrics in each) for name in each[0]}
            lines[row]["seeds"] = len(each)
        try:
            import pandas as pd
        except ModuleNotFoundError:
            return lines
        return pd.DataFrame.from_dict(lines, orient="index")

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no runs"


def train(
    rows: str | Iterable[str],
    *,
    profile: str = "quick",
    seeds: Iterable[int] = (0,),
    changes: Mapping[str, Any] | None = None,
    sampling: Sampling | None = None,
    like: str = "",
    results: Path = LOCAL,
    data_root: Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    budget: float | None = None,
    quiet: bool = True,
) -> Runs:
    """Train what is not recorded yet, and return all of it: ``train("table1/lps-*", profile="quick", seeds=range(3))``.

    ``rows`` are names or patterns, ``changes`` settings by their dotted names, ``{"train.epochs": 2}``. A run that was
    stopped goes on where it was. ``jobs``, ``threads`` and ``budget`` are as in :func:`~lps.experiments.jobs.run_all`,
    but on a CPU there is by default a job for each core: a script then calls this under ``if __name__ == "__main__":``.

    With ``sampling``, ``rows`` is the name of a row of your own, as in ``mine/min-norm``: it is trained ``like`` a row
    of the paper, with that sampling in place of its own. Its record holds the source of the sampling, and another
    source is another run.

    Raises ``RunsFailed`` where runs ended in an error, and ``NotFinished`` where training was stopped.
    """
    if isinstance(seeds, int):
        raise ValueError(f"seeds is {seeds}; expected several, as range({seeds}), or one in a list, as [{seeds}]")
    data, patterns, own = DataCache(data_root), [rows] if isinstance(rows, str) else rows, None
    given = {name: str(value) for name, value in (changes or {}).items()}
    if sampling is not None or like:
        own = own_row(rows, sampling, like)
        patterns = [own[1].like]
    runs = plan(patterns, profile, seeds, given, results, data, own)
    if not runs:
        raise ValueError(f"there is nothing to train: {rows=}, {seeds=}")
    if own is not None and (jobs or 1) > 1:
        raise ValueError(f"{jobs} jobs were asked for, but your own class exists in this process alone: give jobs=1")
    if jobs is None:
        jobs = 1 if own or any(run.experiment.engine.shared for run in runs) else default_jobs()
    if left := run_all(runs, data, budget, quiet, jobs, threads):
        raise NotFinished(f"stopped with {left} of {len(runs)} runs not finished; make the same call again to go on")
    return Runs(Trained(run, data) for run in runs)


def own_row(name: Any, sampling: Sampling | None, like: str) -> tuple[str, Own]:
    """A row of a reader's own: its name, and what it is."""
    own_name(name)
    if not isinstance(sampling, Sampling) or not like:
        raise ValueError(
            f"{name} needs both a sampling, lps.Sampling(...), and the row that it is like, as in "
            f"like='table1/lps-tri-3'; given: {sampling=}, {like=}"
        )
    found = matching([like])
    if len(found) != 1:
        raise ValueError(f"a row of your own is like one row; {like!r} matches {len(found)}")
    return name, Own(found[0].name, source_of(sampling), sampling)
