"""Studies of trained networks, and their records: those of Sec. 5.3 (how LPD chooses, and what becomes of a network
that loses its choice), labels under shifts of each size, and how far choices are from a tie.

``python -m lps study 'table1/*'`` studies the networks that ``run`` has trained and writes a record of each study.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Split
from ..experiments.evaluate import exact_convolutions, in_percent, predictor
from ..experiments.records import determinism, made_with, read_record, write_json
from ..experiments.run import PACKAGES
from ..experiments.schema import COUNT, REAL, Shape, conform
from ..experiments.training import Trained
from ..experiments.weights import about
from ..metrics import Count, accuracy, circular_consistency
from ..sampling import Downsample
from ..selection import MaxNorm
from .measure import (
    BINS,
    DIRECTIONS,
    HIGH,
    LOW,
    RATES,
    SIZES,
    components,
    labels_kept,
    margins,
    max_norm_counts,
    summary,
    untrained,
    with_lone_shortcuts,
    with_max_norm,
    with_random_phase,
)

IMAGES = 1000
"""Shifts and margins are measured on the first test images, by default as many as these."""
SHOWN = 2
"""Images, the first ones, of which a record keeps the maps of Figure 4."""
BATCH = 250
DRAWS = 4
"""Consistency is counted again with shifts drawn from as many other seeds."""


def _section53(network: nn.Module, test: Split, device: torch.device) -> dict[str, Any]:
    counts = max_norm_counts(network, (x.to(device) for x, _ in test.batches(BATCH)))
    metrics = {
        "acc": accuracy(predictor(network, device), test.batches(BATCH)),
        "acc_max_norm": accuracy(predictor(with_max_norm(network), device), test.batches(BATCH)),
        "max_norm": sum(counts.values(), Count()),
        **{f"max_norm, layer {i}": count for i, count in enumerate(counts.values(), 1)},
    }
    return {"metrics": metrics}


def _section53_held(record: Any, where: str) -> None:
    conform(record["metrics"], dict.fromkeys(("acc", "acc_max_norm", "max_norm", "max_norm, layer 1"), dict), "metrics")
    layers = [metric for name, metric in record["metrics"].items() if name.startswith("max_norm, ")]
    if any(sum(layer[key] for layer in layers) != record["metrics"]["max_norm"][key] for key in ("agree", "total")):
        raise ValueError("metrics.max_norm is not the sum of its layers")


def _figure4(network: nn.Module, test: Split, device: torch.device) -> dict[str, Any]:
    found = [components(network, image[None].to(device)) for image in test.images[:SHOWN]]
    same = Count(sum(kept == largest for _, kept, largest in found), len(found))
    maps = [
        {"components": maps.cpu().half().tolist(), "kept": kept, "largest": largest} for maps, kept, largest in found
    ]
    return {"metrics": {"same": same}, "maps": maps}


def _shifts(network: nn.Module, test: Split, device: torch.device) -> dict[str, Any]:
    counts = labels_kept(predictor(network, device), test.images.split(BATCH))
    return {
        "metrics": {f"kept, {name}": sum(found[1:], Count()) for name, found in counts.items()},
        "kept": {name: [count.agree for count in found] for name, found in counts.items()},
    }


def _shifts_held(record: Any, where: str) -> None:
    conform(record, {"kept": {name: [COUNT] for name in DIRECTIONS}})
    for name, kept in record["kept"].items():
        said = record["metrics"].get(f"kept, {name}", {})
        if (sum(kept[1:]), record["data"]["test"] * len(kept[1:])) != (said.get("agree"), said.get("total")):
            raise ValueError(f"kept.{name} does not make the metric of that name")


def _controls(network: nn.Module, test: Split, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    predict = predictor(network, device)
    metrics = {"acc": accuracy(predict, test.batches(BATCH))}
    for seed in range(1, DRAWS + 1):
        metrics[f"c_cons, shifts {seed}"] = circular_consistency(predict, test.batches(BATCH), seed=seed)
    fresh = predictor(untrained(network), device)
    labels = torch.cat([fresh(images) for images, _ in test.batches(BATCH)])
    metrics["c_cons, untrained"] = circular_consistency(fresh, test.batches(BATCH))
    metrics["commonest label, untrained"] = Count(int(labels.bincount().max()), len(labels))
    selects = [layer.select for layer in network.modules() if isinstance(layer, Downsample) and layer.select]
    changed = {"random phase": with_random_phase} if selects else {}
    if any(isinstance(select, MaxNorm) for select in selects):
        changed["lone shortcuts"] = with_lone_shortcuts
    for name, change in changed.items():
        other = predictor(change(network), device)
        metrics[f"acc, {name}"] = accuracy(other, test.batches(BATCH))
        metrics[f"c_cons, {name}"] = circular_consistency(other, test.batches(BATCH))
    return {"metrics": metrics}


def _margins(network: nn.Module, test: Split, device: torch.device) -> dict[str, Any]:
    metrics, layers = summary(margins(network, (x.to(device) for x in test.images.split(BATCH))))
    return {"metrics": metrics, "powers_of_ten": [LOW, HIGH], "layers": layers}


def _margins_held(record: Any, where: str) -> None:
    bars = {name: [COUNT] * BINS for name in SIZES}
    conform(record, {"powers_of_ten": [int] * 2, "layers": [{"name": str, **bars}]})
    for place, layer in enumerate(record["layers"], 1):
        if any(sum(layer[name]) != record["data"]["test"] for name in bars):
            raise ValueError(f"layers[{place - 1}] does not count each of {record['data']['test']} images once")
        conform(record["metrics"], dict.fromkeys((f"{name}, layer {place}" for name in RATES), dict), "metrics")


class Study(NamedTuple):
    """A kind of study: the methods that it says something of, whether it takes all test images or the first ones, what
    it measures of a network on them, and what its record holds besides the metrics."""

    methods: tuple[str, ...]
    whole: bool
    measure: Callable[[nn.Module, Split, torch.device], dict[str, Any]]
    shape: Shape


MAPS: Shape = {"maps": [{"components": [[[[REAL]]]], "kept": COUNT, "largest": COUNT}]}
STUDIES = {
    "section53": Study(("lps",), True, _section53, _section53_held),
    "figure4": Study(("lps",), False, _figure4, MAPS),
    "shifts": Study(("baseline", "lpf", "ddac", "aps", "lps"), False, _shifts, _shifts_held),
    "controls": Study(("baseline", "lpf", "ddac", "aps", "lps"), True, _controls, {}),
    "margins": Study(("aps", "lps"), False, _margins, _margins_held),
}
"""By the folder of its records."""


def study(trained: Trained, kind: str = "section53", images: int = IMAGES) -> dict[str, Any]:
    """The record of a study of a trained network on test images, made when there is none of as many ``images``: on a
    GPU where there is one, with convolutions that keep the network's guarantee."""
    run, experiment, of = trained.run, trained.run.experiment, STUDIES[kind]
    if experiment.task != "images" or experiment.model.method not in of.methods:
        raise ValueError(f"{kind} is a study of rows of Table 1 with {', '.join(of.methods)}; given: {experiment.name}")
    path = run.results / kind / experiment.name / f"{run.id}.json"
    full = trained.data
    count = len(full.test) if of.whole else min(images, len(full.test))
    if path.exists() and (record := read_study(path))["data"]["test"] >= count:
        return record
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = trained.network().to(device)
    test = Split(full.test.images[:count], full.test.labels[:count])
    with exact_convolutions(network, test.images[:4], BATCH, device) as convolutions:
        found = of.measure(network, test, device)
    settings = experiment.as_dict()
    this = f"{experiment.name} --profile {experiment.profile} --seed {run.seed} --images {images}"
    content = {
        **found,
        "experiment": experiment.name,
        "run": f"{experiment.name}/{run.id}",
        "profile": experiment.profile,
        "seed": run.seed,
        "config": {section: settings[section] for section in ("data", "model", "train")},
        "data": {"name": full.name, "source": full.source, "fingerprint": full.fingerprint()}
        | {"train": len(full.train), "test": count, "classes": list(full.classes)},
        "metrics": in_percent(found["metrics"]),
        "weights": about(run.weights),
        **made_with("images", PACKAGES),
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


def read(*folders: Path, kind: str = "section53") -> list[dict[str, Any]]:
    """The records of all studies of a kind below the folders."""
    return [read_study(path) for folder in folders for path in sorted((folder / kind).glob("table*/*/*.json"))]
