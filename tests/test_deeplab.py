"""DeepLabV3+: equivariance bit for bit, gradients, bad input."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import lps
from lps.deeplab import DeepLabV3Plus
from lps.resnet import OutputStride, Stem

Shift = tuple[int, int]
SHIFTS: list[Shift] = [(row, column) for row in range(32) for column in range(32)]
SOME_SHIFTS: list[Shift] = [(1, 0), (0, 1), (3, 5), (16, 2), (31, 17)]

SELECT: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "aps": lambda channels: lps.MaxNorm(),
    "lpd": lambda channels: lps.LearnedPhase(channels, max(1, channels // 8)),
}
DOWN: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "tri-3": partial(lps.LowPass, size=3),
    "adapt-3": lps.AdaptiveLowPass,
}
UP: dict[str, Callable[[int], lps.Upsample]] = {
    "none": lambda channels: lps.Upsample(),
    "tri-3": lambda channels: lps.Upsample(lps.LowPass(channels, 3, gain=4)),
    "adapt-3": lambda channels: lps.Upsample(lps.AdaptiveLowPass(channels, groups=1, gain=4)),
}


def network(
    select: str = "lpd",
    antialias: str = "tri-3",
    *,
    lpu: bool = True,
    width: int = 8,
    stem: Stem = "imagenet",
    output_stride: OutputStride = 32,
    **options: Any,
) -> DeepLabV3Plus:
    """A narrow network in evaluation mode."""
    torch.manual_seed(0)
    backbone = lps.ResNet(
        18,
        classes=2,
        width=width,
        stem=stem,
        output_stride=output_stride,
        sampling=lps.Sampling(SELECT[select], DOWN[antialias]),
    )
    upsample = UP[antialias] if lpu else None
    return DeepLabV3Plus(backbone, **{"classes": 5, "channels": 32, "upsample": upsample, **options}).eval()


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def changes(segment: nn.Module, x: Tensor, shifts: list[Shift], together: int = 1) -> float:
    """Largest change of a logit, once shifted back, over circular shifts of an image, ``together`` in a batch."""
    largest = 0.0
    with torch.inference_mode():
        still = segment(x.expand(together, -1, -1, -1))[:1]
        for start in range(0, len(shifts), together):
            batch = shifts[start : start + together]
            found = segment(torch.cat([lps.circular_shift(x, shift) for shift in batch]))
            for logits, (row, column) in zip(found.split(1), batch, strict=True):
                largest = max(largest, (lps.circular_shift(logits, (-row, -column)) - still).abs().max().item())
    return largest


# equivariance


@pytest.mark.parametrize("antialias", ["none", "tri-3"])
def test_lps_moves_with_every_shift_bit_for_bit(antialias: str) -> None:
    assert changes(network("lpd", antialias), image(32, 64), SHIFTS, together=32) == 0


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("antialias", DOWN)
@pytest.mark.parametrize("select", ["aps", "lpd"])
def test_every_row_with_lpu_moves_with_a_shift(select: str, antialias: str, output_stride: OutputStride) -> None:
    segment = network(select, antialias, output_stride=output_stride)
    assert changes(segment, image(64, 128), SOME_SHIFTS) == 0
    assert segment(image(64, 128)).flatten(2).std(2).min() > 0


def test_lpu_behind_the_cifar_stem_moves_with_a_shift() -> None:
    assert changes(network(stem="cifar"), image(24, 32), SOME_SHIFTS) == 0


@pytest.mark.parametrize("select", SELECT)
def test_bilinear_upsampling_does_not_move_with_a_shift(select: str) -> None:
    assert changes(network(select, lpu=False).double(), image(64, 64).double(), [(1, 0)]) > 1e-3


def test_a_zero_padded_third_branch_costs_equivariance_on_maps_wider_than_its_rate() -> None:
    """576 pixels make a map of 18, of which the third branch sees only the centre of its kernel; 640 make 20."""
    for padding, height, exact in (("zeros", 576, True), ("zeros", 640, False), ("circular", 640, True)):
        segment = network(width=4, third_branch_padding=padding)
        largest = changes(segment, image(height, 32), [(1, 0), (37, -50)])
        assert largest == 0 if exact else largest > 1e-3


def test_a_zero_padded_head_does_not_move_with_a_shift() -> None:
    assert changes(network(padding="zeros"), image(64, 64), [(0, 31)]) > 1e-3


@pytest.mark.parametrize("period", [1, 2, 3, 6, 48])
@pytest.mark.parametrize("antialias", DOWN)
def test_periodic_images_move_with_a_shift_though_their_phases_tie(antialias: str, period: int) -> None:
    x = image(period, period).repeat(1, 1, 96 // period, 192 // period)
    assert changes(network("lpd", antialias), x, SOME_SHIFTS) == 0


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (32, 160)])
@pytest.mark.parametrize("antialias", DOWN)
def test_last_maps_of_odd_sizes_move_with_a_shift(antialias: str, size: tuple[int, int]) -> None:
    """Libraries treat what is left over at the end of a map, less than a vector wide, in their own way."""
    assert changes(network("lpd", antialias), image(*size), SOME_SHIFTS) == 0


# shapes, initialisation, training


@pytest.mark.parametrize(
    ("select", "lpu", "stem", "output_stride", "size"),
    [
        ("lpd", True, "imagenet", 32, (64, 96)),
        ("lpd", True, "imagenet", 16, (48, 64)),
        ("lpd", False, "imagenet", 16, (48, 64)),
        ("none", False, "imagenet", 32, (33, 47)),
        ("none", False, "imagenet", 16, (33, 47)),
    ],
)
def test_logits_have_the_size_of_the_image(
    select: str, lpu: bool, stem: Stem, output_stride: OutputStride, size: tuple[int, int]
) -> None:
    segment = network(select, lpu=lpu, stem=stem, output_stride=output_stride)
    deep: list[torch.Size] = []
    segment.aspp.register_forward_hook(lambda module, inputs, output: deep.append(output.shape))
    assert segment(image(*size)).shape == (1, 5, *size)
    assert deep == [(1, 32, *(-(-side // output_stride) for side in size))]


@pytest.mark.parametrize(("output_stride", "steps"), [(32, 3), (16, 2)])
def test_each_step_down_has_an_lpu(output_stride: OutputStride, steps: int) -> None:
    segment = network(output_stride=output_stride)
    assert segment.features_up is not None and segment.logits_up is not None
    assert (len(segment.features_up), len(segment.logits_up)) == (steps, 2)


def test_the_wider_atrous_rates_reach_further() -> None:
    """On a row of 48 cells, an impulse is seen at the cells that are one rate away."""
    segment = network(rates=(12, 24, 36), padding="zeros")
    x = torch.zeros(1, 64, 1, 48)
    x[..., 0] = 1
    for branch, rate in zip(list(segment.aspp.branches)[1:], (12, 24, 36), strict=True):
        response = cast(nn.Sequential, branch)[0](x).abs().sum(1).flatten()
        assert response.nonzero().flatten().tolist() == [0, rate]


def test_the_head_starts_as_in_the_original() -> None:
    segment = network(channels=256)
    for layer in (segment.project[0], segment.decoder[0], *(m for m in segment.aspp.modules())):
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight
            torch.testing.assert_close(weight.std() * (weight[0].numel() / 2) ** 0.5, torch.ones(()), rtol=0.05, atol=0)
    assert {m.momentum for m in segment.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}
    assert {m.momentum for m in segment.aspp.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert [m.p for m in segment.modules() if isinstance(m, nn.Dropout)] == [0.1]
    assert not any(name.startswith("backbone.head") for name in segment.state_dict())


@pytest.mark.parametrize("antialias", DOWN)
def test_gradients_reach_every_parameter(antialias: str) -> None:
    segment = network("lpd", antialias).train()
    loss = nn.functional.cross_entropy(segment(torch.randn(2, 3, 64, 64)), torch.randint(0, 5, (2, 64, 64)))
    loss.backward()
    without = [name for name, p in segment.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias that moves all logits of a layer alike changes no selection
    assert all(name.endswith("select.conv2.bias") for name in without), without


def test_gradients_reach_the_logit_networks_through_lpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = network().train()
    maps, selections = segment.backbone.features(torch.randn(2, 3, 64, 64))
    monkeypatch.setattr(segment.backbone, "features", lambda x: ([m.detach() for m in maps], selections))
    segment(torch.randn(2, 3, 64, 64)).square().sum().backward()
    logit_networks = [m for m in segment.modules() if isinstance(m, lps.LearnedPhase)]
    assert len(logit_networks) == 5
    assert all(m.conv1.weight.grad is not None and m.conv1.weight.grad.any() for m in logit_networks)


# bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: network()(image(64, 48)), r"multiples of 32, got \(64, 48\)"),
        (lambda: network(output_stride=16)(image(40, 48)), r"multiples of 16, got \(40, 48\)"),
        (lambda: network(lpu=False)(image(50, 64)), r"multiples of 32, got \(50, 64\)"),
        (lambda: network("none"), "samples by 32 and makes 0 selections"),
        (lambda: network(stem="imagenet-strided"), "samples by 32 and makes 4 selections"),
        (lambda: network(upsample=lambda channels: lps.Upsample(stride=4))(image(32, 32)), r"need a selection \(1, 16"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
