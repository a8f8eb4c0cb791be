"""Layers of a converted network: those of the original on a circle, and with sums that do not depend on the order."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import partial, reduce
from math import e, log, prod
from string import ascii_uppercase
from typing import Any, ClassVar, NamedTuple, Self, cast, dataclass_transform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..exact.convolution import (
    Padding,
    a_few_at_a_time,
    convolve_alike,
    crop,
    last_first,
    linear_rows,
    max_pool,
    pad,
)
from ..exact.cpu import by_vectors, runs
from ..exact.fused import Filtered, moved_and_padded
from ..exact.sums import EXACT, exact_einsum, softmax
from ..exact.ties import Origin, put_back_phases
from ..polyphase import Stride, components, known, offset_of, offsets, phases, place, require_fractions, steps
from ..sampling import Downsample
from ..selection import LearnedPhase, Selection
from .report import Conversion

AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Pad(NamedTuple):
    """Samples that the original puts around a map; ``counts`` says whether an average divides by their number too."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0
    counts: bool = True

    def around(self, x: Tensor) -> Tensor:
        amounts = last_first(self.before, self.after)
        if not any(amounts):
            return x
        return F.pad(x, amounts, self.mode, self.value if self.mode == "constant" else None)


@dataclass(frozen=True)
class Border:
    """The paddings in front of a layer, from the first to its own, and ``fill`` beyond them.

    A converted layer keeps the size of its map. An ``exact`` one has the size that the original had, for which
    ``ceil`` are the strides of a pooling in ``ceil_mode``.
    """

    pads: tuple[Pad, ...] = ()
    fill: float = 0.0
    ceil: tuple[int, ...] = ()
    exact: bool = field(default=False, compare=False)

    @property
    def before(self) -> tuple[int, ...]:
        """How far in front of the map the first window begins."""
        return tuple(map(sum, zip(*(pad.before for pad in self.pads), strict=True)))

    def space(self, x: Tensor, reach: Sequence[int], stride: Sequence[int]) -> list[int]:
        """Size of the output, for windows that span ``reach`` samples beside their first."""
        if not self.exact:
            return [size // s for size, s in zip(x.shape[2:], stride, strict=True)]
        out = []
        for axis, (size, span) in enumerate(zip(x.shape[2:], reach, strict=True)):
            padded = size + sum(pad.before[axis] + pad.after[axis] for pad in self.pads)
            last = padded - span - 1
            if self.ceil:  # the last window has to begin in front of the padding behind the map
                step = self.ceil[axis]
                last = step * -(-last // step)
                last -= step * (last >= padded - self.pads[-1].after[axis])
            out.append(last // stride[axis] + 1)
        return out

    def windows(
        self, x: Tensor, reach: Sequence[int], padding: Padding, stride: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        """``x`` with its border, or padded as far as that goes, and how many windows it has along each axis."""
        space = self.space(x, reach, stride)
        if self.exact:
            last = [s * (n - 1) + r + 1 - b for s, n, r, b in zip(stride, space, reach, self.before, strict=True)]
            after = [max(end - size, 0) for end, size in zip(last, x.shape[2:], strict=True)]
        else:
            after = beyond(self.before, reach, stride)
        if padding != "zeros":
            return pad(x, self.before, after, padding), space
        wanted = [first + size + last for first, size, last in zip(self.before, x.shape[2:], after, strict=True)]
        for own in self.pads:
            x = own.around(x)
        missing = [size - found for size, found in zip(wanted, x.shape[2:], strict=True)]
        return F.pad(x, last_first((0,) * len(missing), missing), value=self.fill) if any(missing) else x, space


def ahead(before: Sequence[int]) -> Border:
    """Nothing but zeros in front of each axis."""
    return Border((Pad(tuple(before), (0,) * len(before)),))


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    border: Border,
    dilation: Sequence[int],
    groups: int = 1,
    padding: Padding = "circular",
    stride: Stride = 1,
    padded: bool = False,
) -> Tensor:
    """Convolution at every ``stride``-th position: ``y[n] = sum_j weight[j] x[stride * n + dilation * j - before]``.

    ``(N, C, *space)`` to ``(N, O, *space / stride)``; a map that is ``padded`` has its circular border already.
    """
    require_fractions(x)
    reach, stride = reaches(weight.shape[2:], dilation), steps(stride, x.dim() - 2)
    x = x.contiguous() if x.device.type == "cpu" else x
    if padded:
        around = zip(x.shape[2:], border.before, beyond(border.before, reach, stride), stride, strict=True)
        space = [(n - b - a) // s for n, b, a, s in around]
    else:
        x, space = border.windows(x, reach, padding, stride)
    if groups == 1 and x.device.type == "cpu" and known(space) and {*x.shape[2:], *weight.shape[2:]} == {1}:
        return linear_rows(x.flatten(1), weight.flatten(1), bias).view(-1, weight.shape[0], *space)
    return convolve_alike(x, weight, bias, space, stride, dilation, groups).contiguous()


def reaches(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Samples that a window spans along each axis beside its first."""
    return [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]


def beyond(before: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> list[int]:
    """How far the last window goes beyond a map whose size is a multiple of ``stride``."""
    return [max(r + 1 - s - b, 0) for b, r, s in zip(before, reach, stride, strict=True)]


@dataclass_transform(eq_default=False)
class Layer(nn.Module):
    """A layer whose fields are its settings: its subclasses are data classes, and their ``repr`` shows the fields."""

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)

    def __new__(cls, *_: Any, **__: Any) -> Self:
        layer = super().__new__(cls)  # a module before its fields are set
        nn.Module.__init__(layer)
        return layer

    def extra_repr(self) -> str:
        hidden = ("training", "weight", "bias", "border")
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k[0] != "_" and k not in hidden)


class Weighted(Layer):
    """The weights of a layer of the original, under their names; those that belong to none come with the input."""

    layer: InitVar[nn.Module | None]

    def __post_init__(self, layer: Any) -> None:
        self.weight: Tensor | None = None if layer is None else layer.weight
        self.bias: Tensor | None = None if layer is None else layer.bias

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **settings: Any) -> Tensor:
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        return self.compute(x, weight, bias, **settings)

    def compute(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class Bordered(nn.Module):
    """A layer that looks beyond its map; ``border`` is what it saw there in the original, and sees by ``"zeros"``."""

    padding: Padding
    border = Border()


def together(x: Tensor) -> Tensor:
    """Maps ``(N, C, *space)`` as channels of one map."""
    return x.flatten(0, 1)[None]


def apart(x: Tensor, channels: int) -> Tensor:
    """One map as many of so many ``channels``."""
    return x.unflatten(1, (-1, channels))[0]


class Convolution(Weighted, Bordered):
    """A convolution of the original at every position; behind an :class:`Align` it has the ``stride`` that it had.

    Where it is ``individual`` each image has weights of its own: ``(N * O, C / groups, *size)``.
    """

    dilation: tuple[int, ...]
    groups: int
    padding: Padding
    border: Border
    individual: bool = False

    def compute(self, x: Tensor, weight: Any, bias: Tensor | None, stride: Stride = 1, padded: bool = False) -> Tensor:
        padded = padded and self.padding == "circular"
        count = len(x) if self.individual else 1
        x, groups = together(x) if self.individual else x, self.groups * count
        y = convolve(x, weight, bias, self.border, self.dilation, groups, self.padding, stride, padded)
        return apart(y, weight.shape[0] // count) if self.individual else y


class TransposedConvolution(Convolution):
    """What a transposed convolution does after it has put its input back among zeros: a convolution."""

    def compute(self, x: Tensor, weight: Any, bias: Tensor | None, **windows: Any) -> Tensor:  # type: ignore[override]
        flipped = weight.flip(tuple(range(2, weight.dim()))).unflatten(0, (self.groups, -1))
        return super().compute(x, flipped.transpose(1, 2).flatten(0, 1), bias, **windows)


class OpenPhase(LearnedPhase):
    """A choice of LPD whose hidden units start in pairs of opposite signs: of each pair one is open, on every map.

    Maps behind an activation have one sign, on which the few units of a narrow layer are often all shut from the start.
    All logits are then equal, and no gradient ever opens a unit.
    """

    def __init__(
        self, channels: int, hidden: int, stride: Stride = 2, padding: Padding = "circular", dims: int = 2
    ) -> None:
        super().__init__(channels, max(2, hidden), stride, padding, dims)
        self._pair()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._pair()

    def _pair(self) -> None:
        pairs = self.conv1.out_channels // 2
        with torch.no_grad():
            for parameter in self.conv1.parameters():
                parameter[pairs : 2 * pairs] = -parameter[:pairs]


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
        moved = pad(filtered, 0, [s - 1 for s in steps(self.stride, dims)], self.padding)
        if selection.phase is None:
            z = selection.z.to(x.dtype).view(*selection.z.shape, *(1,) * (1 + dims))
            kept = torch.zeros_like(filtered)
            for k, phase in enumerate(offsets(self.stride, dims)):
                window = (slice(first, first + size) for first, size in zip(phase, x.shape[2:], strict=True))
                kept = kept + z[:, k] * moved[(..., *window)]  # type: ignore[index]
        else:  # by positions, so that an exported network takes maps of any size
            sample = torch.arange(x.shape[0], device=x.device).view(-1, *(1,) * dims)
            index: list[Any] = [sample, slice(None)]
            for axis, firsts in enumerate(offset_of(selection.phase, self.stride, dims), 1):
                positions = firsts[:, None] + torch.arange(x.shape[1 + axis], device=x.device)
                index.append(positions.view(x.shape[0], *(-1 if a == axis else 1 for a in range(1, 1 + dims))))
            kept = moved[tuple(index)].movedim(-1, 1).contiguous()
        return pad(kept, self.before, self.after, "circular") if circular else kept, selection


class Pooling(Layer, Bordered):
    """Maximum or mean over the window at every position."""

    largest: bool
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    border: Border

    def forward(self, x: Tensor) -> Tensor:
        return a_few_at_a_time(self._pooled, x) if self.largest else self._pooled(x)

    def _pooled(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        windows = reaches(self.kernel, self.dilation), self.padding, (1,) * dims
        y, space = self.border.windows(x, *windows)
        if self.largest:
            return crop(max_pool(y, self.kernel, self.dilation), space)
        y = AVG_POOL[dims](y, self.kernel, 1)
        if self.padding == "zeros":  # each mean is of the samples that count
            pads = tuple(pad._replace(mode="constant", value=float(pad.counts)) for pad in self.border.pads)
            ones, _ = replace(self.border, pads=pads, fill=0.0).windows(x.new_ones(1, 1, *x.shape[2:]), *windows)
            y = y / AVG_POOL[dims](ones, self.kernel, 1)
        return crop(y, space)


class Linear(Weighted):
    """A linear layer on vectors ``(N, C)``: in evaluation each row of a batch is a product of its own.

    On maps ``(N, ..., C)`` a CPU makes it a convolution, since threads share the positions of a product as they like.
    """

    def compute(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        if self.training or (x.dim() > 2 and x.device.type != "cpu"):
            return F.linear(x, weight, bias)
        if x.dim() > 2:
            y = convolve(x.flatten(1, -2).movedim(-1, 1), weight[..., None], bias, ahead((0,)), (1,))
            return y.movedim(1, -1).unflatten(1, x.shape[1:-1])
        return linear_rows(x, weight, bias)


SUMS = ("mean", "sum", "nanmean", "nansum", "logsumexp")
"""Reductions that a CPU makes of several positions at a time."""

SHARES: dict[str, Callable[..., Tensor]] = {
    "softmax": lambda x, dims: softmax(x, *dims),
    "softmin": lambda x, dims: softmax(-x, *dims),
    "log_softmax": lambda x, dims: x - EXACT["logsumexp"](x, dims).to(x.dtype),
    "normalize": lambda x, dims, p, eps: x / EXACT["norm"](x, dims, p).to(x.dtype).clamp_min(eps),
}
"""What sets each sample against all those along an axis."""

ORDERLESS = {**EXACT, **SHARES, "amax": lambda x, dims: x.amax(dims, keepdim=True)}
"""What can be computed over positions without regard to their order; reductions keep their axes."""


class Reduction(Layer):
    """A reduction of torch over ``dims`` by its name, or one of the shares, in evaluation one whose bits have no order.

    Over ``positions`` it does not depend on theirs. Over channels each position sums in the same order: where their
    axis is not the last, a CPU takes several positions at a time, and the last few otherwise.
    """

    method: str
    dims: tuple[int, ...]
    keepdim: bool
    positions: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    def forward(self, x: Tensor) -> Tensor:
        reduces = self.method not in SHARES
        plain = getattr(torch, self.method, None) or getattr(F, self.method)
        if not self.positions:
            last = tuple(range(-len(self.dims), 0))
            rows = x.movedim(self.dims, last).flatten(-len(last)).contiguous()
            y = plain(rows, dim=-1, **self.settings)
            if not reduces:
                return y.unflatten(-1, [x.shape[d] for d in self.dims]).movedim(last, self.dims).contiguous()
            for axis in sorted(self.dims) if self.keepdim else ():
                y = y.unsqueeze(axis)
        elif self.training:
            shape = {"dim": self.dims, "keepdim": self.keepdim} if reduces else {"dim": self.dims[0]}
            y = plain(x, **shape, **self.settings)
        else:
            y = ORDERLESS[self.method](x, self.dims, **self.settings).to(x.dtype)
            y = y.squeeze(self.dims) if reduces and not self.keepdim else y
        return cast(Tensor, y)


class Contraction(Layer):
    """A sum of products; in evaluation it depends neither on the order of its terms nor on where a result lies."""

    equation: str

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        equation = self.equation
        if b is None:
            b, equation = a.new_ones(()), equation.replace("->", ",->")
        if self.training:
            return torch.einsum(equation, a, b)
        return exact_einsum(equation, a, b).to(torch.result_type(a, b))


class Attention(Layer):
    """Values weighed by a softmax of products of queries and keys; in evaluation the order of positions is nothing."""

    scale: float | None
    dropout: float

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.training:
            return F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout, scale=self.scale)
        batch = ascii_uppercase[: query.dim() - 2]
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        shares = softmax(exact_einsum(f"{batch}td,{batch}sd->{batch}ts", query, key) * scale, -1)
        return exact_einsum(f"{batch}ts,{batch}sd->{batch}td", shares, value).to(query.dtype)


class GroupNorm(Weighted):
    """Group norm, or instance norm with a group for each channel, whose statistics are exact in evaluation."""

    groups: int
    eps: float

    def compute(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        if self.training:
            return F.group_norm(x, self.groups, weight, bias, self.eps)
        members = x.unflatten(1, (self.groups, -1))
        dims = tuple(range(2, members.dim()))
        mean, square = (EXACT["mean"](part, dims) for part in (members, members.square()))
        scale = (square - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        y = ((members - mean.to(x.dtype)) * scale.to(x.dtype)).flatten(1, 2)
        channel = (slice(None), *(None,) * (x.dim() - 2))
        y = y if weight is None else y * weight[channel]
        return y if bias is None else y + bias[channel]


def _local_response(x: Tensor, norm: nn.LocalResponseNorm) -> Tensor:
    squares = F.pad(x.square().flatten(2)[:, None], (0, 0, norm.size // 2, (norm.size - 1) // 2))
    means = F.avg_pool2d(squares, (norm.size, 1), 1).view_as(x)
    return x / _power((norm.k + norm.alpha * means).double(), norm.beta).to(x.dtype)


class Pointwise(Layer):
    """An activation of torch that rounds alike wherever a sample lies in memory, in evaluation.

    On a CPU the last few samples of a tensor, or of what one thread gets of it, go another way through many functions,
    and all of them where they do not lie one behind the other; but not through exp, log and log1p.
    """

    EXACT = (
        *(nn.Sigmoid, nn.SiLU, nn.GLU, nn.Mish, nn.GELU, nn.ELU, nn.CELU, nn.SELU, nn.Softplus),
        nn.LocalResponseNorm,
    )

    activation: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        f = self.activation
        if self.training:
            return cast(Tensor, f(x))
        if isinstance(f, nn.GLU):
            kept, gate = x.chunk(2, f.dim)
            return kept * by_vectors(torch.sigmoid, gate)
        if isinstance(f, nn.LocalResponseNorm):
            return _local_response(x.to(torch.promote_types(x.dtype, torch.float32)), f).to(x.dtype)
        return by_vectors(f, x, equal_shares=isinstance(f, nn.GELU))


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


class Elementwise(Layer):
    """Likewise a function of torch of one or two maps, by its name."""

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

    name: str

    def forward(self, *operands: Any, **settings: Any) -> Tensor:
        half = operands[0].dtype in (torch.bfloat16, torch.float16) if self.name in self.HALF else True
        if self.training or not half:
            return cast(Tensor, getattr(torch, self.name)(*operands, **settings))
        double = [value.double() if isinstance(value, Tensor) else value for value in operands]
        y = self.EXACT[self.name](*double, **settings)
        return y.to(torch.result_type(*operands) if len(operands) == 2 else operands[0].dtype)


class Interpolation(Layer, Bordered):
    """What is left of an upsampling by ``factor`` once LPU has put the features back among zeros: its kernel.

    ``(N, C, *space)`` of the finer size, kept. Nearest neighbours, or linear between the centres of the samples. By
    ``"zeros"`` the first and the last sample are repeated, as the original did.
    """

    factor: Stride
    linear: bool
    padding: Padding

    def forward(self, x: Tensor) -> Tensor:
        dims, channels = x.dim() - 2, x.shape[1]
        for axis, factor in enumerate(steps(self.factor, dims)):
            if factor == 1:
                continue
            reach = factor // 2 if self.linear else 0
            offsets = torch.arange(-reach, factor + reach, device=x.device)
            peak = 2 * factor if self.linear else 1
            taps = (peak - (2 * offsets + 1 - factor).abs() * int(self.linear)).to(x.dtype) / peak
            size = [len(offsets) if axis == other else 1 for other in range(dims)]
            before = [factor + reach - 1 if axis == other else 0 for other in range(dims)]
            weight = taps.flip(0).view(1, 1, *size).expand(channels, -1, *size)
            length = x.shape[2 + axis]
            if self.padding == "zeros":
                first, last = (x.narrow(2 + axis, start, factor) for start in (0, length - factor))
                x = torch.cat([first, x, last], 2 + axis)
            x = convolve(x, weight, None, ahead(before), (1,) * dims, channels, self.padding)
            if self.padding == "zeros":
                x = x.narrow(2 + axis, factor, length)
        return x


class Shift(Layer, Bordered):
    """Move the content of a map by what the original padded, or cropped, in front of it."""

    pad: Pad

    def forward(self, x: Tensor) -> Tensor:
        if self.border.exact:
            return self.pad.around(x)
        return x.roll(self.pad.before, tuple(range(2, x.dim())))


class Spaced(Layer):
    """Put a map among zeros where no selection says how: ``(N, C, *space)`` to ``(N, C, *(s * space))``."""

    stride: Stride

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(phases(self.stride, x.dim() - 2), device=x.device) == 0
        return place(x, first.to(x.dtype).expand(len(x), -1), self.stride)


class Unalign(Layer):
    """Move a map that was shuffled from a coarser one to where the phases lie that were kept on the way to that."""

    strides: Sequence[Stride]

    def forward(self, x: Tensor, *selections: Selection) -> Tensor:
        dims = x.dim() - 2
        whole = [prod(each) for each in zip(*(steps(stride, dims) for stride in self.strides), strict=True)]
        moved = []
        for offset, y in zip(offsets(whole, dims), components(x, whole), strict=True):
            for stride, selection in zip(self.strides, selections, strict=True):
                y = put_back_phases(y, selection.z, selection.lag, None, stride)
            moved.append(y.roll(offset, tuple(range(2, x.dim()))))
        return sum(moved[1:], moved[0])


class Aligned(Layer):
    """What an upsampling with aligned corners did, given its map among zeros."""

    factor: Sequence[int]
    mode: str

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(components(x, self.factor)[0], size=x.shape[2:], mode=self.mode, align_corners=True)


class Varying(nn.Module):
    """A ``layer`` whose setting ``name``, and that of its selection, is given with its input, ``now``.

    Raises ``RuntimeError`` under ``torch.jit.trace``, which would keep the setting of one size for all.
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name

    def forward(self, x: Tensor, *others: Any, now: Sequence[int], **given: Any) -> Any:
        if torch.jit.is_tracing():
            raise RuntimeError(
                "torch.jit.trace would keep the size that the windows of this network have now, which follows that of "
                "the images: export it with torch.export, whose result refuses other sizes"
            )
        return self._with(self.layer, now)(x, *others, **given)

    def _with(self, layer: nn.Module, value: Sequence[int]) -> nn.Module:
        """A copy with the same weights."""
        layer = copy.copy(layer)
        setattr(layer, self.name, tuple(value))
        select = layer._modules.get("select")
        if select is not None:
            layer._modules = {**layer._modules, "select": self._with(select, value)}
        return layer


def sizes_of_windows(x: Tensor, windows: Sequence[int], stride: Sequence[int]) -> list[int]:
    """How large as many ``windows`` of a map are along each axis; the ``stride`` where their number is 0."""
    return [int(n) // w if w else s for n, w, s in zip(x.shape[2:], windows, stride, strict=True)]


def factors(x: Tensor, size: Stride) -> list[int]:
    """How many times finer than ``x`` a map of that ``size`` is."""
    return [int(n) // int(m) for n, m in zip(steps(size, x.dim() - 2), x.shape[2:], strict=True)]


def spread(x: Tensor, size: Sequence[int]) -> Tensor:
    """Give a value ``(N, C, 1, ...)`` to every position of a map of ``size``."""
    return x.expand(*x.shape[:2], *size)


class Entry(Layer):
    """Where images ``(N, C, *space)`` come in, and where the report of the conversion is kept.

    In evaluation they go on in one layout in memory, whatever theirs is: an image as numpy lays it out and a shifted
    copy of it, which torch lays out otherwise, would go different ways through a convolution. Raises ``ValueError``
    unless they have so many ``channels`` and ``dims``, and ``stride`` divides every spatial size.
    """

    stride: Stride
    channels: int
    dims: int
    report: Conversion | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.dims + 2 or x.shape[1] != self.channels:
            axes = ", ".join("DHW"[-self.dims :])
            raise ValueError(f"expected images (N, {self.channels}, {axes}), got {tuple(x.shape)}")
        if any(size % s for size, s in zip(x.shape[2:], steps(self.stride, self.dims), strict=True)):
            raise ValueError(
                f"this network samples down to stride {self.stride}: sizes must be multiples of {self.stride}, got "
                f"{tuple(x.shape[2:])}; resize or crop the images, or grow them once with "
                f"lps.pad_to_multiple(x, {self.stride})"
            )
        return x if self.training else x.contiguous()
