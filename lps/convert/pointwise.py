"""Functions of single samples that round alike wherever a sample lies in memory, in evaluation.

On a CPU the last few samples of a tensor, or of what one thread gets of it, go another way through many functions, and
all of them where they do not lie one behind the other; but not through exp, log and log1p.
"""

from collections.abc import Callable
from functools import partial, reduce
from math import e, log
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..exact.cpu import by_vectors
from .layers import Layer


def _glu(x: Tensor, glu: nn.GLU) -> Tensor:
    kept, gate = x.chunk(2, glu.dim)
    return kept * by_vectors(torch.sigmoid, gate)


def _local_response(x: Tensor, norm: nn.LocalResponseNorm) -> Tensor:
    squares = F.pad(x.square().flatten(2)[:, None], (0, 0, norm.size // 2, (norm.size - 1) // 2))
    means = F.avg_pool2d(squares, (norm.size, 1), 1).view_as(x)
    return x / _power((norm.k + norm.alpha * means).double(), norm.beta).to(x.dtype)


class Pointwise(Layer):
    """An activation of torch."""

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
            return _glu(x, f)
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
    """A function of torch of one or two maps, by its name."""

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
