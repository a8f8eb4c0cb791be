"""Anti-alias filters: Rect-2, Tri-3 and Bin-5 (LPF) and Adapt-3 (DDAC), Sec. 5.1."""

from collections.abc import Callable, Sequence
from functools import partial
from math import comb, gcd
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .exact.adaptive import convolve_strided, softmax_of_channels, weigh_windows
from .exact.convolution import CONV, NORM, Padding, low_pass, pad, require_padding
from .polyphase import Stride, require_maps

AntiAlias = Literal["none", "rect-2", "tri-3", "bin-5", "adapt-3"]
"""The filters of Sec. 5.1 by their names in the tables."""


class LowPass(nn.Module):
    """Depthwise binomial filter: Rect-2, Tri-3 and Bin-5 for ``size`` 2, 3 and 5.

    >>> tri_3 = lps.LowPass(8, size=3)
    >>> tri_3(torch.randn(2, 8, 16, 16)).shape, tri_3(torch.randn(2, 8, 16, 16), stride=2).shape
    (torch.Size([2, 8, 16, 16]), torch.Size([2, 8, 8, 8]))
    >>> 16 * tri_3.kernel[0, 0]
    tensor([[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]])

    ``(N, C, *space)`` to ``(N, C, *ceil(space / stride))``. After an upsampling by ``s`` the filter carries
    ``gain = s ** dims`` (Sec. 4.3). An even size reaches one sample further to the right and bottom. Of several axes
    only ``along`` those given, by default all, is anything filtered. Raises ``ValueError`` for a size below 1,
    for a padding and for axes that there are not.
    """

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        padding: Padding = "circular",
        gain: float = 1.0,
        dims: int = 2,
        along: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a low-pass filter needs a size of at least 1, got {size}")
        require_padding(padding)
        if along is not None and not {*along} <= {*range(dims)}:
            raise ValueError(f"a filter along the axes {along}: a map has the spatial axes 0 to {dims - 1}")
        taps = torch.tensor([comb(size - 1, k) for k in range(size)], dtype=torch.float64)
        kernel = torch.ones((), dtype=torch.float64)
        for axis in range(dims):
            filtered = along is None or axis in along
            kernel = kernel[..., None] * (taps if filtered else torch.eye(size, dtype=taps.dtype)[(size - 1) // 2])
        kernel = (gain * kernel / kernel.sum()).to(torch.get_default_dtype())
        self.register_buffer("kernel", kernel.expand(channels, 1, *kernel.shape).clone(), persistent=False)
        self.size, self.padding = size, padding

    @property
    def reach(self) -> tuple[int, int]:
        """Samples to the left and to the right that a result depends on."""
        return (self.size - 1) // 2, self.size // 2

    def forward(self, x: Tensor, stride: Stride = 1) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample: ``y[n] = sum_t kernel[t] x[stride n + t]``."""
        require_maps(x)
        return low_pass(x, self.kernel[:1].to(x.dtype), *self.reach, self.padding, stride)

    def extra_repr(self) -> str:
        return f"size={self.size}, padding={self.padding!r}"


class AdaptiveLowPass(nn.Module):
    """Adapt-3: a low-pass filter predicted at each position, shared within ``groups`` of channels (DDAC).

    >>> adapt_3 = lps.AdaptiveLowPass(16, size=3, groups=8)
    >>> adapt_3(torch.randn(2, 16, 12, 12)).shape, adapt_3(torch.randn(2, 16, 12, 12), stride=2).shape
    (torch.Size([2, 16, 12, 12]), torch.Size([2, 16, 6, 6]))

    ``(N, C, *space)`` to ``(N, C, *ceil(space / stride))``. As in the original, one softmax runs over the taps of
    all groups, so their average gain is ``1 / groups``. By default there are ``gcd(8, channels)``.
    Raises ``ValueError`` for an even ``size``, for ``groups`` that do not divide the channels and for a padding that
    there is not.
    """

    def __init__(
        self,
        channels: int,
        size: int = 3,
        groups: int | None = None,
        padding: Padding = "circular",
        gain: float = 1.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"an adaptive filter needs an odd size, got {size}")
        require_padding(padding)
        groups = gcd(8, channels) if groups is None else groups
        if channels % groups:
            raise ValueError(f"{groups} filter groups do not divide {channels} channels")
        taps = groups * size**dims
        self.conv = CONV[dims](channels, taps, size, bias=False)
        self.norm = NORM[dims](taps)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.size, self.groups, self.padding, self.gain = size, groups, padding, gain

    def forward(self, x: Tensor, stride: Stride = 1) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample; taps are predicted only where they are used."""
        require_maps(x)
        x, exact = pad(x, self.size // 2, self.size // 2, self.padding), not self.training
        logits = self.norm(convolve_strided(x, self.conv.weight, stride, exact))
        weights = softmax_of_channels(logits, exact)
        taps = (weights if self.gain == 1 else self.gain * weights).unflatten(1, (self.groups, -1))
        return weigh_windows(x.unflatten(1, (self.groups, -1)), taps, stride).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, groups={self.groups}, padding={self.padding!r}"


def named(
    name: AntiAlias,
    *,
    padding: Padding = "circular",
    groups: int | None = None,
    gain: float = 1.0,
    dims: int = 2,
    along: Sequence[int] | None = None,
) -> Callable[[int], nn.Module] | None:
    """The filter ``name``, from a number of channels; ``groups`` are those of Adapt-3, and ``along`` is for the others.

    ``None`` for ``"none"``.
    """
    sizes = {"rect-2": 2, "tri-3": 3, "bin-5": 5}
    if name not in get_args(AntiAlias):
        raise ValueError(f"no filter {name!r}: there are {', '.join(get_args(AntiAlias))}")
    if name == "adapt-3":
        return partial(AdaptiveLowPass, size=3, groups=groups, padding=padding, gain=gain, dims=dims)
    if name == "none":
        return None
    return partial(LowPass, size=sizes[name], padding=padding, gain=gain, dims=dims, along=along)
