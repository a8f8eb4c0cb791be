"""The checks of the theory hold, their broken variants fail, and a broken library makes them fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lps import polyphase as polyphase_module_function
from lps.companion import theory
from lps.companion.theory import Check, Grid, Tally

GRIDS = [Grid(2, (8,)), Grid(2, (4, 6)), Grid(3, (6, 3))]
QUICK: dict[str, Any] = {"grids": [Grid(2, (4, 6))], "dtypes": [torch.float64], "draws": 8}
LABELS = list(theory.STATEMENTS)


@pytest.mark.parametrize("label", LABELS)
def test_statement_holds_and_every_broken_variant_fails(label: str) -> None:
    check = theory.STATEMENTS[label](GRIDS, [torch.float64, torch.float32, torch.bfloat16], draws=8)
    assert check.holds, check
    assert check.failed == 0 < check.tried
    assert check.broken
    assert all(tally.failed for tally in check.broken.values()), check


@pytest.mark.parametrize("label", LABELS)
def test_every_shift_is_tried(label: str) -> None:
    check = theory.STATEMENTS[label](**QUICK)
    assert (check.tried + check.tied.tried) % (4 * 6) == 0


def test_ties_of_claim_4_are_reported_apart() -> None:
    check = theory.claim_4(**QUICK)
    assert check.ties["constant"].failed == 0 < check.ties["constant"].tried
    assert "constant" not in check.cases
    assert check.holds


def test_same_seed_same_counts() -> None:
    assert theory.claim_1(**QUICK) == theory.claim_1(**QUICK)


def test_size_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="7 with stride 2"):
        theory.lemma_1([Grid(2, (7,))])


# The test of the test: a library that is wrong in one place -----------------------------------------------


def column_major(x: Tensor, stride: int = 2) -> Tensor:
    return polyphase_module_function(x.transpose(-1, -2), stride).transpose(-1, -2)


def first_phase(scores: Tensor, x: Tensor, stride: int) -> theory.Selection:
    phase = torch.zeros(len(scores), dtype=torch.int64)
    return theory.Selection(scores, torch.nn.functional.one_hot(phase, scores.shape[1]).double(), phase)


def place_at_zero(y: Tensor, z: Tensor, stride: int = 2) -> Tensor:
    components = torch.zeros(len(y), z.shape[1], *y.shape[1:], dtype=y.dtype)
    components[:, 0] = y
    return theory.merge(components, stride)


def keep_next(x: Tensor, phase: Tensor, stride: int = 2) -> Tensor:
    components = theory.components_by_definition(x, stride)
    return components[torch.arange(len(x)), (phase + 1) % components.shape[1]]


def pad_with_zeros(x: Tensor, before: int, after: int, padding: str) -> Tensor:
    return torch.nn.functional.pad(x, (before, after) * (x.dim() - 2))


@pytest.mark.parametrize(
    ("label", "name", "replacement"),
    [
        pytest.param("lemma-1", "lps.companion.theory.polyphase", column_major, id="phases numbered by columns"),
        pytest.param("claim-1", "lps.selection.choose", first_phase, id="always the first phase"),
        pytest.param("claim-1", "lps.sampling.keep", keep_next, id="another phase than the selected one"),
        pytest.param("claim-2", "lps.selection.choose", first_phase, id="APS takes the first phase"),
        pytest.param("claim-3", "lps.selection.pad", pad_with_zeros, id="logits with zero padding"),
        pytest.param("claim-4", "lps.ties.place", place_at_zero, id="features put back to phase 0"),
    ],
)
def test_sabotaged_library_is_noticed(
    monkeypatch: pytest.MonkeyPatch, label: str, name: str, replacement: Callable[..., Any]
) -> None:
    assert theory.STATEMENTS[label](**QUICK).holds
    monkeypatch.setattr(name, replacement)
    check = theory.STATEMENTS[label](**QUICK)
    assert check.failed > 0, check
    assert not check.holds


def test_check_without_a_failing_broken_variant_does_not_hold() -> None:
    good, bad = Tally(10, 0, 0.0), Tally(10, 3, 0.5)
    assert Check("Claim 0", "", "", {"random": good}, {}, {"broken": bad}).holds
    assert not Check("Claim 0", "", "", {"random": good}, {}, {"broken": good}).holds
    assert not Check("Claim 0", "", "", {}, {}, {"broken": bad}).holds
    assert not Check("Claim 0", "", "", {"random": good + bad}, {}, {"broken": bad}).holds


def test_not_a_number_counts_as_failed() -> None:
    assert Tally.of(torch.tensor([0.0, torch.nan]), 1.0) == Tally(2, 1, torch.inf)
