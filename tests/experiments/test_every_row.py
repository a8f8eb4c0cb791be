"""Every row of every table, from pixels to its record, ``smoke`` in size: real pixels where LPS_DATA holds them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lps.experiments.rows import ROWS, Row
from lps.experiments.run import DataCache, perform, plan

ROOT = Path(os.environ.get("LPS_DATA") or "nowhere")
pytestmark = pytest.mark.slow

FEW = {"data.train": "12", "data.test": "4", "train.batch_size": "6"}
CIFAR = FEW | {"data.name": "cifar10", "evaluate.exhaustive": "0"}
IMAGENET = FEW | {"data.name": "imagenet", "data.folder": "imagenet"}
CAMVID = FEW | {"data.name": "voc", "data.folder": "camvid-voc", "data.base": "80"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, some_cifar10: Path) -> DataCache:
    """All sets below one root; the sample of ImageNet's val is also what is trained on."""
    root = tmp_path_factory.mktemp("data")
    (root / "cifar10").symlink_to(some_cifar10)
    (root / "camvid-voc").symlink_to(ROOT / "camvid-voc")
    (root / "imagenet").mkdir()
    for part in ("train", "val"):
        (root / "imagenet" / part).symlink_to(ROOT / "imagenet-sample" / "val")
    return DataCache(root)


def where(row: Row) -> tuple[str, dict[str, str]]:
    """The folder in LPS_DATA that a row needs, and the settings that read it."""
    if row.table in ("table2", "table3"):
        return "imagenet-sample", IMAGENET
    if row.table in ("table5", "table6"):
        return "camvid-voc", CAMVID
    return "cifar10", CIFAR


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_runs(row: Row, data: DataCache, tmp_path: Path) -> None:
    folder, real = where(row)
    changes = real if (ROOT / folder).is_dir() else FEW
    (run,) = plan([row.name], "smoke", [0], changes, tmp_path, data)
    assert perform(run, data)
    record: dict[str, Any] = json.loads(run.record.read_text())
    assert ("drawn" in record["data"]["source"]) == (changes is FEW)
    assert (record["data"]["train"], record["data"]["test"]) == (12, 4)
    metrics, circular = record["metrics"], run.experiment.model.padding == "circular"
    if circular and row.table == "table5" and row.labels[0] == "LPS":
        for name in ("mascc", "mascc_original"):
            assert metrics[name]["agree"] == metrics[name]["total"]
    elif circular and row.table != "table5" and row.method in ("aps", "lps"):
        assert metrics["c_cons"]["agree"] == metrics["c_cons"]["total"]
