"""The verbs ``verify``, is a network exactly equivariant to shifts, and ``convert``, a network made shift-invariant."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from tqdm import tqdm

from ..convert import ConvertError, Head, Method, Placement, conversion_report, convert
from ..convert.check import drawn
from ..experiments.config import parse_changes
from ..experiments.model import Normalize, fresh
from ..experiments.profiles import load_profile
from ..experiments.records import write_json
from ..experiments.rows import TABLE1
from ..experiments.run import DataCache, plan, trained
from ..filters import AntiAlias
from ..polyphase import steps
from ..probe import probe
from ..studies.families import named
from ..verify import verify
from .experiments import add, count

STRANGER = "torchvision:"


def verify_arguments(parser: argparse.ArgumentParser) -> None:
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


def verify_main(options: argparse.Namespace) -> int:
    """Print the report; exit status 1 where the network is not exact."""
    changes, data = parse_changes(options.set), DataCache(options.data_root)
    if options.network.startswith(STRANGER):
        images, _ = data(load_profile(options.profile).row(TABLE1[0]).override(changes).data)
        network = nn.Sequential(Normalize(*images.statistics()), named(options.network, options.seed))
        state = "random weights"
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


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    argument = parser.add_argument
    network = "torchvision:resnet50, timm:resnet26d or smp:Unet/resnet18, with random weights"
    argument("network", help=network)
    argument("--method", default="lps", choices=get_args(Method), help="lps learns each choice, aps needs no training")
    argument("--antialias", default="tri-3", choices=get_args(AntiAlias), help="filter before each sampling")
    where = "where a convolution samples: behind it, or before it, which computes only what is kept"
    argument("--placement", default="behind", choices=get_args(Placement), help=where)
    argument("--head", default="keep", choices=get_args(Head), help="pool: for heads that flatten a map")
    argument("--verify", action="store_true", help="compare outputs under every shift modulo the total stride")
    argument("--seed", type=int, default=0, help="seed of the weights and of the images")


def convert_main(options: argparse.Namespace) -> int:
    """Print the report of a conversion; exit status 1 where it is refused or not exact."""
    original, how = named(options.network, options.seed), {"placement": options.placement, "head": options.head}
    try:
        network = convert(original, options.method, options.antialias, **how)
    except ConvertError as error:
        print(f"{options.network} is refused: {error}")
        return 1
    print(conversion_report(network))
    if not options.verify:
        return 0
    strides = steps(conversion_report(network).stride, 2)
    size = [k * max(stride, 16) for k, stride in enumerate(strides, 1)]
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(options.seed))
    every = torch.cartesian_prod(*map(torch.arange, strides)).tolist()
    report = verify(drawn(network, image), image, shifts=every)
    print(report)
    return 0 if report.exact else 1
