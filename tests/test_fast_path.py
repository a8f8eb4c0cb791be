"""The layers against their plain definition: filter at stride 1, split, weigh the components. Values and gradients."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lps
from lps.exact import cpu, fused
from lps.exact.convolution import MAX_POOL, MaxPool, Padding, convolve_circular, max_pool, pad
from lps.exact.mean import channel_sum
from lps.polyphase import keep, mix, place

FILTERS: dict[str, Callable[..., nn.Module] | None] = {
    "none": None,
    "rect-2": partial(lps.LowPass, size=2),
    "tri-3": partial(lps.LowPass, size=3),
    "bin-5": partial(lps.LowPass, size=5),
    "adapt-3": partial(lps.AdaptiveLowPass, groups=2),
}


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return list(torch.autograd.grad((y * weights).sum(), inputs, retain_graph=True, materialize_grads=True))


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    pairs = zip([actual, *gradients(actual, inputs)], [expected, *gradients(expected, inputs)], strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def plain(layer: lps.Downsample, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and result of a learned downsampling, in the words of Eqs. (6), (7), (17) and (23)."""
    select = cast(lps.LearnedPhase, layer.select)
    filtered = x if layer.antialias is None else layer.antialias(x)
    seen = lps.polyphase(filtered if layer.select_from == "filtered" else x, layer.stride)
    logits = torch.stack([select.component_logit(component) for component in seen.unbind(1)], 1)
    if layer.training:
        z = nn.functional.gumbel_softmax(logits, cast(float, select.tau))
    else:
        z = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype)
    weights = z.view(*z.shape, *(1,) * (x.dim() - 1))
    return logits, (weights * lps.polyphase(filtered, layer.stride)).sum(1)


