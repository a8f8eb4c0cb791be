"""Maps that look the same from two positions: the choice, and what LPU does with it."""

from collections.abc import Callable
from itertools import product
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lps
from lps.exact.ties import fingerprints, put_back


def pattern(kind: str, space: tuple[int, int], stride: int) -> Tensor:
    """A map ``(1, 3, *space)`` whose phases tie in the way that ``kind`` says."""
    height, width = space
    noise = torch.randn(3, *space, generator=torch.Generator().manual_seed(7))
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    maps: dict[str, Callable[[], Tensor]] = {
        "constant": lambda: torch.full_like(noise, 0.7),
        "dead": lambda: torch.zeros_like(noise),
        "of period 3": lambda: noise[:, row % 3, column % 3],
        "diagonal": lambda: noise[:, 0, (row + column) % 3],
        "stripes of 2": lambda: noise[:, 0 * row, (column // 2) % 2 + 0 * row],
        "enlarged": lambda: noise[:, row // stride, column // stride],
        "noise": lambda: noise,
    }
    return maps[kind]()[None]


KINDS = ("constant", "dead", "of period 3", "diagonal", "stripes of 2", "enlarged", "noise")
RULES: dict[str, Callable[[int], nn.Module]] = {
    "APS": lambda stride: lps.MaxNorm(stride),
    "LPD": lambda stride: lps.LearnedPhase(3, 3, stride),
}


def down_and_up(rule: str, stride: int) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    down = lps.Downsample(RULES[rule](stride), stride=stride).eval()
    up = lps.Upsample(lps.LowPass(3, 3, gain=stride**2), stride)

    def network(x: Tensor) -> Tensor:
        with torch.inference_mode():
            y, selection = down(x)
            return up(y.relu() - 0.5 * y.roll(1, -1), selection)

    return network


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_down_and_up_moves_with_every_shift(kind: str, rule: str, stride: int) -> None:
    network = down_and_up(rule, stride)
    x = pattern(kind, (12, 6), stride)
    u = network(x)
    for shift in product(range(12), range(6)):
        assert torch.equal(network(lps.circular_shift(x, shift)), lps.circular_shift(u, shift)), shift


def test_the_first_of_the_tied_phases_would_not_do() -> None:
    """The negative control: one phase of a map of period 3 cannot be filled exactly."""
    x = pattern("of period 3", (12, 6), 2)
    layer = lps.Downsample(lps.MaxNorm()).eval()

    def first(x: Tensor) -> Tensor:
        y, selection = layer(x)
        return lps.Upsample()(y, lps.Selection(selection.scores, nn.functional.one_hot(selection.phase, 4).float()))

    shifts = list(product(range(6), range(6)))
    assert not all(torch.equal(first(lps.circular_shift(x, s)), lps.circular_shift(first(x), s)) for s in shifts)


@settings(max_examples=30, deadline=None)
@given(
    space=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    values=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_fingerprints_are_equal_exactly_where_the_map_looks_the_same(
    space: list[int], values: int, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values, (1, 2, *space), generator=generator).to(dtype)
    seen = fingerprints(x)[0]
    positions = list(product(*(range(size) for size in space)))
    for p in positions:
        looks_alike = torch.equal(lps.circular_shift(x, [-i for i in p]), x)
        assert (seen[p] == seen[positions[0]]).item() == looks_alike
    shift = [int(torch.randint(0, size, (), generator=generator)) for size in space]
    moved = fingerprints(lps.circular_shift(x, shift))
    assert torch.equal(moved, seen.roll(shift, tuple(range(len(space))))[None])


def test_minus_zero_is_zero() -> None:
    x = torch.randn(1, 2, 4, 4).relu()
    assert torch.equal(fingerprints(torch.where(x == 0, -0.0, x)), fingerprints(x))


@pytest.mark.parametrize("size", [None, 2, 3, 5])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_gradient_of_putting_back_is_its_transpose(size: int | None) -> None:
    y = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([[0.5, 0.5, 0, 0], [0, 1.0, 0, 0]], dtype=torch.float64)
    lag = torch.zeros(2, 4, 2, dtype=torch.int64)
    lag[0, 1] = torch.tensor([1, -2])
    blur = None if size is None else lps.LowPass(3, size, gain=4).double()
    kernel = None if blur is None else blur.kernel[:1]
    assert torch.autograd.gradcheck(lambda y: put_back(y, z, lag, kernel, (2, 2)), (y,))
    torch.library.opcheck(put_back, (y, z, lag, kernel, (2, 2)))
    if blur is not None:
        torch.testing.assert_close(put_back(y, z, lag, kernel, (2, 2)), blur(put_back(y, z, lag, None, (2, 2))))


def test_a_map_that_is_not_finite_is_an_error() -> None:
    x = torch.randn(2, 3, 4, 4)
    x[1, 0, 0, 0] = torch.nan
    for select in (lps.MaxNorm(), lps.LearnedPhase(3, 3)):
        with pytest.raises(ValueError, match=r"NaN among the scores .* \(2, 3, 4, 4\)"):
            lps.Downsample(select).eval()(x)


def test_scores_that_tie_by_rounding_leave_one_phase() -> None:
    """All logits equal, contents different: the choice follows the content."""
    select = lps.LearnedPhase(2, 4).eval()
    nn.init.constant_(cast(Tensor, select.conv1.bias), -100.0)
    x = torch.randn(2, 2, 12, 18, generator=torch.Generator().manual_seed(0))
    selection = select(x)
    assert (selection.scores == selection.scores[:, :1]).all()
    assert selection.z.sort(1).values.tolist() == [[0, 0, 0, 1]] * 2
