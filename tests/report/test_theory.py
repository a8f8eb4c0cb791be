"""The checks in the theory's notebooks hold, their broken variants fail, and a broken library makes them fail."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lps.notebooks.cells import compiled
from lps.paths import NOTEBOOKS, ROOT
from lps.polyphase import merge, polyphase
from lps.report import ledger as claims
from lps.report import theory
from lps.report.theory import Check, check
from lps.selection import Selection
from lps.shifts import DTYPES

QUICK: dict[str, Any] = {"strides": [2], "dims": [2], "draws": 4}
SHIFTS = 6 * 4
LABELS = list(theory.STATEMENTS)


@pytest.mark.parametrize("label", LABELS)
def test_statement_holds_and_every_broken_variant_fails(label: str) -> None:
    found = check(label, draws=4)
    assert found.holds, found
    assert found.broken and all(count[False] for count in found.broken.values()), found


@pytest.mark.parametrize("label", LABELS)
def test_the_stride_is_a_parameter(label: str) -> None:
    found = check(label, strides=[5], dims=[1], draws=8)
    assert found.holds, found
    assert "stride 5 in 1 dimensions" in found.scope


@pytest.mark.parametrize("label", LABELS)
def test_every_shift_is_tried(label: str) -> None:
    found = check(label, **QUICK)
    assert (found.tried.total() + found.ties.total()) % SHIFTS == 0
    assert found.tried["random"] >= QUICK["draws"] * SHIFTS * len(DTYPES)


def test_ties_of_claim_4_are_counted_apart() -> None:
    found = check("claim-4", **QUICK)
    assert "constant" not in found.tried
    assert found.ties.total() and not found.ties[False]


def test_same_seed_same_counts() -> None:
    assert check("claim-1", **QUICK) == check("claim-1", **QUICK)


def test_a_parameter_that_a_notebook_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="notebook claim1 has no parameter 'stride'; known: strides, dims"):
        check("claim-1", stride=3)


def test_nothing_beyond_torch_is_needed() -> None:
    script = (
        "import sys\nfor name in ('numpy', 'matplotlib', 'pandas', 'IPython', 'ipykernel', 'papermill', 'nbformat'):\n"
        "    sys.modules[name] = None\nfrom lps.report.theory import STATEMENTS, check\n"
        "print([check(label, strides=[2], dims=[1]).holds for label in STATEMENTS])"
    )
    command = [sys.executable, "-W", "ignore", "-O", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"{[True] * len(LABELS)}\n"


# What a reader sees -----------------------------------------------------------------------------------------


def cells(name: str) -> list[dict[str, Any]]:
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    return [cell | {"tags": cell["metadata"].get("tags", [])} for cell in notebook["cells"]]


@pytest.mark.parametrize("name", theory.STATEMENTS.values())
def test_the_check_stands_in_the_notebook(name: str) -> None:
    checks = [cell for cell in cells(name) if "check" in cell["tags"]]
    assert all(cell["tags"] == ["check"] and len(cell["source"]) <= 34 for cell in checks)  # unfolded, a screenful
    source = "".join("".join(cell["source"]) for cell in checks)
    assert "assert" in source and "# Eq" in source and "lps.report" not in source


@pytest.mark.parametrize("stride", [2, 3])
def test_lps_in_sixty_lines_is_equal_to_the_library(stride: int) -> None:
    folded = {"hide-input", "exercise"}
    shown = [c for c in cells("sixty-lines") if c["cell_type"] == "code" and folded.isdisjoint(c["tags"])]
    parameters, *steps = ["".join(cell["source"]) for cell in shown]
    plain = [step for step in steps if "import lps" not in step]
    lines = [line for step in plain for line in step.splitlines() if line.strip()]
    assert len(plain) == len(steps) - 1 and 40 <= len(lines) <= 60 and "lps" not in "".join(plain)
    names: dict[str, Any] = {}
    for source in (parameters, f"s = {stride}", *steps):
        exec(compiled(source, "sixty-lines.ipynb"), names)


# The test of the test: a library that is wrong in one place -----------------------------------------------


def column_major(x: Tensor, stride: int = 2) -> Tensor:
    return polyphase(x.transpose(-1, -2), stride).transpose(-1, -2)


def first_phase(scores: Tensor, x: Tensor, stride: int, origin: object = None) -> Selection:
    phase = torch.zeros(len(scores), dtype=torch.int64)
    return Selection(scores, torch.nn.functional.one_hot(phase, scores.shape[1]).double(), phase)


def place_at_zero(y: Tensor, z: Tensor, stride: int = 2) -> Tensor:
    components = torch.zeros(len(y), z.shape[1], *y.shape[1:], dtype=y.dtype)
    components[:, 0] = y
    return merge(components, stride)


def keep_next(x: Tensor, phase: Tensor, stride: int = 2) -> Tensor:
    components = polyphase(x, stride)
    return components[torch.arange(len(x)), (phase + 1) % components.shape[1]]


def pad_with_zeros(x: Tensor, before: int, after: int, padding: str) -> Tensor:
    return torch.nn.functional.pad(x, (before, after) * (x.dim() - 2))


@pytest.mark.parametrize(
    ("label", "name", "replacement", "line"),
    [
        pytest.param("lemma-1", "lps.polyphase", column_major, "# Eq. (8)", id="phases numbered by columns"),
        pytest.param("claim-1", "lps.selection.choose", first_phase, "# Eq. (15)", id="always the first phase"),
        pytest.param(
            "claim-1", "lps.exact.fused.keep", keep_next, "# Eq. (7)", id="another phase than the selected one"
        ),
        pytest.param("claim-2", "lps.selection.choose", first_phase, "# Eq. (19)", id="APS takes the first phase"),
        pytest.param("claim-3", "lps.selection.pad", pad_with_zeros, "# Eq. (23)", id="logits with zero padding"),
        pytest.param("claim-4", "lps.exact.ties.place", place_at_zero, "# Eq. (24)", id="features put back to phase 0"),
    ],
)
def test_sabotaged_library_is_noticed(
    monkeypatch: pytest.MonkeyPatch, label: str, name: str, replacement: Callable[..., Any], line: str
) -> None:
    assert check(label, **QUICK).holds
    monkeypatch.setattr(name, replacement)
    found = check(label, **QUICK)
    assert not found.holds
    assert line in found.failure and "(last tried: stride 2, torch.float64 maps (" in found.failure


def test_a_failed_check_is_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "check", lambda label: Check("a scope", "assert False  # Eq. (8)"))
    assert {(entry.verdict, entry.evidence) for entry in claims.theorem_entries()} == {
        ("fails", "assert False  # Eq. (8)")
    }


def test_check_without_a_failing_broken_variant_does_not_hold() -> None:
    good, tried = Counter({True: 10}), Counter(random=10)
    bad = Counter({True: 7, False: 3})
    assert Check("", "", tried, {"broken": bad}).holds
    assert not Check("", "", tried, {"broken": good}).holds
    assert not Check("", "", tried, {"broken": bad, "another": good}).holds
    assert not Check("", "", tried, {}).holds
    assert not Check("", "", Counter(), {"broken": bad}).holds
    assert not Check("", "assert x", tried, {"broken": bad}).holds
