"""Untrained networks under shifts: exact where a theorem says so, different where none does, and counted alike."""

import pytest
import torch
from torch import Tensor

from lps.experiments.rows import matching
from lps.studies import untrained as shifted


@pytest.fixture(scope="module")
def seen() -> shifted.Pictures:
    return shifted.pictures("drawn", 3, 32)


@pytest.mark.parametrize(
    ("names", "classes"), [("baseline lps lps-rect-2", 20), ("aps-adapt-3 lpd-adapt-3 lps-adapt-3", 5)]
)
def test_only_what_is_guaranteed_stays(names: str, classes: int, seen: shifted.Pictures) -> None:
    table = "table2" if classes == 20 else "table5"
    rows = matching([f"{table}/{name}" for name in names.split()])
    networks = shifted.untrained(rows, "smoke", seen.middle, classes)
    for row, network in networks.items():
        circular = shifted.changes(network, seen, "circular", (0, 1, 5))
        exact = row.shown == "LPS"
        assert circular[0] == 0 and (circular[1:] == [0, 0]) == exact, row
        assert shifted.changes(network, seen, "standard", (1,))[0] > 0
    counts = shifted.consistencies(networks, seen, 1)
    for row in rows:
        count = counts.loc[shifted.title(row), "circular"]
        assert count.total == (3 if table == "table2" else 3 * 32 * 32)
        assert row.shown != "LPS" or count.agree == count.total


def test_a_standard_shift_compares_what_both_windows_see() -> None:
    images = torch.rand(2, 3, 64, 64)
    seen = shifted.Pictures(images, 32, "here")

    def same(x: Tensor) -> Tensor:
        return x

    ((first, y),) = shifted.looks(same, seen, "standard", [7])  # type: ignore[arg-type]
    assert torch.equal(first, y) and first.shape[-1] == 25


def test_rows_that_are_one_network_are_shown_once(seen: shifted.Pictures) -> None:
    networks = shifted.untrained(matching(["table3/*"]), "smoke", seen.middle, 4)
    assert list(map(shifted.title, networks)) == [
        "Baseline, ResNet-18",
        "LPF, Tri-3, ResNet-18",
        "LPS, Tri-3, ResNet-18",
        "DDAC, Adapt-3, ResNet-18",
        "LPS, Adapt-3, ResNet-18",
    ]
