"""The survey of families: its own test tells exact networks from others, and its record is kept, resumed and shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps.paths import SHIPPED
from lps.report import conversion
from lps.studies import families


class Raised(nn.Module):
    """A map of half the size and back; the phase that is kept is fixed."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = F.avg_pool2d(x, 2)
        return half, F.interpolate(half, scale_factor=2.0)


IMAGES = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
LAYERS = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)


@pytest.mark.parametrize("network", [nn.Sequential(*LAYERS), Raised()])
def test_the_test_finds_what_does_not_follow_shifts(network: nn.Module) -> None:
    assert not families.follows_shifts(network.eval(), IMAGES)
    assert families.follows_shifts(lps.convert(network, "aps", example=IMAGES).eval(), IMAGES)


def test_maps_may_be_of_any_size() -> None:
    enlarged = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2))
    assert families.follows_shifts(enlarged, IMAGES) and families.follows_shifts(nn.Identity(), IMAGES)
    assert not families.follows_shifts(nn.Sequential(nn.Identity(), nn.ZeroPad2d((0, 0, 1, -1))), IMAGES)


ROWS: dict[str, dict[str, Any]] = {
    "torchvision:resnet18": {"outcome": "exact", "head": "keep", "original_exact": False},
    "torchvision:vgg11": {"outcome": "exact", "head": "pool", "original_exact": False},
    "torchvision:vit_b_16": {"outcome": "refused", "layer": "a", "reason": "it has 16 tokens of its own"},
    "torchvision:swin_t": {"outcome": "refused", "layer": "b", "reason": "it has 7 tokens of its own"},
    "timm:resnet18": {"outcome": "not tried", "reason": "ValueError: one"},
}


def test_a_killed_survey_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tried = tmp_path / "families.json", list[list[str]]()

    def some(names: list[str]) -> Any:
        tried.append(names)
        for name in names:
            if name == stop:
                raise KeyboardInterrupt
            yield name, ROWS[name]

    monkeypatch.setattr(families, "FAMILIES", {"a": [*ROWS]})
    monkeypatch.setattr(families, "_tried", some)
    stop = "torchvision:vit_b_16"
    with pytest.raises(KeyboardInterrupt):
        families.record_families(path)
    stop = ""
    families.record_families(path)
    families.record_families(path)
    last = ["timm:resnet18"]
    assert tried == [[*ROWS], [*ROWS][2:], last]
    record = json.loads(path.read_text())
    assert {name: {**row, "commit": 0, "made": 0} for name, row in ROWS.items()} == {
        name: {**row, "commit": 0, "made": 0} for name, row in record["rows"].items()
    }
    monkeypatch.setattr("lps.experiments.records.code_version", lambda _: {**record["code"], "commit": "another"})
    families.record_families(path)
    assert tried[-1] == [name for name in ROWS if ROWS[name]["outcome"] != "exact"]


def test_a_row_is_tried_in_a_process_of_its_own() -> None:
    pytest.importorskip("torchvision")
    found = dict(families._tried(["torchvision:squeezenet1_1", "torchvision:none"]))
    row = found["torchvision:squeezenet1_1"]
    assert row["outcome"] == "exact" and row["choices"] == row["strides"] == 4 and not row["original_exact"]
    assert found["torchvision:none"]["outcome"] == "not tried" and "none" in found["torchvision:none"]["reason"]


def test_the_page_counts_by_kind_and_cause() -> None:
    shown = {line[0]: line[1:] for line in conversion.families(ROWS).rows}
    assert shown[families.TITLES["torchvision"]] == ["2 of 22", "2, 1 with a pooled head", "2", "0"]
    assert shown[families.TITLES["timm"]] == ["0 of 191", "0", "0", "0"]
    assert [line[:2] for line in conversion.refused(ROWS).rows] == [["it has 16 tokens of its own", "2"]]


def timed(network: str, factor: float, threads: int = 1, date: str = "2026-01-01") -> Any:
    quartiles = {"q1": factor - 0.1, "median": factor, "q3": factor + 0.1}
    return {
        "group": f"converted-{network}",
        "date": date,
        "config": {"device": "cpu", "network": network},
        "determinism": {"threads": threads},
        "cases": {case: {"cpu_ratio": quartiles, "ratio": quartiles} for case in conversion.COLUMNS},
    }


def test_the_page_shows_what_conversion_costs_beside_the_targets() -> None:
    records = [timed("a", 1.2), timed("a", 9.0, date="2025-01-01"), timed("b", 1.4), timed("b", 3.0, threads=2)]
    found = conversion.costs(records)
    assert {threads: [*networks] for threads, networks in found.items()} == {1: ["a", "b"], 2: ["b"]}
    *_, middle, target = conversion.cost_table(found[1], 1).rows
    assert middle == ["median", *["1.30"] * 6] and target == ["target", "1.3", "", "1.5", "2.0", "", "2.5"]
    assert conversion.misses(found[1]) == "All medians are within their targets."
    assert "APS before convolutions, 3.00 in the median, not 1.3 (most: `b`, 3.00)" in conversion.misses(found[2])
    words = "1.3 (1.2 to 1.4) times the original's with LPS and Tri-3, 1.3 (1.2 to 1.4) with APS and no filter"
    assert conversion.price(records, "before") == f"{words}, medians of 2 networks"
    assert "not been measured" in conversion.price([], "before") and conversion.costs([]) == {}


def test_the_shipped_survey_holds() -> None:
    """What was tried is exact, or refused for a reason."""
    path = SHIPPED / "convert" / "families.json"
    if not path.exists():
        pytest.skip("no survey is shipped")
    rows = json.loads(path.read_text())["rows"]
    every = {name for names in families.FAMILIES.values() for name in names}
    assert rows.keys() <= every
    assert {row["outcome"] for row in rows.values()} <= {"exact", "refused", "not tried"}


def test_the_shipped_borders_hold() -> None:
    borders = json.loads((SHIPPED / "convert" / "borders.json").read_text())["rows"]
    assert borders["converted, circular padding"]["circular shift"] == 0.0
