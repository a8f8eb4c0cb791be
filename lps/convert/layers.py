"""Layers of a converted network: those of the original on a circle, and with sums that do not depend on the order."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import e, log, pi
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..exact.convolution import CONVOLVE, Padding, linear_rows, pad
from ..exact.cpu import OUTPUTS, widened
from ..exact.fused import Filtered
from ..exact.mean import exact_mean
from ..exact.ties import Origin
from ..polyphase import components, offset_of, offsets
from ..sampling import Downsample
from ..selection import Selection
from .borders import Border, Pad
from .report import Conversion

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def wrap(
    x: Tensor, before: Sequence[int], after: Sequence[int], padding: Padding = "circular", border: Border | None = None
) -> Tensor:
    """Pad each spatial axis of ``x`` ``(N, C, *space)`` by its own number of samples, or with the ``border`` it had."""
    if padding == "zeros" and border is not None:
        return border.around(x, after)
    if len(set(before)) == len(set(after)) == 1:
        return pad(x, before[0], after[0], padding)
    if padding != "circular":
        return F.pad(x, [reach for pair in zip(reversed(before), reversed(after), strict=True) for reach in pair])
    for axis, reach in enumerate(zip(before, after, strict=True), 2):
        if any(reach):
            positions = torch.arange(-reach[0], x.shape[axis] + reach[1], device=x.device)
            x = x.index_select(axis, positions % x.shape[axis])
    return x


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    padding: Padding = "circular",
    stride: int = 1,
    border: Border | None = None,
) -> Tensor:
    """Convolution at every ``stride``-th position: ``y[n] = sum_j weight[j] x[stride * n + dilation * j - before]``.

    ``(N, C, *space)`` to ``(N, O, *space / stride)``.
    """
    reach = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
    space, after = _windows(x, before, reach, border, stride)
    x = x.contiguous() if x.device.type == "cpu" else x
    x = wrap(x, before, after, padding, border)
    outputs = weight.shape[0] // groups
    x, weight, bias = _evened(widened(x, space, stride), weight, bias, groups)
    y = CONVOLVE[len(space)](x, weight, bias, stride=stride, dilation=dilation, groups=groups)
    return crop(y.unflatten(1, (groups, -1))[:, :, :outputs].flatten(1, 2), space)


def _windows(
    x: Tensor, before: Sequence[int], reach: Sequence[int], border: Border | None, stride: int = 1
) -> tuple[list[int], list[int]]:
    """How many windows there are along each axis of ``x``, and how far the last of them goes beyond it."""
    space = (border or NO_BORDER).space(x, reach, stride)
    ends = [stride * (count - 1) + r + 1 - b for count, r, b in zip(space, reach, before, strict=True)]
    return space, [max(end - size, 0) for end, size in zip(ends, x.shape[2:], strict=True)]


_BLOCK = 8
"""Where channels of a group come in blocks of so many, a CPU computes all positions alike in float32."""


def _evened(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weights and bias with channels of zeros added where a CPU would round some positions otherwise than the
    rest, or some images of a batch. A depthwise convolution is free of it."""
    few = groups == 1 and weight.shape[0] < OUTPUTS and weight[0, 0].numel() == 1
    if x.device.type != "cpu" or not (few or (groups > 1 and weight.shape[:2] != (groups, 1))):
        return x, weight, bias
    inputs, outputs = (0, 0), (0, OUTPUTS - weight.shape[0])
    if groups > 1:
        inputs, outputs = ((0, -size % _BLOCK) for size in (weight.shape[1], weight.shape[0] // groups))
    untouched = (0, 0) * (x.dim() - 2)
    weight = F.pad(weight.unflatten(0, (groups, -1)), (*untouched, *inputs, *outputs)).flatten(0, 1)
    bias = None if bias is None else F.pad(bias.unflatten(0, (groups, -1)), outputs).flatten()
    if any(inputs):
        x = F.pad(x.unflatten(1, (groups, -1)), (*untouched, *inputs)).flatten(1, 2)
    return x, weight, bias


def crop(y: Tensor, space: Sequence[int]) -> Tensor:
    """The first samples of each spatial axis, in memory as a map of that size."""
    for axis, size in enumerate(space, 2):
        y = y.narrow(axis, 0, size)
    return y.contiguous()


NO_BORDER = Border()


class Bordered(nn.Module):
    """A layer that looks beyond its map; ``border`` is what it saw there in the original, and sees by ``"zeros"``."""

    padding: Padding
    border = NO_BORDER


class Convolution(Bordered):
    """A convolution of the original at every position; it takes the weights over, under their names.

    One whose weights are computed, or belong to another layer, gets them with its input. Behind an :class:`Align` it
    is called with the ``stride`` that it had.
    """

    def __init__(
        self,
        conv: nn.Module | None,
        before: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding: Padding,
        border: Border,
    ) -> None:
        super().__init__()
        self.weight = None if conv is None else cast(Tensor, conv.weight)
        self.bias = None if conv is None else cast(Tensor | None, conv.bias)
        self.before, self.dilation, self.groups = tuple(before), tuple(dilation), groups
        self.padding, self.border = padding, border

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, stride: int = 1) -> Tensor:
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        windows = self.before, self.dilation, self.groups, self.padding, stride, self.border
        return convolve(x, cast(Tensor, weight), bias, *windows)

    def extra_repr(self) -> str:
        return f"before={self.before}, dilation={self.dilation}, groups={self.groups}, padding={self.padding!r}"


class Align(Downsample):
    """Filter, then shift each map so that its chosen phase comes first: ``(N, C, *space)``, and the selection.

    A convolution that strides behind it computes what :class:`~lps.sampling.Downsample` would have kept of the same
    convolution at every position. A selection that is a mixture (Eq. 17) mixes the shifted maps.
    """

    def __init__(self, layer: Downsample, padding: Padding) -> None:
        super().__init__(layer.select, layer.antialias, layer.stride, layer.select_from)
        self.padding: Padding = padding

    def forward(
        self, x: Tensor, selection: Selection | None = None, origin: Origin | None = None
    ) -> tuple[Tensor, Selection | None]:
        filtered = x if self.antialias is None else self.antialias(x)
        selection = self._choose(x, Filtered(filtered), origin) if selection is None else selection
        dims, space = x.dim() - 2, x.shape[2:]
        padded = pad(filtered, 0, self.stride - 1, self.padding)
        if selection.phase is None:
            mixture = torch.zeros_like(filtered)
            for z, offset in zip(selection.z.to(x.dtype).unbind(1), offsets(self.stride, dims), strict=True):
                moved = padded
                for axis, (start, size) in enumerate(zip(offset, space, strict=True), 2):
                    moved = moved.narrow(axis, start, size)
                mixture = mixture + moved * z.view(-1, 1, *(1,) * dims)
            return mixture, selection
        for axis, size in enumerate(space, 2):
            padded = padded.unfold(axis, size, 1)
        samples = torch.arange(x.shape[0], device=x.device)
        index: tuple[Tensor | slice, ...] = (samples, slice(None), *offset_of(selection.phase, self.stride, dims))
        return padded[index], selection


class TransposedConvolution(Bordered):
    """What a transposed convolution does after it has put its input back among zeros: a convolution.

    ``grows`` is by how many samples the output of the original is larger than its input times the stride.
    """

    def __init__(self, conv: nn.Module, padding: Padding, grows: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias = cast(Tensor, conv.weight), cast(Tensor | None, conv.bias)
        self.dilation, self.groups = cast(tuple[int, ...], conv.dilation), cast(int, conv.groups)
        reach = [d * (k - 1) for k, d in zip(self.weight.shape[2:], self.dilation, strict=True)]
        self.before = tuple(r - p for r, p in zip(reach, cast(tuple[int, ...], conv.padding), strict=True))
        after = tuple(g + r - b for g, r, b in zip(grows, reach, self.before, strict=True))
        self.padding, self.border = padding, Border((Pad(self.before, after),))

    def forward(self, x: Tensor) -> Tensor:
        flipped = self.weight.flip(tuple(range(2, self.weight.dim()))).unflatten(0, (self.groups, -1))
        weight = flipped.transpose(1, 2).flatten(0, 1)
        windows = self.before, self.dilation, self.groups, self.padding
        return convolve(x, weight, self.bias, *windows, border=self.border)


class Pooling(Bordered):
    """Maximum or mean over the window at every position."""

    def __init__(
        self,
        largest: bool,
        kernel: Sequence[int],
        before: Sequence[int],
        dilation: Sequence[int],
        padding: Padding,
        border: Border = NO_BORDER,
    ) -> None:
        super().__init__()
        self.largest, self.kernel, self.before, self.dilation = largest, tuple(kernel), tuple(before), tuple(dilation)
        self.padding, self.border = padding, border

    def forward(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        reach = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
        space, after = _windows(x, self.before, reach, self.border)
        padded = wrap(x, self.before, after, self.padding, self.border)
        if self.largest and self.training:
            return crop(MAX_POOL[dims](padded, self.kernel, 1, dilation=self.dilation), space)
        if self.largest:  # axis by axis: on a CPU many times as fast
            for axis, (size, dilation) in enumerate(zip(self.kernel, self.dilation, strict=True), 2):
                length = padded.shape[axis] - dilation * (size - 1)
                padded = reduce(torch.maximum, [padded.narrow(axis, dilation * i, length) for i in range(size)])
            return crop(padded, space)
        mean = AVG_POOL[dims](padded, self.kernel, 1)
        if self.padding == "zeros":
            mean = mean / AVG_POOL[dims](self.border.counted(x, after), self.kernel, 1)
        return crop(mean, space)

    def extra_repr(self) -> str:
        return f"{'max' if self.largest else 'mean'}, kernel={self.kernel}, before={self.before}"


def _sigmoid(x: Tensor) -> Tensor:
    return (0.5 * x).tanh_().mul(0.5).add_(0.5)


def _glu(x: Tensor, glu: nn.GLU) -> Tensor:
    kept, gate = x.chunk(2, glu.dim)
    return kept * _sigmoid(gate)


def _mish(x: Tensor) -> Tensor:
    y = x.clamp_max(20).exp()
    n = y * (y + 2)
    return x * n / (n + 2)


def _gelu(x: Tensor, gelu: nn.GELU) -> Tensor:
    if gelu.approximate == "tanh":
        return 0.5 * x * (1 + ((2 / pi) ** 0.5 * (x + 0.044715 * x * x * x)).tanh())
    return (0.5**0.5 * x).erf_().add_(1).mul(x).mul_(0.5)


def _elu(x: Tensor, alpha: float, width: float = 1.0) -> Tensor:
    above = x.relu()
    return torch.add(above, ((x - above) / width).expm1_(), alpha=alpha)


def _softplus(x: Tensor, softplus: nn.Softplus) -> Tensor:
    z = softplus.beta * x
    apart = z.abs()
    y = ((-apart).exp_().log1p() + (z + apart) / 2) / softplus.beta
    return y if softplus.threshold >= 20 else torch.where(z > softplus.threshold, x, y)


def _local_response(x: Tensor, norm: nn.LocalResponseNorm) -> Tensor:
    squares = F.pad(x.square().flatten(2)[:, None], (0, 0, norm.size // 2, (norm.size - 1) // 2))
    means = F.avg_pool2d(squares, (norm.size, 1), 1).view_as(x)
    return x / _power((norm.k + norm.alpha * means).double(), norm.beta).to(x.dtype)


class Pointwise(nn.Module):
    """An activation that rounds alike wherever a sample lies in memory, in evaluation.

    On a CPU the last few samples of a tensor, or of what one thread gets of it, go another way through these functions,
    and all of them where they do not lie one behind the other; but not through tanh, exp, expm1, log, log1p and erf.
    """

    EXACT: ClassVar[dict[type[nn.Module], Callable[[Tensor, Any], Tensor]]] = {
        nn.Sigmoid: lambda x, _: _sigmoid(x),
        nn.SiLU: lambda x, _: x * _sigmoid(x),
        nn.GLU: _glu,
        nn.Mish: lambda x, _: _mish(x),
        nn.GELU: _gelu,
        nn.ELU: lambda x, elu: _elu(x, elu.alpha),
        nn.CELU: lambda x, celu: _elu(x, celu.alpha, celu.alpha),
        nn.SELU: lambda x, _: _elu(x, 1.6732632423543772).mul_(1.0507009873554805),
        nn.Softplus: _softplus,
        nn.LocalResponseNorm: _local_response,
    }

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return cast(Tensor, self.activation(x))
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.EXACT[type(self.activation)](full, self.activation).to(x.dtype)


def _power(x: Tensor, exponent: Any) -> Tensor:
    if isinstance(exponent, int) and 0 < exponent <= 8:
        return reduce(torch.mul, [x] * exponent)
    x, exponent = (torch.as_tensor(value, dtype=torch.float64) for value in (x, exponent))
    y = (exponent * x.abs().clamp_min(torch.finfo(x.dtype).tiny).log()).exp()
    y = torch.where(x == 0, torch.where(exponent < 0, torch.inf, (exponent == 0).double()), y)
    sign = torch.where(x < 0, torch.where(exponent % 1 == 0, 1 - 2 * (exponent % 2), torch.nan), 1.0)
    return sign * y


def _logit(x: Tensor, eps: float | None = None) -> Tensor:
    x = x if eps is None else x.clamp(eps, 1 - eps)
    return x.log() - (-x).log1p()


def _logaddexp(x: Tensor, other: Tensor, base: float = e) -> Tensor:
    apart = (x - other).abs().nan_to_num(0.0)  # equal infinities
    return torch.maximum(x, other) + (-log(base) * apart).exp().log1p() / log(base)


class Elementwise(nn.Module):
    """A function of torch of one or two maps that rounds alike likewise, in evaluation."""

    EXACT: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "pow": _power,
        "exp2": lambda x: (log(2) * x).exp(),
        "atanh": lambda x: (x.log1p() - (-x).log1p()) / 2,
        "logit": _logit,
        "logaddexp": _logaddexp,
        "logaddexp2": partial(_logaddexp, base=2.0),
        "rsqrt": torch.rsqrt,
        "add": torch.add,
        "sub": torch.sub,
        "rsub": torch.rsub,
    }
    """In float64, whose sums and logarithms are the same everywhere."""
    HALF = ("rsqrt", "add", "sub", "rsub")
    """Those that fall short in half precision alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *operands: Any, **settings: Any) -> Tensor:
        half = operands[0].dtype in (torch.bfloat16, torch.float16) if self.name in self.HALF else True
        if self.training or not half:
            return cast(Tensor, getattr(torch, self.name)(*operands, **settings))
        double = [value.double() if isinstance(value, Tensor) else value for value in operands]
        y = self.EXACT[self.name](*double, **settings)
        return y.to(torch.result_type(*operands) if len(operands) == 2 else operands[0].dtype)

    def extra_repr(self) -> str:
        return self.name


class Linear(nn.Module):
    """A linear layer on vectors ``(N, C)``: in evaluation each row of a batch is a product of its own.

    On maps ``(N, ..., C)`` a CPU makes it a convolution, since threads share the positions of a product as they like.
    Weights that belong to no layer come with the input.
    """

    def __init__(self, linear: nn.Module | None) -> None:
        super().__init__()
        self.weight = None if linear is None else cast(Tensor, linear.weight)
        self.bias = None if linear is None else cast(Tensor | None, linear.bias)

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        weight, bias = (cast(Tensor, self.weight), self.bias) if weight is None else (weight, bias)
        if self.training or (x.dim() > 2 and x.device.type != "cpu"):
            return F.linear(x, weight, bias)
        if x.dim() > 2:
            y = convolve(x.flatten(1, -2).movedim(-1, 1), weight[..., None], bias, (0,), (1,))
            return y.movedim(1, -1).unflatten(1, x.shape[1:-1])
        return linear_rows(x, weight, bias)


SUMS = ("mean", "sum", "nanmean", "nansum", "logsumexp")
"""Reductions that a CPU makes of several positions at a time."""


class AcrossChannels(nn.Module):
    """The method of a tensor that sums over ``dims``, no positions, so that each position sums in one order.

    On a CPU a sum over other axes than the last takes several positions at a time, and the last few otherwise.
    """

    def __init__(self, method: str, dims: Sequence[int], keepdim: bool) -> None:
        super().__init__()
        self.method, self.dims, self.keepdim = method, tuple(dims), keepdim

    def forward(self, x: Tensor) -> Tensor:
        last = tuple(range(-len(self.dims), 0))
        rows = x.movedim(self.dims, last).flatten(-len(last)).contiguous()
        y = (-rows).softmax(-1) if self.method == "softmin" else getattr(rows, self.method)(-1)
        if y.dim() == rows.dim():
            return y.unflatten(-1, [x.shape[d] for d in self.dims]).movedim(last, self.dims).contiguous()
        for axis in sorted(self.dims) if self.keepdim else ():
            y = y.unsqueeze(axis)
        return cast(Tensor, y)

    def extra_repr(self) -> str:
        return f"{self.method}, dims={self.dims}, keepdim={self.keepdim}"


class SpatialMean(nn.Module):
    """Mean over ``dims``; in evaluation it does not depend on the order of summation."""

    def __init__(self, dims: Sequence[int], keepdim: bool) -> None:
        super().__init__()
        self.dims, self.keepdim = tuple(dims), keepdim

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x.mean(self.dims, self.keepdim)
        mean = exact_mean(x, self.dims).to(x.dtype)
        for axis in self.dims if self.keepdim else ():
            mean = mean.unsqueeze(axis)
        return mean

    def extra_repr(self) -> str:
        return f"dims={self.dims}, keepdim={self.keepdim}"


class SpatialNorm(SpatialMean):
    """l2 norm over ``dims``, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        count = torch.Size([x.shape[axis] for axis in self.dims]).numel()
        return (super().forward(x.square()) * count).sqrt()


class GroupNorm(nn.Module):
    """Group norm, or instance norm with a group for each channel, whose statistics are exact in evaluation."""

    def __init__(self, norm: nn.Module | None, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = None if norm is None else cast(Tensor | None, norm.weight)
        self.bias = None if norm is None else cast(Tensor | None, norm.bias)
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
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

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps}"


class Interpolation(nn.Module):
    """What is left of an upsampling by ``factor`` once LPU has put the features back among zeros: its kernel.

    ``(N, C, *space)`` of the finer size, kept. Nearest neighbours, or linear between the centres of the samples. By
    ``"zeros"`` the first and the last sample are repeated, as the original did.
    """

    kernel: Tensor

    def __init__(self, factor: int, linear: bool, padding: Padding) -> None:
        super().__init__()
        reach = factor // 2 if linear else 0
        offsets = torch.arange(-reach, factor + reach)
        taps = 2 * factor - (2 * offsets + 1 - factor).abs() if linear else torch.ones_like(offsets)
        self.register_buffer("kernel", taps.flip(0).to(torch.get_default_dtype()), persistent=False)
        self.whole = 2 * factor if linear else 1
        self.factor, self.before, self.padding = factor, factor + reach - 1, padding

    def forward(self, x: Tensor) -> Tensor:
        dims, channels = x.dim() - 2, x.shape[1]
        taps = self.kernel.to(x.dtype) / self.whole
        for axis in range(dims):
            size = [len(taps) if axis == other else 1 for other in range(dims)]
            before = [self.before if axis == other else 0 for other in range(dims)]
            weight = taps.view(1, 1, *size).expand(channels, -1, *size)
            length = x.shape[2 + axis]
            if self.padding == "zeros":
                first, last = (x.narrow(2 + axis, start, self.factor) for start in (0, length - self.factor))
                x = torch.cat([first, x, last], 2 + axis)
            x = convolve(x, weight, None, before, (1,) * dims, channels, self.padding)
            if self.padding == "zeros":
                x = x.narrow(2 + axis, self.factor, length)
        return x

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class Shift(Bordered):
    """Move the content of a map back, so that a slice that began at ``start`` begins at the origin."""

    def __init__(self, start: Sequence[int]) -> None:
        super().__init__()
        self.start = tuple(start)

    def forward(self, x: Tensor) -> Tensor:
        if self.border.exact:
            return x[(..., *(slice(start, None) for start in self.start))]  # type: ignore[index]
        return x.roll([-s for s in self.start], tuple(range(2, x.dim())))

    def extra_repr(self) -> str:
        return f"start={self.start}"


class Every(nn.Module):
    """Every ``stride``-th sample of a map."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return components(x, self.stride)[0]


class Spread(nn.Module):
    """Give a value ``(N, C, 1, ...)`` to every position of a map of ``size``."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return x.expand(*x.shape[:2], *size)


class Entry(nn.Module):
    """Where images ``(N, C, *space)`` come in, and where the report of the conversion is kept.

    In evaluation they go on in one layout in memory, whatever theirs is: an image as numpy lays it out and a shifted
    copy of it, which torch lays out otherwise, would go different ways through a convolution. Raises ``ValueError``
    unless ``stride`` divides every spatial size.
    """

    report: Conversion | None = None

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if any(size % self.stride for size in x.shape[2:]):
            raise ValueError(
                f"this network samples down to stride {self.stride}: sizes must be multiples of {self.stride}, got "
                f"{tuple(x.shape[2:])}; resize or crop the images, or grow them once with "
                f"lps.pad_to_multiple(x, {self.stride})"
            )
        return x if self.training else x.contiguous()

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
