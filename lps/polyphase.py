"""Polyphase components and circular shifts (Sec. 3).

Every function works on maps ``(N, C, *space)`` with one, two or three spatial axes and any integer stride ``s``, or
one for each axis; ``s ** dims`` then stands for their product.
Phases are numbered row-major: in 2-D, phase ``k = s * row + column`` holds the samples at ``[row::s, column::s]``.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

Stride = int | Sequence[int]
"""A stride along all axes, or one for each."""


def steps(stride: Stride, dims: int) -> tuple[int, ...]:
    """The stride along each of ``dims`` axes. Raises ``ValueError`` where there is another number of them, and for
    fractions."""
    each = (stride,) * dims if isinstance(stride, int | float) else tuple(stride)
    if len(each) != dims:
        raise ValueError(f"the stride {tuple(each)} is of {len(each)} axes, and the map has {dims}")
    if any(isinstance(s, float) for s in each):
        raise ValueError(f"a stride is a whole number, or one for each axis, got {stride}")
    return each


def strides(stride: Stride, dims: int) -> tuple[int, ...]:
    """:func:`steps` that leave a phase: raises ``ValueError`` for one below 1, too."""
    each = steps(stride, dims)
    if min(each, default=1) < 1:
        raise ValueError(f"a stride is a whole number from 1 on, got {stride}")
    return each


def phases(stride: Stride, dims: int) -> int:
    """Number of phases, the product of the strides."""
    return prod(steps(stride, dims))


def offsets(stride: Stride, dims: int) -> list[tuple[int, ...]]:
    """Offset of each phase along the ``dims`` spatial axes, in the order of the phases."""
    return list(product(*map(range, strides(stride, dims))))


def known(space: Sequence[Any]) -> bool:
    """Are these sizes numbers? A network that is traced or exported may leave them open."""
    return all(isinstance(size, int) for size in space)


def circular_shift(x: Tensor, shift: int | Sequence[int]) -> Tensor:
    """Roll the content of ``x`` ``(N, C, *space)`` forward by ``shift`` samples along each spatial axis.

    >>> x = torch.arange(4.0).view(1, 1, 4)
    >>> lps.circular_shift(x, 1)
    tensor([[[3., 0., 1., 2.]]])
    >>> lps.circular_shift(torch.zeros(2, 3, 8, 8), (1, -2)).shape
    torch.Size([2, 3, 8, 8])

    An integer shifts all axes alike. The paper's ``T_N x[n] = x[n + 1]`` (Sec. 3) is ``circular_shift(x, -1)``.
    """
    dims = x.dim() - 2
    steps = (shift,) * dims if isinstance(shift, int) else tuple(shift)
    if len(steps) != dims:
        raise ValueError(f"circular_shift got {len(steps)} shifts for {dims} spatial axes of {tuple(x.shape)}")
    return torch.roll(x, steps, dims=tuple(range(2, x.dim())))


def require_fractions(x: Tensor) -> None:
    """Raise ``ValueError`` where ``x`` holds whole numbers."""
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(
            f"got a map of {x.dtype}, in which the fractions of a filter or mixture are lost; give x.float(), "
            "and images scaled as in training"
        )


def require_maps(x: Tensor) -> None:
    """Raise ``ValueError`` unless ``x`` ``(N, C, *space)`` holds maps of fractions, which can be filtered and mixed."""
    if x.dim() not in (3, 4, 5):
        raise ValueError(f"got {tuple(x.shape)}; expected maps (N, C, *space) with one, two or three spatial axes")
    if 0 in x.shape:
        raise ValueError(f"got maps {tuple(x.shape)} without a sample; expected one at least along every axis")
    require_fractions(x)


def require_divisible(x: Tensor, stride: Stride) -> None:
    """Raise ``ValueError`` unless ``stride`` divides every spatial size of ``x``.

    Otherwise a full turn of the circle permutes the phases and no selection can be equivariant.
    """
    space = tuple(x.shape[2:])
    if any(size % s for size, s in zip(space, strides(stride, len(space)), strict=True)):
        raise ValueError(
            f"a polyphase split with stride {stride} needs spatial sizes that are multiples of {stride}, got {space}; "
            "resize or crop the input of the network, or grow it once with lps.pad_to_multiple"
        )


def phase_view(x: Tensor, stride: Stride) -> Tensor:
    """View of ``x`` ``(N, C, *space)`` as ``(N, s, ..., s, C, *space / s)``: one axis per offset, no copy."""
    require_divisible(x, stride)
    dims = x.dim() - 2
    if not known(x.shape[2:]):  # of windows, torch sees which sizes are the stride; of axes that are split it does not
        for axis, s in enumerate(steps(stride, dims), 2):
            x = x.unfold(axis, s, s)
        return x.permute(0, *range(2 + dims, 2 + 2 * dims), 1, *range(2, 2 + dims))
    for axis in range(dims, 0, -1):
        s = steps(stride, dims)[axis - 1]
        x = x.unflatten(axis + 1, (x.shape[axis + 1] // s, s))
    positions, within = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return x.permute(0, *within, 1, *positions)


def components(x: Tensor, stride: Stride) -> list[Tensor]:
    """Views of the components of ``x`` ``(N, C, *space)``, in the order of the phases."""
    each = steps(stride, x.dim() - 2)
    return [
        x[(..., *(slice(start, None, s) for start, s in zip(offset, each, strict=True)))]  # type: ignore[index]
        for offset in offsets(stride, x.dim() - 2)
    ]


def polyphase(x: Tensor, stride: Stride = 2) -> Tensor:
    """Split ``x`` ``(N, C, *space)`` into its polyphase components ``(N, P, C, *space / s)``, ``P = s ** dims``.

    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> lps.polyphase(x).shape
    torch.Size([1, 4, 1, 2, 2])
    >>> lps.polyphase(x)[0, 1, 0]  # rows 0, 2 and columns 1, 3
    tensor([[ 1.,  3.],
            [ 9., 11.]])

    Eq. (6): ``Poly(x)_k[n] = x[s n + k]``. Raises ``ValueError`` where ``stride`` does not divide a size.
    """
    return phase_view(x, stride).flatten(1, x.dim() - 2)


def merge(components: Tensor, stride: Stride = 2) -> Tensor:
    """Inverse of :func:`polyphase`: ``(N, P, C, *space)`` to ``(N, C, *(s * space))``.

    >>> x = torch.randn(2, 3, 6, 9)
    >>> torch.equal(lps.merge(lps.polyphase(x, stride=3), stride=3), x)
    True

    Raises ``ValueError`` where the number of components is not ``s ** dims``.
    """
    dims = components.dim() - 3
    count = phases(stride, dims)
    if components.shape[1] != count:
        raise ValueError(f"merge with stride {stride} expects {count} components, got {components.shape[1]}")
    grid = components.unflatten(1, steps(stride, dims))
    interleaved = [axis for d in range(dims) for axis in (2 + dims + d, 1 + d)]
    x = grid.permute(0, 1 + dims, *interleaved)
    for axis in range(dims):
        x = x.flatten(2 + axis, 3 + axis)
    return x


def offset_of(phase: Tensor, stride: Stride, dims: int) -> list[Tensor]:
    """Offset of each ``phase`` ``(N,)`` along the ``dims`` spatial axes, ``(N,)`` each."""
    each = steps(stride, dims)
    return [phase // prod(each[axis + 1 :]) % s for axis, s in enumerate(each)]


def keep(x: Tensor, phase: Tensor, stride: Stride = 2) -> Tensor:
    """Keep one component per sample: ``(N, C, *space)`` and ``phase`` ``(N,)`` int64 to ``(N, C, *space / s)``.

    Eq. (7). Reads the kept samples only; the other components are never formed.
    """
    view = phase_view(x, stride)
    return view[(torch.arange(x.shape[0], device=x.device), *offset_of(phase, stride, x.dim() - 2))]


def mix(x: Tensor, z: Tensor, stride: Stride = 2) -> Tensor:
    """Weighted sum of the components of ``x`` ``(N, C, *space)`` with ``z`` ``(N, P)``: ``(N, C, *space / s)``.

    Eq. (17): ``y = sum_k z_k Poly(x)_k``. Behind a filter, ``exact/fused.py`` does both at once.
    """
    dims = x.dim() - 2
    weights = z.to(x.dtype).unflatten(1, steps(stride, dims))[
        (...,) + (None,) * (dims + 1)
    ]  # (N, s, ..., s, 1, 1, ...)
    return (phase_view(x, stride) * weights).sum(tuple(range(1, 1 + dims)))


def place(y: Tensor, z: Tensor, stride: Stride = 2) -> Tensor:
    """Put ``y`` ``(N, C, *space)`` back with weights ``z`` ``(N, P)``: ``(N, C, *(s * space))``.

    Eqs. (24) and (25): ``Poly(u)_k = z_k y``; a one-hot ``z`` fills one component and leaves zeros elsewhere.
    """
    dims = y.dim() - 2
    weights = z.to(y.dtype).unflatten(1, steps(stride, dims))[:, None]
    for axis in range(dims):  # y as (N, C, H, 1, W, 1), weights as (N, 1, 1, s, 1, s)
        y, weights = y.unsqueeze(3 + 2 * axis), weights.unsqueeze(2 + 2 * axis)
    u = y * weights
    for axis in range(dims):
        u = u.flatten(2 + axis, 3 + axis)
    return u
