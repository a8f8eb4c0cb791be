"""Circular shifts, and maps on which a choice among phases is in danger: what every check of the theory needs."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .polyphase import circular_shift, merge, offsets

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CHANNELS = 2


class Maps(NamedTuple):
    """Maps ``x`` ``(N, C, *space)``, the stride ``s`` that they are for, and the kind of each."""

    s: int
    x: Tensor
    kinds: list[str]


def T(x: Tensor, d: Tensor | Sequence[int]) -> Tensor:
    """The paper's shift ``T^d x[n] = x[n + d]`` of maps ``(N, C, *space)``, ``d`` ``(dims,)``, or ``(N, dims)`` for one
    of each map."""
    d = torch.as_tensor(d)
    if d.dim() == 1:
        return circular_shift(x, (-d).tolist())
    for axis, steps in enumerate(d.T, 2):
        index = (torch.arange(x.shape[axis]) + steps[:, None]) % x.shape[axis]
        x = x.take_along_dim(index.view(len(x), *(1,) * (axis - 1), -1, *(1,) * (x.dim() - 1 - axis)), axis)
    return x


def shifts(x: Tensor) -> Iterator[Tensor]:
    """Every circular shift ``d`` ``(dims,)`` of maps ``(N, C, *space)``; the first is none at all."""
    if 0 in x.shape:
        raise ValueError(f"maps {tuple(x.shape)} have nothing to shift: sizes and strides are whole numbers from 1 on")
    return map(torch.tensor, product(*map(range, x.shape[2:])))


def orbit(x: Tensor) -> Tensor:
    """All :func:`shifts` of maps ``(N, C, *space)``, one after the other in one batch ``(S * N, C, *space)``."""
    return torch.cat([T(x, d) for d in shifts(x)])


def pi(d: Tensor | Sequence[int], s: int) -> Tensor:
    """Eq. (11): component ``k`` of ``x`` is component ``pi[k]``, ``(k - d) mod s``, of ``T^d x``: ``(P,)``."""
    phases = offsets(s, len(d))
    return torch.tensor([phases.index(tuple(k)) for k in ((torch.tensor(phases) - torch.as_tensor(d)) % s).tolist()])


def rounding(x: Tensor) -> float:
    """Largest difference, as a share of the largest sample, that a convolution of the maps ``x`` may leave.

    On a CPU logits and norms are never computed in half precision, so that half precision has the bound of float32.
    """
    return 1e-12 if x.dtype == torch.float64 else 1e-5


def gap(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Largest difference between ``a`` and ``b`` as a share of the largest sample of ``x``, for each map: ``(N,)``.

    Zero only where they are equal; ``inf`` where one of them is not a number.
    """
    largest = x.double().abs().flatten(1).amax(1)
    share = (a.double() - b.double()).abs().flatten(1).amax(1) / torch.where(largest > 0, largest, 1.0)
    return share.nan_to_num(nan=torch.inf, posinf=torch.inf)


def tied(scores: Tensor, tolerance: float) -> Tensor:
    """Whether the two best of the ``scores`` ``(N, P)`` agree up to rounding: ``(N,)`` bool."""
    best = scores.double().topk(2, 1).values
    return best[:, 0] - best[:, 1] <= tolerance * scores.double().abs().amax(1)


def maps(
    strides: Sequence[int], dims: Sequence[int], draws: int = 16, seed: int = 0, dtypes: Sequence[torch.dtype] = DTYPES
) -> Iterator[Maps]:
    """``draws`` normal maps and all awkward ones, for each stride, number of axes and dtype; always the same ones.

    Raises ``ValueError`` at once where there are no maps of a stride or of a number of axes.
    """
    if min(strides, default=0) < 1 or not {*dims} <= {1, 2, 3}:
        raise ValueError(f"expected strides from 1 on, and 1, 2 or 3 axes, got strides {strides} and dims {dims}")
    return (_maps(s, axes, draws, seed, dtype) for s, axes, dtype in product(strides, dims, dtypes))


def _maps(s: int, dims: int, draws: int, seed: int, dtype: torch.dtype) -> Maps:
    found = random(s, dims, draws, seed) | awkward(s, dims, dtype, seed)
    return Maps(s, torch.cat([*found.values()]).to(dtype), [kind for kind, some in found.items() for _ in some])


def sizes(s: int, dims: int) -> list[int]:
    """Samples of a component along each axis. Of two samples Tri-3 makes two equal ones: an axis has more."""
    few = -(-3 // s)
    return {1: [6], 2: [3, 2], 3: [few, 2, few]}[dims]


def random(s: int, dims: int, draws: int, seed: int) -> dict[str, Tensor]:
    """``draws`` normal maps ``(draws, C, *space)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    space = [s * size for size in sizes(s, dims)]
    return {"random": torch.randn(draws, CHANNELS, *space, generator=generator, dtype=torch.float64)}


def awkward(s: int, dims: int, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Maps that tie in every way, that hold one sample only, and of which squares overflow or vanish, by kind."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    small, phases = sizes(s, dims), s**dims
    space = [s * size for size in small]
    one, axes = normal(CHANNELS, *small), tuple(range(1, dims + 1))
    orders = [torch.randperm(one[0].numel(), generator=generator) for _ in range(phases)]
    level = torch.arange(1, phases + 1, dtype=torch.float64).view(1, -1, *(1,) * (dims + 1))
    impulse = torch.zeros(1, CHANNELS, *space, dtype=torch.float64)
    impulse.view(-1)[impulse[0, 0].numel() // 2 + 1] = 1
    half = torch.finfo(dtype).bits == 16
    return {
        "small integers": torch.randint(-1, 2, (4, CHANNELS, *space), generator=generator).double(),
        "huge": normal(2, CHANNELS, *space) * (1e4 if half else 1e30),
        "tiny": normal(2, CHANNELS, *space) * (1e-6 if half else 1e-30),
        "negative": -normal(2, CHANNELS, *space).abs(),
        "constant": torch.full((1, CHANNELS, *space), 0.7, dtype=torch.float64),
        "period of one stride": merge(level.expand(1, phases, CHANNELS, *small), s),
        "impulse": impulse,
        "components equal up to a shift": merge(
            torch.stack([one.roll([k] * dims, axes) for k in range(phases)])[None], s
        ),
        "components with the same values, reordered": merge(
            torch.stack([one.flatten(1)[:, order].view_as(one) for order in orders])[None], s
        ),
    }
