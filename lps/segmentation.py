"""Segmentation quality and shift consistency as counts of pixels (Secs. 5.4 and 5.5).

Functions of a predictor of label maps and of batches, as :mod:`lps.metrics` has them for labels. Every pixel weighs the
same. The paper and the original code measure consistency differently; both ways are here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from .exact.convolution import pad
from .metrics import PAPER_SHIFTS, Count, Shifts, crop_each, shift_each

Predict = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` to predicted label maps ``(N, H, W)`` int64."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images ``(N, C, H, W)`` and label maps ``(N, H, W)`` int64."""

IGNORED = 255
"""Label of pixels that mIoU and pixel accuracy leave out: PASCAL VOC's object boundaries."""

ORIGINAL_SEGMENTATION = Shifts(-32, 32, per_image=False)
"""What the original code draws: one shift from -32 to 32 for a batch."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true class (row) and predicted class (column): ``counts`` ``(classes, classes)`` int64.

    Confusions add up exactly over uneven batches and over processes.
    """

    counts: Tensor

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts)

    @property
    def accuracy(self) -> Count:
        """Pixel accuracy."""
        return Count(int(self.counts.trace()), int(self.counts.sum()))

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class in percent, ``(classes,)`` float64; NaN where a class has no pixel."""
        shared = self.counts.diagonal()
        return 100 * shared.double() / (self.counts.sum(0) + self.counts.sum(1) - shared)

    @property
    def miou(self) -> float:
        """mIoU in percent: the mean over the classes that occur, be it in the labels or in the predictions."""
        if not self.counts.any():
            raise ValueError("no pixel was counted: the data set is empty, or all of it is ignored")
        return self.iou.nanmean().item()

    @staticmethod
    def of(predicted: Tensor, labels: Tensor, classes: int) -> "Confusion":
        """Count a batch of label maps, less the pixels labelled ``IGNORED``.

        Raises ``ValueError`` for unequal shapes, and for a label or prediction outside ``0..classes - 1``.
        """
        if predicted.shape != labels.shape:
            raise ValueError(f"predicted label maps {tuple(predicted.shape)} for labels {tuple(labels.shape)}")
        counted = labels != IGNORED
        truth, guess = labels[counted].long(), predicted[counted].long()
        for name, found in (("label", truth), ("prediction", guess)):
            outside = found[(found < 0) | (found >= classes)]
            if len(outside):
                raise ValueError(f"{name} {int(outside[0])} among classes 0 to {classes - 1} ({IGNORED} is ignored)")
        return Confusion(torch.bincount(truth * classes + guess, minlength=classes**2).view(classes, classes).cpu())


def confusion(predict: Predict, batches: Batches, classes: int) -> Confusion:
    """One confusion matrix over the whole set; its ``miou`` is the mIoU of Tables 5 and 6."""
    empty = Confusion(torch.zeros(classes, classes, dtype=torch.int64))
    return sum((Confusion.of(predict(images), labels, classes) for images, labels in batches), empty)


def mascc(predict: Predict, batches: Batches, shifts: Shifts = PAPER_SHIFTS, pairs: int = 5, seed: int = 0) -> Count:
    """mASCC (Sec. 5.4): pixels that keep their label under two random circular shifts of an image.

    Each prediction is shifted back before the comparison, ``pairs`` times for each image. Sec. 5.4 names no range: the
    default is that of Eq. (26).
    """
    return _consistency(_shifted(predict), batches, shifts, pairs, seed)


def mascc_original(
    predict: Predict, batches: Batches, shifts: Shifts = ORIGINAL_SEGMENTATION, times: int = 5, seed: int = 0
) -> Count:
    """mASCC as the original code measures it: ``times`` shifts, each compared with the image as it is."""
    return _consistency(_shifted(predict), batches, shifts, times, seed, against_unshifted=True)


def massc(
    predict: Predict, batches: Batches, size: int, shifts: Shifts = PAPER_SHIFTS, pairs: int = 5, seed: int = 0
) -> Count:
    """mASSC (Sec. 5.5): pixels that keep their label under two random standard shifts of an image, Eq. (27).

    A standard shift is a ``size`` x ``size`` window, at a corner drawn from ``shifts``, of an image with at least
    ``size + shifts.high`` pixels on each side. Pixels that only one of the two windows shows, those at its boundary,
    are ignored. ``pairs`` times for each image.
    """
    return _consistency(_windows(predict, size), batches, shifts, pairs, seed)


def massc_original(
    predict: Predict, batches: Batches, shifts: Shifts = ORIGINAL_SEGMENTATION, times: int = 5, seed: int = 0
) -> Count:
    """mASSC as the original code measures it: ``times`` shifts, each compared with the image as it is.

    The image, framed by zeros, moves behind a window of its own size. Pixels that leave or enter are ignored.
    """
    return _consistency(_framed(predict, max(-shifts.low, shifts.high)), batches, shifts, times, seed, True)


UNSEEN = -1

Look = Callable[[Tensor, Tensor], Tensor]
"""Images and a shift ``(N, 2)`` for each to predictions ``(N, H', W')``, put back where their pixels came from.

``UNSEEN`` marks the pixels that the shift leaves without a prediction.
"""


def _shifted(predict: Predict) -> Look:
    """Circular shifts."""

    def look(images: Tensor, shifts: Tensor) -> Tensor:
        return _move(_labels(predict, shift_each(images, shifts)), -shifts)

    return look


def _windows(predict: Predict, *size: int) -> Look:
    """Windows of ``size`` (one side or two) whose corner is the shift."""

    def look(images: Tensor, corners: Tensor) -> Tensor:
        labels = _labels(predict, crop_each(images, corners, *size))
        rows, columns = images.shape[2] - size[0], images.shape[3] - size[-1]
        return _move(F.pad(labels, (0, columns, 0, rows), value=UNSEEN), corners)

    return look


def _framed(predict: Predict, margin: int) -> Look:
    """Windows of the size of the images, which are framed by ``margin`` zeros; shift 0 shows an image as it is."""

    def look(images: Tensor, shifts: Tensor) -> Tensor:
        window = _windows(predict, *images.shape[2:])
        return window(pad(images, margin, margin, "zeros"), margin - shifts)

    return look


def _labels(predict: Predict, images: Tensor) -> Tensor:
    labels = predict(images)
    if labels.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"a label map for each of the images {tuple(images.shape)} is due, got {tuple(labels.shape)}")
    return labels


def _move(labels: Tensor, shifts: Tensor) -> Tensor:
    return shift_each(labels[:, None], shifts)[:, 0]


def _consistency(
    look: Look, batches: Batches, shifts: Shifts, times: int, seed: int, against_unshifted: bool = False
) -> Count:
    """Pixels with equal labels among those that both looks of a comparison see."""
    generator = torch.Generator().manual_seed(seed)
    count = Count()
    for images, _ in batches:
        # all shifts of an image are drawn together, so that they do not depend on how images fall into batches
        size = (len(images) if shifts.per_image else 1, times if against_unshifted else 2 * times, 2)
        drawn = torch.randint(shifts.low, shifts.high + 1, size, generator=generator)
        if against_unshifted:
            drawn = F.pad(drawn, (0, 0, 1, 0))
        looks = (look(images, shift) for shift in drawn.expand(len(images), -1, -1).unbind(1))
        firsts = repeat(next(looks)) if against_unshifted else looks  # one iterator on both sides gives out pairs
        for first, second in zip(firsts, looks, strict=False):
            count += Count.of((first == second)[(first != UNSEEN) & (second != UNSEEN)])
    return count
