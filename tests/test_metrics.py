"""Metrics against slow, obvious versions."""

import pytest
import torch
from torch import Tensor

import lps
from lps.metrics import (
    ORIGINAL_CIFAR,
    PAPER_SHIFTS,
    Count,
    Shifts,
    accuracy,
    circular_consistency,
    crop_each,
    exhaustive_consistency,
    shift_consistency,
    shift_each,
)


def images(count: int = 10, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def batches(x: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(len(x)) % 3
    return list(zip(x.split(list(sizes)), labels.split(list(sizes)), strict=True))


def corner(x: Tensor) -> Tensor:
    """A predictor that no shift leaves alone: the sign pattern of one pixel."""
    return (x[:, 0, 0, 0] > 0).long() + 2 * (x[:, 1, 0, 0] > 0).long()


def total(x: Tensor) -> Tensor:
    """A predictor that every circular shift leaves alone."""
    return (x.double().flatten(1).sort().values.sum(1) > 0).long()


def test_each_image_gets_its_own_shift() -> None:
    x = images(4)
    shifts = torch.tensor([[0, 0], [1, 2], [-3, 5], [16, 17]])
    moved = shift_each(x, shifts)
    for i, (row, column) in enumerate(shifts.tolist()):
        assert torch.equal(moved[i : i + 1], lps.circular_shift(x[i : i + 1], (row, column)))


def test_each_image_gets_its_own_window() -> None:
    x = images(3)
    corners = torch.tensor([[0, 0], [1, 4], [6, 2]])
    cut = crop_each(x, corners, 10)
    for i, (row, column) in enumerate(corners.tolist()):
        assert torch.equal(cut[i], x[i, :, row : row + 10, column : column + 10])


def test_windows_that_leave_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of 10x10 at corners from .* up to .* leave images 16x16"):
        shift_consistency(corner, batches(images(), 10), size=10, shifts=Shifts(7, 9))


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1, 9)])
def test_accuracy_adds_up_over_uneven_batches(sizes: tuple[int, ...]) -> None:
    x = images()
    expected = sum(int(corner(x)[i] == i % 3) for i in range(10))
    assert accuracy(corner, batches(x, *sizes)) == Count(expected, 10)


def test_consistency_counts_equal_pairs() -> None:
    x = images()
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randint(0, 33, (10, 2), generator=generator) for _ in range(2))
    agree = 0
    for i in range(10):
        pair = [corner(lps.circular_shift(x[i : i + 1], s[i].tolist())) for s in (first, second)]
        agree += int(pair[0] == pair[1])
    assert 0 < agree < 10
    assert circular_consistency(corner, batches(x, 10), seed=5) == Count(agree, 10)


def test_every_pair_of_shifts_is_counted() -> None:
    x = images(3, 4)
    labels = [
        [corner(lps.circular_shift(image[None], (i, j))).item() for i in range(4) for j in range(4)] for image in x
    ]
    agree = sum(a == b for row in labels for a in row for b in row)
    assert exhaustive_consistency(corner, x) == Count(agree, 3 * 16**2)
    assert exhaustive_consistency(total, x).percent == 100


def test_an_invariant_predictor_is_consistent_on_every_pair() -> None:
    assert circular_consistency(total, batches(images(), 4, 6), pairs=3) == Count(30, 30)


def test_one_shift_for_a_batch_or_one_for_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    assert len(ORIGINAL_CIFAR.draw(50, generator).unique(dim=0)) == 1
    shifts = PAPER_SHIFTS.draw(5000, generator)
    assert len(shifts.unique(dim=0)) > 500
    assert (int(shifts.min()), int(shifts.max())) == (0, 32)


def test_an_empty_count_has_no_percentage() -> None:
    with pytest.raises(ValueError, match="no case was counted"):
        _ = Count().percent
    assert (Count(1, 3) + Count(2, 5)).percent == 37.5


def test_windows_do_not_wrap_and_labels_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"corners from \[-2, 0\] up to \[3, 0\] leave images 16x16"):
        crop_each(images(2), torch.tensor([[3, 0], [-2, 0]]), 10)
    with pytest.raises(ValueError, match=r"predictions \(8,\) do not match the labels \(8, 1\)"):
        accuracy(lambda x: torch.zeros(len(x)), [(images(8), torch.zeros(8, 1))])
