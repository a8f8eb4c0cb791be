"""Layers: definitions, exactness in floating point, bad input."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn

import lps
from lps.exact.convolution import Conv2d, Padding, pad
from lps.exact.mean import exact_mean
from lps.polyphase import Stride, keep, mix, offsets, phases, place, steps

SPACES = {1: (12,), 2: (12, 18), 3: (6, 6, 12)}
CASES: list[tuple[int, Any]] = [
    *((dims, stride) for dims in SPACES for stride in (2, 3)),
    *((2, (1, 2)), (2, (3, 2)), (3, (1, 2, 2)), (3, (2, 3, 1))),
]


def maps(dims: int, seed: int = 0, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, *SPACES[dims], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dims", "stride"), CASES)
def test_components_are_strided_slices(dims: int, stride: Any) -> None:
    x = maps(dims)
    components = lps.polyphase(x, stride)
    for k, offset in enumerate(offsets(stride, dims)):
        slices: tuple[Any, ...] = (
            ...,
            *(slice(start, None, s) for start, s in zip(offset, steps(stride, dims), strict=True)),
        )
        assert torch.equal(components[:, k], x[slices])
    assert torch.equal(lps.merge(components, stride), x)


def test_phases_of_a_square_are_numbered_row_by_row() -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert lps.polyphase(x).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("dims", "stride"), CASES)
def test_keeping_mixing_and_placing_agree_with_the_components(dims: int, stride: Any) -> None:
    x = maps(dims)
    components = lps.polyphase(x, stride)
    phase = torch.tensor([1, phases(stride, dims) - 1])
    one_hot = nn.functional.one_hot(phase, phases(stride, dims)).float()
    kept = components[torch.arange(2), phase]
    assert torch.equal(keep(x, phase, stride), kept)
    assert torch.equal(mix(x, one_hot, stride), kept)
    placed = lps.polyphase(place(kept, one_hot, stride), stride)
    assert torch.equal(placed, one_hot.view(2, -1, *[1] * (dims + 1)) * kept[:, None])
    z = torch.rand(2, phases(stride, dims), generator=torch.Generator().manual_seed(1))
    expected = sum(z[:, k].view(2, *[1] * (dims + 1)) * components[:, k] for k in range(phases(stride, dims)))
    torch.testing.assert_close(mix(x, z, stride), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize(("dims", "stride"), CASES)
def test_logits_equal_their_definition(dims: int, stride: Any, padding: Padding, training: bool) -> None:
    torch.manual_seed(0)
    layer = lps.LearnedPhase(3, 4, stride, padding, dims).double().train(training)
    x = maps(dims).double()
    defined = torch.stack([layer.component_logit(c) for c in lps.polyphase(x, stride).unbind(1)], 1)
    assert (layer.logits(x) - defined).abs().max() < 1e-14


def test_gradients_equal_those_of_the_definition() -> None:
    torch.manual_seed(0)
    layer = lps.LearnedPhase(3, 4).double()
    x = maps(2).double().requires_grad_()
    weights = torch.randn(2, 4, dtype=torch.float64)
    defined = torch.stack([layer.component_logit(c) for c in lps.polyphase(x).unbind(1)], 1)
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad((defined * weights).sum(), inputs)
    for got, wanted in zip(torch.autograd.grad((layer.logits(x) * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_exact_mean_has_no_order(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 1000, generator=generator) * 10 ** torch.linspace(-3, 3, 1000)).to(dtype)
    for _ in range(20):
        order = torch.randperm(1000, generator=generator)
        assert torch.equal(exact_mean(x[:, order], (1,)), exact_mean(x, (1,)))
    torch.testing.assert_close(exact_mean(x, (1,)), x.double().mean(1), rtol=1e-12, atol=1e-12)


def test_an_exact_mean_has_the_gradient_of_a_mean() -> None:
    x = maps(2).double().requires_grad_()
    (exact,) = torch.autograd.grad(exact_mean(x, (2, 3)).square().sum(), x)
    (plain,) = torch.autograd.grad(x.mean((2, 3)).square().sum(), x)
    torch.testing.assert_close(exact, plain)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_an_exact_mean_of_what_is_not_finite_is_nan_in_its_sample_alone(odd: float) -> None:
    x = torch.ones(2, 3, 4)
    x[0, 1, 2] = odd
    found = exact_mean(x, (2,))
    assert found[0].isnan().all() and torch.equal(found[1], torch.ones(3).double())


def test_an_exact_mean_of_zeros_is_zero() -> None:
    assert exact_mean(torch.zeros(2, 8), (1,)).tolist() == [0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_low_pass_filters_keep_constants_and_cancel_the_highest_frequency(size: int) -> None:
    layer = lps.LowPass(1, size).double()
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    checkerboard = x * (1 - 2 * (torch.arange(8) % 2))
    if size > 1:
        assert not layer(checkerboard).any()


@pytest.mark.parametrize("filter_", [partial(lps.LowPass, size=2), partial(lps.LowPass, size=5), lps.AdaptiveLowPass])
def test_a_strided_filter_is_the_filter_then_every_second_sample(filter_: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = filter_(8).double().eval()
    x = maps(2, channels=8).double()
    torch.testing.assert_close(layer(x, stride=2), layer(x)[..., ::2, ::2], rtol=0, atol=1e-15)


@pytest.mark.parametrize("reach", [(1, 2), (0, 3), (7, 9)])
@pytest.mark.parametrize("dims", SPACES)
def test_circular_padding_wraps_as_often_as_it_takes(dims: int, reach: tuple[int, int]) -> None:
    x = maps(dims)[..., :4].double().requires_grad_()
    expected: torch.Tensor = x
    for axis in range(2, x.dim()):
        expected = expected.index_select(axis, torch.arange(-reach[0], x.shape[axis] + reach[1]) % x.shape[axis])
    wrapped = pad(x, *reach, "circular")
    assert torch.equal(wrapped, expected)
    weights = torch.randn_like(expected)
    (actual,) = torch.autograd.grad((wrapped * weights).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(actual, wanted)


def test_training_samples_a_mixture_and_evaluation_one_phase() -> None:
    torch.manual_seed(0)
    layer = lps.Downsample(lps.LearnedPhase(3, 4))
    x = maps(2)
    _, soft = layer(x)
    _, hard = layer.eval()(x)
    assert soft.phase is None and torch.allclose(soft.z.sum(1), torch.ones(2)) and (soft.z > 0).all()
    assert torch.equal(hard.phase, hard.scores.argmax(1)) and torch.equal(hard.z.argmax(1), hard.phase)


def test_logits_are_never_in_half_precision() -> None:
    layer = lps.LearnedPhase(3, 4).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(maps(2).bfloat16()).scores.dtype == torch.float64


def test_a_selection_can_look_at_the_unfiltered_map() -> None:
    torch.manual_seed(0)
    select, blur = lps.LearnedPhase(3, 4).double(), lps.LowPass(3, 3).double()
    filtered = lps.Downsample(select, blur).eval()
    unfiltered = lps.Downsample(select, blur, select_from="unfiltered").eval()
    x = maps(2).double()
    torch.testing.assert_close(filtered(x)[1].scores, select(blur(x)).scores, rtol=0, atol=1e-14)
    assert torch.equal(unfiltered(x)[1].scores, select(x).scores)


@pytest.mark.parametrize("names", [("lpf", "bin-5"), ("ddac", "adapt-3"), ("aps", "none"), ("lps", "tri-3")])
def test_a_name_becomes_the_layer_that_the_tables_have(names: tuple[Any, Any]) -> None:
    sampling = lps.Sampling.named(*names, hidden_divisor=4, groups=2, padding="zeros")
    assert sampling is not None and lps.Sampling.named("baseline") is None
    layer = sampling.layer(16)
    kinds = {"lpf": type(None), "ddac": type(None), "aps": lps.MaxNorm, "lps": lps.LearnedPhase}
    filters = {"none": type(None), "adapt-3": lps.AdaptiveLowPass}
    assert type(layer.select) is kinds[names[0]] and type(layer.antialias) is filters.get(names[1], lps.LowPass)
    if isinstance(layer.select, lps.LearnedPhase):
        assert layer.select.conv1.out_channels == 4 and layer.select.padding == "zeros"
    if isinstance(layer.antialias, lps.AdaptiveLowPass):
        assert layer.antialias.groups == 2
    if layer.antialias is not None:
        assert layer.antialias.size == int(names[1][-1]) and layer.antialias.padding == "zeros"


METHODS = {"aps": lambda c: lps.MaxNorm(), "lps": lambda c: lps.LearnedPhase(c, max(1, c // 8))}
FILTERS = {
    "none": None,
    "rect-2": partial(lps.LowPass, size=2),
    "tri-3": partial(lps.LowPass, size=3),
    "bin-5": partial(lps.LowPass, size=5),
    "adapt-3": lps.AdaptiveLowPass,
}


def largest_change(network: nn.Module, x: torch.Tensor) -> float:
    """Largest change of an output over all shifts of one image modulo the total stride, 8."""
    shifts = [(i, j) for i in range(8) for j in range(8)]
    with torch.inference_mode():
        y = network(torch.cat([lps.circular_shift(x, shift) for shift in shifts]))
    return (y - y[:1]).abs().max().item()


@pytest.mark.parametrize("antialias", FILTERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_selects_is_invariant_bit_for_bit(method: str, antialias: str) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(METHODS[method], FILTERS[antialias])
    network = lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling).eval()
    assert largest_change(network, torch.randn(1, 3, 16, 16)) == 0.0


@pytest.mark.parametrize("antialias", FILTERS)
def test_a_network_that_does_not_select_is_not_invariant(antialias: str) -> None:
    torch.manual_seed(0)
    sampling = None if antialias == "none" else lps.Sampling(None, FILTERS[antialias])
    network = lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling).double().eval()
    assert largest_change(network, torch.randn(1, 3, 16, 16, dtype=torch.float64)) > 1e-9


@pytest.mark.parametrize("depth", [18, 50])
def test_the_imagenet_stem_is_invariant_too(depth: int) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(METHODS["lps"], FILTERS["tri-3"])
    network = lps.ResNet(depth, classes=10, width=8, sampling=sampling).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for shift in ((1, 0), (0, 1), (13, 22), (31, 17)):
            assert torch.equal(network(lps.circular_shift(x, shift)), network(x))


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_invariant_too(method: str) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(METHODS[method], FILTERS["tri-3"])
    network = lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_change(network, x) == 0.0
    assert largest_change(network.bfloat16(), x.bfloat16()) == 0.0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [8], indirect=True)
@pytest.mark.parametrize("low_pass", [lps.LowPass, partial(lps.AdaptiveLowPass, groups=1)])
def test_a_single_image_is_shared_by_threads_without_a_trace(low_pass: Any) -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(lambda c: lps.LearnedPhase(c, 1), lambda c: low_pass(c, 3))
    backbone = lps.ResNet(50, classes=10, width=8, sampling=sampling, output_stride=16)
    segmenter = lps.DeepLabV3Plus(
        backbone, classes=2, channels=16, upsample=lambda c: lps.Upsample(lps.LowPass(c, 3, gain=4))
    ).eval()
    classifier = lps.ResNet(50, classes=10, width=4, sampling=sampling).eval()
    with torch.no_grad():
        for network, size in ((classifier, 224), (segmenter, 96)):
            x = torch.randn(1, 3, size, size)
            y = network(x)
            for shift in ((1, 7), (5, 5)):
                moved = network(lps.circular_shift(x, shift))
                assert torch.equal(moved, y if y.dim() == 2 else lps.circular_shift(y, shift))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3, 8], indirect=True)
@pytest.mark.parametrize("outputs", [1, 3, 4, 64])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_computes_each_position_alike(outputs: int, kernel: int) -> None:
    torch.manual_seed(0)
    conv = Conv2d(16, outputs, kernel, bias=True).eval()
    with torch.no_grad():
        for size in ((4, 6), (5, 7), (14, 14)):
            x = torch.randn(1, 16, *size)
            y = conv(x)
            assert torch.equal(conv(lps.circular_shift(x, (1, 1))), lps.circular_shift(y, (1, 1)))
            pair = conv(torch.cat([x, lps.circular_shift(x, (2, 3))]))
            assert torch.equal(pair[1:], lps.circular_shift(pair[:1], (2, 3)))
            torch.testing.assert_close(y, conv.train()(x), rtol=1e-4, atol=1e-4)
            conv.eval()


def test_a_dilated_last_stage_keeps_its_size() -> None:
    sampling = lps.Sampling(METHODS["lps"], FILTERS["tri-3"])
    network = lps.ResNet(50, classes=10, width=4, sampling=sampling, output_stride=16).eval()
    maps, selections = network.features(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (4, 4)]
    assert len(selections) == 4 and network.stride == 16


def test_a_size_that_the_strides_do_not_divide_names_the_multiple() -> None:
    network = lps.ResNet(18, classes=10, width=4, sampling=lps.Sampling(METHODS["lps"])).eval()
    x = torch.randn(1, 3, 50, 64)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(50, 64\)"):
        network(x)
    network(lps.pad_to_multiple(x, 32))
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), got \(3, 64, 64\)"):
        network(torch.randn(3, 64, 64))


def test_table_4_parameter_counts() -> None:
    lpd = METHODS["lps"]
    counts = {
        42_520_650: lps.Sampling(None, FILTERS["tri-3"]),
        42_966_730: lps.Sampling(lpd, FILTERS["tri-3"]),
        44_304_954: lps.Sampling(None, FILTERS["adapt-3"]),
        44_751_034: lps.Sampling(lpd, FILTERS["adapt-3"]),
    }
    for expected, sampling in counts.items():
        with torch.device("meta"):
            network = lps.ResNet(101, classes=10, sampling=sampling)
        assert sum(p.numel() for p in network.parameters()) == expected


def test_gradients_reach_the_logit_network() -> None:
    torch.manual_seed(0)
    layer = lps.Downsample(lps.LearnedPhase(3, 4))
    y, _ = layer(maps(2))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in layer.named_parameters() if n != "select.conv2.bias")


CIRC: Any = "circ"
PADDINGS = "no padding 'circ': there are circular, zeros, reflect"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lps.polyphase(torch.zeros(1, 1, 9, 8)), "multiples of 2, got \\(9, 8\\)"),
        (lambda: lps.polyphase(torch.zeros(1, 1, 8, 8), 3), "multiples of 3"),
        (lambda: lps.merge(torch.zeros(1, 3, 1, 4, 4)), "expects 4 components, got 3"),
        (lambda: lps.circular_shift(torch.zeros(1, 1, 4, 4), (1, 2, 3)), "3 shifts for 2 spatial axes"),
        (lambda: lps.ResNet(20, classes=10), "no ResNet-20: the depths are 18, 34, 50, 101, 152"),
        (lambda: lps.LowPass(3, 0), "at least 1"),
        (lambda: lps.LearnedPhase(8, 2)(torch.zeros(1, 4, 8, 8)), r"\(N, 8, H, W\) was handed one \(1, 4, 8, 8\)"),
        (lambda: lps.LearnedPhase(8, 2)(torch.zeros(8, 8, 8)), r"\(N, 8, H, W\) was handed one \(8, 8, 8\)"),
        (lambda: lps.verify(nn.Identity(), cast(Any, [0])), "expected images .*, got list"),
        (lambda: lps.Sampling.named(cast(Any, "pasa")), "no method 'pasa': there are baseline, lpf, ddac, aps, lps"),
        (lambda: lps.Sampling.named("lps", cast(Any, "tri-5")), "no filter 'tri-5': there are none, rect-2, tri-3"),
        (lambda: lps.Sampling.named("lpf", "adapt-3"), "LPF does not go with the filter adapt-3"),
        (lambda: lps.Sampling.named("ddac"), "DDAC is a filter"),
        (lambda: lps.Sampling.named("baseline", "tri-3"), "the baseline has no filter"),
        (lambda: lps.Sampling.named("lps", hidden_divisor=0), "hidden_divisor: expected at least 1, got 0"),
        (
            lambda: lps.Sampling.named("lps", hidden_divisor=cast(Any, 2.5)),
            "a whole number, hidden_divisor: .* got 2.5",
        ),
        (lambda: lps.Sampling.named("lps", stride=cast(Any, 2.0)), "a stride is a whole number, .* got 2.0"),
        (lambda: lps.polyphase(maps(2), cast(Any, (2, 2.0))), r"a stride is a whole number, .* got \(2, 2.0\)"),
        (lambda: lps.Downsample(cast(Any, "lps")), "select is 'lps'; expected a module, .* lps.Sampling.named"),
        (lambda: lps.Downsample(None, cast(Any, lps.LowPass)), "antialias is <class .*LowPass.*; expected a module"),
        (
            lambda: lps.ResNet(18, classes=10, sampling=cast(Any, "lps")),
            r"sampling is 'lps'; expected an lps.Sampling, as lps.Sampling.named\('lps'",
        ),
        (lambda: lps.ResNet(18, classes=10, width=0), "width of at least 1 channel, got 0"),
        (lambda: lps.LearnedPhase(4, 0), r"at least 1 channel and 1 hidden channel, got 4 and 0; .* max\(1, channels"),
        (lambda: lps.LearnedPhase(0, 1), "at least 1 channel and 1 hidden channel, got 0 and 1"),
        (lambda: lps.LearnedPhase(4, 2, padding=CIRC), PADDINGS),
        (lambda: lps.LowPass(4, 3, CIRC), PADDINGS),
        (lambda: lps.AdaptiveLowPass(4, padding=CIRC), PADDINGS),
        (lambda: lps.ResNet(classes=10, sampling=lps.Sampling(), pool_padding=CIRC), PADDINGS),
        (lambda: lps.pad_to_multiple(torch.zeros(1, 1, 2, 9), 8, CIRC), PADDINGS),
        (lambda: lps.pad_to_multiple(torch.zeros(1, 1, 2, 9), 0), "multiples of a whole number from 1 on, got 0"),
        (lambda: lps.Upsample()(*lps.Downsample()(maps(2))), "kept phase 0 without a choice; give .* lps.LearnedPhase"),
        (lambda: lps.AdaptiveLowPass(3, 4, 1), "odd size"),
        (lambda: lps.AdaptiveLowPass(9, 3, 2), "2 filter groups do not divide 9 channels"),
        (lambda: lps.pad_to_multiple(torch.zeros(1, 1, 2, 9), 8, "reflect"), "size 2 to a multiple of 8"),
        (lambda: lps.ResNet(classes=10, stem=cast(Any, "vgg")), "no stem 'vgg': the stems are cifar, imagenet"),
        (lambda: lps.ResNet(classes=10, sampling=lps.Sampling(stride=3)), "by 2 at each stage, got a sampling by 3"),
        (
            lambda: lps.Upsample()(torch.zeros(1, 1, 2, 2), lps.MaxNorm()(torch.randn(2, 1, 4, 4))),
            "need a selection \\(1, 4\\), and a selection \\(2, 4\\)",
        ),
        (
            lambda: lps.Downsample()(torch.zeros(1, 1, 4, 4), lps.MaxNorm()(torch.randn(2, 1, 4, 4))),
            "need a selection \\(1, 4\\) and were handed one \\(2, 4\\)",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


LAYERS: dict[str, Callable[[torch.Tensor], object]] = {
    "LPF": lambda x: lps.LowPass(4, 3)(x),
    "DDAC": lambda x: lps.AdaptiveLowPass(4, 3, 2)(x),
    "APS": lambda x: lps.Downsample(lps.MaxNorm(), lps.LowPass(4, 3))(x),
    "LPD": lambda x: lps.Downsample(lps.LearnedPhase(4, 2))(x),
    "LPD, evaluated": lambda x: lps.Downsample(lps.LearnedPhase(4, 2), lps.LowPass(4, 3)).eval()(x),
    "LPU": lambda x: lps.Upsample(lps.LowPass(4, 3, gain=4))(x, lps.MaxNorm()(x.new_ones(len(x), 1, 16, 16))),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_maps_of_whole_numbers_and_empty_ones_are_refused(layer: str) -> None:
    for kind in (torch.int64, torch.uint8, torch.bool):
        with pytest.raises(ValueError, match=rf"got a map of {kind}, .*; give x\.float\(\)"):
            LAYERS[layer](torch.ones(2, 4, 8, 8, dtype=kind))
    for shape in ((0, 4, 8, 8), (2, 0, 8, 8), (2, 4, 0, 8), (2, 4, 8, 0)):
        with pytest.raises(ValueError, match=rf"got maps {re.escape(str(shape))} without a sample"):
            LAYERS[layer](torch.ones(shape))


@pytest.mark.parametrize("method", ["baseline", "lps"])
def test_a_network_names_images_of_whole_numbers(method: Any) -> None:
    network = lps.ResNet(18, classes=10, width=4, sampling=lps.Sampling.named(method))
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"got a map of torch.uint8, .*; give x\.float\(\), and images scaled"):
            network.train(mode)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_a_network_names_an_empty_batch() -> None:
    network = lps.ResNet(18, classes=10, width=4, sampling=lps.Sampling(METHODS["lps"], FILTERS["tri-3"]))
    for mode in (True, False):
        with pytest.raises(ValueError, match="without a sample"):
            network.train(mode)(torch.zeros(0, 3, 64, 64))


@pytest.mark.parametrize("kind", ["noise", "constant", "periodic"])
@pytest.mark.parametrize("antialias", ["none", "tri-3", "adapt-3"])
@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("stride", [(1, 2), (3, 1), (4, 2)])
def test_a_stride_that_differs_by_axis_is_exact(
    stride: tuple[int, int], method: Any, antialias: Any, kind: str
) -> None:
    """Down and up again, what comes out moves with the image; also where phases are tied."""
    torch.manual_seed(0)
    sampling = lps.Sampling.named(method, antialias, stride=stride)
    assert sampling is not None
    down, up = sampling.layer(4).eval(), lps.Upsample(stride=stride)
    x = torch.randn(3, 4, 12, 8)
    if kind == "periodic":
        x = x[:, :, :6, :4].repeat(1, 1, 2, 2)
    x = x.mean((2, 3), True).expand_as(x).contiguous() if kind == "constant" else x
    with torch.no_grad():
        y, selection = down(x)
        assert y.shape == (3, 4, 12 // stride[0], 8 // stride[1])
        u = up(y, selection)
        for shift in ((1, 1), (2, 5), (7, 3)):
            moved = x.roll(shift, (2, 3))
            assert torch.equal(up(*down(moved)), u.roll(shift, (2, 3)))


def test_a_filter_along_some_axes_leaves_the_others() -> None:
    rows = torch.tensor([1.0, 2, 1]) / 4
    kernel = lps.LowPass(2, 3, along=[1]).kernel
    assert torch.equal(kernel[0, 0], torch.stack([0 * rows, rows, 0 * rows]))
    sampling = lps.Sampling.named("aps", "tri-3", stride=(1, 2))
    assert sampling is not None and torch.equal(cast(Any, sampling.shortcut(2).antialias).kernel, kernel)


def test_a_stride_of_other_axes_than_the_map_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the stride \(1, 2, 2\) is of 3 axes, and the map has 2"):
        lps.Downsample(lps.MaxNorm((1, 2, 2)), stride=(1, 2, 2))(maps(2))


@pytest.mark.parametrize("stride", [0, -2, (2, 0)])
def test_a_stride_that_leaves_no_phase_is_an_error(stride: Stride) -> None:
    with pytest.raises(ValueError, match="a stride is a whole number from 1 on, got"):
        lps.polyphase(maps(2), stride)
    with pytest.raises(ValueError, match="a stride is a whole number from 1 on, got"):
        offsets(stride, 2)


@pytest.mark.parametrize("layer", [lps.Downsample(lps.LearnedPhase(4, 2), lps.LowPass(4, 3)), lps.LowPass(4, 3)])
def test_half_precision_is_filtered_in_full(layer: nn.Module) -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return [y, *torch.autograd.grad((y * weights).sum(), x)]

    x = maps(2, channels=4).bfloat16()
    for half, full in zip(run(x), run(x.detach().float()), strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), full, rtol=2e-2, atol=2e-2)
    if isinstance(layer, lps.LowPass):
        assert torch.equal(layer(x), layer(x.float()).bfloat16())


@pytest.mark.parametrize("given", ["lps", lps.MaxNorm()])
def test_a_sampling_takes_what_makes_layers(given: Any) -> None:
    for parts in ({"select": given}, {"antialias": given}):
        with pytest.raises(ValueError, match=f"{next(iter(parts))} is .*; expected a function from a number"):
            lps.Sampling(**parts)


def test_a_selection_for_another_stride_is_an_error() -> None:
    """Also where it has as many phases."""
    with pytest.raises(ValueError, match=r"selection is for a stride of 2 and the layer for \(1, 4\)"):
        lps.Downsample(lps.MaxNorm(), stride=(1, 4))
    x = torch.randn(2, 3, 8, 16)
    y, selection = lps.Downsample(lps.MaxNorm((1, 4)), stride=(1, 4))(x)
    for layer in (partial(lps.Upsample(), y), partial(lps.Downsample(), x)):
        with pytest.raises(ValueError, match=r"was made at a stride of \(1, 4\), and the layer has 2"):
            layer(selection)
    lps.Downsample(lps.MaxNorm((2, 2)))(x)


def test_a_misspelt_source_is_an_error() -> None:
    for make in (lps.Downsample, lps.Sampling):
        with pytest.raises(ValueError, match="no select_from 'unfilterd': there are filtered, unfiltered"):
            make(select_from=cast(Any, "unfilterd"))


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("stride", [1, (1, 1), 3, (1, 2)])
def test_a_method_at_another_stride_chooses_at_it(method: Any, stride: Stride) -> None:
    sampling = lps.Sampling.named(method, "tri-3")
    assert sampling is not None
    layer = sampling.at(stride).layer(4).eval()
    each = steps(stride, 2)
    y, selection = layer(torch.randn(2, 4, 12, 18))
    assert y.shape == (2, 4, 12 // each[0], 18 // each[1])
    assert (selection is None) == (each == (1, 1))


@pytest.mark.parametrize("dims", [(), (0, 2), (-4, 1), (4,)])
def test_a_mean_over_no_axis_of_a_sample_is_an_error(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected some from 1 to 3"):
        exact_mean(maps(2), dims)


def test_axes_of_a_mean_count_from_the_end_too() -> None:
    x = maps(2).requires_grad_()
    mean = exact_mean(x, (-2, -1))
    assert torch.equal(mean, exact_mean(x, (2, 3)))
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / (12 * 18)))


def test_a_filter_along_an_axis_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a map has the spatial axes 0 to 1"):
        lps.LowPass(3, 3, along=(-1,))


def test_a_map_without_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 4\); expected maps \(N, C, \*space\)"):
        lps.Downsample(lps.MaxNorm())(torch.randn(4, 4))


def test_a_second_derivative_is_refused_where_it_would_be_wrong() -> None:
    x = maps(2).requires_grad_()
    for layer in (lps.Downsample(lps.LearnedPhase(3, 2), lps.LowPass(3, 3)), lps.AdaptiveLowPass(3)):
        y = layer(x)
        with pytest.raises(NotImplementedError, match="no second derivative"):
            torch.autograd.grad((y[0] if isinstance(y, tuple) else y).square().sum(), x, create_graph=True)
