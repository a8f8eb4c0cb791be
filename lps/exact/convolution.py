"""Padding and convolution on one, two or three spatial axes."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = Literal["circular", "zeros", "reflect"]

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class _Wrap(torch.autograd.Function):
    """Circular padding in one allocation: two to four times as fast as ``F.pad`` in training, on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: int, after: int) -> Tensor:
        ctx.reach = before, after
        space = x.shape[2:]
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        wrapped = torch.empty(
            *x.shape[:2],
            *(size + before + after for size in space),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        inner = wrapped
        for axis, size in enumerate(space, 2):
            inner = inner.narrow(axis, before, size)
        inner.copy_(x)
        for axis, size in enumerate(space, 2):
            wrapped.narrow(axis, 0, before).copy_(wrapped.narrow(axis, size, before))
            wrapped.narrow(axis, before + size, after).copy_(wrapped.narrow(axis, before, after))
        return wrapped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        before, after = ctx.reach
        sizes = [padded - before - after for padded in gradient.shape[2:]]
        inner = gradient
        for axis, size in enumerate(sizes, 2):
            inner = inner.narrow(axis, before, size)
        folded = inner.clone()
        # along each axis: where a part of the padded map begins, its length, and where in the map it came from
        parts = [((before, size, 0), (0, before, size - before), (before + size, after, 0)) for size in sizes]
        _, *borders = product(*parts)
        for border in borders:
            source, target = gradient, folded
            for axis, (start, length, origin) in enumerate(border, 2):
                source, target = source.narrow(axis, start, length), target.narrow(axis, origin, length)
            target.add_(source)
        return folded, None, None


def pad(x: Tensor, before: int, after: int, padding: Padding) -> Tensor:
    """Pad each spatial axis of ``x`` ``(N, C, *space)`` by ``before`` and ``after`` samples.

    Circular padding wraps as often as it takes.
    """
    if before == after == 0:
        return x
    if padding != "circular":
        mode = "constant" if padding == "zeros" else padding
        return F.pad(x, (before, after) * (x.dim() - 2), mode=mode)
    if max(before, after) <= min(x.shape[2:]):
        return cast(Tensor, _Wrap.apply(x, before, after))
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        x = x.index_select(axis, torch.arange(-before, size + after, device=x.device) % size)
    return x


def pad_to_multiple(x: Tensor, multiple: int, padding: Padding = "circular") -> Tensor:
    """Grow ``x`` ``(N, C, *space)`` at the right and bottom until ``multiple`` divides every spatial size.

    The guarantees then hold for shifts of the larger map: pad the input of a network once, never a map inside it.
    """
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        missing = -size % multiple
        if missing == 0:
            continue
        if padding == "zeros":
            border = x.new_zeros(()).expand(*x.shape[:axis], missing, *x.shape[axis + 1 :])
        else:
            positions = torch.arange(missing, device=x.device)
            # a reflection turns at the last sample without repeating it
            source = positions % size if padding == "circular" else size - 2 - positions
            if padding == "reflect" and missing >= size:
                raise ValueError(f"reflect padding of size {size} to a multiple of {multiple} would leave the map")
            border = x.index_select(axis, source)
        x = torch.cat([x, border], axis)
    return x


_POSITIONS = 12
"""Below so many positions, a matrix product on a CPU in float32 adds up the last of them in another order."""

_LANES = 16
"""The threads of a CPU share the positions of a single image, and the rest of a row that is no multiple of this goes
another way."""

_OUTPUTS = 4
"""A 1x1 convolution with fewer outputs rounds by position on a CPU."""


def _widened(x: Tensor, space: Sequence[int], stride: int = 1) -> Tensor:
    """``x`` with zeros at the right where a CPU would round the last positions of ``space``, that of a convolution's
    result, otherwise than the rest."""
    if x.device.type != "cpu":
        return x
    if x.shape[0] == 1:
        missing = -space[-1] % _LANES
    else:  # a column that is left of a stride reads what no one wrote, in bfloat16
        lone = stride > 1 and space[-1] == 1
        missing = _POSITIONS if lone or torch.Size(space).numel() < _POSITIONS else 0
    return F.pad(x, (0, missing * stride)) if missing else x


def _sum_of_taps(taps: Sequence[Tensor], dilation: int, axis: int) -> Tensor:
    """Add to the middle one of three results, in place, what the other two say of its neighbours along ``axis``."""
    before, here, after = taps
    size = here.shape[axis]
    for part, shift in ((before, dilation % size), (after, -dilation % size)):
        here.narrow(axis, shift, size - shift).add_(part.narrow(axis, 0, size - shift))
        here.narrow(axis, 0, shift).add_(part.narrow(axis, size - shift, shift))
    return here


class _ConvolveCircular(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        space = x.shape[2:]
        flat = _widened(x.flatten(2), [space.numel()])
        rows = []
        for taps in weight.movedim((0, 1), (-2, -1)):
            y = taps.reshape(-1, x.shape[1]) @ flat
            y = y[..., : space.numel()].unflatten(1, taps.shape[:-1]).unflatten(-1, space)
            for axis in range(1 - len(space), 0):
                y = _sum_of_taps(y.unbind(1), dilation, axis)
            rows.append(y)
        return _sum_of_taps(rows, dilation, -len(space))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        dims = x.dim() - 2
        shifts = (-ctx.dilation, 0, ctx.dilation)
        channels = x.transpose(0, 1).flatten(1)
        dx, dweight = torch.zeros_like(x.flatten(2)), []
        for taps, shift in zip(weight.movedim((0, 1), (-2, -1)), shifts, strict=True):
            dy = gradient.roll(shift, -dims)
            for axis in range(-1, -dims, -1):
                dy = torch.stack([dy.roll(shift, axis) for shift in shifts], 1)
            dy = dy.flatten(-dims).flatten(1, -2)
            dx.baddbmm_(taps.reshape(-1, x.shape[1]).t().expand(len(x), -1, -1), dy)
            dweight.append((dy.transpose(0, 1).flatten(1) @ channels.t()).view_as(taps))
        return dx.view_as(x), torch.stack(dweight).movedim((-2, -1), (0, 1)), None


def convolve_circular(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Circular convolution of ``x`` ``(N, C, *space)`` with ``weight`` ``(O, C, 3, ..., 3)``: ``(N, O, *space)``.

    On a CPU a matrix product for each row of taps, whose results are then moved and added: with few outputs this is two
    to three times as fast as a convolution of the padded map, which is never made. A GPU takes many small steps badly.
    """
    if x.device.type != "cpu":
        return CONVOLVE[x.dim() - 2](pad(x, dilation, dilation, "circular"), weight, dilation=dilation)
    return cast(Tensor, _ConvolveCircular.apply(x, weight, dilation))


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of vectors ``(N, C)`` in which each row of the batch is a product of its own.

    In the product of a whole batch the order of a row's sums may depend on which row it is.
    """
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
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        border: Padding = "circular",
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, size, stride, dilation=dilation, bias=bias)
        self.border: Padding = border

    def forward(self, x: Tensor) -> Tensor:
        reach = self.dilation[0] * (self.kernel_size[0] // 2)
        x = pad(x, reach, reach, self.border)
        rows, columns = ((size - 2 * reach - 1) // self.stride[0] + 1 for size in x.shape[2:])
        weight, bias = self.weight, self.bias
        if not self.training:
            x = _widened(x, [rows, columns], self.stride[0])
            if self.kernel_size[0] == 1 and self.out_channels < _OUTPUTS and x.device.type == "cpu":
                more = _OUTPUTS - self.out_channels
                weight = F.pad(weight, (*(0, 0) * 3, 0, more))
                bias = None if bias is None else F.pad(bias, (0, more))
        y = F.conv2d(x, weight, bias, self.stride, dilation=self.dilation)[:, : self.out_channels, :, :columns]
        return y.contiguous() if x.shape[0] == 1 else y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, border={self.border!r}"
