"""The verbs ``list``, ``show``, ``run``, ``evaluate``, ``ship`` and ``study`` of ``python -m lps``."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Size, other_size
from ..experiments import Trained
from ..experiments.config import Experiment, parse_changes
from ..experiments.jobs import RunsFailed, overview, run_all
from ..experiments.profiles import PAPER, load_profile, profile_names
from ..experiments.records import command, is_current, read_record, read_records
from ..experiments.rows import BY_NAME, ROWS, matching, named
from ..experiments.run import DataCache, Run, asked, leads, measure_again, plan
from ..experiments.weights import about
from ..paths import LOCAL, SHIPPED
from ..studies.trained import STUDIES, read_study, study


def count(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of things: expected 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """``90s``, ``25m`` or ``2h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 90s, 25m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


_CHANGES: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
_THREADS = "CPU threads of each run, with more than one job 1 by default; the same number repeats the same bits"
OPTIONS: dict[str, dict[str, Any]] = {
    "row": {"nargs": "+", "help": "table1/lps-tri-3, 'table1/*'"},
    "--profile": {"default": "quick", "choices": profile_names(), "help": "size of the experiments (default: quick)"},
    "--set": _CHANGES | {"help": "override a setting: train.epochs=5"},
    "--seed": {"type": int, "default": 0, "help": "seed of the runs, or the first of several"},
    "--seeds": {"type": count, "default": 1, "help": "how many seeds, from the first on"},
    "--budget": {"type": seconds, "metavar": "25m", "help": "stop cleanly after this time (s, m, h)"},
    "--jobs": {"type": int, "default": 1, "help": "runs side by side, each in its own process (default: 1)"},
    "--threads": {"type": count, "help": _THREADS},
    "--data-root": {"type": Path, "help": "folder of the data; default: LPS_DATA"},
    "--results": {"type": Path, "default": LOCAL, "help": "folder of records and weights"},
    "--quiet": {"action": "store_true", "help": "no progress bars"},
    "--images": {"type": count, "default": 1000, "help": "test images, where a study does not take all; default: 1000"},
    "--with": _CHANGES | {"dest": "changes", "help": "measure with another setting: evaluate.pairs=20"},
}
"""Every option of the verbs that concern runs."""


def add(*names: str, **others: dict[str, Any]) -> Callable[[argparse.ArgumentParser], None]:
    """What gives these options to a parser; ``others`` says by name what is different here."""

    def to(parser: argparse.ArgumentParser) -> None:
        for name in names:
            parser.add_argument(name, **OPTIONS[name] | others.get(name.strip("-"), {}))

    return to


list_arguments = add("row", "--profile", row={"nargs": "*", "default": ["*"]})
show_arguments = add("row", "--profile", "--set")
run_arguments = add(*(name for name in OPTIONS if name not in ("--with", "--images")))
evaluate_arguments = add("row", "--profile", "--set", "--seed", "--with", "--data-root", "--results")
ship_arguments = add("--profile", "--results", profile={"default": None, "required": True, "help": "whose records"})
study_arguments = add(
    *("row", "--profile", "--set", "--seed", "--seeds", "--threads", "--data-root", "--results", "--images"),
    row={"nargs": "*", "default": ["table1/lps*"], "help": "default: table1/lps*"},
)


def planned(options: argparse.Namespace) -> tuple[list[Run], DataCache]:
    """The runs that options name, and their data."""
    data, seeds = DataCache(options.data_root), range(options.seed, options.seed + vars(options).get("seeds", 1))
    return plan(options.row, options.profile, seeds, parse_changes(options.set), options.results, data), data


def list_main(options: argparse.Namespace) -> int:
    """A line per row: recorded runs, local and shipped, of this profile; a star: would give other results today."""
    profile, records = load_profile(options.profile), {}
    for label, folder in (("local", LOCAL), ("shipped", SHIPPED)):
        records[label] = read_records(folder) + read_records(folder, rows="mine")
    like = {r["experiment"]: r["own"]["like"] for found in records.values() for r in found if "own" in r}
    for name in named(options.row, [*BY_NAME, *sorted(like)]):
        task = profile.row(BY_NAME[like.get(name, name)]).task
        cells = []
        for label, found in records.items():
            seeds = [
                f"seed {r['seed']}{'' if is_current(r['code'], task) else '*'}"
                for r in found
                if r["experiment"] == name and r["profile"] == options.profile
            ]
            cells.append(f"{label}: {', '.join(seeds) or '-'}")
        print(f"{name:<40} {cells[0]:<32} {cells[1]}")
    return 0


