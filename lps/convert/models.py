"""Models as they come: wrappers are taken off, and images found to follow their code with."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from .report import ConvertError

SIZES = {
    1: ((224,), (2**14,)),
    2: ((224, 224), (256, 256)),
    3: ((64, 64, 64), (16, 224, 224)),
}
"""Of the first images, and of others where those do not fit, by number of axes."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself: within ``DataParallel``, an average of weights, or what ``torch.compile`` returns."""
    if not isinstance(model, nn.Module):
        raise ConvertError("the network", f"a torch.nn.Module is expected, got {type(model).__name__}")
    while (inner := _within(model)) is not None:
        model = inner
    for path, module in model.named_modules():
        where = path or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ConvertError(where, "it is scripted or traced, and its code is gone: convert what it was made from")
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise ConvertError(where, "it is lazy and has no weights yet: run the network once, then convert it")
    return model


def _within(module: nn.Module) -> nn.Module | None:
    if isinstance(module, DataParallel | DistributedDataParallel | AveragedModel):
        return module.module
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else None  # type: ignore[return-value]


def without_wrappers(network: nn.Module) -> nn.Module:
    """``network`` with the wrappers of its parts replaced by what only calls them, under the same names."""
    for path, module in list(network.named_modules()):
        inner = _within(module)
        if path and inner is not None:
            (name,) = (name for name, child in module.named_children() if child is inner)
            network.set_submodule(path, nn.Sequential(OrderedDict({name: inner})).train(module.training))
    return network


def images_for(model: nn.Module, again: bool = False) -> Tensor:
    """Images on the meta device, with as many channels as the first convolution that is called reads, or another number
    where those do not fit; and ``again`` of another size."""
    convolutions = [
        part for part in model.modules() if isinstance(part, _ConvNd) and not isinstance(part, _ConvTransposeNd)
    ]
    if not convolutions:
        raise ConvertError(
            "the network", "it has no convolution, from which the images' channels are read: pass `example`"
        )
    plain = copy.deepcopy(model).to("meta").eval()

    def images(channels: int, like: _ConvNd) -> Tensor:
        dims = like.weight.dim() - 2
        return torch.empty(1, channels, *SIZES[dims][again], dtype=like.weight.dtype, device="meta")

    _, called = _tried(plain, images(convolutions[0].in_channels, convolutions[0]))
    first = next(iter(called), convolutions[0])
    for channels in dict.fromkeys((first.in_channels, convolutions[0].in_channels, 3, 1)):
        if _tried(plain, images(channels, first))[0]:
            return images(channels, first)
    return images(first.in_channels, first)


def _tried(plain: nn.Module, images: Tensor) -> tuple[bool, list[_ConvNd]]:
    """Does the network take these images, and which convolutions does it call?"""
    called: list[_ConvNd] = []
    parts = [part for part in plain.modules() if isinstance(part, _ConvNd)]
    hooks = [part.register_forward_pre_hook(lambda part, _: called.append(part)) for part in parts]
    try:
        with torch.no_grad():
            plain(images)
        return True, called
    except Exception:
        return False, called
    finally:
        for hook in hooks:
            hook.remove()
