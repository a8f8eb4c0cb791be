"""Studies of trained networks: those of Sec. 5.3 (how LPD chooses, and what becomes of a network that loses its
choice), labels under shifts of each size, and how far choices are from a tie.

``python -m lps study 'table1/*'`` studies the networks that ``run`` has trained and writes a record of each study.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..commands.experiments import count
from ..data import ImageSet, Split
from ..experiments.evaluate import as_dict, exact_convolutions, predictor
from ..experiments.jobs import default_jobs, run_all
from ..experiments.profiles import load_profile, profile_names
from ..experiments.records import code_version, determinism, now, read_record, write_json
from ..experiments.rows import matching
from ..experiments.run import PACKAGES, DataCache, Run, plan
from ..experiments.schema import COUNT, REAL, Shape, conform
from ..experiments.weights import about, load_weights
from ..machine import hardware, versions
from ..metrics import Count, accuracy
from ..paths import LOCAL
from ..polyphase import polyphase
from ..report.frame import grouped, is_full_scale
from ..report.statistics import wilson
from ..sampling import Downsample
from ..selection import LearnedPhase, MaxNorm, Selection
from .evidence import BINS, HIGH, LOW, RATES, labels_kept, margins, summary
from .evidence import DIRECTIONS as SHIFTED

METHODS = ("baseline", "lpf", "ddac", "aps", "lps")


def trained(
    patterns: Sequence[str],
    profile: str,
    seeds: Sequence[int],
    data: DataCache,
    results: Path = LOCAL,
    methods: Sequence[str] = ("lps",),
) -> list[Run]:
    """Runs of the rows that match and have one of the methods, trained first where they are not recorded."""
    runs = _runs(patterns, profile, seeds, data, results, methods)
    if left := run_all(runs, data, {}, quiet=True, jobs=default_jobs()):
        raise RuntimeError(f"{left} of {len(runs)} runs are not finished: try again to go on")
    return runs


def _runs(
    patterns: Sequence[str],
    profile: str,
    seeds: Sequence[int],
    data: DataCache,
    results: Path,
    methods: Sequence[str] = METHODS,
) -> list[Run]:
    rows = [row for row in matching(patterns) if row.method in methods]
    if not rows:
        raise ValueError(f"{', '.join(patterns)}: no row has a method that is studied here ({', '.join(methods)})")
    runs = plan(rows, load_profile(profile).row, seeds, results, data)
    if others := [run.experiment.name for run in runs if run.experiment.task != "images"]:
        raise ValueError(f"studies are of the networks of Table 1, whose images are shifted whole; given: {others}")
    return runs


def network_of(run: Run, data: DataCache) -> nn.Module:
    """The trained network of a recorded run, uint8 images to logits; its weights lie beside the record."""
    from ..experiments.tasks import fresh

    if not run.weights.exists():
        raise FileNotFoundError(f"no weights of {run.title} in {run.weights.parent}: train them, {train_command(run)}")
    images, _ = data(run.experiment.data)
    network = fresh(run.experiment, images, run.seed)
    load_weights(network, run.weights)
    return network.eval()


def train_command(run: Run) -> str:
    return f"python -m lps run {run.experiment.name} --profile {run.experiment.profile} --seed {run.seed}"


def learned_layers(network: nn.Module) -> dict[str, Downsample]:
    """The layers in which LPD chooses, in the order in which they act; a shortcut follows and is none of them."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Downsample) and isinstance(layer.select, LearnedPhase)
    }


class Choice(NamedTuple):
    """What a sampling layer saw, ``(N, C, H, W)``, and the phase ``(N,)`` that LPD and the largest norm keep of it."""

    seen: Tensor
    phase: Tensor
    max_norm: Tensor


def seen_by(layer: Downsample, x: Tensor) -> Tensor:
    """What the selection of a layer looks at."""
    return x if layer.antialias is None or layer.select_from == "unfiltered" else layer.antialias(x)


@contextmanager
def watched(layers: Mapping[str, Downsample]) -> Iterator[dict[str, Choice]]:
    """Fill a dictionary with the choices that layers make while a batch goes through their network."""
    choices: dict[str, Choice] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Selection]) -> None:
            seen = seen_by(cast(Downsample, layer), inputs[0])
            phase = output[1].phase
            assert phase is not None, "a network in evaluation makes hard choices"
            choices[name] = Choice(seen, phase, cast(Tensor, MaxNorm().eval()(seen).phase))

        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        yield choices
    finally:
        for handle in handles:
            handle.remove()


