"""Anti-alias filters: Rect-2, Tri-3, Bin-5 (LPF) and Adapt-3 (DDAC), Sec. 5.1.

Where a filter meets a polyphase component, a CPU and a GPU want the same sum in another order of work: a CPU one
convolution in as many groups as there are maps, a GPU a plain depthwise convolution.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from math import comb, gcd
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact.convolution import CONV, CONVOLVE, NORM, SPREAD, Padding, _widened, pad
from .polyphase import components, mix, offset_of, place, require_maps

AntiAlias = Literal["none", "rect-2", "tri-3", "bin-5", "adapt-3"]
"""The filters of Sec. 5.1 by their names in the tables."""


def depthwise(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Each channel of ``x`` ``(N, C, *space)`` with the same ``kernel`` ``(1, 1, *size)``."""
    channels = x.shape[1]
    if channels == 1:  # alone, it would be filtered by a matrix product, whose bits depend on the position
        return depthwise(x.expand(-1, 2, *x.shape[2:]), kernel, stride)[:, :1]
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
        products = [(gradient * part).flatten(1).sum(1) for part in components(depthwise(x, kernel), ctx.stride)]
        return gradient, torch.stack(products, 1).to(ctx.dtype), None, None, None


def _grouped(x: Tensor) -> bool:
    """Is a convolution in a group for each map of ``x`` fast? In an ONNX graph their number is constant."""
    return x.device.type == "cpu" and x.shape[1] > 1 and not torch.onnx.is_in_onnx_export()


def _moved(kernel: Tensor, z: Tensor, stride: int, like: Tensor) -> Tensor:
    """``kernel`` ``(1, 1, *size)`` moved to every phase and weighed by ``z`` ``(N, P)``, for each map of ``like``."""
    count, channels, *space = like.shape
    phases = z.detach().to(like.dtype).view(count, 1, *(stride,) * len(space))
    return SPREAD[len(space)](phases, kernel).repeat_interleave(channels, 0)


def mix_filtered(x: Tensor, kernel: Tensor, z: Tensor, stride: int) -> Tensor:
    """``sum_k z_k Poly(kernel * x)_k`` of a padded map ``x`` ``(N, C, *space)`` with ``z`` ``(N, P)``, Eq. (17).

    On a CPU one strided convolution with the moved kernels: where ``z`` is one-hot, nothing but the kept phase is
    filtered.
    """
    if not _grouped(x):
        return mix(depthwise(x, kernel), z, stride)
    count, channels, *space = x.shape
    convolve = CONVOLVE[len(space)]
    y = convolve(x.reshape(1, -1, *space), _moved(kernel, z, stride, x), stride=stride, groups=count * channels)
    y = y.view(count, channels, *y.shape[2:])
    return cast(Tensor, _Credit.apply(y, z, x, kernel, stride)) if z.requires_grad else y


