"""The verb ``survey``: the records of what converted networks do, which the book's pages show.

The networks of each family are converted as :func:`lps.convert` comes, and then tried by a test of its own: outputs for
images of other sizes, one at a time, and for circular shifts of them are compared bit for bit.
"""

import argparse
import inspect
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from fnmatch import fnmatch
from importlib.resources import files
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from ..convert import ConvertError, Head, conversion_report, convert
from ..convert.check import drawn
from ..convert.report import in_words
from ..experiments.jobs import default_jobs
from ..experiments.profiles import load_profile
from ..experiments.records import is_current, made_with, now, write_json
from ..experiments.schema import read_yaml
from ..notebooks.cells import declared_parameters, read, run
from ..paths import SHIPPED
from ..polyphase import circular_shift, steps
from ..processes import apart, forks
from ..watch import tensors

LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "smp": "segmentation_models_pytorch",
    "monai": "monai",
}
"""Modules by the names that stand before a colon."""

_LISTS = read_yaml(files("lps") / "studies" / "families.yml")
TITLES: Mapping[str, str] = {kind: family["title"] for kind, family in _LISTS["families"].items()}
FAMILIES: Mapping[str, Sequence[str]] = {kind: family["networks"] for kind, family in _LISTS["families"].items()}
"""What each family is, in words, and its networks."""

SHIFTS = 4

PHOTOGRAPHS: Mapping[str, Any] = {
    "network": "pretrained",
    "photographs": "imagenet-sample/val",
    "count": 800,
    "size": 224,
    "epochs": 3,
}

NOTEBOOKS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "finetuning": ("finetune", "curves", {}),
    "pretrained": ("pretrained", "rows", PHOTOGRAPHS),
    "choices": ("pretrained", "kept", PHOTOGRAPHS),
}
"""Records that a notebook's own code makes: the notebook, its result, and how its parameters differ from those of the
profile *reduced*."""

KINDS = {
    "families": "which networks of timm, torchvision, segmentation_models_pytorch and MONAI convert",
    "borders": "what zero padding and crops leave of invariance",
    "finetuning": "the notebook on fine-tuning with the CIFAR-10 images",
    "pretrained": "the notebook on EfficientNet-Lite0 with photographs of ImageNet",
    "choices": "which components new logit networks keep in EfficientNet-Lite0",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    what = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    parser.add_argument("kind", choices=KINDS, help=what)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="families: those whose name matches, 'timm:*'")
    to = "file of the record; default: the one that the book shows, in results/shipped/convert"
    parser.add_argument("--to", type=Path, metavar="FILE", help=to)


def main(options: argparse.Namespace) -> int:
    """Write a record, or the rows of ``families`` that are outstanding."""
    path = options.to or SHIPPED / "convert" / f"{options.kind}.json"
    if options.kind == "families":
        record_families(path, options.only)
    elif options.kind == "borders":
        write_json(path, {**about("torchvision", "timm"), "rows": borders()})
    else:
        write_json(path, from_notebook(options.kind))
    return 0


def about(*packages: str) -> dict[str, Any]:
    """Code, versions, machine and date of a record."""
    made = made_with("convert", ("torch", *packages))
    made["made"] = made.pop("started")
    return made


def borders() -> dict[str, dict[str, float]]:
    """By network and kind of shift: the change of the outputs, in per cent of that between two images.

    ResNet-18 with untrained weights, as it is and converted with zero and with circular padding; 8 smooth random images
    and 16 random shifts of up to 32 pixels, around the image or of a window of 64 pixels on it.
    """
    generator = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.randn(8, 3, 24, 24, generator=generator), scale_factor=4, mode="bicubic")
    moves = torch.randint(0, 33, (16, 2), generator=generator)
    original = drawn(named("torchvision:resnet18"), images)
    networks = {
        "original": original,
        "converted, zero padding": convert(original, padding="zeros"),
        "converted, circular padding": convert(original),
    }
    rows = {}
    for name, network in networks.items():
        with torch.inference_mode():
            reference = network(images[..., :64, :64])
            circular = [network(circular_shift(images[..., :64, :64], move.tolist())) for move in moves]
            windows = [network(images[..., i : i + 64, j : j + 64]) for i, j in moves.tolist()]
        between = (reference[:, None] - reference).abs().sum() / (8 * 7)
        looks = {"circular shift": circular, "crop": windows}
        rows[name] = {
            kind: float(100 * torch.stack([(y - reference).abs().sum() / 8 for y in ys]).mean() / between)
            for kind, ys in looks.items()
        }
    return rows


