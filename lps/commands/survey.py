"""The verb ``survey``: the records of what converted networks do, which the book's pages show."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from ..convert import convert
from ..convert.check import drawn
from ..experiments.profiles import load_profile
from ..experiments.records import made_with, write_json
from ..notebooks.cells import declared_parameters, read, run
from ..paths import SHIPPED
from ..polyphase import circular_shift
from ..studies.families import named, record_families

NOTEBOOKS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "finetuning": ("finetune", "curves", {}),
    "pretrained": (
        "pretrained",
        "rows",
        {"network": "pretrained", "photographs": "imagenet-sample/val", "count": 800, "size": 224, "epochs": 3},
    ),
}
"""Records that a notebook's own code makes: the notebook, its result, and how its parameters differ from those of the
profile *reduced*."""

KINDS = {
    "families": "which networks of timm, torchvision, segmentation_models_pytorch and MONAI convert",
    "borders": "what zero padding and crops leave of invariance",
    "finetuning": "the notebook on fine-tuning with the CIFAR-10 images",
    "pretrained": "the notebook on EfficientNet-Lite0 with photographs of ImageNet",
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
        write_json(path, {**about(), "rows": borders()})
    else:
        write_json(path, from_notebook(options.kind))
    return 0


def about() -> dict[str, Any]:
    """Code, versions, machine and date of a record."""
    made = made_with("convert", ("torch", "torchvision", "timm"))
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
    made_by, began = about(), perf_counter()
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
        "seconds": perf_counter() - began,
        "command": f"OMP_NUM_THREADS=1 python -m lps survey {record}",
        "rows": found,
    }
