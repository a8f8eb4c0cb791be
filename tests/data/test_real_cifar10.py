"""The real CIFAR-10 images, where LPS_DATA holds them."""

import os
from pathlib import Path

import pytest
import torch

import lps
from lps.companion.paths import SHIPPED
from lps.data import ImageSet, load
from lps.experiments.records import read_records

ROOT = os.environ.get("LPS_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT or not (Path(ROOT) / "cifar10").is_dir(), reason="LPS_DATA holds no folder cifar10"),
]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("cifar10", None, None, 0)


def test_all_images_are_there(images: ImageSet) -> None:
    assert images.train.images.shape == (50_000, 3, 32, 32) and images.test.images.shape == (10_000, 3, 32, 32)
    assert images.train.labels.bincount().tolist() == [5000] * 10
    assert images.test.labels.bincount().tolist() == [1000] * 10


def test_they_are_the_images_of_the_shipped_records(images: ImageSet) -> None:
    shipped = {r["data"]["fingerprint"] for r in read_records(SHIPPED) if "folder" in r["data"]["source"]}
    assert shipped == {images.fingerprint()}


@pytest.mark.parametrize("select", [lambda c: lps.MaxNorm(), lambda c: lps.LearnedPhase(c, 4)], ids=["APS", "LPD"])
def test_logits_of_real_images_are_equal_under_every_shift(images: ImageSet, select: type) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(select, lambda channels: lps.LowPass(channels, 3))
    network = lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling).eval()
    with torch.inference_mode():
        for image in images.test.images[::2500].float() / 255:
            shifts = torch.stack([image.roll((i, j), (1, 2)) for i in range(32) for j in range(32)])
            logits = torch.cat([network(part) for part in shifts.split(256)])
            assert torch.equal(logits, logits[:1].expand_as(logits))
