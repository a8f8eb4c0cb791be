"""The verb ``convert``: a network of torchvision or timm made shift-invariant, or all the families of the book's table.

A row of the table is one network with random weights: converted and verified over every shift modulo its total stride,
or refused with the reason; and what it costs beside the original.
"""

import argparse
import inspect
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from time import perf_counter
from typing import Any, get_args
from weakref import finalize

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..convert import ConvertError, Head, Placement, conversion_report, convert
from ..convert.check import drawn
from ..convert.values import tensors
from ..experiments.profiles import load_profile
from ..experiments.records import code_version, is_current, now, write_json
from ..filters import AntiAlias
from ..machine import hardware, versions
from ..notebooks.parameters import declared_parameters
from ..paths import ROOT, SHIPPED
from ..polyphase import circular_shift
from ..verify import verify

RECORDS = {placement: SHIPPED / "convert" / f"families-{placement}.json" for placement in get_args(Placement)}
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

FAMILIES: dict[str, Sequence[str]] = {
    "torchvision": (
        *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "mnasnet0_5"),
        *("shufflenet_v2_x0_5", "densenet121", "googlenet", "convnext_tiny", "resnext50_32x4d", "vgg11_bn"),
        *("squeezenet1_1", "alexnet", "inception_v3", "wide_resnet50_2", "lraspp_mobilenet_v3_large"),
        *("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "vit_b_16", "swin_t", "maxvit_t"),
    ),
    "timm": (
        *("resnet26d", "seresnext26d_32x4d", "resnest14d", "skresnet18", "ecaresnet26t", "hrnet_w18_small"),
        *("tf_efficientnet_b0", "mobilenetv4_conv_small", "lcnet_050", "ghostnet_050", "rexnet_100", "regnety_002"),
        *("convnext_atto", "convnextv2_atto", "inception_next_atto", "repvgg_a0", "dla34", "starnet_s1"),
        *("poolformer_s12", "resnetv2_50", "resnetblur50", "edgenext_xx_small", "tresnet_m", "pnasnet5large"),
        *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resmlp_12_224"),
    ),
}
"""A member of each family, by library."""