@settings(max_examples=40, deadline=None)
@given(
    dims=st.integers(1, 3),
    stride=st.integers(1, 3),
    filter_=st.sampled_from(sorted(FILTERS)),
    padding=st.sampled_from(["circular", "zeros", "reflect"]),
    logit_padding=st.sampled_from(["circular", "zeros"]),
    select_from=st.sampled_from(["filtered", "unfiltered"]),
    training=st.booleans(),
)
def test_downsampling_equals_its_definition(
    dims: int,
    stride: int,
    filter_: str,
    padding: Padding,
    logit_padding: Padding,
    select_from: lps.sampling.Source,
    training: bool,
) -> None:
    torch.manual_seed(0)
    make = FILTERS[filter_]
    antialias = None if make is None else make(4, padding=padding, dims=dims).double().train(training)
    select = lps.LearnedPhase(4, 3, stride, logit_padding, dims)
    layer = lps.Downsample(select, antialias, stride, select_from).double().train(training)
    x = torch.randn(2, 4, *(stride * size for size in (3, 4, 3)[:dims]), dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    torch.manual_seed(1)
    actual, selection = layer(x)
    assert selection is not None
    torch.manual_seed(1)
    logits, expected = plain(layer, x)
    assert_same(selection.scores, logits, inputs)
    assert_same(actual, expected, inputs)

    shortcut = lps.Downsample(None, antialias, stride).double().train(training)
    filtered = x if antialias is None else antialias(x)
    assert_same(shortcut(x, selection)[0], mix(filtered, selection.z, stride), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("filter_", ["none", "rect-2", "tri-3", "bin-5", "adapt-3"])
@pytest.mark.parametrize(("stride", "space"), [(2, (8, 8)), (2, (16, 12)), (2, (30, 30)), (3, (12, 15))])
def test_filtering_what_is_kept_gives_the_bits_of_filtering_all(
    stride: int, space: tuple[int, int], filter_: str, dtype: torch.dtype
) -> None:
    """Eq. (7) as it stands, filter and then keep, on this processor in evaluation."""
    torch.manual_seed(0)
    make = FILTERS[filter_]
    h = None if make is None else make(8).to(dtype).eval()
    x = torch.randn(3, 8, *space).to(dtype)
    for select in (lps.MaxNorm(stride), lps.LearnedPhase(8, 2, stride)):
        with torch.no_grad():
            y, selection = lps.Downsample(select, h, stride).eval()(x)
            assert torch.equal(y, keep(x if h is None else h(x), selection.phase, stride))


@settings(max_examples=25, deadline=None)
@given(dims=st.integers(1, 3), stride=st.integers(1, 3), size=st.sampled_from([2, 3, 5]), hard=st.booleans())
def test_a_gpu_takes_another_way_to_the_same_sums(dims: int, stride: int, size: int, hard: bool) -> None:
    """The order of work of a GPU, on this processor: no convolution in a group for each map."""
    torch.manual_seed(0)
    blur = lps.LowPass(2, size, dims=dims).double()
    x = torch.randn(3, 2, *(stride * size for size in (3, 4, 3)[:dims]), dtype=torch.float64, requires_grad=True)
    phases = stride**dims
    z = torch.rand(3, phases, dtype=torch.float64, requires_grad=True)
    phase = torch.randint(phases, (3,)) if hard else None
    filtered = fused.Filtered(x, blur)
    here = filtered.component(z, phase, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_grouped", lambda x: False)
        assert_same(filtered.component(z, phase, stride), here, [x] if hard else [x, z])


@settings(max_examples=25, deadline=None)
@given(dims=st.integers(1, 3), stride=st.integers(1, 3), size=st.sampled_from([2, 3, 5]), training=st.booleans())
def test_upsampling_equals_its_definition(dims: int, stride: int, size: int, training: bool) -> None:
    torch.manual_seed(0)
    blur = lps.LowPass(2, size, gain=stride**dims, dims=dims).double()
    layer = lps.Upsample(blur, stride)
    selection = (
        lps.LearnedPhase(2, 2, stride, dims=dims)
        .double()
        .train(training)(torch.randn(2, 2, *(stride * size for size in (3, 4, 3)[:dims]), dtype=torch.float64))
    )
    y = torch.randn(2, 2, *(3, 4, 3)[:dims], dtype=torch.float64, requires_grad=True)
    selection = selection._replace(z=selection.z.detach())
    assert_same(layer(y, selection), blur(place(y, selection.z, stride)), [y])


@pytest.mark.parametrize(("dims", "dilation"), list(product((1, 2, 3), (1, 2, 3, 7))))
def test_a_circular_convolution_is_that_of_the_padded_map(dims: int, dilation: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *(6, 9, 5)[:dims], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, *(3,) * dims, dtype=torch.float64, requires_grad=True)
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[dims - 1]
    expected = convolve(pad(x, dilation, dilation, "circular"), weight, dilation=dilation)
    assert_same(convolve_circular(x, weight, (dilation,) * dims), expected, [x, weight])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_adaptive_filter_has_the_gradient_of_its_definition(dims: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = lps.AdaptiveLowPass(2, groups=2, dims=dims).double()
    x = torch.randn(2, 2, *(4, 3, 3)[:dims], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, stride), (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("hidden", [1, 3, 8])
@pytest.mark.parametrize(
    ("stride", "space"), [(2, (2, 2)), (2, (4, 4)), (2, (2, 6)), (2, (6, 6)), (3, (3, 3)), (3, (9, 9))]
)
@pytest.mark.parametrize("select_from", ["filtered", "unfiltered"])
def test_small_maps_have_the_same_logits_at_every_shift(
    select_from: lps.sampling.Source, stride: int, space: tuple[int, int], hidden: int
) -> None:
    """Where a matrix product has few positions, it would add up some of them in another order."""
    torch.manual_seed(0)
    layer = lps.Downsample(lps.LearnedPhase(8, hidden, stride), lps.LowPass(8, 3), stride, select_from).eval()
    x = torch.randn(1, 8, *space)
    with torch.inference_mode():
        scores = layer(x)[1].scores.sort().values
        for shift in product(*(range(size) for size in space)):
            assert torch.equal(layer(lps.circular_shift(x, shift))[1].scores.sort().values, scores)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_maximum_along_each_axis_is_that_of_the_window(dims: int) -> None:
    x = torch.randint(-3, 4, (2, 3, *(9,) * dims)).double()  # with many equal samples
    x[0, 0, ..., 4] = torch.nan
    kernel, dilation = (3, 2, 2)[:dims], (2, 3, 1)[:dims]
    expected = MAX_POOL[dims](x, kernel, 1, dilation=dilation)
    torch.testing.assert_close(max_pool(x, kernel, dilation), expected, rtol=0, atol=0, equal_nan=True)
    leaf = x.nan_to_num().requires_grad_()
    ways = max_pool(leaf, kernel, dilation), MAX_POOL[dims](leaf, kernel, 1, dilation=dilation)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), leaf)[0] for y in ways))


@pytest.mark.parametrize("exact", [True, False])
def test_norms_of_numbers_of_any_size_are_those_of_each_map_alone(exact: bool) -> None:
    """A sample whose squares leave the range of floats is scaled, and no other with it."""
    torch.manual_seed(0)
    sizes = torch.tensor([1.0, 1e30, 1e-30, 1e-18, 0.0, 1.0]).view(-1, 1, 1, 1)
    x = sizes * torch.randn(6, 5, 6, 8)
    norms = fused.phase_norms(x, 2, exact)
    expected = lps.polyphase(x.double()).flatten(2).norm(dim=2)
    torch.testing.assert_close(norms.double(), expected, rtol=1e-6, atol=0)
    for each, alone in zip(norms, x.split(1), strict=True):
        assert torch.equal(fused.phase_norms(alone, 2, exact)[0], each)
    x[2, 0, 0, 0] = torch.nan
    odd = fused.phase_norms(x, 2, exact).isnan().any(1)
    assert odd.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_a_sum_in_the_memory_of_its_terms_has_the_same_bits(channels: int) -> None:
    x = torch.randn(2, channels, 3, 7)
    expected = channel_sum(x)
    assert torch.equal(channel_sum(x.clone(), consume=True), expected) and expected.shape == (2, 1, 3, 7)


@pytest.mark.parametrize("limit", ["LARGE", "PIECE"])
def test_images_that_take_turns_give_the_same(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    select, adapt = lps.LearnedPhase(4, 3).double(), lps.AdaptiveLowPass(4, groups=2).double()
    layer = lps.Downsample(None, adapt)
    inputs = [x, *select.conv1.parameters(), *adapt.parameters()]
    expected = select.logits(x), layer(x)[0]
    monkeypatch.setattr(cpu, limit, 1)
    for got, wanted in zip((select.logits(x), layer(x)[0]), expected, strict=True):
        assert_same(got, wanted, inputs)
    with torch.no_grad():
        torch.testing.assert_close(select.logits(x), expected[0], rtol=0, atol=1e-12)


PIECEWISE: dict[str, nn.Module] = {
    **{f"LPF {size}": lps.Downsample(None, lps.LowPass(6, size)) for size in (2, 3, 5)},
    "APS": lps.Downsample(lps.MaxNorm(), lps.LowPass(6, 3)),
    "LPD": lps.Downsample(lps.LearnedPhase(6, 3), lps.LowPass(6, 3)),
    "max pooling": MaxPool(2, "circular"),
}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", PIECEWISE.values(), ids=PIECEWISE.keys())
def test_a_few_images_at_a_time_give_the_same_bits(
    layer: nn.Module, memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(5, 6, 12, 16, generator=torch.Generator().manual_seed(0)).to(memory_format=memory)
    results = []
    for piece in (1 << 40, 1, 3 * x[0].numel()):
        monkeypatch.setattr("lps.exact.cpu.PIECE", piece)
        with torch.no_grad():
            y = layer.eval()(x)
        results.append(y if isinstance(y, Tensor) else y[0])
    assert all(torch.equal(y, results[0]) for y in results)
