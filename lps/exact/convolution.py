"""Padding and convolution on one, two or three spatial axes."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..polyphase import Stride, known, steps
from .cpu import LANES, ConvolveCircular, by_pieces, evened, in_full, lacking, runs, tried

Padding = Literal["circular", "zeros", "reflect"]

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def require_padding(padding: str) -> None:
    """Raise ``ValueError`` for a padding that there is not."""
    if padding not in get_args(Padding):
        raise ValueError(f"no padding {padding!r}: there are {', '.join(get_args(Padding))}")


def needs_gradient(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def a_few_at_a_time(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of a batch by pieces, or of the whole where a gradient goes back."""
    return function(x) if needs_gradient(x) else by_pieces(function, x)


def recorded(x: Tensor) -> bool:
    """Is a graph recorded that leaves sizes open, or that is for ONNX, where writes into parts of a map cost most?"""
    return torch.onnx.is_in_onnx_export() or not known(x.shape[2:])


class _Wrap(torch.autograd.Function):
    """Circular padding in one allocation, in any layout: in training 2 to 4 times as fast as ``F.pad`` on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        ctx.reach = before, after
        space = x.shape[2:]
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        wrapped = torch.empty(
            *x.shape[:2],
            *(n + b + a for n, b, a in zip(space, before, after, strict=True)),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        inner = wrapped
        reaches = list(enumerate(zip(before, after, space, strict=True), 2))
        for axis, (first, _, size) in reaches:
            inner = inner.narrow(axis, first, size)
        inner.copy_(x)
        for axis, (first, rest, size) in reaches:
            wrapped.narrow(axis, 0, first).copy_(wrapped.narrow(axis, size, first))
            wrapped.narrow(axis, first + size, rest).copy_(wrapped.narrow(axis, first, rest))
        return wrapped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        reaches = [(b, a, n - b - a) for b, a, n in zip(*ctx.reach, gradient.shape[2:], strict=True)]
        inner = gradient
        for axis, (first, _, size) in enumerate(reaches, 2):
            inner = inner.narrow(axis, first, size)
        folded = inner.clone()
        # along each axis: where a part of the padded map begins, its length, and where in the map it came from
        parts = [((b, size, 0), (0, b, size - b), (b + size, a, 0)) for b, a, size in reaches]
        _, *borders = product(*parts)
        for border in borders:
            source, target = gradient, folded
            for axis, (start, length, origin) in enumerate(border, 2):
                source, target = source.narrow(axis, start, length), target.narrow(axis, origin, length)
            target.add_(source)
        return folded, None, None


def _joined(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Circular padding without a write: an exported graph takes in a few operations better than many."""
    for axis, (first, last) in enumerate(zip(before, after, strict=True), 2):
        if first or last:
            size = x.shape[axis]
            x = torch.cat([x.narrow(axis, size - first, first), x, x.narrow(axis, 0, last)], axis)
    return x


