"""The embedded data set: ten shapes drawn on a torus, made in memory from a seed.

An image shows one object of random place, size, turn, stretch and colours in front of a texture and a few
loose bars, partly covered by another bar, under noise. All geometry is periodic: nothing happens at the
border, and a circular shift of a drawn image is another image of the same kind.

Integers come from torch's CPU generator, geometry is in float64: the bytes do not depend on the machine.
"""

from collections.abc import Callable
from math import cos, pi, sin, tau
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = ("disc", "ring", "square", "frame", "triangle", "star", "cross", "crescent", "bars", "ell")
"""Names of the labels 0 to 9."""

LOOSE_BARS = 3
_BITS = 24
_CHUNK = 100  # images drawn at once, a multiple of the number of classes; it has no effect on the result


class Drawn(NamedTuple):
    """``images`` ``(N, 3, H, W)`` uint8 and ``labels`` ``(N,)`` int64, which run through the classes in turn.

    ``masks`` ``(N, H, W)`` uint8 is 1 + label where the object is seen and 0 elsewhere; ``None`` unless asked
    for.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None


def draw(count: int, seed: int, size: int = 32, masks: bool = False) -> Drawn:
    """Draw ``count`` images of ``size`` x ``size`` pixels.

    Image ``i`` of a seed and size is the same whatever ``count`` is. Raises ``ValueError`` for a negative
    count or seed and for images too small to show a shape.
    """
    if count < 0:
        raise ValueError(f"cannot draw {count} images: the count must not be negative")
    if seed < 0:
        raise ValueError(f"cannot draw with seed {seed}: the seed must not be negative")
    if size < 16:
        raise ValueError(f"images of {size}x{size} pixels are too small for the shapes: draw at least 16x16")
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    objects = torch.empty(count if masks else 0, size, size, dtype=torch.bool)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, count))
        images[chunk], visible = _draw_chunk(chunk.stop - start, size, generator)
        if masks:
            objects[chunk] = visible
    labels = torch.arange(count) % len(CLASSES)
    if not masks:
        return Drawn(images, labels, None)
    return Drawn(images, labels, objects * (1 + labels).to(torch.uint8)[:, None, None])


class _Dice:
    """Random numbers for a chunk of images from one stream: all those of an image, then the next one's."""

    PARAMETERS = 128

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        numbers = torch.randint(1 << _BITS, (count, self.PARAMETERS + 3 * size * size), generator=generator)
        self._numbers = numbers[:, : self.PARAMETERS].double() / (1 << _BITS)
        pixels = numbers[:, self.PARAMETERS :].view(count, 3, size, size)
        # the two halves of an integer, added: triangular, in -1..1
        half = 1 << _BITS // 2
        self.noise = ((pixels & (half - 1)) + (pixels >> _BITS // 2) - (half - 1)).double() / half
        self._used = 0

    def uniform(self, low: float, high: float, channels: int = 1) -> Tensor:
        """``(N, channels, 1, 1)`` float64 in ``low..high``."""
        self._used += channels
        numbers = self._numbers[:, self._used - channels : self._used, None, None]
        return low + (high - low) * numbers

    def integer(self, low: int, high: int) -> Tensor:
        """``(N, 1, 1, 1)`` whole numbers from ``low`` to ``high``, as float64."""
        return self.uniform(low, high + 1).floor()


def _draw_chunk(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 3, H, W)`` uint8 and where the object is visible ``(N, H, W)`` bool."""
    dice = _Dice(count, size, generator)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)

    ground = dice.uniform(0.3, 0.7) + dice.uniform(-0.2, 0.2, channels=3)
    picture = ground + _texture(x, y, dice, frequency=3, strength=0.06)
    for _ in range(LOOSE_BARS):
        bar = _bar(x, y, dice, dice.uniform(0, 1), dice.uniform(0, 1), (0.03, 0.14), (0.012, 0.035))
        picture = _paint(picture, _coverage(bar, size), _contrast(ground, dice, 0.2, 0.5))

    column, row, radius = dice.uniform(0, 1), dice.uniform(0, 1), dice.uniform(0.22, 0.38)
    stretch = dice.uniform(0.8, 1.25)
    u, v = _turn(_around(x, column), _around(y, row), dice.uniform(-0.6, 0.6))
    u, v = u * stretch / radius, v / (stretch * radius)
    distance = torch.empty_like(u)
    for label, shape in enumerate(SHAPES):
        members = slice(label, None, len(CLASSES))
        distance[members] = shape(u[members], v[members])
    coverage = _coverage(distance * radius, size)
    colour = _contrast(ground, dice, 0.35, 0.7) + _texture(x, y, dice, frequency=5, strength=0.06)
    picture = _paint(picture, coverage, colour)

    column, row = (centre + 1.1 * radius * dice.uniform(-1, 1) for centre in (column, row))
    covered = _coverage(_bar(x, y, dice, column, row, (0.05, 0.2), (0.02, 0.05)), size)
    picture = _paint(picture, covered, _contrast(ground, dice, 0.2, 0.5))
    picture = torch.addcmul(picture, dice.uniform(0.02, 0.1), dice.noise)
    seen = (coverage >= 0.5) & (covered < 0.5)
    return picture.mul_(255).round_().clamp_(0, 255).to(torch.uint8), seen[:, 0]


def _around(position: Tensor, centre: Tensor) -> Tensor:
    """Displacement from ``centre`` on the circle of length 1, in -0.5..0.5."""
    return (position - centre + 0.5) % 1 - 0.5


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _coverage(distance: Tensor, size: int) -> Tensor:
    """How much of each pixel lies inside, from the signed distance in units of the image's side."""
    return (0.5 - distance * size).clamp(0, 1)


def _paint(picture: Tensor, coverage: Tensor, colour: Tensor) -> Tensor:
    return torch.lerp(picture, colour.expand_as(picture), coverage.expand_as(picture))


def _contrast(ground: Tensor, dice: _Dice, low: float, high: float) -> Tensor:
    """A colour ``(N, 3, 1, 1)`` that differs from ``ground`` in brightness and hue by a random strength."""
    strength = dice.uniform(low, high)
    sign = 1 - 2 * dice.integer(0, 1)
    return (ground + strength * (sign * 0.6 + dice.uniform(-0.8, 0.8, channels=3))).clamp(0, 1)


def _texture(x: Tensor, y: Tensor, dice: _Dice, frequency: int, strength: float) -> Tensor:
    """Two periodic waves, tinted: ``(N, 3, H, W)``."""
    first, second = _wave(x, y, dice, frequency), _wave(x, y, dice, frequency)
    return torch.addcmul(first, second, dice.uniform(-1, 1, channels=3)).mul_(dice.uniform(0, strength))


def _wave(x: Tensor, y: Tensor, dice: _Dice, frequency: int) -> Tensor:
    """A plane wave that fits the torus: ``(N, 1, H, W)``."""
    columns, rows = dice.integer(-frequency, frequency), dice.integer(-frequency, frequency)
    return (tau * (columns * x + rows * y + dice.uniform(0, 1))).sin()


def _bar(
    x: Tensor,
    y: Tensor,
    dice: _Dice,
    column: Tensor,
    row: Tensor,
    half_length: tuple[float, float],
    half_width: tuple[float, float],
) -> Tensor:
    """Signed distance to a round-ended bar of random length, width and direction at (``column``, ``row``)."""
    u, v = _turn(_around(x, column), _around(y, row), dice.uniform(0, pi))
    beyond = (u.abs() - dice.uniform(*half_length)).clamp(min=0)
    return (beyond.square() + v.square()).sqrt() - dice.uniform(*half_width)


# Signed distances of the shapes, negative inside, in coordinates where the shape fills the unit circle.


def _disc(x: Tensor, y: Tensor, radius: float = 0.9) -> Tensor:
    return (x.square() + y.square()).sqrt() - radius


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _star(x: Tensor, y: Tensor, points: int, inner: float) -> Tensor:
    """Star with ``points`` tips on the unit circle and notches at radius ``inner``."""
    sector = pi / points
    angle = ((torch.atan2(y, x) + sector) % (2 * sector) - sector).abs()
    radius = (x.square() + y.square()).sqrt()
    along, across = inner * cos(sector) - 1, inner * sin(sector)
    length = (along**2 + across**2) ** 0.5
    return (across * (radius * angle.cos() - 1) - along * radius * angle.sin()) / length


SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _disc,
    lambda x, y: _disc(x, y, 0.68).abs() - 0.22,
    lambda x, y: _box(x, y, 0.72, 0.72),
    lambda x, y: _box(x, y, 0.58, 0.58).abs() - 0.19,
    lambda x, y: _star(x, y, 3, 0.5),
    lambda x, y: _star(x, y, 5, 0.42),
    lambda x, y: torch.minimum(_box(x, y, 0.9, 0.27), _box(x, y, 0.27, 0.9)),
    lambda x, y: torch.maximum(_disc(x, y), -_disc(x - 0.45, y, 0.7)),
    lambda x, y: torch.maximum(x.abs() - 0.8, torch.minimum(y.abs(), (y.abs() - 0.62).abs()) - 0.18),
    lambda x, y: torch.minimum(_box(x + 0.42, y, 0.25, 0.8), _box(x - 0.05, y - 0.55, 0.7, 0.25)),
)
"""Signed distance of each class, in the order of :data:`CLASSES`."""
