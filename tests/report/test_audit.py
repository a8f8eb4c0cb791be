"""The notebook that recomputes the paper's arithmetic finds what does not agree, and sees a wrong digit."""

from typing import Any

import pytest

from lps.notebooks import cells
from lps.report import paper


def audit() -> dict[str, Any]:
    """What the cells of the notebook leave behind."""
    found: dict[str, Any] = {}
    cells.run("audit", cells.read("audit"), found)
    return found


def test_it_recomputes_and_finds_what_does_not_agree() -> None:
    found = audit()
    lines = [line for part in ("counts", "times", "sentences", "orderings") for line in found[part]]
    verdicts = {statement: verdict for _, statement, _, _, verdict, _ in lines}
    assert verdicts["LPD increases the time over LPF by"] == "holds"
    assert verdicts["LPD, Adapt-3: relative over default"] == "fails"  # 5.245 % is printed as 5.24 %
    assert verdicts["How many classes the counted networks have"] == "remark"  # the paper states none
    assert sum(where == "Sec. 5.1, ImageNet results" for where, *_ in lines) == 1
    assert len(found["orderings"]) == len(paper.listed("orderings"))


def test_it_sees_a_wrong_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "paper_number", lambda name: 14.98)
    assert [verdict for *_, verdict, _ in audit()["times"]] == ["fails", "fails", "not checkable"]
