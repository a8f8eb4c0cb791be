"""The verb ``verify``: is a network of the companion, or one of torchvision's, exactly equivariant to shifts?"""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..data import ImageSet
from ..experiments.config import parse_changes
from ..experiments.model import Normalize, fresh
from ..experiments.profiles import load_profile
from ..experiments.records import write_json
from ..experiments.rows import TABLE1
from ..experiments.run import DataCache, plan, trained
from ..probe import probe
from ..verify import verify
from .experiments import add, count

STRANGER = "torchvision:"


def arguments(parser: argparse.ArgumentParser) -> None:
    argument = parser.add_argument
    argument("network", help=f"table1/lps-tri-3, or {STRANGER}resnet18 with random weights")
    add("--profile", "--set", "--seed", "--data-root", "--results")(parser)
    argument("--shifts", default="all", type=_shifts, metavar="all|N", help="all circular shifts, or N drawn")
    argument("--images", type=int, default=4, help="test images, from the first on (default: 4)")
    argument("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    argument("--device", default="cpu", type=_device, help="cpu (default), cuda")
    exact = "find convolution algorithms that are exact on the device, and use them"
    argument("--probe", action="store_true", help=exact)
    argument("--json", type=Path, metavar="FILE", help="write the report there too")


def _shifts(text: str) -> Any:
    return text if text == "all" else count(text)


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device of this machine") from error
    return text


def main(options: argparse.Namespace) -> int:
    """Print the report; exit status 1 where the network is not exact."""
    changes, data = parse_changes(options.set), DataCache(options.data_root)
    if options.network.startswith(STRANGER):
        images, _ = data(load_profile(options.profile).row(TABLE1[0]).override(changes).data)
        network, state = stranger(options.network.removeprefix(STRANGER), images, options.seed), "random weights"
    else:
        run, *others = plan([options.network], options.profile, [options.seed], changes, options.results, data)
        if others:
            raise ValueError(f"one network at a time: {options.network!r} matches {1 + len(others)}")
        images, _ = data(run.experiment.data)
        network, state = fresh(run.experiment, images, run.seed), "untrained"
        if run.weights.exists():
            network, state = trained(run, run.experiment, images), f"trained, {run.id}"
    if not 0 < options.images <= len(images.test):
        raise ValueError(f"{options.images} images were asked for, the profile holds {len(images.test)} to test on")
    network, pictures = network.to(options.device), next(iter(images.batches(options.images)))[0]
    print(f"{options.network} ({state}) on {images.name}")
    algorithms: AbstractContextManager[Any] = nullcontext()
    if options.probe:
        probed = probe(network, pictures, batch_size=options.batch_size)
        print(probed)
        algorithms = probed.backend.flags() if probed.backend else algorithms
    with algorithms:
        report = verify(
            network,
            pictures,
            shifts=options.shifts,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=partial(tqdm, unit="batch", file=sys.stderr, disable=None),
        )
    print(report)
    if options.json:
        asked = {"network": options.network, "weights": state, "profile": options.profile, "seed": options.seed}
        write_json(options.json, {**asked, **report.as_dict()})
    return 0 if report.exact else 1


def stranger(name: str, data: ImageSet, seed: int) -> nn.Module:
    """A classifier or segmenter of torchvision by its name, with random weights."""
    from .convert import named

    return nn.Sequential(Normalize(*data.statistics()), named(f"{STRANGER}{name}", seed))
