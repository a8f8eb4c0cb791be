"""Filtering together with what comes after it: the same sums, made only where something reads them.

A low-pass filter is the same at every position. It commutes with a circular convolution, so the logits of a filtered
map need only their few hidden channels filtered, and of the map itself nothing but the component that is kept.
A CPU and a GPU want these sums in another order of work: a CPU one convolution in as many groups as there are maps, a
GPU a plain depthwise convolution.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..polyphase import Stride, components, keep, mix, offset_of, phase_view, phases, place, require_divisible, steps
from .convolution import CONVOLVE, SPREAD, Padding, convolve_circular, depthwise, pad, recorded
from .cpu import by_pieces, in_full, once, runs
from .mean import channel_sum, exact_mean, largest_of

SMALL = 64
"""A CPU mixes the phases of maps of so many positions at most by one matrix product."""

WIDE = 64
"""Up to this width a CPU multiplies whole rows for the gradient of ``z``; wider ones are mostly no tap's."""


class Filter(Protocol):
    """A filter with the same symmetric ``kernel`` ``(channels, 1, *size)`` for every channel and position."""

    kernel: Tensor
    padding: Padding

    @property
    def reach(self) -> tuple[int, int]: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class _Credit(torch.autograd.Function):
    """Hands on ``y = sum_k z_k Poly(kernel * x)_k`` and gives ``z`` its gradient, ``<dy, Poly(kernel * x)_k>``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, x: Tensor, kernel: Tensor, stride: Stride) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.dtype = stride, z.dtype
        return y.view_as(y)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        x, kernel = ctx.saved_tensors
        if x.dim() == 4 and x.shape[-1] <= WIDE:
            credit = F.conv2d(_correlation(x, gradient, kernel.shape, ctx.stride), kernel).flatten(1)
        else:
            products = components(depthwise(x, kernel), ctx.stride)
            credit = torch.stack([(gradient * part).flatten(1).sum(1) for part in products], 1)
        return gradient, credit.to(ctx.dtype), None, None, None


def _correlation(x: Tensor, y: Tensor, size: Sequence[int], stride: Stride) -> Tensor:
    """``sum_{c, n} y[c, n] x[c, stride n + t]`` for each tap ``t`` of a kernel of this ``size``, moved to every phase.

    ``x`` ``(N, C, *padded)``, ``y`` ``(N, C, *space)`` to ``(N, 1, *taps)``. One matrix product of whole rows, as
    many as the stride at a time; it has a diagonal for each tap.
    """
    (down, right), (count, channels, rows, columns) = steps(stride, 2), y.shape
    height, width = (n + s - 1 for n, s in zip(size[2:], (down, right), strict=True))
    blocks, reached = -(-x.shape[2] // down), -(-height // down)
    if missing := blocks * down - x.shape[2]:
        x = F.pad(x, (0, 0, 0, missing))
    below = y.new_zeros(count, channels, blocks, reached, columns)  # no sum reaches from one channel into the next
    for block in range(reached):
        below[:, :, block : block + rows, block].copy_(y)
    wide = down * x.shape[3]
    sums = torch.bmm(below.view(count, channels * blocks, -1).transpose(1, 2), x.reshape(count, -1, wide))
    shape, strides = (count, reached, down, width, columns), (reached * columns * wide, columns * wide, x.shape[3], 1)
    return sums.as_strided(shape, (*strides, wide + right)).sum(-1).flatten(1, 2)[:, None, :height]


def _grouped(x: Tensor) -> bool:
    """Is a convolution in a group for each map of ``x`` fast?"""
    return x.device.type == "cpu" and x.shape[1] > 1 and not recorded(x)


def _moved(kernel: Tensor, z: Tensor, stride: Stride, like: Tensor) -> Tensor:
    """``kernel`` ``(1, 1, *size)`` moved to every phase and weighed by ``z`` ``(N, P)``, for each map of ``like``."""
    count, channels, *space = like.shape
    weights = z.detach().to(like.dtype).view(count, 1, *steps(stride, len(space)))
    return SPREAD[len(space)](weights, kernel).repeat_interleave(channels, 0)


@in_full
def mix_filtered(x: Tensor, kernel: Tensor, z: Tensor, stride: Stride) -> Tensor:
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


@in_full
def place_filtered(y: Tensor, kernel: Tensor, z: Tensor, stride: Stride) -> Tensor:
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
    each = steps(stride, len(space))
    reach = max(-(-(size // 2) // s) for s in each)
    wrapped = pad(y, reach, reach, "circular")
    v = SPREAD[len(space)](
        wrapped.reshape(1, -1, *wrapped.shape[2:]),
        _moved(kernel, z, stride, y),
        stride=stride,
        padding=tuple(s * reach + size // 2 for s in each),
        groups=count * channels,
    )
    return v.view(count, channels, *v.shape[2:])


@in_full
def _mix_small(x: Tensor, z: Tensor, h: Filter, stride: Stride) -> Tensor:
    """``sum_k z_k Poly(h * x)_k`` of small maps ``x`` ``(N, C, *space)`` with ``z`` ``(N, P)``: one matrix product."""
    count, channels, *space = x.shape
    each = torch.eye(x[0, 0].numel(), dtype=x.dtype).view(-1, 1, *space)  # what becomes of each position
    parts = torch.stack(components(h(each), stride))
    matrices = (z.to(x.dtype) @ parts.flatten(1)).view(count, len(each), -1)
    return torch.bmm(x.flatten(2), matrices).view(count, channels, *parts.shape[3:])


def moved_and_padded(x: Tensor, phase: Tensor, stride: Stride, before: Stride, after: Stride) -> Tensor:
    """``x`` on a circle, each map moved so that its ``phase`` ``(N,)`` comes first, and padded: two copies of it."""
    each = steps(stride, x.dim() - 2)
    last = [n + s - 1 for n, s in zip(steps(after, len(each)), each, strict=True)]
    wide = pad(x, before, last, "circular")
    starts = zip(*(start.tolist() for start in offset_of(phase, stride, len(each))), strict=True)
    sizes = [n - s + 1 for n, s in zip(wide.shape[2:], each, strict=True)]
    windows = [[slice(a, a + n) for a, n in zip(start, sizes, strict=True)] for start in starts]
    return torch.stack([image[(slice(None), *window)] for image, window in zip(wide, windows, strict=True)])


def _aligned(x: Tensor, phase: Tensor, stride: Stride, before: int, after: int) -> Tensor:
    """Circular padding and a shift that brings ``phase`` ``(N,)`` of each sample to phase 0, in one copy."""
    dims = x.dim() - 2
    index: list[Tensor] = [torch.arange(len(x), device=x.device).view(-1, *(1,) * dims)]
    for axis, start in enumerate(offset_of(phase, stride, dims)):
        size = x.shape[2 + axis]
        steps = torch.arange(-before, size + after, device=x.device)
        position = (start[:, None] + steps) % size
        index.append(position.view(len(x), *(1,) * axis, -1, *(1,) * (dims - 1 - axis)))
    return x.movedim(1, -1)[tuple(index)].movedim(-1, 1)


class Filtered(NamedTuple):
    """``h * x`` of a map ``x`` ``(N, C, *space)``, where ``h`` may be left to do: all of it, or one component."""

    x: Tensor
    left: Filter | None = None

    def whole(self) -> Tensor:
        """``h * x``."""
        return self.x if self.left is None else self.left(self.x)

    def component(self, z: Tensor, phase: Tensor | None, stride: Stride) -> Tensor:
        """``sum_k z_k Poly(h * x)_k`` (Eq. 17), or where ``phase`` ``(N,)`` is given that component alone (Eq. 7)."""
        x, h = self
        if h is None:
            return mix_filtered(x, x.new_ones((1,) * x.dim()), z, stride) if phase is None else keep(x, phase, stride)
        kernel, (before, after) = h.kernel[:1].to(x.dtype), h.reach
        if phase is not None:
            if h.padding == "circular" and not _grouped(x) and not recorded(x):
                return depthwise(_aligned(x, phase, stride, before, after), kernel, stride)
            z = F.one_hot(phase, phases(stride, x.dim() - 2))
        if z.requires_grad and _grouped(x) and x[0, 0].numel() <= SMALL:
            return _mix_small(x, z, h, stride)

        def mixed(x: Tensor, z: Tensor) -> Tensor:
            return mix_filtered(pad(x, before, after, h.padding), kernel, z, stride)

        return mixed(x, z) if phase is None else by_pieces(mixed, x, z)


def phase_logits(
    x: Tensor, conv1: nn.Module, conv2: nn.Module, stride: Stride, padding: Padding, exact: bool, blur: Filter | None
) -> Tensor:
    """``f_theta`` (Eq. 23) of each component of ``x`` ``(N, C, *space)``, or of ``blur(x)``: ``(N, P)``.

    A convolution of every component is one convolution of the map, dilated by the stride. With circular padding it
    commutes with ``blur``, and the second convolution and the mean after it collapse into one dot product. Sums are
    never in half precision; where ``exact``, they have no order.
    """
    require_divisible(x, stride)
    with torch.autocast(x.device.type, enabled=False):
        full = torch.promote_types(x.dtype, torch.float32)
        if x.device.type == "cpu" or padding != "circular":
            x = x.to(full)
        if blur and not padding == blur.padding == "circular":
            x, blur = blur(x), None
        if padding != "circular":
            hidden = _dilated(x, conv1, stride, padding).relu()
            return _phase_means(_dilated(hidden, conv2, stride, padding).mean(1, keepdim=True), stride, exact)
        y = convolve_circular(x, cast(Tensor, conv1.weight).to(x.dtype), steps(stride, x.dim() - 2))
        bias = cast(Tensor, conv1.bias).to(full).view(-1, *(1,) * (x.dim() - 2))
        if blur is not None:  # few channels fill no vector of a CPU: in training those of all images stand in one row
            joined = not exact and y.device.type == "cpu"
            y = blur(y.flatten(0, 1)[None]).view_as(y) if joined else blur(y)
        weight, constant = (parameter.to(full) for parameter in conv2.parameters())
        collapsed = weight.flatten(2).sum(2).mean(0).view(-1, *(1,) * (x.dim() - 2))
        y, in_place = y.to(full), not torch.is_grad_enabled()
        weighed = y.add_(bias).relu_().mul_(collapsed) if in_place else (y + bias).relu_() * collapsed
        total = channel_sum(weighed, consume=in_place) if exact else weighed.sum(1, keepdim=True)
        return _phase_means(total, stride, exact) + constant.mean()


def _dilated(x: Tensor, conv: nn.Module, stride: Stride, padding: Padding) -> Tensor:
    weight, bias = cast(Tensor, conv.weight).to(x.dtype), cast(Tensor, conv.bias).to(x.dtype)
    return CONVOLVE[x.dim() - 2](pad(x, stride, stride, padding), weight, bias, dilation=stride)


def _phase_means(x: Tensor, stride: Stride, exact: bool) -> Tensor:
    """Spatial mean of each phase of ``x`` ``(N, 1, *space)``: ``(N, P)``, in float64 where ``exact``."""
    view = phase_view(x, stride)
    rest = tuple(range(x.dim() - 1, view.dim()))
    return (exact_mean(view, rest) if exact else view.mean(rest)).flatten(1)


def phase_norms(x: Tensor, stride: Stride, exact: bool) -> Tensor:
    """``||Poly(x)_k||_2`` of Eq. (5), ``(N, C, *space)`` to ``(N, P)``; where ``exact``, its sums have no order."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not runs(x):
        return _scaled_norms(x, stride, exact)
    size, limits = x.shape[2:].numel() // phases(stride, x.dim() - 2), torch.finfo(x.dtype)
    means = _phase_means(by_pieces(lambda part: channel_sum(part.square(), consume=True), x), stride, exact)
    norms = (means * size).sqrt()
    in_range = norms.isfinite().all(1) & (means.amax(1) > limits.tiny / limits.eps**2)
    if not in_range.all():
        norms[~in_range] = _scaled_norms(x[~in_range], stride, exact)
    return norms


def _scaled_norms(x: Tensor, stride: Stride, exact: bool) -> Tensor:
    """:func:`phase_norms` of numbers whose squares may leave the range of floats."""
    peak = largest_of(x).clamp_min(torch.finfo(x.dtype).tiny)
    squares = by_pieces(lambda part, peak: channel_sum((part / peak).square()), x, peak)
    size = prod(x.shape[2:]) // phases(stride, x.dim() - 2)
    return (_phase_means(squares, stride, exact) * size).sqrt() * peak.flatten(1)
