"""Segmentation metrics against slow, obvious versions and numbers worked out by hand."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import lps
from lps.metrics import Count, Shifts
from lps.segmentation import (
    Batches,
    Confusion,
    Predict,
    confusion,
    mascc,
    mascc_original,
    massc,
    massc_original,
)

HEIGHT, WIDTH = 12, 16


def batches(*sizes: int, height: int = HEIGHT, width: int = WIDTH) -> list[tuple[Tensor, Tensor]]:
    """Images and labels of classes 0 to 3, a sixth of them ignored, in batches of the given sizes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(sizes), 3, height, width, generator=generator)
    labels = torch.randint(0, 6, (sum(sizes), height, width), generator=generator)
    labels[labels == 5] = 255
    labels[labels == 4] = 3
    return list(zip(images.split(list(sizes)), labels.split(list(sizes)), strict=True))


def neighbours(images: Tensor) -> Tensor:
    """Moves with every circular shift: compares a pixel with the next one on the circle, exactly."""
    return (images > images.roll((1, 1), (2, 3))).sum(1)


def pixels(images: Tensor) -> Tensor:
    """Moves with every shift: looks at one pixel."""
    return (images > 0).sum(1)


def first_column(images: Tensor) -> Tensor:
    """Moves with no horizontal shift: label 1 in the first column, 0 elsewhere."""
    labels = torch.zeros_like(images[:, 0], dtype=torch.int64)
    labels[..., 0] = 1
    return labels


def edges(images: Tensor) -> Tensor:
    """Compares a pixel with the next one, with zeros beyond the border."""
    return (images > torch.nn.functional.pad(images, (1, 0, 1, 0))[..., :-1, :-1]).sum(1)


# quality


def test_quality_worked_out_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1], [1, 255, 255]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    found = Confusion.of(predicted, labels, classes=4)
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.accuracy == Count(3, 4)
    assert found.iou[:2].tolist() == [100 * 1 / 2, 100 * 2 / 3] and found.iou[2:].isnan().all()
    assert found.miou == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, rel=1e-15)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    assert Confusion.of(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0]), classes=3).miou == (75 + 0) / 2


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1, 6)])
def test_quality_of_a_set_over_uneven_batches(sizes: tuple[int, ...]) -> None:
    counts = [[0] * 4 for _ in range(4)]
    for images, labels in batches(7):
        for guess, truth in zip(neighbours(images).flatten().tolist(), labels.flatten().tolist(), strict=True):
            if truth != 255:
                counts[truth][guess] += 1
    ious = []
    for k in range(4):
        union = sum(counts[k]) + sum(row[k] for row in counts) - counts[k][k]
        ious.append(100 * counts[k][k] / union)
    found = confusion(neighbours, batches(*sizes), classes=4)
    assert found.counts.tolist() == counts
    assert found.accuracy == Count(sum(counts[k][k] for k in range(4)), sum(map(sum, counts)))
    assert found.miou == pytest.approx(sum(ious) / 4, rel=1e-15)


def test_confusions_of_parts_add_up_to_that_of_the_whole() -> None:
    first, second = (confusion(neighbours, [batch], classes=4) for batch in batches(2, 5))
    assert torch.equal((first + second).counts, confusion(neighbours, batches(7), classes=4).counts)


# consistency


def slow_circular(predict: Predict, images: Tensor, drawn: list[list[tuple[list[int], list[int]]]]) -> Count:
    """Pixel by pixel: ``drawn`` has, for each image, the pairs of shifts to compare."""
    agree = total = 0
    for image, pairs in zip(images, drawn, strict=True):
        for first, second in pairs:
            maps = [predict(lps.circular_shift(image[None], shift))[0].tolist() for shift in (first, second)]
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    labels = [
                        labels[(row + shift[0]) % HEIGHT][(column + shift[1]) % WIDTH]
                        for labels, shift in zip(maps, (first, second), strict=True)
                    ]
                    agree += labels[0] == labels[1]
                    total += 1
    return Count(agree, total)


def slow_windows(
    predict: Predict, images: Tensor, height: int, width: int, drawn: list[list[tuple[list[int], list[int]]]]
) -> Count:
    """Pixel by pixel: labels that each window gives to the pixels of its image, then those that both gave."""
    agree = total = 0
    for image, pairs in zip(images, drawn, strict=True):
        for corners in pairs:
            given: list[dict[tuple[int, int], int]] = []
            for top, left in corners:
                labels = predict(image[None, :, top : top + height, left : left + width])[0].tolist()
                given.append({(top + i, left + j): labels[i][j] for i in range(height) for j in range(width)})
            for place in given[0].keys() & given[1].keys():
                agree += given[0][place] == given[1][place]
                total += 1
    return Count(agree, total)


