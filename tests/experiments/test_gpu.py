"""What the settings of ``engine`` do on a GPU: as accurate as without them, and exact in evaluation all the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lps.experiments.run import DataCache, perform, plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
SMALL = {
    "data.train": "2000",
    "data.test": "500",
    "train.epochs": "12",
    "train.tau_every": "0.5",
    "evaluate.exhaustive": "1",
}
SETTINGS = {
    "plain": {},
    "bf16-mixed": {"train.precision": "bf16-mixed"},
    "channels_last": {"engine.channels_last": "true"},
    "fused": {"engine.fused": "true"},
    "tf32": {"engine.tf32": "true"},
    "compile": {"engine.compile": "true"},
}


def record_of(results: Path, row: str, changes: dict[str, str]) -> dict[str, Any]:
    (run,) = plan([row], "smoke", [0], changes, results, DataCache(None))
    perform(run, DataCache(None))
    found: dict[str, Any] = json.loads(run.record.read_text())
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return record_of(tmp_path_factory.mktemp("plain"), "table1/lps-tri-3", SMALL)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_rounding_only(name: str, plain: dict[str, Any], tmp_path: Path) -> None:
    record = plain if name == "plain" else record_of(tmp_path, "table1/lps-tri-3", SMALL | SETTINGS[name])
    metrics = record["metrics"]
    consistency = [metrics[key] for key in ("c_cons", "c_cons_original", "c_cons_all")]
    assert [count["agree"] for count in consistency] == [count["total"] for count in consistency]
    assert record["determinism"]["convolutions"] != "default"
    # four standard deviations of the difference of two counts of 500 images, and far above one in ten
    assert metrics["acc"]["value"] > 25
    assert metrics["acc"]["value"] == pytest.approx(plain["metrics"]["acc"]["value"], abs=12.6)


@pytest.mark.parametrize("row", ["table2/aps-rect-2", "table5/lps-adapt-3"])
def test_photographs_and_masks_are_exact(row: str, tmp_path: Path) -> None:
    record = record_of(tmp_path, row, {})
    count = record["metrics"]["mascc" if row.startswith("table5") else "c_cons"]
    assert count["agree"] == count["total"]
    assert record["determinism"]["convolutions"] != "default"