def from_notebook(record: str) -> dict[str, Any]:
    """A record of :data:`NOTEBOOKS`: the notebook's own code runs here, cell by cell, until the result is whole."""
    (page, result, changes), profile = NOTEBOOKS[record], "reduced"
    notebook = read(page)
    parameters = declared_parameters(notebook) | load_profile(profile).notebooks.get(page, {}) | dict(changes)
    _, *code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    sets = re.compile(rf"^{result}\b|^    {result}\[", re.MULTILINE)
    last = max(number for number, cell in enumerate(code) if sets.search("".join(cell["source"])))
    made_by, began = about("torchvision", "timm"), time.perf_counter()
    names: dict[str, Any] = dict(parameters)
    run(page, {"cells": code[: last + 1]}, names)
    images, found = names["images"], names[result]
    if record == "finetuning":  # of each network accuracy and consistency after each epoch
        for name, curve in found.items():
            found[name] = [{"accuracy": acc, "c_cons": cons.percent, "pairs": cons.total} for acc, cons in curve]
    return {
        **made_by,
        "commit": made_by["code"]["commit"],
        "profile": profile,
        "config": parameters,
        "seed": parameters["seed"],
        "data": {"name": images.name, "source": images.source, "fingerprint": images.fingerprint()},
        "threads": torch.get_num_threads(),
        "started": made_by["made"],
        "seconds": time.perf_counter() - began,
        "command": f"OMP_NUM_THREADS=1 python -m lps survey {record}",
        "rows": found,
    }


def named(name: str, seed: int = 0) -> nn.Module:
    """A network of a library by its name, with random weights, for evaluation."""
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise ValueError(f"{name!r} is no network: write torchvision:resnet50 or timm:resnet26d")
    torch.manual_seed(seed)
    try:
        return _built(library, model).eval()
    except ImportError as error:
        raise ValueError(f"{name!r} needs {error.name}, which is not installed here") from error
    except Exception as error:
        raise ValueError(f"{name!r} cannot be built: {in_words(error)}") from error


def _built(library: str, model: str) -> Any:
    if library == "torchvision":
        from torchvision import models

        settings: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(models.get_model_builder(model)).parameters:
            settings["weights_backbone"] = None
        if model in ("googlenet", "inception_v3"):
            settings["init_weights"] = False
        return models.get_model(model, **settings)
    if library == "timm":
        import timm

        return timm.create_model(model)
    if library == "smp":
        import segmentation_models_pytorch

        decoder, _, encoder = model.partition("/")
        return getattr(segmentation_models_pytorch, decoder)(encoder or "resnet18", encoder_weights=None)
    from monai.networks import nets

    return getattr(nets, model.partition(" ")[0])(**_LISTS["monai"][model])


def record_families(path: Path, pattern: str = "*") -> None:
    """Add a row for each network whose name matches to the record, as soon as it is tried.

    What was converted by a code of the same results stays; what was refused by another commit is tried again.
    """
    made = about(*LIBRARIES.values()) | {
        "settings": {"threads": torch.get_num_threads(), "shifts": SHIFTS},
        "command": "make families",
    }
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = record.get("rows", {}) if is_current(record.get("code", {}), "convert") else {}
    commit = made["code"]["commit"]

    def is_done(name: str) -> bool:
        outcome = rows.get(name, {"outcome": "not tried"})["outcome"]
        return outcome == "exact" or (outcome != "not tried" and rows[name]["commit"] == commit)

    wanted = [name for names in FAMILIES.values() for name in names if fnmatch(name, pattern) and not is_done(name)]
    absent = {library for library, module in LIBRARIES.items() if find_spec(module) is None}
    for library in sorted(absent):
        print(f"{LIBRARIES[library]} is not installed: its networks are left out", file=sys.stderr)
    for name, row in _tried([name for name in wanted if name.partition(":")[0] not in absent]):
        rows[name] = {**row, "commit": commit, "made": now()}
        write_json(path, {**made, "made": now(), "rows": rows})
        print(name, row["outcome"], row.get("reason", ""), file=sys.stderr, flush=True)


