"""Layers of a converted network: those of the original on a circle, and with sums that do not depend on the order."""

from collections.abc import Sequence
from functools import reduce
from math import prod
from string import ascii_uppercase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..exact.convolution import CONVOLVE, Padding, linear_rows, pad
from ..exact.cpu import evened, runs, widened
from ..exact.fused import Filtered, moved_and_padded
from ..exact.mean import exact_mean
from ..exact.sums import EXACT, exact_einsum, softmax
from ..exact.ties import Origin
from ..polyphase import Stride, components, offset_of, offsets, phases, place, steps
from ..sampling import Downsample, Upsample
from ..selection import Selection
from .borders import Border, Pad
from .report import Conversion

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
NO_BORDER = Border()


def wrap(
    x: Tensor, before: Sequence[int], after: Sequence[int], padding: Padding = "circular", border: Border | None = None
) -> Tensor:
    """Pad each spatial axis of ``x`` ``(N, C, *space)`` by its own number of samples, or with the ``border`` it had."""
    if padding == "zeros" and border is not None:
        return border.around(x, after)
    return pad(x, before, after, padding)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    padding: Padding = "circular",
    stride: Stride = 1,
    border: Border | None = None,
    padded: bool = False,
) -> Tensor:
    """Convolution at every ``stride``-th position: ``y[n] = sum_j weight[j] x[stride * n + dilation * j - before]``.

    ``(N, C, *space)`` to ``(N, O, *space / stride)``; a map that is ``padded`` has its circular border already.
    """
    reach, stride = reaches(weight.shape[2:], dilation), steps(stride, x.dim() - 2)
    x = x.contiguous() if x.device.type == "cpu" else x
    if padded:
        around = zip(x.shape[2:], before, beyond(before, reach, stride), stride, strict=True)
        space = [(n - b - a) // s for n, b, a, s in around]
    else:
        space, after = _windows(x, before, reach, border, stride)
        x = wrap(x, before, after, padding, border)
    outputs = weight.shape[0]
    x, weight, bias = evened(widened(x, space, stride[-1]), weight, bias, groups)
    y = CONVOLVE[len(space)](x, weight, bias, stride=stride, dilation=dilation, groups=groups)
    if y.shape[1] > outputs:
        y = y.unflatten(1, (groups, -1))[:, :, : outputs // groups].flatten(1, 2)
    return crop(y, space)


def reaches(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Samples that a window spans along each axis beside its first."""
    return [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]


def beyond(before: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> list[int]:
    """How far the last window goes beyond a map whose size is a multiple of ``stride``."""
    return [max(r + 1 - s - b, 0) for b, r, s in zip(before, reach, stride, strict=True)]


def _windows(
    x: Tensor, before: Sequence[int], reach: Sequence[int], border: Border | None, stride: Stride = 1
) -> tuple[list[int], list[int]]:
    """How many windows there are along each axis of ``x``, and how far the last of them goes beyond it."""
    stride = steps(stride, x.dim() - 2)
    space = (border or NO_BORDER).space(x, reach, stride)
    ends = [s * (count - 1) + r + 1 - b for s, count, r, b in zip(stride, space, reach, before, strict=True)]
    return space, [max(end - size, 0) for end, size in zip(ends, x.shape[2:], strict=True)]


def crop(y: Tensor, space: Sequence[int]) -> Tensor:
    """The first samples of each spatial axis, in memory as a map of that size."""
    for axis, size in enumerate(space, 2):
        y = y.narrow(axis, 0, size)
    return y.contiguous()


class Layer(nn.Module):
    """A layer that tells its settings."""

    def extra_repr(self) -> str:
        hidden = ("training", "weight", "bias", "border")
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k[0] != "_" and k not in hidden)


class Weighted(Layer):
    """The weights of a layer of the original, under their names; those that belong to none come with the input."""

    def __init__(self, layer: nn.Module | None) -> None:
        super().__init__()
        self.weight: Tensor | None = None if layer is None else cast(Tensor, layer.weight)
        self.bias: Tensor | None = None if layer is None else cast(Tensor | None, layer.bias)

    def weights(self, weight: Tensor | None, bias: Tensor | None) -> tuple[Any, Tensor | None]:
        return (self.weight, self.bias) if weight is None else (weight, bias)


class Bordered(nn.Module):
    """A layer that looks beyond its map; ``border`` is what it saw there in the original, and sees by ``"zeros"``."""

    padding: Padding
    border = NO_BORDER


class Convolution(Weighted, Bordered):
    """A convolution of the original at every position; behind an :class:`Align` it has the ``stride`` that it had."""

    def __init__(
        self, conv: nn.Module | None, dilation: Sequence[int], groups: int, padding: Padding, border: Border
    ) -> None:
        super().__init__(conv)
        self.dilation, self.groups, self.padding, self.border = tuple(dilation), groups, padding, border

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        stride: Stride = 1,
        padded: bool = False,
    ) -> Tensor:
        weight, bias = self.weights(weight, bias)
        windows = self.border.before, self.dilation, self.groups, self.padding, stride, self.border
        return convolve(x, weight, bias, *windows, padded and self.padding == "circular")


class TransposedConvolution(Convolution):
    """What a transposed convolution does after it has put its input back among zeros: a convolution."""

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **windows: Any) -> Tensor:
        weight, bias = self.weights(weight, bias)
        flipped = weight.flip(tuple(range(2, weight.dim()))).unflatten(0, (self.groups, -1))
        return super().forward(x, flipped.transpose(1, 2).flatten(0, 1), bias, **windows)


class Align(Downsample):
    """Filter, then shift each map so that its chosen phase comes first: ``(N, C, *space)``, and the selection.

    A convolution that strides behind it computes what :class:`~lps.sampling.Downsample` would have kept of the same
    convolution at every position. A selection that is a mixture (Eq. 17) mixes the shifted maps. On a circle the map
    comes with ``before`` and ``after`` samples around it, for the windows of that convolution.
    """

    def __init__(self, layer: Downsample, padding: Padding, before: Stride = 0, after: Stride = 0) -> None:
        super().__init__(layer.select, layer.antialias, layer.stride, layer.select_from)
        self.padding: Padding = padding
        self.before, self.after = before, after

    def forward(
        self, x: Tensor, selection: Selection | None = None, origin: Origin | None = None
    ) -> tuple[Tensor, Selection | None]:
        filtered, dims = x if self.antialias is None else self.antialias(x), x.dim() - 2
        selection = self._choose(x, Filtered(filtered), origin)[0] if selection is None else selection
        circular = self.padding == "circular"
        if circular and selection.phase is not None and runs(x):
            return moved_and_padded(filtered, selection.phase, self.stride, self.before, self.after), selection
        index: Any
        moved = pad(filtered, 0, [s - 1 for s in steps(self.stride, dims)], self.padding)
        for axis, size in enumerate(x.shape[2:], 2):
            moved = moved.unfold(axis, size, 1)  # (N, C, *phase, *space)
        if selection.phase is None:
            z = selection.z.to(x.dtype).view(*selection.z.shape, *(1,) * (1 + dims))
            kept = torch.zeros_like(filtered)
            for k, phase in enumerate(offsets(self.stride, dims)):
                index = (slice(None), slice(None), *phase)
                kept = kept + z[:, k] * moved[index]
        else:
            index = (
                torch.arange(x.shape[0], device=x.device),
                slice(None),
                *offset_of(selection.phase, self.stride, dims),
            )
            kept = moved[index]
        return pad(kept, self.before, self.after, "circular") if circular else kept, selection


class Pooling(Layer, Bordered):
    """Maximum or mean over the window at every position."""

    def __init__(
        self, largest: bool, kernel: Sequence[int], dilation: Sequence[int], padding: Padding, border: Border
    ) -> None:
        super().__init__()
        self.largest, self.kernel, self.dilation = largest, tuple(kernel), tuple(dilation)
        self.padding, self.border = padding, border

    def forward(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        reach = reaches(self.kernel, self.dilation)
        space, after = _windows(x, self.border.before, reach, self.border)
        padded = wrap(x, self.border.before, after, self.padding, self.border)
        if not self.largest:
            y = AVG_POOL[dims](padded, self.kernel, 1)
            if self.padding == "zeros":
                y = y / AVG_POOL[dims](self.border.counted(x, after), self.kernel, 1)
        elif self.training:
            y = MAX_POOL[dims](padded, self.kernel, 1, dilation=self.dilation)
        else:  # axis by axis: on a CPU many times as fast
            y = padded
            for axis, (size, dilation) in enumerate(zip(self.kernel, self.dilation, strict=True), 2):
                length = y.shape[axis] - dilation * (size - 1)
                y = reduce(torch.maximum, [y.narrow(axis, dilation * i, length) for i in range(size)])
        return crop(y, space)


class Linear(Weighted):
    """A linear layer on vectors ``(N, C)``: in evaluation each row of a batch is a product of its own.

    On maps ``(N, ..., C)`` a CPU makes it a convolution, since threads share the positions of a product as they like.
    """

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        weight, bias = self.weights(weight, bias)
        if self.training or (x.dim() > 2 and x.device.type != "cpu"):
            return F.linear(x, weight, bias)
        if x.dim() > 2:
            y = convolve(x.flatten(1, -2).movedim(-1, 1), weight[..., None], bias, (0,), (1,))
            return y.movedim(1, -1).unflatten(1, x.shape[1:-1])
        return linear_rows(x, weight, bias)


SUMS = ("mean", "sum", "nanmean", "nansum", "logsumexp")
"""Reductions that a CPU makes of several positions at a time."""


class AcrossChannels(Layer):
    """The method of a tensor that sums over ``dims``, no positions, so that each position sums in one order.

    On a CPU a sum over other axes than the last takes several positions at a time, and the last few otherwise.
    """

    def __init__(self, method: str, dims: Sequence[int], keepdim: bool, **settings: Any) -> None:
        super().__init__()
        self.method, self.dims, self.keepdim, self.settings = method, tuple(dims), keepdim, settings

    def forward(self, x: Tensor) -> Tensor:
        last = tuple(range(-len(self.dims), 0))
        rows = x.movedim(self.dims, last).flatten(-len(last)).contiguous()
        y = (-rows).softmax(-1) if self.method == "softmin" else getattr(rows, self.method)(dim=-1, **self.settings)
        if y.dim() == rows.dim():
            return y.unflatten(-1, [x.shape[d] for d in self.dims]).movedim(last, self.dims).contiguous()
        for axis in sorted(self.dims) if self.keepdim else ():
            y = y.unsqueeze(axis)
        return cast(Tensor, y)


class OverPositions(Layer):
    """A reduction over positions by its name; in evaluation it does not depend on their order."""

    METHODS = (*EXACT, "amax")

    def __init__(self, method: str, dims: Sequence[int], keepdim: bool, **settings: Any) -> None:
        super().__init__()
        self.method, self.dims, self.keepdim, self.settings = method, tuple(dims), keepdim, settings

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.method == "amax":
            return cast(Tensor, getattr(torch, self.method)(x, dim=self.dims, keepdim=self.keepdim, **self.settings))
        y = EXACT[self.method](x, self.dims, **self.settings).to(x.dtype)
        return y if self.keepdim else y.squeeze(self.dims)


class Normalize(OverPositions):
    """A map divided by its norm over an axis."""

    def __init__(self, p: float, dim: int, eps: float) -> None:
        super().__init__("norm", (dim,), keepdim=True, p=p)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / super().forward(x).clamp_min(self.eps)


class SoftmaxOverPositions(Layer):
    """A softmax over an axis of positions, or its logarithm; in evaluation it does not depend on their order."""

    def __init__(self, method: str, dim: int) -> None:
        super().__init__()
        self.method, self.dim = method, dim

    def forward(self, x: Tensor) -> Tensor:
        x = -x if self.method == "softmin" else x
        if self.method == "log_softmax":
            return x.log_softmax(self.dim) if self.training else x - EXACT["logsumexp"](x, (self.dim,)).to(x.dtype)
        return x.softmax(self.dim) if self.training else softmax(x, self.dim)


class Contraction(Layer):
    """A sum of products; in evaluation it depends neither on the order of its terms nor on where a result lies."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        if b is None:
            a, b = a, a.new_ones(())
            equation = self.equation.replace("->", ",->")
        else:
            equation = self.equation
        if self.training:
            return torch.einsum(equation, a, b)
        return exact_einsum(equation, a, b).to(torch.result_type(a, b))


class Attention(Layer):
    """Values weighed by a softmax of products of queries and keys; in evaluation the order of positions is nothing."""

    def __init__(self, dims: int, scale: float | None, dropout: float) -> None:
        super().__init__()
        batch = ascii_uppercase[: dims - 2]
        self.products, self.sums = f"{batch}td,{batch}sd->{batch}ts", f"{batch}ts,{batch}sd->{batch}td"
        self.scale, self.dropout = scale, dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.training:
            return F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout, scale=self.scale)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        shares = softmax(exact_einsum(self.products, query, key) * scale, -1)
        return exact_einsum(self.sums, shares, value).to(query.dtype)


class GroupNorm(Weighted):
    """Group norm, or instance norm with a group for each channel, whose statistics are exact in evaluation."""

    def __init__(self, norm: nn.Module | None, groups: int, eps: float) -> None:
        super().__init__(norm)
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        weight, bias = self.weights(weight, bias)
        if self.training:
            return F.group_norm(x, self.groups, weight, bias, self.eps)
        members = x.unflatten(1, (self.groups, -1))
        dims = tuple(range(2, members.dim()))
        mean = exact_mean(members, dims)
        scale = (exact_mean(members.square(), dims) - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        each = (..., *(None,) * len(dims))
        y = ((members - mean[each].to(x.dtype)) * scale[each].to(x.dtype)).flatten(1, 2)
        channel = (slice(None), *(None,) * (x.dim() - 2))
        y = y if weight is None else y * weight[channel]
        return y if bias is None else y + bias[channel]


class Interpolation(Layer):
    """What is left of an upsampling by ``factor`` once LPU has put the features back among zeros: its kernel.

    ``(N, C, *space)`` of the finer size, kept. Nearest neighbours, or linear between the centres of the samples. By
    ``"zeros"`` the first and the last sample are repeated, as the original did.
    """

    def __init__(self, factor: Stride, linear: bool, padding: Padding) -> None:
        super().__init__()
        self.factor, self.linear, self.padding = factor, linear, padding

    def forward(self, x: Tensor) -> Tensor:
        dims, channels = x.dim() - 2, x.shape[1]
        for axis, factor in enumerate(steps(self.factor, dims)):
            if factor == 1:
                continue
            reach = factor // 2 if self.linear else 0
            offsets = torch.arange(-reach, factor + reach, device=x.device)
            peak = 2 * factor if self.linear else 1
            taps = (peak - (2 * offsets + 1 - factor).abs() * self.linear).to(x.dtype) / peak
            size = [len(offsets) if axis == other else 1 for other in range(dims)]
            before = [factor + reach - 1 if axis == other else 0 for other in range(dims)]
            weight = taps.flip(0).view(1, 1, *size).expand(channels, -1, *size)
            length = x.shape[2 + axis]
            if self.padding == "zeros":
                first, last = (x.narrow(2 + axis, start, factor) for start in (0, length - factor))
                x = torch.cat([first, x, last], 2 + axis)
            x = convolve(x, weight, None, before, (1,) * dims, channels, self.padding)
            if self.padding == "zeros":
                x = x.narrow(2 + axis, factor, length)
        return x


class Shift(Layer, Bordered):
    """Move the content of a map by what the original padded, or cropped, in front of it."""

    def __init__(self, pad: Pad) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        if self.border.exact:
            return self.pad.around(x)
        return x.roll(self.pad.before, tuple(range(2, x.dim())))


class Spaced(Layer):
    """Put a map among zeros where no selection says how: ``(N, C, *space)`` to ``(N, C, *(s * space))``."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(phases(self.stride, x.dim() - 2), device=x.device) == 0
        return place(x, first.to(x.dtype).expand(len(x), -1), self.stride)


class Unalign(Layer):
    """Move a map that was shuffled from a coarser one to where the phases lie that were kept on the way to that."""

    def __init__(self, strides: Sequence[Stride]) -> None:
        super().__init__()
        self.up = nn.ModuleList(Upsample(None, stride) for stride in strides)

    def forward(self, x: Tensor, *selections: Selection) -> Tensor:
        dims = x.dim() - 2
        each = [steps(layer.stride, dims) for layer in self.up]  # type: ignore[arg-type]
        whole = [prod(strides) for strides in zip(*each, strict=True)]
        moved = []
        for offset, y in zip(offsets(whole, dims), components(x, whole), strict=True):
            for layer, selection in zip(self.up, selections, strict=True):
                y = layer(y, selection)
            moved.append(y.roll(offset, tuple(range(2, x.dim()))))
        return sum(moved[1:], moved[0])


class Every(Layer):
    """Every ``stride``-th sample of a map."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return components(x, self.stride)[0]


class Spread(Layer):
    """Give a value ``(N, C, 1, ...)`` to every position of a map of ``size``."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return x.expand(*x.shape[:2], *size)


class Entry(Layer):
    """Where images ``(N, C, *space)`` come in, and where the report of the conversion is kept.

    In evaluation they go on in one layout in memory, whatever theirs is: an image as numpy lays it out and a shifted
    copy of it, which torch lays out otherwise, would go different ways through a convolution. Raises ``ValueError``
    unless ``stride`` divides every spatial size.
    """

    report: Conversion | None = None

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if any(size % s for size, s in zip(x.shape[2:], steps(self.stride, x.dim() - 2), strict=True)):
            raise ValueError(
                f"this network samples down to stride {self.stride}: sizes must be multiples of {self.stride}, got "
                f"{tuple(x.shape[2:])}; resize or crop the images, or grow them once with "
                f"lps.pad_to_multiple(x, {self.stride})"
            )
        return x if self.training else x.contiguous()
