"""Sums whose bits do not depend on the order of the terms.

The theorems make the statistics that drive a selection invariant to shifts over the reals. In floating point a
shift reorders the terms of a sum, and rounding can turn a near tie. A fixed-point sum has no such order.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from .cpu import by_pieces, exports

_BITS = 62
_TERM = 50
"""Bits of a term at most: float64 has a few more."""
_EXPONENT = 0x7FF << 52


def largest_of(x: Tensor) -> Tensor:
    """Largest magnitude in each of ``(N, ...)``: ``(N, 1, ...)``."""
    flat = x.flatten(1)
    return torch.maximum(flat.amax(1), -flat.amin(1)).view(-1, *(1,) * (x.dim() - 1))


def bits_below(count: Any) -> Any:
    """Bits of the numbers below ``count``; a tensor where it is not known yet, as in exported networks."""
    if isinstance(count, int):
        return (count - 1).bit_length()
    known = count if isinstance(count, Tensor) else torch.scalar_tensor(count, dtype=torch.float64)
    return (known.double() - 0.5).log2().ceil().clamp(min=0)


def _bits(count: Any) -> Any:
    """Bits of each of ``count`` terms."""
    left = _BITS - bits_below(count)
    return left.clamp(max=_TERM) if isinstance(left, Tensor) else min(left, _TERM)


def _mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    count = prod([x.shape[d] for d in dims])
    bits = _bits(count)
    largest = largest_of(x).double().clamp_min(2.0**-900)
    if torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():  # which have no bits of a float
        unit = largest * 2.0**-bits
        total = (x.double() / unit).round().to(torch.int64).sum(dims, keepdim=True)
    else:
        step = 2.0 ** (1 - bits) if isinstance(count, int) else ((1024 - bits.long()) << 52).view(torch.float64)
        unit = (largest.view(torch.int64) & _EXPONENT).view(torch.float64) * step
        middle = 1.5 * 2.0**52 * unit  # beside it float64 has steps of one unit, and its bits count them
        steps = x.to(torch.float64, copy=True).add_(middle).view(torch.int64)
        total = steps.sum(dims, keepdim=True) - count * middle.view(torch.int64)
    finite = largest - largest  # 0, or NaN in a sample that holds what is not finite
    return (total.double() * unit / count + finite).squeeze(dims)


def _forward(x: Tensor, dims: Sequence[int]) -> Tensor:
    return by_pieces(lambda part: _mean(part, tuple(dims)), x)


def _keep_shape(ctx: Any, inputs: tuple[Tensor, Sequence[int]], output: Tensor) -> None:
    x, ctx.dims = inputs
    ctx.shape, ctx.dtype = x.shape, x.dtype
    ctx.count = prod([x.shape[d] for d in ctx.dims])  # a list: torch.compile follows no generator here


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    kept = [1 if d in ctx.dims else size for d, size in enumerate(ctx.shape)]
    return (gradient / ctx.count).to(ctx.dtype).view(kept).expand(ctx.shape), None


class _ExactMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: Sequence[int]) -> Tensor:
        mean = _forward(x, dims)
        _keep_shape(ctx, (x, dims), mean)
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, *gradients)


@torch.library.custom_op("lps::exact_mean", mutates_args=())
def _exported(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The same in one piece, for exported programs: they take a function apart, and integers hand no gradient back."""
    return _forward(x, dims)


@_exported.register_fake
def _(x: Tensor, dims: Sequence[int]) -> Tensor:
    return x.new_empty([size for d, size in enumerate(x.shape) if d not in dims], dtype=torch.float64)


_exported.register_autograd(_gradient, setup_context=_keep_shape)


def exact_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of ``x`` ``(N, ...)`` over ``dims`` as float64, equal bit for bit under every permutation of them.

    >>> x = torch.randn(2, 64, 7, 7)
    >>> lps.exact_mean(x, (2, 3)).shape
    torch.Size([2, 64])
    >>> torch.equal(lps.exact_mean(x.roll(3, 2), (2, 3)), lps.exact_mean(x, (2, 3)))
    True

    Terms are rounded to a per-sample grid that spans 62 bits less those the count needs, then added as integers. The
    gradient is that of a mean. Raises ``ValueError`` for axes that are none of a sample's.
    """
    axes = range(-x.dim(), x.dim())
    if not dims or any(d not in axes or d % x.dim() == 0 for d in dims):
        raise ValueError(f"a mean over the axes {dims} of {tuple(x.shape)}: expected some from 1 to {x.dim() - 1}")
    dims = tuple(d % x.dim() for d in dims)
    return cast(Tensor, _exported(x, dims) if exports() else _ExactMean.apply(x, dims))


def spatial_mean(x: Tensor, exact: bool) -> Tensor:
    """Eq. (3), global average pooling: ``(N, C, *space)`` to ``(N, C)``; where ``exact``, by :func:`exact_mean`."""
    space = tuple(range(2, x.dim()))
    return exact_mean(x, space).to(x.dtype) if exact else x.mean(space)


def channel_sum(x: Tensor, consume: bool = False) -> Tensor:
    """Sum over the channels of ``(N, C, *space)`` as ``(N, 1, *space)``, pairwise: the same order at each position.

    With ``consume`` in the memory of ``x``, whose numbers nobody reads again.
    """
    while (channels := int(x.shape[1])) > 1:  # a tensor, where torch.jit.trace looks on
        half, odd = divmod(channels, 2)
        if consume:
            x[:, :half].add_(x[:, half : 2 * half])
            if odd:
                x[:, half].copy_(x[:, -1])
            x = x[:, : half + odd]
        else:
            pairs = x[:, :half] + x[:, half : 2 * half]
            x = torch.cat([pairs, x[:, -1:]], 1) if odd else pairs
    return x
