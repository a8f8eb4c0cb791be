"""Anti-alias filters: Rect-2, Tri-3, Bin-5 (LPF) and Adapt-3 (DDAC), Sec. 5.1."""

from collections.abc import Iterator
from itertools import product
from math import comb
from typing import Any, cast

import torch
from torch import Tensor, nn

from .convolution import CONV, CONVOLVE, NORM, SPREAD, Padding, pad
from .polyphase import components, mix


def _depthwise(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Each channel of ``x`` ``(N, C, *space)`` with the same ``kernel`` ``(1, 1, *size)``."""
    channels = x.shape[1]
    return CONVOLVE[x.dim() - 2](x, kernel.expand(channels, *kernel.shape[1:]), stride=stride, groups=channels)


class _Credit(torch.autograd.Function):
    """Hands on ``y = sum_k z_k Poly(kernel * x)_k`` and gives ``z`` its gradient, ``<dy, Poly(kernel * x)_k>``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.dtype = stride, z.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        x, kernel = ctx.saved_tensors
        products = [(gradient * part).flatten(1).sum(1) for part in components(_depthwise(x, kernel), ctx.stride)]
        return gradient, torch.stack(products, 1).to(ctx.dtype), None, None, None


def mix_filtered(x: Tensor, kernel: Tensor, z: Tensor, stride: int) -> Tensor:
    """``sum_k z_k Poly(kernel * x)_k`` of a padded map ``x`` ``(N, C, *space)`` with ``z`` ``(N, P)``, Eq. (17).

    One strided convolution, for each sample with ``kernel`` ``(1, 1, *size)`` moved to every phase and weighed by its
    ``z``: where ``z`` is one-hot, nothing but the kept phase is filtered.
    """
    if torch.onnx.is_in_onnx_export():  # there the number of groups may not depend on that of the samples
        return mix(_depthwise(x, kernel), z, stride)
    count, channels, *space = x.shape
    dims = len(space)
    moved = SPREAD[dims](z.detach().to(x.dtype).view(count, 1, *(stride,) * dims), kernel)
    moved = moved.repeat_interleave(channels, 0)
    y = CONVOLVE[dims](x.reshape(1, -1, *space), moved, stride=stride, groups=count * channels)
    y = y.view(count, channels, *y.shape[2:])
    return cast(Tensor, _Credit.apply(y, z, x, kernel, stride)) if z.requires_grad else y


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

    def forward(self, x: Tensor, stride: int = 1, z: Tensor | None = None) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample, or with ``z`` ``(N, P)`` the mixture of Eq. (17)."""
        if x.shape[1] == 1:  # alone, a channel would be filtered by a matrix product, whose bits depend on the position
            return self.forward(x.expand(-1, 2, *x.shape[2:]), stride, z)[:, :1]
        x = pad(x, (self.size - 1) // 2, self.size // 2, self.padding)
        kernel = self.kernel[:1].to(x.dtype)
        return _depthwise(x, kernel, stride) if z is None else mix_filtered(x, kernel, z, stride)

    def extra_repr(self) -> str:
        return f"size={self.size}, padding={self.padding!r}"


def _windows(x: Tensor, taps: Tensor, stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of ``taps`` ``(N, G, T, *space)`` with the part of the padded ``x`` ``(N, G, C, *padded)`` it weighs."""
    dims = x.dim() - 3
    size = round(taps.shape[2] ** (1 / dims))
    for tap, offset in zip(taps.unsqueeze(3).unbind(2), product(range(size), repeat=dims), strict=True):
        window = x
        for axis, start in enumerate(offset, 3):
            length = stride * (taps.shape[axis] - 1) + 1
            window = window.narrow(axis, start, length)[(slice(None),) * axis + (slice(None, None, stride),)]
        yield tap, window


class _Adapt(torch.autograd.Function):
    """``y[n] = sum_t taps_t[n] x[stride n + t]``, with a gradient in two passes over the map for each tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.stride = stride
        (tap, window), *others = _windows(x, taps, stride)
        y = tap * window
        for tap, window in others:
            y += tap * window
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, taps = ctx.saved_tensors
        dx, dtaps = torch.zeros_like(x), torch.empty_like(taps)
        pairs = zip(_windows(x, taps, ctx.stride), _windows(dx, dtaps, ctx.stride), strict=True)
        for (tap, window), (dtap, dwindow) in pairs:
            dwindow += gradient * tap
            dtap.copy_((gradient * window).sum(2, keepdim=True))
        return dx, dtaps, None


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
        x = pad(x, self.size // 2, self.size // 2, self.padding)
        logits = self.norm(CONVOLVE[x.dim() - 2](x, self.conv.weight, stride=stride))
        # over the last axis, since over the channels the rounding depends on the position in memory
        weights = logits.softmax(1) if self.training else logits.movedim(1, -1).softmax(-1).movedim(-1, 1)
        taps = (weights if self.gain == 1 else self.gain * weights).unflatten(1, (self.groups, -1))
        return cast(Tensor, _Adapt.apply(x.unflatten(1, (self.groups, -1)), taps, stride)).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, groups={self.groups}, padding={self.padding!r}"