def drawn_pairs(count: int, shifts: Shifts, pairs: int) -> list[list[tuple[list[int], list[int]]]]:
    """Shifts of each image, one after the other."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.randint(shifts.low, shifts.high + 1, (count, pairs, 2, 2), generator=generator).tolist()
    return [[(first, second) for first, second in image] for image in draws]


def drawn_for_batches(sizes: tuple[int, ...], shifts: Shifts, times: int) -> list[list[list[int]]]:
    """Shifts of each image where a batch shares them."""
    generator = torch.Generator().manual_seed(3)
    per_batch = [torch.randint(shifts.low, shifts.high + 1, (times, 2), generator=generator).tolist() for _ in sizes]
    return [shared for size, shared in zip(sizes, per_batch, strict=True) for _ in range(size)]


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)])
def test_mascc_of_the_paper_compares_two_shifts(sizes: tuple[int, ...]) -> None:
    shifts = Shifts(0, 32)
    (images, _), *_ = batches(5)
    expected = slow_circular(edges, images, drawn_pairs(5, shifts, 5))
    assert 0 < expected.agree < expected.total == 5 * 5 * HEIGHT * WIDTH
    assert mascc(edges, batches(*sizes), seed=3) == expected


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)])
def test_mascc_of_the_original_compares_with_the_unshifted_image(sizes: tuple[int, ...]) -> None:
    (images, _), *_ = batches(5)
    drawn = drawn_for_batches(sizes, Shifts(-32, 32), 5)
    expected = slow_circular(edges, images, [[([0, 0], shift) for shift in image] for image in drawn])
    assert 0 < expected.agree < expected.total == 5 * 5 * HEIGHT * WIDTH
    assert mascc_original(edges, batches(*sizes), seed=3) == expected


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)])
def test_massc_of_the_paper_compares_two_windows(sizes: tuple[int, ...]) -> None:
    shifts = Shifts(0, 4)
    (images, _), *_ = batches(5)
    expected = slow_windows(edges, images, 8, 8, drawn_pairs(5, shifts, 5))
    assert 0 < expected.agree < expected.total < 5 * 5 * 8 * 8
    assert massc(edges, batches(*sizes), size=8, shifts=shifts, seed=3) == expected


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)])
def test_massc_of_the_original_moves_a_framed_image(sizes: tuple[int, ...]) -> None:
    shifts = Shifts(-6, 6, per_image=False)
    (images, _), *_ = batches(5)
    framed = torch.nn.functional.pad(images, (6, 6, 6, 6))
    drawn = drawn_for_batches(sizes, shifts, 5)
    corners = [[([6, 6], [6 - row, 6 - column]) for row, column in image] for image in drawn]
    expected = slow_windows(edges, framed, HEIGHT, WIDTH, corners)
    assert expected.total == sum((HEIGHT - abs(r)) * (WIDTH - abs(c)) for image in drawn for r, c in image)
    assert 0 < expected.agree < expected.total
    assert massc_original(edges, batches(*sizes), shifts=shifts, seed=3) == expected


CIRCULAR: list[Callable[[Predict, Batches], Count]] = [mascc, mascc_original]
STANDARD: list[Callable[[Predict, Batches], Count]] = [partial(massc, size=8, shifts=Shifts(0, 4)), massc_original]


@pytest.mark.parametrize("metric", CIRCULAR)
def test_a_circular_predictor_is_consistent_at_every_pixel(metric: Callable[[Predict, Batches], Count]) -> None:
    assert metric(neighbours, batches(4, 3)).percent == 100
    assert metric(edges, batches(4, 3)).percent < 100


@pytest.mark.parametrize("metric", STANDARD)
def test_a_predictor_of_single_pixels_is_consistent_at_every_pixel(metric: Callable[[Predict, Batches], Count]) -> None:
    large = batches(4, 3, height=40, width=40)
    assert metric(pixels, large).percent == 100
    assert metric(neighbours, large).percent < 100


def test_consistency_worked_out_by_hand() -> None:
    """Shifts by (1, 1): the marked column stays where it is, so that two columns change, or one of those compared."""
    one = Shifts(1, 1, per_image=False)
    assert mascc_original(first_column, batches(2), one, times=1) == Count(2 * 12 * 14, 2 * 12 * 16)
    assert massc_original(first_column, batches(2), one, times=1) == Count(2 * 11 * 14, 2 * 11 * 15)
    assert mascc(first_column, batches(2), one, pairs=1) == Count(2 * 12 * 16, 2 * 12 * 16)


def test_the_paper_draws_for_each_image_and_the_original_for_each_batch() -> None:
    """One image against copies of it in a batch."""
    (image, labels), *_ = batches(1)
    copies = [(image.expand(4, -1, -1, -1), labels)]
    alone, together = (mascc_original(edges, x) for x in ([(image, labels)], copies))
    assert together == Count(4 * alone.agree, 4 * alone.total)
    alone, together = (mascc(edges, x) for x in ([(image, labels)], copies))
    assert together.total == 4 * alone.total and together.agree != 4 * alone.agree


# bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Confusion.of(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5), 2), r"\(1, 4, 4\) for labels \(1, 4, 5\)"),
        (lambda: Confusion.of(torch.tensor([0]), torch.tensor([2]), 2), "label 2 among classes 0 to 1"),
        (lambda: Confusion.of(torch.tensor([255]), torch.tensor([0]), 2), "prediction 255 among classes 0 to 1"),
        (lambda: Confusion.of(torch.tensor([0]), torch.tensor([-1]), 2), "label -1 among classes"),
        (lambda: confusion(pixels, [], classes=4).miou, "no pixel was counted"),
        (lambda: mascc(pixels, []).percent, "no case was counted"),
        (lambda: massc(pixels, batches(1), size=8), r"windows of 8x8 at corners from .* up to .* leave images 12x16"),
        (lambda: mascc(lambda x: x, batches(1)), r"images \(1, 3, 12, 16\) is due, got \(1, 3, 12, 16\)"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_an_ignored_set_has_no_accuracy() -> None:
    nothing = Confusion.of(torch.tensor([0]), torch.tensor([255]), 2)
    assert math.isnan(nothing.iou[0]) and nothing.accuracy == Count(0, 0)
