"""Accuracy and shift consistency as counts: functions of a predictor and of batches of images (Secs. 5.1 and 5.2)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` to predicted labels ``(N,)`` int64."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images ``(N, C, H, W)`` and labels ``(N,)``."""


@dataclass(frozen=True)
class Count:
    """How many of ``total`` cases agree; counts add up exactly over uneven batches and over processes."""

    agree: int = 0
    total: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.agree + other.agree, self.total + other.total)

    @property
    def percent(self) -> float:
        if self.total == 0:
            raise ValueError("no case was counted: the data set is empty")
        return 100 * self.agree / self.total

    @staticmethod
    def of(equal: Tensor) -> "Count":
        """Count the true entries of a boolean tensor."""
        return Count(int(equal.sum()), equal.numel())


@dataclass(frozen=True)
class Shifts:
    """Distribution of random shifts: uniform over ``low..high`` (inclusive) along each axis.

    Drawn for each image, or once for a whole batch.
    """

    low: int
    high: int
    per_image: bool = True

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Shifts ``(count, 2)`` int64."""
        rows = count if self.per_image else 1
        return torch.randint(self.low, self.high + 1, (rows, 2), generator=generator).expand(count, 2)


PAPER_SHIFTS = Shifts(0, 32)
"""Eqs. (26) and (27): uniform from 0 to 32."""

ORIGINAL_CIFAR = Shifts(-3, 2, per_image=False)
"""What the original code draws for CIFAR-10: one shift from -3 to 2 for a batch."""


def shift_each(images: Tensor, shifts: Tensor) -> Tensor:
    """Circularly shift each image ``(N, C, H, W)`` forward by its own ``(N, 2)`` shift."""
    count, _, height, width = images.shape
    shifts = shifts.to(images.device)
    rows = (torch.arange(height, device=images.device) - shifts[:, :1]) % height
    columns = (torch.arange(width, device=images.device) - shifts[:, 1:]) % width
    batch = torch.arange(count, device=images.device)
    return images.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop_each(images: Tensor, corners: Tensor, *size: int) -> Tensor:
    """Cut a window of ``size`` (one side or two) out of each image ``(N, C, H, W)`` at its own ``(N, 2)`` corner."""
    height, width = images.shape[2:]
    (top, left), (down, right) = corners.amin(0).tolist(), corners.amax(0).tolist()
    if min(top, left) < 0 or down + size[0] > height or right + size[-1] > width:
        window, places = f"{size[0]}x{size[-1]}", f"from {[top, left]} up to {[down, right]}"
        raise ValueError(f"windows of {window} at corners {places} leave images {height}x{width}")
    return shift_each(images, -corners)[..., : size[0], : size[-1]]


def accuracy(predict: Predict, batches: Batches) -> Count:
    """Top-1 accuracy."""

    def right(images: Tensor, labels: Tensor) -> Count:
        found = predict(images)
        if found.shape != labels.shape:
            raise ValueError(f"predictions {tuple(found.shape)} do not match the labels {tuple(labels.shape)}")
        return Count.of(found == labels)

    return sum((right(*batch) for batch in batches), Count())


def circular_consistency(
    predict: Predict, batches: Batches, shifts: Shifts = PAPER_SHIFTS, pairs: int = 1, seed: int = 0
) -> Count:
    """C-Cons., Eq. (26): equal predictions under two random circular shifts, ``pairs`` times for each image."""
    return _consistency(predict, batches, shift_each, shifts, pairs, seed)


def exhaustive_consistency(predict: Predict, images: Tensor) -> Count:
    """C-Cons., Eq. (26), over all ordered pairs of circular shifts of each of ``images`` ``(N, C, H, W)``."""
    height, width = images.shape[2:]
    shifts = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    count = Count()
    for image in images:
        labels = predict(shift_each(image.expand(len(shifts), *image.shape), shifts))
        count += Count(int(labels.unique(return_counts=True)[1].square().sum()), len(shifts) ** 2)
    return count


def shift_consistency(
    predict: Predict, batches: Batches, size: int = 224, shifts: Shifts = PAPER_SHIFTS, pairs: int = 1, seed: int = 0
) -> Count:
    """S-Cons., Eq. (27): equal predictions on two random ``size`` x ``size`` windows of a larger image.

    Images need ``size + shifts.high`` pixels on each side.
    """
    return _consistency(predict, batches, lambda x, corners: crop_each(x, corners, size), shifts, pairs, seed)


def _consistency(
    predict: Predict,
    batches: Batches,
    move: Callable[[Tensor, Tensor], Tensor],
    shifts: Shifts,
    pairs: int,
    seed: int,
) -> Count:
    generator = torch.Generator().manual_seed(seed)
    count = Count()
    for images, _ in batches:
        for _ in range(pairs):
            first, second = (predict(move(images, shifts.draw(len(images), generator))) for _ in range(2))
            count += Count.of(first == second)
    return count