def _tried(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of networks, each of a process of its own: one that runs out of memory costs no other."""
    context = forks([__name__, *(module for module in LIBRARIES.values() if find_spec(module))])

    def tried(name: str) -> tuple[str, dict[str, Any]]:
        try:
            return name, apart(context, row, name)
        except ChildProcessError as error:
            return name, {"outcome": "not tried", "reason": str(error)}

    with ThreadPoolExecutor(default_jobs()) as threads:
        yield from (done.result() for done in as_completed([threads.submit(tried, name) for name in names]))


def row(name: str) -> dict[str, Any]:
    """Convert one network, with ``head="pool"`` where it is refused without, and try what came of it."""
    began = time.process_time()
    try:
        original = named(name)
    except Exception as error:
        return {"outcome": "not tried", "reason": in_words(error)}
    refusals: list[ConvertError] = []
    for head in get_args(Head):
        try:
            network = convert(original, head=head)
            break
        except ConvertError as error:
            refusals.append(error)
    else:
        return {
            "outcome": "refused",
            **{"layer": refusals[0].layer, "reason": refusals[0].reason, "seconds": time.process_time() - began},
        }
    seconds, report = time.process_time() - began, conversion_report(network)
    first = next(module for module in original.modules() if isinstance(module, _ConvNd))
    channels = 1 if name.startswith("monai:") else 3  # a network may turn positions into channels before it convolves
    # one image of a size that lps.convert does not try
    size = [s * (max(3, 32 // s) + axis) for axis, s in enumerate(steps(report.stride, first.weight.dim() - 2))]
    images = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    exact, original_exact = follows_shifts(drawn(network, images), images), False
    with suppress(Exception):  # it may take no images of this size
        original_exact = follows_shifts(drawn(original, images), images)
    added = sum(map(math.prod, report.parameters.values()))
    return {
        "outcome": "exact" if exact else "not exact",
        "original_exact": original_exact,
        "head": head,
        "stride": report.stride,
        "strides": len(report.strides),
        "choices": sum(not stride.follows for stride in report.strides),
        "raised": len(report.raised),
        "images": list(images.shape[2:]),
        "added": added / sum(p.numel() for p in original.parameters()),
        "seconds": seconds,
    }


def follows_shifts(network: nn.Module, images: Tensor) -> bool:
    """Are all outputs for :data:`SHIFTS` circular shifts of ``images`` those for ``images``, bit for bit?

    Maps have to move with the images, and maps of another size by the shift in their own samples, up to one.
    """
    generator = torch.Generator().manual_seed(1)
    size, axes = images.shape[2:], tuple(range(2, images.dim()))
    with torch.inference_mode():
        outputs = tensors(network(images))
        for _ in range(SHIFTS):
            shift = [int(torch.randint(1, n, (), generator=generator)) for n in size]
            moved = tensors(network(images.roll(shift, axes)))
            if not all(_follows(y, z, shift, size) for y, z in zip(outputs, moved, strict=True)):
                return False
    return True


def _follows(y: Tensor, moved: Tensor, shift: Sequence[int], size: Sequence[int]) -> bool:
    space = y.shape[2:]
    if len(space) != len(size) or max(space) == 1:
        return torch.equal(y, moved)
    exact = [by * n / whole for by, n, whole in zip(shift, space, size, strict=True)]
    near = [sorted({math.floor(by), math.ceil(by)}) for by in exact]
    axes = tuple(range(2, y.dim()))
    return any(torch.equal(y.roll(by, axes), moved) for by in product(*near))
