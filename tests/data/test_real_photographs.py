"""CamVid in the layout of VOC, and a sample of ImageNet's validation photographs, where LPS_DATA holds them."""

import os
from pathlib import Path

import pytest
import torch

from lps.data.photographs import load
from lps.experiments.run import DataCache, measure_again, perform, plan

ROOT = Path(os.environ.get("LPS_DATA") or "nowhere")
pytestmark = pytest.mark.slow


@pytest.mark.skipif(not (ROOT / "camvid-voc").is_dir(), reason="LPS_DATA holds no folder camvid-voc")
def test_camvid_in_the_layout_of_voc() -> None:
    images = load("voc", "camvid-voc", None, None, 0, 96, lambda: ROOT)
    assert (len(images.classes), len(images.train), len(images.test)) == (11, 367, 101)
    masks = torch.cat([masks for _, masks in images.batches(50)])
    assert masks.shape == (101, 96, 96)
    assert set(masks.unique().tolist()) == {*range(11), 255}


@pytest.mark.skipif(not (ROOT / "camvid-voc").is_dir(), reason="LPS_DATA holds no folder camvid-voc")
@pytest.mark.parametrize(("row", "exact"), [("table5/lps-adapt-3", True), ("table5/deeplabv3plus", False)])
def test_segmentation_of_camvid(row: str, exact: bool, tmp_path: Path) -> None:
    changes = {"data.name": "voc", "data.folder": "camvid-voc", "data.train": "40", "data.test": "4", "data.base": "80"}
    (run,) = plan([row], "smoke", [0], changes, tmp_path, DataCache(ROOT))
    perform(run, DataCache(ROOT))
    found = measure_again(run, DataCache(ROOT), {"evaluate.pairs": "2"})["mascc"]
    assert found["total"] == 4 * 2 * 64 * 64
    assert (found["agree"] == found["total"]) == exact


@pytest.mark.skipif(not (ROOT / "imagenet-sample").is_dir(), reason="LPS_DATA holds no folder imagenet-sample")
def test_photographs_of_imagenet(tmp_path: Path) -> None:
    """The sample has no images to train on: with its val as both, every photograph of 1,000 classes can be read."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    for part in ("train", "val"):
        (folder / part).symlink_to(ROOT / "imagenet-sample" / "val")
    images = load("imagenet", "imagenet", None, 200, 0, 256, lambda: tmp_path)
    assert len(images.classes) == len(images.train) == 1000
    assert sum(len(batch) for batch, _ in images.batches(64)) == 200
    mean, deviation = images.statistics()
    assert (mean - torch.tensor([0.485, 0.456, 0.406])).abs().max() < 0.02
    assert (deviation - torch.tensor([0.229, 0.224, 0.225])).abs().max() < 0.06
