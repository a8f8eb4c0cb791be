"""The real CIFAR-10 images, where LPS_DATA holds them."""

import os
from pathlib import Path
from typing import Literal

import pytest
import torch

import lps
from lps.data import ImageSet, load
from lps.experiments.model import fresh
from lps.experiments.profiles import load_profile
from lps.experiments.records import read_record, read_records
from lps.experiments.rows import matching
from lps.paths import SHIPPED

ROOT = os.environ.get("LPS_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT or not (Path(ROOT) / "cifar10").is_dir(), reason="LPS_DATA holds no folder cifar10"),
]


@pytest.fixture(scope="module")
def images(some_cifar10: Path) -> ImageSet:
    return load("cifar10", None, None, 0, some_cifar10.parent)


@pytest.mark.exhaustive
def test_all_images_are_there_and_those_of_the_shipped_records() -> None:
    images = load("cifar10", None, None, 0)
    assert images.train.images.shape == (50_000, 3, 32, 32) and images.test.images.shape == (10_000, 3, 32, 32)
    assert images.train.labels.bincount().tolist() == [5000] * 10
    assert images.test.labels.bincount().tolist() == [1000] * 10
    known = {images.name: images.fingerprint()}
    known[f"{images.name}-parity"] = images.at_random_parity().fingerprint()
    for record in read_records(SHIPPED):
        if "folder" in (data := record["data"])["source"]:
            assert data["fingerprint"] == known[data["name"]], record["id"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("select", [lambda c: lps.MaxNorm(), lambda c: lps.LearnedPhase(c, 4)], ids=["APS", "LPD"])
def test_logits_of_real_images_are_equal_under_shifts(images: ImageSet, select: type, precision: str) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(select, lambda channels: lps.LowPass(channels, 3))
    network = lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling).eval()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    some = images.test.images[:: 10 if precision == "float32" else 40]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        every = precision == "float32" and "LPS_EXHAUSTIVE" in os.environ  # a CPU is slow at bfloat16
        shifts: Literal["all"] | int = "all" if every else 256
        report = lps.verify(network.to(dtype), some.to(dtype) / 255, shifts=shifts, batch_size=256)
    assert (report.images, report.shifts) == (len(some), 1024 if shifts == "all" else shifts)
    assert report.dtype == ("float32" if precision == "float32" else "bfloat16")
    assert report.exact, report


SELECTING = sorted(
    path for path in SHIPPED.glob("table1/*/reduced-seed0-*.pt") if path.parent.name.startswith(("aps", "lps"))
)


@pytest.mark.parametrize("weights", SELECTING, ids=lambda path: path.parent.name)
def test_shipped_weights_are_exact_in_half_precision(weights: Path, images: ImageSet) -> None:
    """Trained on a GPU in float32, rounded to half precision, and still equal under every shift tried on a CPU."""
    record = read_record(weights.with_suffix(".json"))
    experiment = load_profile("reduced").row(matching([record["experiment"]])[0])
    network = fresh(experiment, images, record["seed"]).eval()
    state = torch.load(weights, weights_only=True)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    network.load_state_dict(state)
    normalize, model = network
    assert lps.verify(model, normalize(images.test.images[::10]), shifts=24, batch_size=100).exact


def test_every_selecting_row_has_weights() -> None:
    assert len(SELECTING) == 10
