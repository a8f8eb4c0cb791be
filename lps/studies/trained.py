"""Studies of trained networks, and their records: those of Sec. 5.3 (how LPD chooses, how new logit networks would,
what becomes of a network that loses its choice, and how alike the components are), labels under shifts of each size,
how far choices are from a tie, and what becomes of a segmenter that puts its maps where they were taken.

``python -m lps study 'table1/*'`` studies the networks that ``run`` has trained and writes a record of each study. What
a study measures stands in its notebook, in the cells tagged ``study``.
"""

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from ..data import Split
from ..experiments import Trained
from ..experiments.config import Experiment, Task
from ..experiments.evaluate import exact_convolutions, in_percent
from ..experiments.profiles import changed, experiment_of
from ..experiments.records import determinism, flags, made_with, read_record, write_json
from ..experiments.run import describe
from ..experiments.schema import COUNT, REAL, Shape, conform
from ..experiments.weights import about
from ..notebooks.cells import left_by

BATCH = 250  # images in a batch of a study


def _section53_held(record: Any, where: str) -> None:
    conform(record["metrics"], dict.fromkeys(("acc", "acc_max_norm", "max_norm", "max_norm, layer 1"), dict), "metrics")
    layers = [metric for name, metric in record["metrics"].items() if name.startswith("max_norm, ")]
    if any(sum(layer[key] for layer in layers) != record["metrics"]["max_norm"][key] for key in ("agree", "total")):
        raise ValueError("metrics.max_norm is not the sum of its layers")


def _shifts_held(record: Any, where: str) -> None:
    conform(record, {"kept": {name: [COUNT] for name in ("diagonal", "rows", "columns")}})
    for name, kept in record["kept"].items():
        said = record["metrics"].get(f"kept, {name}", {})
        if (sum(kept[1:]), record["data"]["test"] * len(kept[1:])) != (said.get("agree"), said.get("total")):
            raise ValueError(f"kept.{name} does not make the metric of that name")


def _margins_held(record: Any, where: str) -> None:
    bars = {name: [COUNT] * 52 for name in ("lead", "rounding", "moved")}
    conform(record, {"powers_of_ten": [int] * 2, "layers": [{"name": str, **bars}]})
    for place, layer in enumerate(record["layers"], 1):
        if any(sum(layer[name]) != record["data"]["test"] for name in bars):
            raise ValueError(f"layers[{place - 1}] does not count each of {record['data']['test']} images once")
        rates = (f"{name}, layer {place}" for name in ("within", "turned", "turned_exact"))
        conform(record["metrics"], dict.fromkeys(rates, dict), "metrics")


def _unlearned_held(record: Any, where: str) -> None:
    conform(record, {"unlearned": [[COUNT]], "metrics": {"max_norm": dict, "max_norm, layer 1": dict, "*": dict}})
    layers, most = len(record["metrics"]) - 1, record["data"]["test"]
    if not record["unlearned"] or any(len(kept) != layers or max(kept) > most for kept in record["unlearned"]):
        raise ValueError(f"unlearned does not count the choices of {layers} layers among {most} images")


class Study(NamedTuple):
    """A kind of study: the notebook that measures it, the methods and the tasks that it says something of, whether it
    takes all test images or the first ones, and what its record holds besides the metrics."""

    notebook: str
    methods: tuple[str, ...]
    whole: bool
    shape: Shape
    tasks: tuple[Task, ...] = ("images",)

    def suits(self, experiment: Experiment) -> bool:
        return experiment.task in self.tasks and experiment.model.method in self.methods