def last_first(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Paddings in the order of ``F.pad``: the last axis first."""
    return [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]


def pad(x: Tensor, before: Stride, after: Stride, padding: Padding) -> Tensor:
    """Pad spatial axes of ``x`` ``(N, C, *space)`` by ``before`` and ``after`` samples, all alike or each by its own.

    Circular padding wraps as often as it takes.
    """
    before, after = (steps(reach, x.dim() - 2) for reach in (before, after))
    if not any(before) and not any(after):
        return x
    around = last_first(before, after)
    if padding != "circular":
        return F.pad(x, around, mode="constant" if padding == "zeros" else padding)
    if torch.jit.is_tracing():  # where sizes are tensors, which no function with a backward of its own takes
        before, after = (tuple(map(int, reach)) for reach in (before, after))
    elif all(0 <= min(ends) and max(ends) <= n for *ends, n in zip(before, after, x.shape[2:], strict=True)):
        if recorded(x):
            return _joined(x, before, after)
        if runs(x) and x.is_contiguous() and not needs_gradient(x):
            return F.pad(x, around, mode="circular")
        return cast(Tensor, _Wrap.apply(x, before, after))
    for axis, (first, last) in enumerate(zip(before, after, strict=True), 2):
        size = x.shape[axis]
        x = x.index_select(axis, torch.arange(-first, size + last, device=x.device) % size)
    return x


def pad_to_multiple(x: Tensor, multiple: Stride, padding: Padding = "circular") -> Tensor:
    """Grow ``x`` ``(N, C, *space)`` at the right and bottom until ``multiple``, or that of each axis, divides its size.

    >>> lps.pad_to_multiple(torch.randn(1, 3, 37, 64), 32).shape
    torch.Size([1, 3, 64, 64])

    The guarantees then hold for shifts of the larger map: pad the input of a network once, never a map inside it.
    """
    require_padding(padding)
    each = steps(multiple, x.dim() - 2)
    if min(each, default=1) < 1:
        raise ValueError(f"sizes grow to multiples of a whole number from 1 on, got {multiple}")
    for axis, step in enumerate(each, 2):
        size = x.shape[axis]
        missing = -size % step
        if missing == 0:
            continue
        if padding == "zeros":
            border = x.new_zeros(()).expand(*x.shape[:axis], missing, *x.shape[axis + 1 :])
        else:
            positions = torch.arange(missing, device=x.device)
            # a reflection turns at the last sample without repeating it
            source = positions % size if padding == "circular" else size - 2 - positions
            if padding == "reflect" and missing >= size:
                raise ValueError(f"reflect padding of size {size} to a multiple of {step} would leave the map")
            border = x.index_select(axis, source)
        x = torch.cat([x, border], axis)
    return x


def convolve_alike(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    space: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """The first ``(N, O, *space)`` of a convolution of ``x`` ``(N, C, *size)``, each position and image rounded alike.

    A CPU gets zeros at the right where it would round the last positions otherwise.
    """
    outputs, settings = weight.shape[0], (tuple(stride), tuple(dilation), groups)
    even = evened(x, weight, bias, groups)
    if x.device.type == "cpu" and (missing := _missing(*even[:2], bias is not None, space, *settings)):
        if runs(x) and len(space) > 1 and {*weight.shape[2:], *stride} == {1}:  # positions are a row: it takes fewer
            y = convolve_alike(x.flatten(2), weight.flatten(2), bias, [x.shape[2:].numel()], (1,), (1,), groups)
            return crop(y.unflatten(2, x.shape[2:]), space)
        even = F.pad(even[0], (0, missing * stride[-1])), *even[1:]
    y = _convolve(*even, *settings)
    if y.shape[1] > outputs:
        y = y.unflatten(1, (groups, -1))[:, :, : outputs // groups].flatten(1, 2)
    whole = all(n == size for n, size in zip(y.shape[2:], space, strict=True))
    return y if whole and x.shape[0] > 1 else crop(y, space)  # a whole batch stays in its layout


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> Tensor:
    return CONVOLVE[x.dim() - 2](x, weight, bias, stride=stride, dilation=dilation, groups=groups)


def _missing(x: Tensor, weight: Tensor, biased: bool, space: Sequence[int], *settings: Any) -> int:
    """Positions to append to the rows of a convolution's result."""
    (*_, step), *_ = settings

    def compute(x: Tensor, weight: Tensor, missing: int) -> Tensor:
        bias = weight.flatten(1)[:, 0] if biased else None
        return _convolve(F.pad(x, (0, missing * step)), weight, bias, *settings)[..., : space[-1]]

    return tried(compute, x, weight, lacking(x.shape[0], space, step), biased, tuple(space), *settings)


def crop(y: Tensor, space: Sequence[int]) -> Tensor:
    """The first samples of each spatial axis, in memory as a map of that size."""
    for axis, size in enumerate(space, 2):
        y = y if y.shape[axis] == size else y.narrow(axis, 0, size)
    return y.contiguous()


def convolve_circular(x: Tensor, weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Circular convolution of ``x`` ``(N, C, *space)`` with ``weight`` ``(O, C, 3, ..., 3)``: ``(N, O, *space)``.

    On a CPU a matrix product for each row of taps, whose results are then moved and added: with few outputs this is two
    to three times as fast as a convolution of the padded map, which is never made. A GPU takes many small steps badly.
    """
    if x.device.type != "cpu" or recorded(x):
        return CONVOLVE[x.dim() - 2](pad(x, dilation, dilation, "circular"), weight, dilation=tuple(dilation))
    return cast(Tensor, ConvolveCircular.apply(x, weight, dilation))


@in_full
def depthwise(x: Tensor, kernel: Tensor, stride: Stride = 1) -> Tensor:
    """Each channel of ``x`` ``(N, C, *space)`` with the same ``kernel`` ``(1, 1, *size)``."""
    channels = x.shape[1]
    if channels == 1:  # alone, it would be filtered by a matrix product, whose bits depend on the position
        return depthwise(x.expand(-1, 2, *x.shape[2:]), kernel, stride)[:, :1]
    return CONVOLVE[x.dim() - 2](
        x, kernel.expand(channels, *kernel.shape[1:]), stride=steps(stride, x.dim() - 2), groups=channels
    )


def low_pass(x: Tensor, kernel: Tensor, before: int, after: int, padding: Padding, stride: Stride = 1) -> Tensor:
    """Each channel of ``x`` ``(N, C, *space)``, padded, with the same ``kernel`` ``(1, 1, *size)``."""

    def whole(x: Tensor) -> Tensor:
        return depthwise(pad(x, before, after, padding), kernel, stride)

    return a_few_at_a_time(whole, x)


def max_pool(x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Largest sample of every window of ``x`` ``(N, C, *space)``, with its size in ``kernel``.

    On a CPU axis by axis, many times as fast as torch's, unless a gradient goes back to one of equal samples.
    """
    if x.device.type != "cpu" or needs_gradient(x):
        return MAX_POOL[x.dim() - 2](x, tuple(kernel), 1, dilation=tuple(dilation))
    for axis, (size, step) in enumerate(zip(kernel, dilation, strict=True), 2):
        length = x.shape[axis] - step * (size - 1)
        x = reduce(torch.maximum, [x.narrow(axis, step * i, length) for i in range(size)])
    return x


class MaxPool(nn.Module):
    """:func:`max_pool` of windows of ``size`` samples along both axes, padded to keep the size: ``(N, C, H, W)``."""

    def __init__(self, size: int, padding: Padding) -> None:
        super().__init__()
        require_padding(padding)
        self.size, self.padding = size, padding

    def forward(self, x: Tensor) -> Tensor:
        def whole(x: Tensor) -> Tensor:
            return max_pool(pad(x, 0, self.size - 1, self.padding), (self.size,) * 2, (1, 1))

        return a_few_at_a_time(whole, x)


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of vectors ``(N, C)`` in which each row of the batch is a product of its own.

    In the product of a whole batch the order of a row's sums may depend on which row it is; of a single row, on where
    it begins in memory, unless all begin at a whole vector.
    """
    if x.device.type == "cpu" and known(x.shape[1:]) and (missing := -x.shape[1] % LANES):
        x, weight = F.pad(x, (0, missing)), F.pad(weight, (0, missing))
    y = torch.bmm(x[:, None], weight.t().expand(x.shape[0], -1, -1))[:, 0]
    return y if bias is None else y + bias.to(y.dtype)


class Linear(nn.Linear):
    """A linear layer of vectors ``(N, C)``; in evaluation a CPU treats the rows of a batch alike."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training or x.device.type != "cpu":
            return super().forward(x)
        return linear_rows(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """Convolution of odd size, padded to keep the size at stride 1: ``(N, C, H, W)``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding_mode: Padding = "circular",
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, bias=bias, padding_mode=padding_mode
        )

    def forward(self, x: Tensor) -> Tensor:
        reach = self.dilation[0] * (self.kernel_size[0] // 2)
        x = pad(x, reach, reach, cast(Padding, self.padding_mode))
        if self.training:
            return F.conv2d(x, self.weight, self.bias, self.stride, dilation=self.dilation)
        space = [(size - 2 * reach - 1) // self.stride[0] + 1 for size in x.shape[2:]]
        return convolve_alike(x, self.weight, self.bias, space, self.stride, self.dilation)
