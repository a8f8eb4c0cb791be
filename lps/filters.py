"""Anti-alias filters: Rect-2, Tri-3, Bin-5 (LPF) and Adapt-3 (DDAC), Sec. 5.1."""

from itertools import product
from math import comb
from typing import cast

import torch
from torch import Tensor, nn

from .convolution import CONV, CONVOLVE, NORM, Padding, pad


class LowPass(nn.Module):
    """Depthwise binomial filter: Rect-2, Tri-3 and Bin-5 for ``size`` 2, 3 and 5.

    ``(N, C, *space)`` to ``(N, C, *ceil(space / stride))``. After an upsampling by ``s`` the filter carries
    ``gain = s ** dims`` (Sec. 4.3). An even size reaches one sample further to the right and bottom.
    """

    kernel: Tensor

    def __init__(
        self, channels: int, size: int, padding: Padding = "circular", gain: float = 1.0, dims: int = 2
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a low-pass filter needs a size of at least 1, got {size}")
        taps = torch.tensor([comb(size - 1, k) for k in range(size)], dtype=torch.float64)
        kernel = torch.ones((), dtype=torch.float64)
        for _ in range(dims):
            kernel = kernel[..., None] * taps
        kernel = (gain * kernel / kernel.sum()).to(torch.get_default_dtype())
        self.register_buffer("kernel", kernel.expand(channels, 1, *kernel.shape).clone(), persistent=False)
        self.size, self.padding = size, padding

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample."""
        x = pad(x, (self.size - 1) // 2, self.size // 2, self.padding)
        return CONVOLVE[x.dim() - 2](x, self.kernel.to(x.dtype), stride=stride, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"size={self.size}, padding={self.padding!r}"


class AdaptiveLowPass(nn.Module):
    """Adapt-3: a low-pass filter predicted at each position, shared within ``groups`` of channels (DDAC).

    ``(N, C, *space)`` to ``(N, C, *ceil(space / stride))``. As in the original, one softmax runs over the taps of
    all groups, so their average gain is ``1 / groups``.
    """

    def __init__(
        self,
        channels: int,
        size: int = 3,
        groups: int = 8,
        padding: Padding = "circular",
        gain: float = 1.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"an adaptive filter needs an odd size, got {size}")
        if channels % groups:
            raise ValueError(f"{groups} filter groups do not divide {channels} channels")
        taps = groups * size**dims
        self.conv = CONV[dims](channels, taps, size, bias=False)
        self.norm = NORM[dims](taps)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.size, self.groups, self.padding, self.gain = size, groups, padding, gain

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample; taps are predicted only where they are used."""
        space = x.shape[2:]
        x = pad(x, self.size // 2, self.size // 2, self.padding)
        logits = self.norm(CONVOLVE[len(space)](x, self.conv.weight, stride=stride))
        # over the last axis, since over the channels the rounding depends on the position in memory
        weights = logits.softmax(1) if self.training else logits.movedim(1, -1).softmax(-1).movedim(-1, 1)
        taps = self.gain * weights.unflatten(1, (self.groups, -1))
        groups = x.unflatten(1, (self.groups, -1))
        windows = (
            groups[
                (
                    ...,
                    *(slice(start, start + size, stride) for start, size in zip(offset, space, strict=True)),
                )
            ]
            for offset in product(range(self.size), repeat=len(space))
        )
        parts = (taps[:, :, t, None] * window for t, window in enumerate(windows))
        return cast(Tensor, sum(parts, start=x.new_zeros(()))).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, groups={self.groups}, padding={self.padding!r}"