MAPS: Shape = {"maps": [{"components": [[[[REAL]]]], "kept": COUNT, "largest": COUNT}]}
IN_ITS_PLACE = (
    *("APS", "random phase", "APS, deepest", "random phase, deepest", "fixed phase, deepest"),
    *("put right", "APS, deepest, put right", "random phase, deepest, put right"),
)
RULES: Shape = {
    "phases": [[COUNT] * 4],
    "lead": [REAL],
    "alike": [REAL],
    "metrics": dict.fromkeys(("max_norm, layer 1", "miou", *(f"miou, {rule}" for rule in IN_ITS_PLACE)), dict),
}
PLACED: Shape = {"metrics": dict.fromkeys(("mascc", "mascc, put right", "miou", "miou, put right"), dict)}
EVERY = ("baseline", "lpf", "ddac", "aps", "lps")
STUDIES = {
    "section53": Study("section53", ("lps",), True, _section53_held),
    "figure4": Study("figure4", ("lps",), False, MAPS),
    "shifts": Study("evidence", EVERY, False, _shifts_held),
    "controls": Study("section53", EVERY, True, {}),
    "margins": Study("evidence", ("aps", "lps"), False, _margins_held),
    "alike": Study("section53", ("aps", "lps"), False, {"alike": [REAL]}),
    "unlearned": Study("section53", ("lps",), False, _unlearned_held, ("images", "segmentation")),
    "segmenters": Study("section53", ("lps",), True, RULES, ("segmentation",)),
    "placed": Study("table5", ("aps", "lps"), True, PLACED, ("segmentation",)),
}
"""By the folder of its records."""


@cache
def measures(notebook: str) -> dict[str, Any]:
    """What the cells tagged ``study`` of a notebook define.

    ``study_<kind>(network, test, device)`` gives the metrics, as counts, and what else the record of that kind holds;
    ``test`` are images in memory, for a segmenter the whole data set.
    """
    return left_by(notebook, "study")


def study(trained: Trained, kind: str = "section53", images: int = 1000) -> dict[str, Any]:
    """The record of a study of a trained network, made when there is none of as many ``images``: of the first ones to
    test on, or of all for segmenters and where the kind takes the ``whole``. It runs on a GPU where there is one, with
    convolutions that keep the network's guarantee."""
    run, experiment, of, full = trained.run, trained.run.experiment, STUDIES[kind], trained.data
    if not of.suits(experiment):
        raise ValueError(
            f"{kind} is a study of networks for {' and '.join(of.tasks)} with {', '.join(of.methods)}; "
            f"given: {experiment.name}"
        )
    path, small = run.results / kind / experiment.name / f"{run.id}.json", experiment.task == "images"
    count = min(images, len(full.test)) if small and not of.whole else len(full.test)
    if path.exists() and (record := read_study(path))["data"]["test"] >= count:
        return record
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = trained.network().to(device)
    test = Split(full.test.images[:count], full.test.labels[:count]) if small else full
    some, _ = next(iter(test.batches(4)))
    with exact_convolutions(network, some, BATCH if small else experiment.evaluate.batch_size, device) as convolutions:
        found = measures(of.notebook)[f"study_{kind}"](network, test, device)
    about_run = describe(run, full, full.fingerprint(), ("data", "model", "train"))
    this = f"{experiment.name} --profile {experiment.profile} --seed {run.seed} --images {images}"
    this += flags(experiment.changes)
    content = {
        **found,
        **about_run,
        "run": f"{experiment.name}/{run.id}",
        "data": about_run["data"] | {"test": count},
        "metrics": in_percent(found["metrics"]),
        "weights": about(run.weights),
        **made_with(experiment.task),
        "determinism": determinism() | {"convolutions": convolutions},
        "seconds": {"training": 0.0, "this_session": time.perf_counter() - began},
        "command": f"python -m lps study {this}",
    }
    write_json(path, content)
    return read_study(path)


def read_study(path: Path) -> dict[str, Any]:
    """A record of a study, in the folder of its kind, with its id."""
    kind = path.parents[2].name
    record = read_record(path, STUDIES[kind].shape)
    return {**record, "id": f"{kind}/{record['id']}"}


def read(
    *folders: Path, kind: str = "section53", changes: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """The records of all studies of a kind below the folders, of networks that were trained with these ``changes`` to
    their profile and no others."""
    paths = (path for folder in folders for path in sorted((folder / kind).glob("table*/*/*.json")))
    return [
        record
        for record in map(read_study, paths)
        if not changed(record, experiment_of(record["experiment"], record["profile"]).override(changes))
    ]