def max_norm_counts(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Count]:
    """How often LPD keeps the component with the largest l2 norm, by layer, over all images."""
    counts: dict[str, Count] = {}
    with torch.inference_mode(), watched(learned_layers(network)) as choices:
        for images in batches:
            network(images)
            for name, choice in choices.items():
                counts[name] = counts.get(name, Count()) + Count.of(choice.phase == choice.max_norm)
    return counts


def with_max_norm(network: nn.Module) -> nn.Module:
    """A copy of a trained network in which APS chooses wherever LPD did; every other weight stays."""
    changed = deepcopy(network)
    for layer in learned_layers(changed).values():
        layer.select = MaxNorm(layer.stride)
    return changed.eval()


def components(network: nn.Module, image: Tensor, channels: int = 8) -> tuple[Tensor, int, int]:
    """Figure 4 of one image ``(1, C, H, W)``: components ``(P, channels, H, W)`` that the last layer of LPD chooses
    from, the phase that it keeps, and the phase with the largest norm."""
    layers = learned_layers(network)
    with torch.inference_mode(), watched(layers) as choices:
        network(image)
        _, choice = choices.popitem()
    return polyphase(choice.seen)[0, :, :channels], int(choice.phase), int(choice.max_norm)


# What is measured and recorded --------------------------------------------------------------------------------

IMAGES = 1000
"""Shifts and margins are measured on the first test images, by default as many as these."""


def _section53(network: nn.Module, images: ImageSet, device: torch.device, batch_size: int) -> dict[str, Any]:
    replaced = with_max_norm(network)
    counts = max_norm_counts(network, (x.to(device) for x, _ in images.batches(batch_size)))
    metrics = {
        "acc": accuracy(predictor(network, device), images.batches(batch_size)),
        "acc_max_norm": accuracy(predictor(replaced, device), images.batches(batch_size)),
        "max_norm": sum(counts.values(), Count()),
        **{f"max_norm, layer {i}": count for i, count in enumerate(counts.values(), 1)},
    }
    return {"metrics": metrics}


SHOWN = 2
"""Images, the first ones, of which a record keeps the maps of Figure 4."""


def _figure4(network: nn.Module, images: ImageSet, device: torch.device, batch_size: int) -> dict[str, Any]:
    found = [components(network, image[None].to(device)) for image in images.test.images[:SHOWN]]
    same = Count(sum(kept == largest for _, kept, largest in found), len(found))
    maps = [
        {"components": maps.cpu().half().tolist(), "kept": kept, "largest": largest} for maps, kept, largest in found
    ]
    return {"metrics": {"same": same}, "maps": maps}


def _shifts(network: nn.Module, images: ImageSet, device: torch.device, batch_size: int) -> dict[str, Any]:
    counts = labels_kept(predictor(network, device), images.test.images.split(batch_size))
    return {
        "metrics": {f"kept, {name}": sum(found[1:], Count()) for name, found in counts.items()},
        "kept": {name: [count.agree for count in found] for name, found in counts.items()},
    }


def _margins(network: nn.Module, images: ImageSet, device: torch.device, batch_size: int) -> dict[str, Any]:
    found = margins(network, (x.to(device) for x in images.test.images.split(batch_size)))
    metrics, layers = summary(found)
    return {"metrics": metrics, "powers_of_ten": [LOW, HIGH], "layers": layers}


class Study(NamedTuple):
    """A kind of study: the methods that it says something of, whether it takes all test images or the first ones, and
    what it measures of a network on them, in batches of a size."""

    methods: tuple[str, ...]
    whole: bool
    measure: Callable[[nn.Module, ImageSet, torch.device, int], dict[str, Any]]


STUDIES = {
    "section53": Study(("lps",), True, _section53),
    "figure4": Study(("lps",), False, _figure4),
    "shifts": Study(METHODS, False, _shifts),
    "margins": Study(("aps", "lps"), False, _margins),
}
"""By the folder of its records."""


