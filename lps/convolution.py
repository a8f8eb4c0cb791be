"""Padding and convolution on one, two or three spatial axes."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = Literal["circular", "zeros", "reflect"]

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def pad(x: Tensor, before: int, after: int, padding: Padding) -> Tensor:
    """Pad each spatial axis of ``x`` ``(N, C, *space)`` by ``before`` and ``after`` samples."""
    if before == after == 0:
        return x
    if padding != "circular":
        mode = "constant" if padding == "zeros" else padding
        return F.pad(x, (before, after) * (x.dim() - 2), mode=mode)
    # concatenation: half the time of F.pad(mode="circular"), forward and backward, on a CPU
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        if max(before, after) > size:
            raise ValueError(f"circular padding by {before} and {after} wraps a map of {tuple(x.shape[2:])} twice")
        x = torch.cat([x.narrow(axis, size - before, before), x, x.narrow(axis, 0, after)], axis)
    return x


class Conv2d(nn.Conv2d):
    """Convolution without bias of odd size, padded to keep the size at stride 1: ``(N, C, H, W)``."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, border: Padding = "circular") -> None:
        super().__init__(inputs, outputs, size, stride, bias=False)
        self.border: Padding = border

    def forward(self, x: Tensor) -> Tensor:
        reach = self.kernel_size[0] // 2
        return F.conv2d(pad(x, reach, reach, self.border), self.weight, None, self.stride)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, border={self.border!r}"
