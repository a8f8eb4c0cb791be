"""Grids: which of the positions of the images a map of a network stands on.

A grid is the list of sampling steps that lead to it from the images. Two maps that meet, in a sum or a concatenation,
have to stand on one grid; so their steps are made one, and share a selection.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod
from typing import NamedTuple

from torch import fx


@dataclass(eq=False)
class Step:
    """A stride along each axis of the images. ``smooth`` ones, averages and blurs, need no further filter.

    An ``aligned`` one brings the phase that it keeps to the front of each stride, and the call strides by itself.
    ``like`` are the steps that it is made one with: another of the same stride, or several whose product it is. Where a
    map becomes finer than the images the stride is a fraction, and there is nothing to choose. Where a number of
    ``windows`` is fixed, along the axes where it is not 0, the stride is that of the example, and ``now`` gives it.
    """

    node: fx.Node
    stride: tuple[int, ...]
    smooth: bool
    aligned: bool = False
    like: tuple["Step", ...] = ()
    windows: tuple[int, ...] = ()
    now: fx.Node | None = None

    @property
    def finer(self) -> bool:
        return min(self.stride) < 1

    def cut(self, last: tuple[int, ...]) -> tuple["Step", "Step"]:
        """Make it two steps, one after the other, of which the ``last`` has this stride."""
        first = tuple(whole // part for whole, part in zip(self.stride, last, strict=True))
        parts = Step(self.node, first, self.smooth), Step(self.node, last, self.smooth)
        self.like = parts
        return parts

    def roots(self) -> tuple["Step", ...]:
        """The steps that make the choice."""
        return resolve(self.like) if self.like else (self,)


Grid = tuple[Step, ...]


Axes = tuple[tuple[int, ...], ...]
"""For each axis of a tensor, the axes of the images that it runs along: none for channels, several for a row of all
positions."""


class Map(NamedTuple):
    """A tensor that moves with the images: on which ``grid``, ``None`` where it is constant in space, and along which
    ``axes``.

    ``((), (), (0,), (1,))`` are those of maps ``(N, C, H, W)``, and ``((), (0, 1), ())`` those of ``(N, H * W, C)``.
    """

    grid: Grid | None
    axes: Axes

    @property
    def positions(self) -> tuple[int, ...]:
        """The axes of the tensor that run along some of the images."""
        return tuple(axis for axis, along in enumerate(self.axes) if along)


def as_images(dims: int) -> Axes:
    """The axes of maps ``(N, C, *space)``."""
    return ((), (), *((axis,) for axis in range(dims)))


def resolve(grid: Grid) -> Grid:
    """The grid by the steps that make the choices."""
    return tuple(root for step in grid for root in step.roots())


def total(grid: Iterable[Step], dims: int) -> tuple[int, ...]:
    """Product of the strides, along each of ``dims`` axes."""
    strides = [step.stride for step in grid]
    return tuple(prod(stride[axis] for stride in strides) for axis in range(dims))


def space(grid: Iterable[Step], size: Sequence[int]) -> tuple[int, ...]:
    """How many samples a map has along each axis, for images of ``size``."""
    for step in grid:
        fixed = step.windows or (0,) * len(size)
        size = [n or int(s // by) for n, s, by in zip(fixed, size, step.stride, strict=True)]
    return tuple(size)


def unit(grids: Iterable[Grid], dims: int) -> tuple[int, ...]:
    """What sizes of images have to be multiples of, along each of ``dims`` axes."""
    every = list(grids)
    return tuple(lcm(*(n for grid in every for n in _divisors(grid, axis))) for axis in range(dims))


def _divisors(grid: Grid, axis: int) -> Iterator[int]:
    so_far = Fraction(1)
    for step in grid:
        fixed = step.windows[axis] if step.windows else 0
        so_far *= fixed or Fraction(step.stride[axis])
        yield so_far.numerator
        if fixed:
            return


def shown(stride: Sequence[int]) -> int | tuple[int, ...]:
    """One number where it is the same along all axes."""
    return stride[0] if len(set(stride)) == 1 else tuple(stride)


def meet(first: Grid, second: Grid) -> Grid:
    """Make two grids one. Raises ``ValueError`` where strides do not match."""
    a, b = list(resolve(first)), list(resolve(second))
    dims = len((*a, *b)[0].stride) if a or b else 0
    if total(a, dims) != total(b, dims):
        raise ValueError(f"maps of stride {shown(total(a, dims))} and {shown(total(b, dims))} meet")
    while a or b:
        if not (a and b):
            raise ValueError("windows whose size follows that of the images meet a map without")
        left, right = a.pop(0), b.pop(0)
        if left is right:
            continue
        if prod(left.stride) < prod(right.stride):
            (left, a), (right, b) = (right, b), (left, a)
        parts = [right]
        while prod(total(parts, dims)) < prod(left.stride):
            parts.append(b.pop(0))
        if left.windows or any(part.windows for part in parts):
            if any(part.windows != left.windows for part in parts):
                raise ValueError("windows whose size follows that of the images meet a stride that does not")
        if total(parts, dims) != left.stride or left in parts:
            strides = ", ".join(str(shown(p.stride)) for p in parts)
            raise ValueError(f"a stride of {shown(left.stride)} meets strides of {strides}")
        left.like = tuple(parts)
    return resolve(first)