def show_main(options: argparse.Namespace) -> int:
    """Settings as JSON."""
    for row in matching(options.row):
        experiment = load_profile(options.profile).row(row).override(parse_changes(options.set))
        print(json.dumps(experiment.as_dict(), indent=2))
    return 0


def run_main(options: argparse.Namespace) -> int:
    """Say what is done and what is to do, do it, and say how it went."""
    runs, data = planned(options)
    quiet = options.quiet or not leads()
    if not quiet:
        print("".join(sorted({_scale(run.experiment, data) for run in runs})), end="", file=sys.stderr)
        print(overview(runs, read_records(LOCAL, SHIPPED, options.results)), file=sys.stderr)
    try:
        code = 3 if run_all(runs, data, options.budget, quiet, options.jobs, options.threads) else 0
    except RunsFailed as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    if not leads():  # the first says how it went; Lightning ends it where another's code is not 0
        return code if code == 2 else 0
    for run in runs:
        metrics = read_record(run.record)["metrics"] if run.done else {}
        print(f"{run.experiment.name:<36} seed {run.seed}  {_values(metrics)}")
    print(f"{sum(run.done for run in runs)} of {len(runs)} runs recorded in {options.results}")
    return code


def _scale(experiment: Experiment, data: DataCache) -> str:
    """A line where a run is of the profile that has the paper's settings, and its data are not of the paper's size."""
    images, _ = data(experiment.data)
    found = Size(len(images.train), len(images.test), len(images.classes))
    words = other_size(experiment.data.name, found) if experiment.profile == PAPER else ""
    return f"{images.name} has {words}: its runs count as runs at reduced scale\n" if words else ""


def _values(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    return "  ".join(f"{name} {metric['value']:6.2f}" for name, metric in metrics.items()) or "-"


def evaluate_main(options: argparse.Namespace) -> int:
    """Measure the weights of finished runs once more; ``--set`` says how they were made, ``--with`` what changes."""
    for experiment, seed in asked(options.row, options.profile, [options.seed], parse_changes(options.set)):
        if not any((options.results / experiment.name).glob(f"{experiment.profile}-seed{seed}-*.pt")):
            missing = f"{experiment.name} seed {seed} has no weights in {options.results}"  # told before data are read
            raise FileNotFoundError(f"{missing}; they are made by: {command(experiment, seed)}")
    runs, data = planned(options)
    for run in runs:
        print(f"{run.title}  {_values(measure_again(run, data, parse_changes(options.changes)))}")
        if (precision := about(run.weights)["precision"]) != "float32":
            print(f"with weights in {precision}: counts may differ from those of the record by some images")
    return 0


def ship_main(options: argparse.Namespace) -> int:
    """Copy the records of a profile, and of studies of its networks, to the shipped ones; none is ever replaced."""
    shipped = 0
    for folder, read in (("", read_record), *((kind, read_study) for kind in STUDIES)):
        for row in ROWS:
            for path in sorted((options.results / folder / row.name).glob(f"{options.profile}-seed*.json")):
                target = SHIPPED / folder / row.name / path.name
                if target.exists():
                    continue
                read(path)  # what is shipped is a record
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
                shipped += 1
                print(f"shipped {target.relative_to(SHIPPED).with_suffix('')}")
    print(f"{shipped} records of profile {options.profile} shipped from {options.results}")
    return 0


def study_main(options: argparse.Namespace) -> int:
    """Study every trained network that matches and print what was found; 3 where weights are missing."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    runs, data = planned(options)
    kinds = [[kind for kind, of in STUDIES.items() if of.suits(run.experiment)] for run in runs]
    if others := [run.experiment.name for run, suited in zip(runs, kinds, strict=True) if not suited]:
        raise ValueError(f"there are studies of Table 1, and of rows of Tables 5 and 6 that choose; given: {others}")
    for run, suited in zip(runs, kinds, strict=True):
        name, profile = run.experiment.name, run.experiment.profile
        if not run.weights.exists():
            print(f"{run.title}: no weights; python -m lps run {name} --profile {profile} --seed {run.seed}")
            continue
        for kind in suited:
            metrics = study(Trained(run, data), kind, options.images)["metrics"]
            shown = {name: round(metric["value"], 2) for name, metric in metrics.items()}
            print(f"{run.title}, {kind}: {json.dumps(shown)}", flush=True)
    return 0 if all(run.weights.exists() for run in runs) else 3
