"""Sums over positions whose bits do not depend on the order of the positions: moments, softmax and products."""

from collections.abc import Callable
from math import inf, nan, prod
from typing import Any, cast

import torch
from torch import Tensor

from .cpu import exports, once
from .mean import bits_below, exact_mean


def _kept(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The :func:`exact_mean` over ``dims``, which stay as axes of size 1."""
    mean = exact_mean(x, dims)
    for axis in sorted(dims):
        mean = mean.unsqueeze(axis)
    return mean


def _count(x: Tensor, dims: tuple[int, ...]) -> int:
    return prod(x.shape[axis] for axis in dims)


def _sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _kept(x, dims) * _count(x, dims)


def _var(x: Tensor, dims: tuple[int, ...], correction: float = 1) -> Tensor:
    n = _count(x, dims)
    return _kept((x.double() - _kept(x, dims)).square(), dims) * (n / (n - correction) if n > correction else nan)


def _logsumexp(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    largest = x.detach().amax(dims, keepdim=True)
    return _sum((x - largest).exp(), dims).log() + largest


def _norm(x: Tensor, dims: tuple[int, ...], p: float = 2) -> Tensor:
    if abs(p) == inf:
        return x.abs().amax(dims, keepdim=True) if p > 0 else x.abs().amin(dims, keepdim=True)
    if p == 1:
        return _sum(x.abs(), dims)
    if p == 2:
        return _sum(x.double().square(), dims).sqrt()
    powers = (p * x.abs().double().clamp_min(torch.finfo(torch.float64).tiny).log()).exp()
    return (_sum(powers, dims).log() / p).exp()


EXACT: dict[str, Callable[..., Tensor]] = {
    "mean": _kept,
    "sum": _sum,
    "var": _var,
    "std": lambda x, dims, correction=1: _var(x, dims, correction).sqrt(),
    "logsumexp": _logsumexp,
    "norm": _norm,
}
"""Reductions of ``x`` ``(N, ...)`` over ``dims``, which stay as axes of size 1, in float64 where they add."""


def softmax(x: Tensor, dim: int) -> Tensor:
    """A softmax over an axis of positions, equal bit for bit under every permutation of them."""
    powers = (x - x.detach().amax(dim, keepdim=True)).exp()
    return (powers / _sum(powers, (dim % x.dim(),))).to(x.dtype)


BITS = 53
"""Of the whole numbers of float64."""


def _einsum(equation: str, *operands: Tensor) -> Tensor:
    """Operands in two integers for each number, whose products add up in float64 without rounding."""
    terms, out = equation.split("->")
    letters = terms.split(",")
    sizes = {letter: max(x.shape[term.index(letter)] for term, x in zip(letters, operands, strict=True)
                         if letter in term) for letter in {*terms} - {","}}  # fmt: skip
    bits = (BITS - bits_below(prod(n for letter, n in sizes.items() if letter not in out))) // 2
    parts, scales, rows = [], [], []
    for term, x in zip(letters, operands, strict=True):
        summed = [axis for axis, letter in enumerate(term) if letter not in out]
        x = x.double()
        largest = x.abs().amax(summed, keepdim=True) if summed else x.abs()
        if torch.onnx.is_in_onnx_export():  # which has no exponent of a float
            scale = 2.0**bits / torch.where(largest > 0, largest, 1.0)
        else:
            scale = torch.ldexp(torch.ones_like(largest), bits - torch.frexp(largest).exponent.clamp_min(-960))
        high = (x * scale).round()
        parts.append((high, ((x * scale - high) * 2**bits).round()))
        rows.append("".join(letter for letter in term if letter in out))
        scales.append(scale.squeeze(summed) if summed else scale)
    (a, a_rest), (b, b_rest) = parts
    high, rest = (torch.einsum(equation, a, b),
                  torch.einsum(equation, a, b_rest) + torch.einsum(equation, a_rest, b))  # fmt: skip
    return (high + rest * 2.0**-bits) / torch.einsum(f"{','.join(rows)}->{out}", *scales)


def _keep_operands(ctx: Any, inputs: tuple[str, Tensor, Tensor], output: Tensor) -> None:
    ctx.equation, *operands = inputs
    ctx.save_for_backward(*operands)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        operands = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        y = torch.einsum(ctx.equation, *operands)
    return None, *torch.autograd.grad(y, operands, gradient.to(y.dtype))


class _Einsum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, equation: str, a: Tensor, b: Tensor) -> Tensor:
        _keep_operands(ctx, (equation, a, b), a)
        return _einsum(equation, a, b)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _gradient(ctx, *gradients)


@torch.library.custom_op("lps::exact_einsum", mutates_args=())
def _exported(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """The same in one piece, as :func:`~lps.exact.mean.exact_mean` has it."""
    return _einsum(equation, a, b)


@_exported.register_fake
def _(equation: str, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum(equation, a.double(), b.double())


_exported.register_autograd(_gradient, setup_context=_keep_operands)


def exact_einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """``torch.einsum`` of two operands as float64, equal bit for bit in whatever order its terms come.

    >>> a, b, order = torch.randn(2, 5, 9), torch.randn(2, 9, 3), torch.randperm(9)
    >>> y = exact_einsum("nij,njk->nik", a, b)
    >>> torch.equal(exact_einsum("nij,njk->nik", a[:, :, order], b[:, order]), y)
    True

    Each row of an operand is rounded to about 40 bits below its largest number.
    """
    return cast(Tensor, _exported(equation, a, b) if exports() else _Einsum.apply(equation, a, b))