def place_filtered(y: Tensor, kernel: Tensor, z: Tensor, stride: int) -> Tensor:
    """``kernel * u`` with ``Poly(u)_k = z_k y`` on a circle: ``y`` ``(N, C, *space)`` to ``(N, C, *(s * space))``.

    Eqs. (24) and (25). The transpose of :func:`mix_filtered`, and on a CPU again one convolution: ``u``, mostly zeros,
    is never made. Both need a ``kernel`` that is symmetric, as all low-pass filters here are.
    """
    size = kernel.shape[-1]
    if not _grouped(y) or z.requires_grad:
        return depthwise(pad(place(y, z, stride), (size - 1) // 2, size // 2, "circular"), kernel)
    count, channels, *space = y.shape
    if size % 2 == 0:
        kernel = F.pad(kernel, (0, 1) * len(space))  # as far to the left as to the right
    reach = -(-(size // 2) // stride)
    wrapped = pad(y, reach, reach, "circular")
    v = SPREAD[len(space)](
        wrapped.reshape(1, -1, *wrapped.shape[2:]),
        _moved(kernel, z, stride, y),
        stride=stride,
        padding=stride * reach + size // 2,
        groups=count * channels,
    )
    return v.view(count, channels, *v.shape[2:])


def _aligned(x: Tensor, phase: Tensor, stride: int, before: int, after: int) -> Tensor:
    """Circular padding and a shift that brings ``phase`` ``(N,)`` of each sample to phase 0, in one copy."""
    dims = x.dim() - 2
    index: list[Tensor] = [torch.arange(len(x), device=x.device).view(-1, *(1,) * dims)]
    for axis, start in enumerate(offset_of(phase, stride, dims)):
        size = x.shape[2 + axis]
        steps = torch.arange(-before, size + after, device=x.device)
        position = (start[:, None] + steps) % size
        index.append(position.view(len(x), *(1,) * axis, -1, *(1,) * (dims - 1 - axis)))
    return x.movedim(1, -1)[tuple(index)].movedim(-1, 1)


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

    @property
    def reach(self) -> tuple[int, int]:
        """Samples to the left and to the right that a result depends on."""
        return (self.size - 1) // 2, self.size // 2

    def forward(self, x: Tensor, stride: int = 1, z: Tensor | None = None, phase: Tensor | None = None) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample, or the component ``phase`` ``(N,)`` int64 of Eq. (7), or
        with ``z`` ``(N, P)`` the mixture of Eq. (17)."""
        require_maps(x)
        kernel = self.kernel[:1].to(x.dtype)
        if phase is not None:
            if self.padding == "circular" and not _grouped(x) and not torch.onnx.is_in_onnx_export():
                return depthwise(_aligned(x, phase, stride, *self.reach), kernel, stride)
            z = F.one_hot(phase, stride ** (x.dim() - 2))
        x = pad(x, *self.reach, self.padding)
        return depthwise(x, kernel, stride) if z is None else mix_filtered(x, kernel, z, stride)

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
    all groups, so their average gain is ``1 / groups``. By default there are 8 groups, or as many as divide 8 and the
    channels.
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
        groups = gcd(8, channels) if groups is None else groups
        if channels % groups:
            raise ValueError(f"{groups} filter groups do not divide {channels} channels")
        taps = groups * size**dims
        self.conv = CONV[dims](channels, taps, size, bias=False)
        self.norm = NORM[dims](taps)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.size, self.groups, self.padding, self.gain = size, groups, padding, gain

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Filter ``x`` and keep every ``stride``-th sample; taps are predicted only where they are used."""
        require_maps(x)
        x = pad(x, self.size // 2, self.size // 2, self.padding)
        columns = (x.shape[-1] - self.size) // stride + 1
        wide = x if self.training or x.shape[0] > 1 else _widened(x, [columns], stride)
        logits = CONVOLVE[x.dim() - 2](wide, self.conv.weight, stride=stride)[..., :columns].contiguous()
        logits = self.norm(logits)
        # over the last axis, since over the channels the rounding depends on the position in memory
        weights = logits.softmax(1) if self.training else logits.movedim(1, -1).softmax(-1).movedim(-1, 1)
        taps = (weights if self.gain == 1 else self.gain * weights).unflatten(1, (self.groups, -1))
        return cast(Tensor, _Adapt.apply(x.unflatten(1, (self.groups, -1)), taps, stride)).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, groups={self.groups}, padding={self.padding!r}"


def named(
    name: AntiAlias, *, padding: Padding = "circular", groups: int | None = None, gain: float = 1.0, dims: int = 2
) -> Callable[[int], nn.Module] | None:
    """The filter ``name``, from a number of channels; ``groups`` are those of Adapt-3. ``None`` for ``"none"``."""
    sizes = {"rect-2": 2, "tri-3": 3, "bin-5": 5}
    if name not in get_args(AntiAlias):
        raise ValueError(f"no filter {name!r}: there are {', '.join(get_args(AntiAlias))}")
    if name == "adapt-3":
        return partial(AdaptiveLowPass, size=3, groups=groups, padding=padding, gain=gain, dims=dims)
    return None if name == "none" else partial(LowPass, size=sizes[name], padding=padding, gain=gain, dims=dims)
