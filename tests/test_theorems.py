"""Lemma 1 and Claims 1 to 4 as properties of the layers, for drawn strides, sizes, dtypes and shifts."""

from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lps import Downsample, LearnedPhase, LowPass, MaxNorm, Upsample, merge, polyphase
from lps.polyphase import offsets
from lps.selection import Selection

properties = settings(max_examples=25, deadline=None, derandomize=True, database=None)

FULL = [torch.float64, torch.float32]
HALF = [torch.float16, torch.bfloat16]


class Case(NamedTuple):
    """Two maps ``(2, 2, *space)`` and a shift along each axis."""

    x: Tensor
    shift: tuple[int, ...]
    stride: int

    @property
    def dims(self) -> int:
        return len(self.shift)

    def advance(self, x: Tensor) -> Tensor:
        """The paper's shift, ``x[n + d]``."""
        return x.roll([-d for d in self.shift], tuple(range(2, 2 + self.dims)))

    def permuted(self, phase: Tensor) -> Tensor:
        """``(k - d) mod s`` along each axis, for phases ``(N,)``."""
        number = offsets(self.stride, self.dims)
        return torch.tensor(
            [
                number.index(tuple((k - d) % self.stride for k, d in zip(number[p], self.shift, strict=True)))
                for p in phase.tolist()
            ]
        )


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (*FULL, *HALF), max_dims: int = 2) -> Case:
    dims = draw(st.integers(1, max_dims))
    stride = draw(st.integers(2, 3))
    space = [stride * draw(st.integers(1, 3)) for _ in range(dims)]
    shift = tuple(draw(st.integers(0, n - 1)) for n in space)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(2, 2, *space, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.round()
    return Case((x * draw(st.sampled_from([1.0, 1e-3, 1e3]))).to(draw(st.sampled_from(dtypes))), shift, stride)


def rule(case: Case, name: str) -> nn.Module:
    if name == "APS":
        return MaxNorm(case.stride).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.stride)
        layer = LearnedPhase(2, 3, case.stride, dims=case.dims)
    return layer.to(torch.promote_types(case.x.dtype, torch.float32)).eval().requires_grad_(False)


def phase_of(selection: Selection) -> Tensor:
    assert selection.phase is not None
    return selection.phase


def rounding_decides(case: Case, selection: Selection) -> bool:
    """Ties are told apart by content; but in float64 a convolution on a CPU rounds by position, and may break them."""
    return case.x.dtype == torch.float64 and not no_tie(selection)


def no_tie(selection: Selection) -> bool:
    """Whether the best score of every map leads by more than rounding."""
    best = selection.scores.double().topk(2, 1).values
    return bool((best[:, 0] - best[:, 1] > 1e-5 * selection.scores.abs().amax(1)).all())


@properties
@given(cases(max_dims=3))
def test_lemma_1_a_shift_permutes_the_components(case: Case) -> None:
    moved, original = polyphase(case.advance(case.x), case.stride), case.x
    for k, offset in enumerate(offsets(case.stride, case.dims)):
        pairs = [divmod(o + d, case.stride) for o, d in zip(offset, case.shift, strict=True)]
        cut: tuple[Any, ...] = (..., *(slice(r, None, case.stride) for _, r in pairs))
        expected = original[cut].roll([-q for q, _ in pairs], tuple(range(2, 2 + case.dims)))
        assert torch.equal(moved[:, k], expected)


@properties
@given(cases(max_dims=3))
def test_components_put_together_are_the_map(case: Case) -> None:
    assert torch.equal(merge(polyphase(case.x, case.stride), case.stride), case.x)


@pytest.mark.parametrize("name", ["APS", "LPD"])
@properties
@given(case=cases(max_dims=3))
def test_claim_1_downsampling_is_equivariant(name: str, case: Case) -> None:
    layer = Downsample(rule(case, name), stride=case.stride)
    (y, selection), (moved, moved_selection) = layer(case.x), layer(case.advance(case.x))
    assume(not rounding_decides(case, selection))
    pi = case.permuted(torch.arange(selection.z.shape[1]))
    assert torch.equal(moved_selection.z[:, pi], selection.z)
    axes = tuple(range(1, 1 + case.dims))
    rounded = list(product(*({d // case.stride, -(-d // case.stride)} for d in case.shift)))
    for one, other, z in zip(y, moved, selection.z, strict=True):
        # tied components are copies of each other, moved by more than a rounded shift
        assert z.max() < 1 or any(torch.equal(other, one.roll([-q for q in shift], axes)) for shift in rounded)


@properties
@given(cases(max_dims=3))
def test_claim_2_lpd_with_the_norm_selects_as_aps(case: Case) -> None:
    selection = rule(case, "APS")(case.x)
    assume(no_tie(selection))
    norms = [component.double().flatten(1).norm(dim=1) for component in polyphase(case.x, case.stride).unbind(1)]
    probabilities = torch.stack(norms, 1).log_softmax(1)
    assert torch.equal(probabilities.argmax(1), phase_of(selection))


@properties
@given(cases(max_dims=3))
def test_claim_3_probabilities_move_with_the_components(case: Case) -> None:
    layer = rule(case, "LPD")
    p, moved = (layer(x).scores.double().softmax(1) for x in (case.x, case.advance(case.x)))
    pi = case.permuted(torch.arange(p.shape[1]))
    tolerance = 1e-12 if case.x.dtype == torch.float64 else 1e-5
    assert (moved[:, pi] - p).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["APS", "LPD"])
@properties
@given(case=cases(max_dims=3))
def test_claim_4_down_and_up_is_equivariant(name: str, case: Case) -> None:
    down, up = Downsample(rule(case, name), stride=case.stride), Upsample(stride=case.stride)
    y, selection = down(case.x)
    assume(not rounding_decides(case, selection))
    assert torch.equal(up(*down(case.advance(case.x))), case.advance(up(y, selection)))


@properties
@given(cases(dtypes=(torch.float64,), max_dims=3))
def test_claim_4_survives_a_filter_after_it(case: Case) -> None:
    down = Downsample(rule(case, "LPD"), stride=case.stride)
    up = Upsample(LowPass(2, 3, gain=case.stride**case.dims, dims=case.dims), case.stride)
    y, selection = down(case.x)
    assume(not rounding_decides(case, selection))
    u, moved = up(y, selection), up(*down(case.advance(case.x)))
    assert (moved - case.advance(u)).abs().max() <= 1e-12 * case.x.abs().max()
