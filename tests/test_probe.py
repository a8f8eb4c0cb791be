"""Which convolution algorithms are exact is found by trying them."""

import pytest
import torch
from torch import Tensor, nn

import lps
from lps.probe import BACKENDS, probe


def network() -> lps.ResNet:
    torch.manual_seed(0)
    sampling = lps.Sampling(lambda channels: lps.LearnedPhase(channels, 4))
    return lps.ResNet(18, classes=3, stem="cifar", width=8, sampling=sampling)


class Tiled(nn.Module):
    """Treats the first row apart while oneDNN is on, as an algorithm that works on tiles might."""

    def __init__(self, also_without: bool) -> None:
        super().__init__()
        self.network, self.also_without = network(), also_without

    def forward(self, x: Tensor) -> Tensor:
        if torch.backends.mkldnn.enabled or self.also_without:
            x = x.clone()
            x[:, :, 0] *= 1 + 1e-3
        return self.network(x)


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_first_backend_will_do_where_it_is_exact() -> None:
    found = probe(network(), images())
    assert found.backend is BACKENDS["cpu"][0] and len(found.tried) == 1
    with found.backend.flags():
        assert lps.verify(network(), images(), shifts=16).exact


def test_the_next_is_tried_where_it_is_not() -> None:
    found = probe(Tiled(also_without=False), images())
    assert [report.exact for _, report in found.tried] == [False, True]
    assert found.backend is BACKENDS["cpu"][1]
    assert "oneDNN: not exact" in str(found) and str(found).endswith("CPU: exact with PyTorch's own")
    assert torch.backends.mkldnn.enabled, "the flags are as they were"


def test_it_is_said_where_there_is_none() -> None:
    found = probe(Tiled(also_without=True), images())
    assert found.backend is None and str(found).endswith("CPU: no exact convolutions")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ValueError, match="backends are known for cpu and cuda, the model is on meta"):
        probe(network().to("meta"), images())
