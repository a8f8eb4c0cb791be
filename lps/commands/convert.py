"""The verb ``convert``: a network of a library made shift-invariant, and the records of the book's page on that."""

import argparse
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional as F

from ..convert import ConvertError, Head, Placement, conversion_report, convert
from ..convert.check import drawn
from ..experiments.profiles import load_profile
from ..experiments.records import made_with, write_json
from ..filters import AntiAlias
from ..notebooks.parameters import declared_parameters
from ..paths import ROOT, SHIPPED
from ..polyphase import circular_shift, steps
from ..studies.families import RECORD, named, record_families
from ..verify import verify

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


def arguments(parser: argparse.ArgumentParser) -> None:
    add, flag = parser.add_argument, partial(parser.add_argument, action="store_true")
    network = "torchvision:resnet50, timm:resnet26d or smp:Unet/resnet18, with random weights"
    add("network", nargs="?", help=network)
    add("--method", default="lps", choices=("lps", "aps"), help="lps learns each choice, aps needs no training")
    add("--antialias", default="tri-3", choices=get_args(AntiAlias), help="filter before each sampling")
    where = "where a convolution samples: behind it, or before it, at about the original's cost"
    add("--placement", default="behind", choices=get_args(Placement), help=where)
    add("--head", default="keep", choices=get_args(Head), help="pool: for heads that flatten a map")
    flag("--verify", help="compare outputs under every shift modulo the total stride")
    add("--seed", type=int, default=0, help="seed of the weights and of the images")
    book = parser.add_argument_group("the records of the book, written anew")
    add, flag = book.add_argument, partial(book.add_argument, action="store_true")
    families = "the families of the book's table: all, or 'timm:*'"
    add("--families", nargs="?", const="*", metavar="PATTERN", help=families)
    add("--record", type=Path, default=RECORD, help="where the rows of --families are written")
    flag("--borders", help="measure what zero padding and crops leave of invariance")
    flag("--finetuning", help="run the notebook on fine-tuning with the CIFAR-10 images")
    flag("--pretrained", help="run the notebook on EfficientNet-Lite0 with photographs of ImageNet")


def main(options: argparse.Namespace) -> int:
    """Print the report of a conversion; exit status 1 where it is refused or not exact."""
    if options.borders:
        write_json(SHIPPED / "convert" / "borders.json", {**about(), "rows": borders()})
        return 0
    for name in NOTEBOOKS:
        if getattr(options, name):
            write_json(SHIPPED / "convert" / f"{name}.json", from_notebook(name))
            return 0
    if options.families:
        record_families(options.record, options.families)
        return 0
    if options.network is None:
        raise ValueError("name a network, torchvision:resnet50 for instance, or ask for --families")
    original, how = named(options.network, options.seed), {"placement": options.placement, "head": options.head}
    try:
        network = convert(original, options.method, options.antialias, **how)
    except ConvertError as error:
        print(f"{options.network} is refused: {error}")
        return 1
    print(conversion_report(network))
    if not options.verify:
        return 0
    report = verify_all(network, options.seed)
    print(report)
    return 0 if report.exact else 1


def verify_all(network: nn.Module, seed: int = 0) -> Any:
    """:func:`lps.verify` over every shift modulo the total stride; untrained weights are drawn."""
    strides = steps(conversion_report(network).stride, 2)
    size = [k * max(stride, 16) for k, stride in enumerate(strides, 1)]
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    every = torch.cartesian_prod(*map(torch.arange, strides)).tolist()
    return verify(drawn(network, image), image, shifts=every)


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
    notebook = json.loads((ROOT / "notebooks" / f"{page}.ipynb").read_text(encoding="utf-8"))
    parameters = declared_parameters(notebook) | load_profile(profile).notebooks.get(page, {}) | dict(changes)
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    last = max(number for number, source in enumerate(code) if re.search(rf"^{result}\b|^    {result}\[", source, re.M))
    made_by, began = about(), perf_counter()
    names: dict[str, Any] = dict(parameters)
    for source in code[1 : last + 1]:
        exec(source, names)
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
        "command": f"OMP_NUM_THREADS=1 python -m lps convert --{record}",
        "rows": found,
    }