def study(
    run: Run, data: DataCache, kind: str = "section53", images: int = IMAGES, batch_size: int = 250
) -> dict[str, Any]:
    """The record of a study of a trained network on test images, made when there is none of as many ``images``: on a
    GPU where there is one, with convolutions that keep the network's guarantee."""
    path = run.results / kind / run.experiment.name / f"{run.id}.json"
    full, fingerprint = data(run.experiment.data)
    count = len(full.test) if STUDIES[kind].whole else min(images, len(full.test))
    if path.exists() and (record := read_study(path))["data"]["test"] >= count:
        return record
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network_of(run, data).to(device)
    studied = replace(full, test=Split(full.test.images[:count], full.test.labels[:count]))
    with exact_convolutions(network, studied.test.images[:4], batch_size, device) as convolutions:
        found = STUDIES[kind].measure(network, studied, device, batch_size)
    settings = run.experiment.as_dict()
    content = {
        **found,
        "experiment": run.experiment.name,
        "run": f"{run.experiment.name}/{run.id}",
        "profile": run.experiment.profile,
        "seed": run.seed,
        "config": {section: settings[section] for section in ("data", "model", "train")},
        "data": {"name": full.name, "source": full.source, "fingerprint": fingerprint}
        | {"train": len(full.train), "test": count, "classes": list(full.classes)},
        "metrics": {name: as_dict(count) for name, count in found["metrics"].items()},
        "weights": about(run.weights),
        "code": code_version("images"),
        "versions": versions(PACKAGES),
        "hardware": hardware(),
        "determinism": determinism() | {"convolutions": convolutions},
        "started": now(),
        "seconds": {"training": 0.0, "this_session": time.perf_counter() - began},
        "command": f"python -m lps study {run.experiment.name} --profile {run.experiment.profile} --seed {run.seed}"
        f" --images {images}",
    }
    write_json(path, content)
    return read_study(path)


def _section53_held(record: Any, where: str) -> None:
    conform(record["metrics"], dict.fromkeys(("acc", "acc_max_norm", "max_norm", "max_norm, layer 1"), dict), "metrics")
    layers = [metric for name, metric in record["metrics"].items() if name.startswith("max_norm, ")]
    if any(sum(layer[key] for layer in layers) != record["metrics"]["max_norm"][key] for key in ("agree", "total")):
        raise ValueError("metrics.max_norm is not the sum of its layers")


def _shifts_held(record: Any, where: str) -> None:
    conform(record, {"kept": {name: [COUNT] for name in SHIFTED}})
    for name, kept in record["kept"].items():
        said = record["metrics"].get(f"kept, {name}", {})
        if (sum(kept[1:]), record["data"]["test"] * len(kept[1:])) != (said.get("agree"), said.get("total")):
            raise ValueError(f"kept.{name} does not make the metric of that name")


def _margins_held(record: Any, where: str) -> None:
    bars = {name: [COUNT] * BINS for name in ("lead", "rounding", "moved")}
    conform(record, {"powers_of_ten": [int] * 2, "layers": [{"name": str, **bars}]})
    for place, layer in enumerate(record["layers"], 1):
        if any(sum(layer[name]) != record["data"]["test"] for name in bars):
            raise ValueError(f"layers[{place - 1}] does not count each of {record['data']['test']} images once")
        conform(record["metrics"], dict.fromkeys((f"{name}, layer {place}" for name in RATES), dict), "metrics")


SHAPES: dict[str, Shape] = {
    "section53": _section53_held,
    "figure4": {"maps": [{"components": [[[[REAL]]]], "kept": COUNT, "largest": COUNT}]},
    "shifts": _shifts_held,
    "margins": _margins_held,
}
"""What the records of each kind hold besides."""


def read_study(path: Path) -> dict[str, Any]:
    """A record of a study, in the folder of its kind, with its id."""
    kind = path.parents[2].name
    record = read_record(path, SHAPES[kind])
    return {**record, "id": f"{kind}/{record['id']}"}


def read(*folders: Path, kind: str = "section53") -> list[dict[str, Any]]:
    """The records of all studies of a kind below the folders."""
    return [read_study(path) for folder in folders for path in sorted((folder / kind).glob("table*/*/*.json"))]


# Verdicts ----------------------------------------------------------------------------------------------------

CHANCE = 1 / 4
"""How often a choice among the phases of stride 2 in two dimensions falls on the largest norm by chance."""

DIRECTIONS = {
    "replaced": "accuracy falls when APS chooses, the 95 % intervals apart",
    "share": f"LPD takes the largest norm less often than by chance ({100 * CHANCE:g} %), 95 % interval",
    "differs": "in the last sampling layer the choices differ on some images",
}
LIMITS = "in every network; direction only at most, and undecided below full scale where a network lacks it"


