"""The verb ``convert``: a network of a library made shift-invariant."""

import argparse
from typing import Any, get_args

import torch
from torch import nn

from ..convert import ConvertError, Head, Placement, conversion_report, convert
from ..convert.check import drawn
from ..filters import AntiAlias
from ..polyphase import steps
from ..studies.families import named
from ..verify import verify


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    network = "torchvision:resnet50, timm:resnet26d or smp:Unet/resnet18, with random weights"
    add("network", help=network)
    add("--method", default="lps", choices=("lps", "aps"), help="lps learns each choice, aps needs no training")
    add("--antialias", default="tri-3", choices=get_args(AntiAlias), help="filter before each sampling")
    where = "where a convolution samples: behind it, or before it, which computes only what is kept"
    add("--placement", default="behind", choices=get_args(Placement), help=where)
    add("--head", default="keep", choices=get_args(Head), help="pool: for heads that flatten a map")
    add("--verify", action="store_true", help="compare outputs under every shift modulo the total stride")
    add("--seed", type=int, default=0, help="seed of the weights and of the images")


def main(options: argparse.Namespace) -> int:
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
