"""Labels under shifts and margins of choices, on networks whose answers are known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lps
from lps.metrics import Count
from lps.studies.trained import measures

measure = SimpleNamespace(**measures("evidence"))
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_labels_kept_count_each_size_and_direction() -> None:
    """A predictor that reads the first pixel of columns of period 4 keeps its label at multiples of 4 alone."""
    columns = (torch.arange(16) % 4).expand(5, 1, 16, 16)
    kept = measure.labels_kept(lambda x: x[:, 0, 0, 0], columns.split(2))
    period = [Count(5 if size % 4 == 0 else 0, 5) for size in range(9)]
    assert kept == {"diagonal": period, "columns": period, "rows": [Count(5, 5)] * 9}


@pytest.mark.parametrize(
    ("select", "blur"),
    [(lps.MaxNorm(), ()), (lps.LearnedPhase(3, 4), ()), (lps.LearnedPhase(3, 4), (lps.LowPass(3, 3),))],
)
def test_exact_choices_never_turn_and_plain_ones_miss_by_rounding(select: Any, blur: Any) -> None:
    with torch.no_grad():
        found = measure.margin(select.eval(), IMAGES, *blur)
    assert not found.turned_exact.any() and not select.training
    assert 0 < found.rounding.max() < 1e-5 and found.moved.max() < 1e-5
    assert (found.lead > 0).all()


def test_a_near_tie_is_within_rounding_and_a_clear_choice_is_not() -> None:
    tie = torch.ones(1, 1, 32, 32) * 0.1
    clear = tie.clone()
    clear[..., ::2, ::2] = 1
    found = measure.margin(lps.MaxNorm().eval(), torch.cat([tie, clear]))
    assert found.within.tolist() == [True, False]
    assert found.lead[0] == 0 and float(found.lead[1]) == pytest.approx(0.9)


def test_a_histogram_loses_nothing() -> None:
    values = torch.tensor([0.0, 1e-15, 1e-8, 0.5, 100.0], dtype=torch.float64)
    counts = measure.histogram(values)
    assert sum(counts) == 5 and counts[0] == 2 and counts[-1] == 1 and len(counts) == measure.BINS


@pytest.mark.parametrize("antialias", [None, lambda channels: lps.LowPass(channels, 3)])
def test_margins_are_those_of_every_layer_that_selects(antialias: Any) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(lambda channels: lps.LearnedPhase(channels, 4), antialias)
    network = lps.ResNet(18, classes=10, stem="cifar", width=8, sampling=sampling).eval()
    found = measure.margins(network, [IMAGES[:4], IMAGES[4:]])
    assert len(found) == 3 and all(len(margin.lead) == 6 for margin in found.values())
    record = measure.study_margins(network, SimpleNamespace(images=IMAGES), torch.device("cpu"))
    assert record["metrics"]["turned_exact, layer 3"] == Count(0, 6)
    assert [sum(layer["lead"]) for layer in record["layers"]] == [6, 6, 6]
