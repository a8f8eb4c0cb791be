"""Shifts as the paper writes them, and the maps that every check is tried on."""

import pytest
import torch

from lps import circular_shift, polyphase
from lps.polyphase import offsets
from lps.shifts import DTYPES, T, gap, maps, orbit, pi, shifts, tied


def test_the_shift_is_the_paper_s() -> None:
    x = torch.arange(2 * 3 * 6 * 4).view(2, 3, 6, 4)
    assert torch.equal(T(x, (1, 0))[:, :, 0], x[:, :, 1])
    assert torch.equal(T(x, (2, 3)), circular_shift(x, (-2, -3)))
    assert torch.equal(T(T(x, (1, 3)), (5, 1)), x)


def test_each_map_takes_a_shift_of_its_own() -> None:
    x = torch.randn(3, 2, 6, 4)
    d = torch.tensor([(0, 0), (1, 2), (5, 3)])
    assert torch.equal(T(x, d), torch.cat([T(x[n : n + 1], d[n]) for n in range(3)]))


def test_every_shift_comes_once() -> None:
    x = torch.randn(2, 1, 6, 4)
    every = [tuple(d.tolist()) for d in shifts(x)]
    assert every[0] == (0, 0) and len({*every}) == len(every) == 24
    batch = orbit(x).split(2)
    assert torch.equal(batch[0], x) and len(batch) == 24
    assert all(torch.equal(moved, T(x, d)) for moved, d in zip(batch, shifts(x), strict=True))


@pytest.mark.parametrize(("s", "space"), [(2, (6,)), (3, (6, 3)), (2, (2, 4, 2))])
def test_pi_says_where_a_component_turns_up(s: int, space: tuple[int, ...]) -> None:
    x = torch.arange(torch.Size(space).numel()).view(1, 1, *space)
    for d in shifts(x):
        before, after = (polyphase(maps, s)[0, :, 0].flatten(1).sort(1).values for maps in (x, T(x, d)))
        assert torch.equal(after[pi(d, s)], before)
    assert pi([0] * len(space), s).tolist() == [*range(len(offsets(s, len(space))))]


def test_a_gap_is_a_share_of_the_map_and_nan_is_no_equality() -> None:
    x = torch.tensor([[[2.0, -4.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    y = x.clone()
    y[0, 0, 0], y[2, 0, 0] = 1.0, torch.nan
    assert gap(x, x, x).tolist() == [0, 0, 0]
    assert gap(x, y, x).tolist() == [0.25, 0, torch.inf]


def test_scores_tie_up_to_rounding() -> None:
    scores = torch.tensor([[1.0, 1.0 + 1e-7, 0.0], [1.0, 1.1, 0.0], [0.0, 0.0, 0.0]])
    assert tied(scores, 1e-6).tolist() == [True, False, True]


@pytest.mark.parametrize("s", [2, 3, 5])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maps_are_random_and_awkward_and_finite(s: int, dims: int) -> None:
    found = [*maps([s], [dims], draws=3)]
    assert [x.dtype for _, x, _ in found] == [*DTYPES]
    for stride, x, kinds in found:
        assert stride == s and x.dim() == dims + 2 and len(x) == len(kinds)
        assert all(size % s == 0 for size in x.shape[2:]) and x.isfinite().all()
        by_kind = {kind: x[[k == kind for k in kinds]] for kind in dict.fromkeys(kinds)}
        assert len(by_kind) == 10 and len(by_kind["random"]) == 3
        assert by_kind["impulse"].count_nonzero() == 1
        assert by_kind["constant"].unique().numel() == 1
        assert all(component.unique().numel() == 1 for component in polyphase(by_kind["period of one stride"], s)[0])
        rest = by_kind["components with the same values, reordered"]
        values = polyphase(rest, s)[0].flatten(2).sort(2).values
        assert torch.equal(values, values[:1].expand_as(values))


@pytest.mark.parametrize(("strides", "dims"), [([2, 0], [1]), ([-1], [1]), ([], [1]), ([2], [4])])
def test_maps_that_there_are_not_are_refused_at_once(strides: list[int], dims: list[int]) -> None:
    with pytest.raises(ValueError, match="expected strides from 1 on, and 1, 2 or 3 axes, got"):
        maps(strides, dims)


def test_what_has_nothing_to_shift_is_named() -> None:
    with pytest.raises(ValueError, match=r"maps \(1, 1, 0\) have nothing to shift"):
        shifts(torch.zeros(1, 1, 0))