TURNS = 3
COST_SIZE = 224


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", nargs="?", help="torchvision:resnet50 or timm:resnet26d, with random weights")
    parser.add_argument(
        "--families", nargs="?", const="*", metavar="PATTERN", help="the families of the book's table: all, or 'timm:*'"
    )
    parser.add_argument(
        "--borders", action="store_true", help="measure what zero padding and crops leave of invariance"
    )
    parser.add_argument(
        "--finetuning", action="store_true", help="run the notebook on fine-tuning with the CIFAR-10 images"
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="run the notebook on EfficientNet-Lite0 with photographs of ImageNet"
    )
    parser.add_argument("--method", default="lps", choices=("lps", "aps"))
    parser.add_argument("--antialias", default="tri-3", choices=get_args(AntiAlias))
    parser.add_argument(
        "--placement", default="behind", choices=get_args(Placement), help="of sampling, by convolutions"
    )
    parser.add_argument("--head", default="keep", choices=("keep", "pool"), help="pool: for heads that flatten a map")
    parser.add_argument(
        "--verify", action="store_true", help="compare outputs under every shift modulo the total stride"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the images")
    parser.add_argument("--record", type=Path, help="where the rows of --families are written; with the book otherwise")


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
        record_families(options.record or RECORDS[options.placement], options.placement, options.families)
        return 0
    if options.network is None:
        raise ValueError("name a network, torchvision:resnet50 for instance, or ask for --families")
    try:
        network = convert(
            named(options.network, options.seed),
            options.method,
            options.antialias,
            placement=options.placement,
            head=options.head,
        )
    except ConvertError as error:
        print(f"{options.network} is refused: {error}")
        return 1
    print(conversion_report(network))
    if not options.verify:
        return 0
    report = verify_all(network, options.seed)
    print(report)
    return 0 if report.exact else 1


def named(name: str, seed: int = 0) -> nn.Module:
    """A network of torchvision or timm by its name, with random weights, for evaluation."""
    library, _, model = name.partition(":")
    torch.manual_seed(seed)
    if library == "torchvision" and model:
        from torchvision import models

        settings: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(models.get_model_builder(model)).parameters:
            settings["weights_backbone"] = None
        if model in ("googlenet", "inception_v3"):
            settings["init_weights"] = False
        return models.get_model(model, **settings).eval()
    if library == "timm" and model:
        import timm

        return timm.create_model(model).eval()
    raise ValueError(f"{name!r} is no network: write torchvision:resnet50 or timm:resnet26d")


def verify_all(network: nn.Module, seed: int = 0) -> Any:
    """:func:`lps.verify` over every shift modulo the total stride; untrained weights are drawn."""
    stride = conversion_report(network).stride
    image = torch.randn(1, 3, max(stride, 16), 2 * max(stride, 16), generator=torch.Generator().manual_seed(seed))
    every = torch.cartesian_prod(torch.arange(stride), torch.arange(stride)).tolist()
    return verify(drawn(network, image), image, shifts=every)


def about() -> dict[str, Any]:
    """Code, versions, machine and date of a record."""
    return {
        "code": code_version("convert"),
        "versions": versions(("torch", "torchvision", "timm")),
        "hardware": hardware(),
        "made": now(),
    }


def record_families(path: Path, placement: Placement, pattern: str = "*") -> None:
    """Write a row for each family whose name matches; a row made by the code as it is stays."""
    made_by = about()
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    rows = record["rows"] if is_current(record.get("code", {}), "convert") else {}
    for name in (f"{library}:{model}" for library, models in FAMILIES.items() for model in models):
        if name in rows or not fnmatch(name, pattern):
            continue
        rows[name] = row(name, placement)
        settings = {"placement": placement, "threads": torch.get_num_threads(), "size": COST_SIZE, "turns": TURNS}
        write_json(path, {**made_by, "settings": settings, "rows": rows})
        print(name, rows[name]["outcome"], rows[name].get("reason", ""), file=sys.stderr)


def row(name: str, placement: Placement = "behind") -> dict[str, Any]:
    """Convert one network, with ``head="pool"`` where it is refused without, and compare it with the original."""
    original = named(name)
    refusals: list[ConvertError] = []
    for head in get_args(Head):
        try:
            network = convert(original, placement=placement, head=head)
            break
        except ConvertError as error:
            refusals.append(error)
    else:
        return {"outcome": "refused", "layer": refusals[0].layer, "reason": refusals[0].reason}
    report, verified = conversion_report(network), verify_all(network)
    costs = [measure(model) for model in (original, network)]
    turns = [[seconds(model) for model in (original, network)] for _ in range(TURNS)]
    return {
        "outcome": "exact" if verified.exact else "not exact",
        **({} if verified.exact else {"reason": verified.blame}),
        "head": head,
        "stride": report.stride,
        "strides": len(report.strides),
        "choices": sum(not stride.follows for stride in report.strides),
        "raised": len(report.raised),
        "images": list(verified.size),
        "shifts": verified.shifts,
        "parameters": [cost["parameters"] for cost in costs],
        "macs": [cost["macs"] for cost in costs],
        "bytes": [cost["bytes"] for cost in costs],
        "seconds": [statistics.median(times) for times in zip(*turns, strict=True)],
        "time_ratio": statistics.median(after / before for before, after in turns),
    }


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
    (page, result, parameters), profile = NOTEBOOKS[record], "reduced"
    notebook = json.loads((ROOT / "notebooks" / f"{page}.ipynb").read_text(encoding="utf-8"))
    parameters = declared_parameters(notebook) | load_profile(profile).notebooks.get(page, {}) | parameters
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    last = max(number for number, source in enumerate(code) if re.search(rf"^{result}\b|^    {result}\[", source, re.M))
    made_by = about()
    started, began = now(), perf_counter()
    names: dict[str, Any] = dict(parameters)
    for source in code[1 : last + 1]:
        exec(source, names)
    images, found = names["images"], names[result]
    return {
        **made_by,
        "commit": made_by["code"]["commit"],
        "profile": profile,
        "config": parameters,
        "seed": parameters["seed"],
        "data": {"name": images.name, "source": images.source, "fingerprint": images.fingerprint()},
        "threads": torch.get_num_threads(),
        "started": started,
        "seconds": perf_counter() - began,
        "command": f"OMP_NUM_THREADS=1 python -m lps convert --{record}",
        "rows": curves(found) if record == "finetuning" else found,
    }


def curves(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of each network accuracy and consistency after each epoch."""
    return {
        name: [{"accuracy": acc, "c_cons": cons.percent, "pairs": cons.total} for acc, cons in curve]
        for name, curve in found.items()
    }


def measure(model: nn.Module) -> dict[str, int]:
    """Parameters, multiply-adds and the peak of live maps in bytes, for one image in evaluation."""
    image = torch.zeros(1, 3, COST_SIZE, COST_SIZE)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(image)
    with torch.no_grad(), _Live() as live:
        model(image)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2, "bytes": live.peak}


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, as operations make them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for storage in (part.untyped_storage() for part in tensors(output)):
            key, size = storage.data_ptr(), storage.nbytes()
            if key not in self._alive:
                self._alive.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                finalize(storage, self._remove, key, size)
        return output

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def seconds(model: nn.Module) -> float:
    """One image through the network."""
    image = torch.zeros(1, 3, COST_SIZE, COST_SIZE)
    with torch.inference_mode():
        began = perf_counter()
        model(image)
        return perf_counter() - began
