"""The survey of ``python -m lps survey families``: which networks that people use convert, and why others do not.

Each is converted as :func:`lps.convert` comes, and then tried by a test of its own: its outputs for images of other
sizes, one at a time, and for circular shifts of them are compared bit for bit.
"""

import inspect
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib.resources import files
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..convert import ConvertError, Head, conversion_report, convert
from ..convert.check import drawn
from ..experiments.jobs import default_jobs
from ..experiments.records import code_version, is_current, now, write_json
from ..experiments.schema import read_yaml
from ..machine import hardware, versions
from ..polyphase import steps
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
        raise ValueError(f"{name!r} cannot be built: {type(error).__name__}: {error}".partition("\n")[0]) from error


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
    about: dict[str, Any] = {
        "code": code_version("convert"),
        "versions": versions(("torch", *LIBRARIES.values())),
        "hardware": hardware(),
        "settings": {"threads": torch.get_num_threads(), "shifts": SHIFTS},
        "command": "make families",
    }
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = record.get("rows", {}) if is_current(record.get("code", {}), "convert") else {}
    commit = about["code"]["commit"]

    def is_done(name: str) -> bool:
        outcome = rows.get(name, {"outcome": "not tried"})["outcome"]
        return outcome == "exact" or (outcome != "not tried" and rows[name]["commit"] == commit)

    wanted = [name for names in FAMILIES.values() for name in names if fnmatch(name, pattern) and not is_done(name)]
    absent = {library for library, module in LIBRARIES.items() if find_spec(module) is None}
    for library in sorted(absent):
        print(f"{LIBRARIES[library]} is not installed: its networks are left out", file=sys.stderr)
    for name, row in _tried([name for name in wanted if name.partition(":")[0] not in absent]):
        rows[name] = {**row, "commit": commit, "made": now()}
        write_json(path, {**about, "made": now(), "rows": rows})
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
        return {"outcome": "not tried", "reason": f"{type(error).__name__}: {error}".partition("\n")[0]}
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
    images = _images(channels, report.stride, first.weight.dim() - 2)
    added = sum(map(math.prod, report.parameters.values()))
    return {
        "outcome": "exact" if follows_shifts(drawn(network, images), images) else "not exact",
        "original_exact": _follows_shifts(original, images),
        "head": head,
        "stride": report.stride,
        "strides": len(report.strides),
        "choices": sum(not stride.follows for stride in report.strides),
        "raised": len(report.raised),
        "images": list(images.shape[2:]),
        "added": added / sum(p.numel() for p in original.parameters()),
        "seconds": seconds,
    }


def _images(channels: int, stride: int | tuple[int, ...], dims: int) -> Tensor:
    """One image of a size that :func:`lps.convert` does not try."""
    size = [s * (max(3, 32 // s) + axis) for axis, s in enumerate(steps(stride, dims))]
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))


def _follows_shifts(original: nn.Module, images: Tensor) -> bool:
    """Does the network follow shifts before it is converted? No, where it takes no images of this size."""
    try:
        return follows_shifts(drawn(original, images), images)
    except Exception:
        return False


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
