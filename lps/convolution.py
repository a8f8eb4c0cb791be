"""Padding and convolution on one, two or three spatial axes."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = Literal["circular", "zeros", "reflect"]

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
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
        for axis in range(2, gradient.dim()):
            size = gradient.shape[axis] - before - after
            folded = gradient.narrow(axis, before, size).clone()
            folded.narrow(axis, size - before, before).add_(gradient.narrow(axis, 0, before))
            folded.narrow(axis, 0, after).add_(gradient.narrow(axis, before + size, after))
            gradient = folded
        return gradient, None, None


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


class Conv2d(nn.Conv2d):
    """Convolution without bias of odd size, padded to keep the size at stride 1: ``(N, C, H, W)``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        border: Padding = "circular",
        dilation: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, size, stride, dilation=dilation, bias=False)
        self.border: Padding = border

    def forward(self, x: Tensor) -> Tensor:
        reach = self.dilation[0] * (self.kernel_size[0] // 2)
        x = pad(x, reach, reach, self.border)
        rows, columns = ((size - 2 * reach - 1) // self.stride[0] + 1 for size in x.shape[2:])
        if not self.training and rows * columns < _POSITIONS and x.device.type == "cpu":
            x = F.pad(x, (0, _POSITIONS * self.stride[0]))
        return F.conv2d(x, self.weight, None, self.stride, dilation=self.dilation)[..., :columns]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, border={self.border!r}"