def judge(name: str, studied: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of a ledger entry, each network counted once, of the profile and data with the most of them.

    A study of other networks than the paper's earns *direction only* at most. Where the direction is absent it is
    *undecided*, and *fails* only where it is absent from a network trained at full scale.
    """
    command = "python -m lps run 'table1/lps*' --profile reduced; python -m lps study 'table1/lps*' --profile reduced"
    fields = {"rule": f"{DIRECTIONS[name]}, {LIMITS}", "command": command, "ours": None}
    studied = one_per_run(studied)
    real = grouped(record for record in studied if record["data"]["name"] != "drawn")
    found = max(real.values(), key=lambda made: (any(map(is_full_scale, made)), len(made)), default=[])
    if not found:
        drawn = f"; on drawn data: {_value(name, studied)}" if studied else ""
        return {**fields, "verdict": "not run", "evidence": f"no study of a network trained on real images{drawn}"}
    without = [record for record in found if not direction(name, record["metrics"])]
    seen = f"the direction is not seen at this scale in {len(without)} of {len(found)} networks; " if without else ""
    return {
        **fields,
        "ours": _value(name, found),
        "verdict": "fails" if any(map(is_full_scale, without)) else "undecided" if without else "direction only",
        "evidence": seen + "; ".join(f"{record['run']}: {_value(name, [record])}" for record in found),
        "run": [record["id"] for record in found],
    }


def one_per_run(studied: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first record of each network: a repetition of a shipped study says nothing new."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in studied:
        found.setdefault(record["run"], record)
    return list(found.values())


def _counts(name: str, studied: Sequence[Mapping[str, Any]]) -> Count:
    return sum((Count(r["metrics"][name]["agree"], r["metrics"][name]["total"]) for r in studied), Count())


def _last_layer(metrics: Mapping[str, Any]) -> str:
    return max(name for name in metrics if name.startswith("max_norm, "))


def _value(name: str, studied: Sequence[Mapping[str, Any]]) -> str:
    if name == "replaced":
        return f"{_counts('acc', studied).percent:.1f} % to {_counts('acc_max_norm', studied).percent:.1f} %"
    metric = "max_norm" if name == "share" else _last_layer(studied[0]["metrics"])
    count = _counts(metric, studied)
    return f"{count.percent:.2f} % ({count.agree:,} of {count.total:,})"


def direction(name: str, metrics: Mapping[str, Any]) -> bool:
    """Does one network show what the rule asks for?"""

    def interval(metric: str) -> Any:
        return wilson(metrics[metric]["agree"], metrics[metric]["total"])

    if name == "replaced":
        return bool(interval("acc_max_norm").high < interval("acc").low)
    if name == "share":
        return bool(interval("max_norm").high < CHANCE)
    last = metrics[_last_layer(metrics)]
    return bool(last["agree"] < last["total"])


# Command line ------------------------------------------------------------------------------------------------


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", nargs="*", default=["table1/lps*"], metavar="row", help="default: table1/lps*")
    parser.add_argument("--profile", default="quick", choices=profile_names())
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=count, default=1, help="how many seeds, from the first on")
    parser.add_argument(
        "--images", type=count, default=IMAGES, help="test images for shifts and margins; default: 1000"
    )
    parser.add_argument("--threads", type=count, help="CPU threads; 1 is fastest where the cores are shared")
    parser.add_argument("--data-root", type=Path, help="folder of the data; default: LPS_DATA")
    parser.add_argument("--results", type=Path, default=LOCAL, help="where the trained weights are")


def main(options: argparse.Namespace) -> int:
    """Study every trained network that matches and print what was found; 3 where weights are missing."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = DataCache(options.data_root)
    seeds = range(options.seed, options.seed + options.seeds)
    runs = _runs(options.patterns, options.profile, seeds, data, options.results)
    for run in runs:
        if not run.weights.exists():
            print(f"{run.title}: no weights; {train_command(run)}")
            continue
        for kind in (kind for kind, of in STUDIES.items() if run.experiment.model.method in of.methods):
            metrics = study(run, data, kind, options.images)["metrics"]
            shown = {name: round(metric["value"], 2) for name, metric in metrics.items()}
            print(f"{run.title}, {kind}: {json.dumps(shown)}", flush=True)
    return 0 if all(run.weights.exists() for run in runs) else 3
