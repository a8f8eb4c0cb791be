"""Models as they come: wrappers are taken off, and images found to follow their code with."""

import copy
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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

LONG = 1024


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


class FollowedAttention(nn.Module):
    """``nn.MultiheadAttention`` of one width, with all that it holds, call by call."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        vars(self).update(vars(whole))
        self.drop = nn.Dropout(whole.dropout).train(whole.training)

    def forward(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal or key_padding_mask is not None or attn_mask is not None:
            raise ValueError("attention under a mask, which stays where it is")
        weights, biases = self.in_proj_weight.chunk(3), (None,) * 3
        if self.in_proj_bias is not None:
            biases = self.in_proj_bias.chunk(3)
        given = (query, key, value) if self.batch_first else (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = (
            F.linear(x, weight, bias).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(given, weights, biases, strict=True)
        )
        shares = ((q * self.head_dim**-0.5) @ k.transpose(2, 3)).softmax(3)
        y = self.out_proj((self.drop(shares) @ v).transpose(1, 2).flatten(2))
        shares = shares.mean(1) if average_attn_weights else shares
        return y if self.batch_first else y.transpose(0, 1), shares if need_weights else None


def opened(network: nn.Module) -> nn.Module:
    """``network`` whose parts can be followed: of wrappers what they call, under the same names, and attention."""
    for path, module in list(network.named_modules()):
        inner = _within(module)
        if path and inner is not None:
            (name,) = (name for name, child in module.named_children() if child is inner)
            network.set_submodule(path, nn.Sequential(OrderedDict({name: inner})).train(module.training))
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if path and type(module) is nn.MultiheadAttention:
            if module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn:
                network.set_submodule(path, FollowedAttention(module))
    return network


def stop_at_long_sequences(network: nn.Module) -> None:
    """Let recurrent layers raise :class:`ConvertError` before they walk through a map, which takes minutes."""

    def stop(path: str, layer: nn.RNNBase, given: Any) -> None:
        if given and isinstance(given[0], Tensor) and (length := given[0].shape[int(layer.batch_first)]) > LONG:
            raise ConvertError(path, f"it reads {length} positions in their order, which a shift changes")

    for path, part in network.named_modules():
        if isinstance(part, nn.RNNBase):
            part.register_forward_pre_hook(partial(stop, path))


def images_for(model: nn.Module, again: bool = False) -> Tensor:
    """Images on the meta device, with as many channels as the first convolution that is called reads, or another number
    where those do not fit; and ``again`` of another size."""
    plain = copy.deepcopy(model).to("meta").eval()
    stop_at_long_sequences(plain)
    every = [part for part in plain.modules() if isinstance(part, _ConvNd)]
    convolutions = [part for part in every if not isinstance(part, _ConvTransposeNd)]
    if not convolutions:
        reason = "it has no convolution, from which the images' channels are read: pass `example`"
        raise ConvertError("the network", reason)
    called: list[_ConvNd] = []
    for part in every:
        part.register_forward_pre_hook(lambda part, _: called.append(part))

    def images(channels: int, like: _ConvNd) -> Tensor:
        size = SIZES[like.weight.dim() - 2][again]
        return torch.empty(1, channels, *size, dtype=like.weight.dtype, device="meta")

    def takes(x: Tensor) -> bool:
        try:
            with torch.no_grad():
                plain(x)
            return True
        except ConvertError:
            return True
        except Exception:
            return False

    takes(images(convolutions[0].in_channels, convolutions[0]))
    first = (called or convolutions)[0]
    counts = dict.fromkeys((first.in_channels, convolutions[0].in_channels, 3, 1))
    tried = (images(channels, first) for channels in counts)
    return next(filter(takes, tried), images(first.in_channels, first))
