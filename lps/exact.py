"""Sums whose bits do not depend on the order of the terms.

The theorems make the statistics that drive a selection invariant to shifts over the reals. In floating point a
shift reorders the terms of a sum, and rounding can turn a near tie. A fixed-point sum has no such order.
"""

import torch
from torch import Tensor

_BITS = 62


def exact_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of ``x`` ``(N, ...)`` over ``dims`` as float64, equal bit for bit under every permutation of them.

    Terms are rounded to a per-sample grid that spans 62 bits less those the count needs, then added as integers.
    """
    count = 1
    for d in dims:
        count *= x.shape[d]
    largest = x.detach().abs().flatten(1).amax(1).double()
    grid = 2.0 ** (_BITS - (count - 1).bit_length()) / largest.clamp_min(2.0**-900)
    grid = grid.view(-1, *(1,) * (x.dim() - 1))
    total = (x.double() * grid).round().to(torch.int64).sum(dims, keepdim=True).double()
    return (total / grid / count).squeeze(dims)
