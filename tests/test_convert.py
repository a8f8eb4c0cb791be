"""``lps.convert``: networks of strangers become exactly invariant, keep what they computed, or are refused by name."""

import copy
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from benchmarks.measure import gigamacs
from lps.__main__ import main as command
from lps.convert import Placement
from lps.convert.check import require_invariance
from lps.convert.grids import Map, Step, as_images, meet, resolve
from lps.convert.layers import Align, Border, Interpolation, Linear, Pad, Pointwise, Pooling, ahead, convolve
from lps.polyphase import Stride, keep, mix, phases, steps
from lps.selection import Selection

Network = Callable[[], nn.Module]
SMALL = torch.zeros(1, 3, 64, 64)


class First(nn.Module):
    """Phase 0 of each map: what a strided network keeps."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Selection:
        z = F.one_hot(torch.zeros(len(x), dtype=torch.int64), phases(self.stride, x.dim() - 2)).to(x.dtype)
        return Selection(z, z, z.argmax(1))


def unit(inputs: int, outputs: int, **settings: Any) -> nn.Sequential:
    settings = {"kernel_size": 3, "padding": 1, **settings}
    return nn.Sequential(nn.Conv2d(inputs, outputs, **settings), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Net(nn.Module):
    """Layers by name, and a function of them and the images as forward."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def plain(*layers: nn.Module, channels: int = 8) -> nn.Sequential:
    return nn.Sequential(unit(3, 8), *layers, head(channels))


def unet() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        a = net.a(x)
        b = net.b(net.pool(a))
        c = net.c(net.pool(b))
        b = net.d(torch.cat([b, net.up1(c)], 1))
        return net.e(torch.cat([a, F.interpolate(net.f(b), scale_factor=2, mode="bilinear")], 1))

    layers = {"a": unit(3, 8), "b": unit(8, 8), "c": unit(8, 16), "d": unit(16, 8), "f": unit(8, 8)}
    return Net(forward, pool=nn.MaxPool2d(2), up1=nn.ConvTranspose2d(16, 8, 2, 2), e=nn.Conv2d(16, 4, 1), **layers)


def pyramid() -> nn.Module:
    """FPN: maps of several sizes, each with what comes down from the coarser one."""

    def forward(net: Any, x: Tensor) -> dict[str, Tensor]:
        c2 = net.c2(x)
        c3 = net.c3(c2)
        p3 = net.l3(c3)
        p2 = net.l2(c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        return {"p2": net.out(p2), "p3": net.out(p3), "p4": F.max_pool2d(p3, 1, 2)}

    layers = {"c2": unit(3, 8, stride=2), "c3": unit(8, 8, stride=2), "out": nn.Conv2d(8, 8, 3, padding=1)}
    return Net(forward, l2=nn.Conv2d(8, 8, 1), l3=nn.Conv2d(8, 8, 1), **layers)


def exchange() -> nn.Module:
    """HRNet: the second stride of two joins the choice of the first, which was made before."""

    def forward(net: Any, x: Tensor) -> Tensor:
        low = net.down(x)
        x = x[:, :1] + F.interpolate(net.up(low), scale_factor=2, mode="nearest")
        return net.head(F.relu(low + net.again(x)))

    down, again = unit(3, 8, stride=2), unit(1, 8, stride=2)
    return Net(forward, down=down, again=again, up=nn.Conv2d(8, 1, 1), head=head(8))


def branches() -> nn.Module:
    """A stride of 4 beside two strides of 2, and an average in the shortcut."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(torch.cat([net.fast(x), net.slow(x), net.mean(x)], 1))

    slow = nn.Sequential(unit(8, 8, stride=2), unit(8, 8, stride=2))
    fast = nn.Conv2d(8, 4, 4, 4)
    return Net(forward, stem=unit(3, 8), slow=slow, fast=fast, mean=nn.AvgPool2d(4), head=head(20))


def cifar_shortcut() -> nn.Module:
    """ResNet's option A: every second sample, and zero channels."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(F.relu(net.main(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))

    return Net(forward, stem=unit(3, 8), main=nn.Sequential(unit(8, 16, stride=2), unit(16, 16)), head=head(16))


def focus() -> nn.Module:
    """YOLO's stem: four phases as channels."""

    def forward(net: Any, x: Tensor) -> Tensor:
        phases = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return net.head(net.conv(torch.cat(phases, 1)))

    return Net(forward, conv=unit(12, 8), head=head(8))


def gated() -> nn.Module:
    """Squeeze-excite by hand, with activations whose rounding depends on their place in memory."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.silu(net.conv(x))
        x = x * net.fc(x.mean((2, 3), keepdim=True)).sigmoid()
        return net.linear(F.dropout(net.norm(x).mean((-2, -1)), 0.5, net.training))

    layers = {"conv": nn.Conv2d(3, 6, 3, 2, 1), "fc": nn.Conv2d(6, 6, 1), "norm": nn.GroupNorm(3, 6)}
    return Net(forward, linear=nn.Linear(6, 5), **layers)


def channels_last() -> nn.Module:
    """ConvNeXt: a patch stem, norms and linear layers over channels that come last."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = net.mix(x).permute(0, 2, 3, 1)
        x = x + net.linear(F.gelu(net.norm(y))).permute(0, 3, 1, 2)
        return net.head(x)

    layers = {"stem": nn.Conv2d(3, 8, 4, 4), "mix": nn.Conv2d(8, 8, 7, padding=3, groups=8)}
    return Net(forward, norm=nn.LayerNorm(8), linear=nn.Linear(8, 8), head=head(8), **layers)


def blurred() -> nn.Module:
    """A blur pooling by hand: reflection, and a fixed kernel with a stride."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.pad(net.stem(x), (1, 1, 1, 1), mode="reflect")
        return net.head(net.conv(F.conv2d(x, net.stem.kernel, stride=2, groups=8)))

    stem = unit(3, 8)
    stem.register_buffer("kernel", torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])).expand(8, 1, 3, 3) / 16)
    return Net(forward, stem=stem, conv=unit(8, 8), head=head(8))  # the mean of a blurred map is that of each phase


def shuffled() -> nn.Module:
    """ShuffleNet: channels traded between groups, whose sizes are read at run time."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        a, b = x.chunk(2, 1)
        return net.head(torch.cat([a, net.conv(b)], 1))

    return Net(forward, stem=unit(3, 8, stride=2), conv=unit(4, 4), head=head(8))


def statistics() -> nn.Module:
    """Sums over channels at each position: a norm with the channels first, softmax, gates of one map, and groups."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = (x - x.mean(1, keepdim=True)) * (x.square().sum([1], True) + 1).rsqrt()
        x = net.b(net.groups(x) * net.gate(x).sigmoid())
        parts = x.unflatten(1, (2, 4))
        x = (parts - parts.logsumexp(2)[:, :, None]).flatten(1, 2)
        return net.head(torch.cat([x * net.soft(x), F.glu(x, 1), torch.log_softmax(x, dim=1)], 1))

    layers = {"stem": unit(3, 8, stride=2), "b": unit(8, 8, stride=2), "groups": nn.Conv2d(8, 8, 3, 1, 1, groups=2)}
    return Net(forward, gate=nn.Conv2d(8, 1, 1), soft=nn.Softmax(1), head=head(20), **layers)


def frozen() -> nn.Module:
    """A norm by hand from fixed numbers, as torchvision's frozen batch norm."""

    def forward(net: Any, x: Tensor) -> Tensor:
        scale = net.fixed.scale.reshape(1, -1, 1, 1) * 2
        return net.head(F.relu(net.stem(x) * scale + net.fixed.shift))

    fixed = nn.Module()
    fixed.register_buffer("scale", images(8))
    fixed.register_buffer("shift", images(8, 1, 1))
    return Net(forward, stem=nn.Conv2d(3, 8, 3, 2, 1), fixed=fixed, head=head(8))


CLASSIFIERS: dict[str, Network] = {
    "one pooling, called twice": lambda: Net(
        lambda net, x: net.head(net.pool(net.b(net.pool(net.a(x))))),
        a=unit(3, 8),
        b=unit(8, 8),
        pool=nn.MaxPool2d(3, 2, 1),
        head=head(8),
    ),
    "kernels of all shapes": lambda: plain(
        nn.Conv2d(8, 8, (1, 7), padding=(0, 3)),
        nn.Conv2d(8, 8, 4, 2, 1),
        nn.Conv2d(8, 8, 3, dilation=2, padding="same"),
    ),
    "pooled to its size": lambda: plain(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2), nn.InstanceNorm2d(8)),
    "exchange": exchange,
    "branches": branches,
    "cifar shortcut": cifar_shortcut,
    "focus": focus,
    "gated": gated,
    "channels last": channels_last,
    "blurred": blurred,
    "shuffled": shuffled,
    "statistics": statistics,
    "frozen": frozen,
}

DECODERS: dict[str, Network] = {
    "u-net": unet,
    "transposed": lambda: nn.Sequential(
        unit(3, 8, stride=2), unit(8, 8, stride=2), nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2),
        nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1),
    ),
    "in one step": lambda: nn.Sequential(unit(3, 8, stride=4), nn.Upsample(scale_factor=4)),
    "two steps at once": lambda: nn.Sequential(
        unit(3, 8, stride=2), nn.MaxPool2d(2), nn.Upsample(scale_factor=4, mode="bilinear")
    ),
}  # fmt: skip


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def built(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network()


@cache
def converted(name: str, method: Any, placement: Any = "behind") -> Any:
    """A network of those above, converted once for all tests that only look at it."""
    network = built({**CLASSIFIERS, **DECODERS}[name])
    return lps.convert(network, method, placement=placement, example=SMALL).eval()


def places(name: str) -> list[Map | None]:
    """Where the one output of a network stands."""
    return [Map((), as_images(2))] if name in DECODERS else [None]


PLACEMENTS = pytest.mark.parametrize("placement", ["behind", "before"])


@PLACEMENTS
@pytest.mark.parametrize("method", ["lps", "aps"])
@pytest.mark.parametrize("name", [*CLASSIFIERS, *DECODERS])
def test_a_network_is_exact_under_every_shift(name: str, method: Any, placement: Any) -> None:
    report = lps.verify(converted(name, method, placement), images(1, 3, 8, 8))
    assert report.exact and report.labels.agree == report.labels.total > 0


@pytest.mark.parametrize("name", ["statistics", "channels last", "gated", "exchange", "kernels of all shapes"])
@pytest.mark.parametrize("size", [(12, 20), (20, 28), (28, 28)])
def test_maps_whose_rows_fill_no_vector_are_exact(name: str, size: tuple[int, int]) -> None:
    network = converted(name, "aps")
    for batch in (2, 5):
        assert lps.verify(network, images(1, 3, *size), shifts=24, batch_size=batch).exact


@pytest.mark.parametrize("antialias", ["none", "rect-2", "bin-5", "adapt-3"])
@PLACEMENTS
def test_every_filter_is_exact(antialias: Any, placement: Any) -> None:
    original = built(lambda: plain(unit(8, 8, stride=2)))
    network = lps.convert(original, antialias=antialias, placement=placement, select_from="unfiltered")
    assert lps.verify(network, images(1, 3, 8, 8)).exact


def always_first(network: nn.Module) -> nn.Module:
    for path, module in list(network.named_modules()):
        if isinstance(module, lps.MaxNorm):
            network.set_submodule(path, First(module.stride))
    return network


@PLACEMENTS
@pytest.mark.parametrize("name", [*CLASSIFIERS, *DECODERS])
def test_that_keeps_the_first_phase_and_pads_with_zeros_is_the_network_it_was(name: str, placement: Any) -> None:
    """So the conversion changes nothing but which phases are kept, and the border."""
    original = built({**CLASSIFIERS, **DECODERS}[name]).eval()
    network = always_first(lps.convert(original, "aps", "none", placement=placement, padding="zeros", example=SMALL))
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        expected, actual = original(x), network(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@PLACEMENTS
@pytest.mark.parametrize("name", [*CLASSIFIERS, *DECODERS])
def test_the_check_finds_a_layer_that_keeps_a_fixed_phase(name: str, placement: Any) -> None:
    """A test of the test: no selection is beside the point."""
    network = converted(name, "aps", placement)
    paths = [path for path, module in network.named_modules() if isinstance(module, lps.MaxNorm)]
    assert paths
    for path in paths:
        broken = copy.deepcopy(network)
        broken.set_submodule(path, First(network.get_submodule(path).stride))
        with pytest.raises(lps.ConvertError, match="outputs differ"):
            require_invariance(broken, 3, lps.conversion_report(network).stride, 2, places(name))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("stride", "kernel"), [(2, 3), (3, 4), (4, 4)])
def test_a_stride_behind_an_aligned_map_keeps_the_chosen_phase(dims: int, stride: int, kernel: int) -> None:
    """Equal to the convolution at every position and then Eq. (7), or Eq. (17) in training."""
    x, weight = images(5, 2, *(4 * stride,) * dims), images(3, 2, *(kernel,) * dims, seed=1)
    before, dilation = ahead((kernel // 2,) * dims), (1,) * dims
    everywhere = convolve(x, weight, None, before, dilation)
    phase = torch.arange(5) % stride**dims
    align = Align(lps.Downsample(stride=stride), "circular")
    aligned, _ = align(x, Selection(x, F.one_hot(phase, stride**dims), phase))
    torch.testing.assert_close(
        convolve(aligned, weight, None, before, dilation, stride=stride), keep(everywhere, phase, stride)
    )
    z = images(5, stride**dims, seed=2).softmax(1)
    mixed, _ = align(x, Selection(z, z))
    torch.testing.assert_close(
        convolve(mixed, weight, None, before, dilation, stride=stride), mix(everywhere, z, stride),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_before_convolutions_nothing_is_computed_that_is_not_kept() -> None:
    original = built(lambda: plain(unit(8, 16, stride=2), nn.Conv2d(16, 8, 7, 7)))
    plainly, behind, before = (
        gigamacs(lambda network=network: network(images(1, 3, 224, 224)))  # type: ignore[misc]
        for network in (
            original.eval(),
            *(lps.convert(original, "aps", "none", placement=placement) for placement in get_args(Placement)),
        )
    )
    assert before == plainly < behind


FEW = [(1, 8, 1), (1, 16, 2), (1, 64, 3), (1, 16, 4)]
GROUPED = [(2, 1, 4), (2, 8, 8), (3, 1, 4), (3, 8, 4), (8, 1, 1), (8, 2, 1), (8, 4, 4)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("groups", "inputs", "outputs"), [*FEW, *GROUPED])
def test_a_convolution_rounds_alike_everywhere(
    groups: int, inputs: int, outputs: int, kernel: int, stride: int
) -> None:
    weight, bias = images(groups * outputs, inputs, kernel, kernel), images(groups * outputs)
    settings: Any = {"border": ahead((kernel // 2,) * 2), "dilation": (1, 1), "groups": groups, "stride": stride}
    for size in ((1, 1), (2, 3), (5, 7), (7, 7), (13, 11)):
        x = images(1, groups * inputs, *(n * stride for n in size), seed=sum(size))
        shifts = [(0, 0), *(tuple(i * n // 5 for n in size) for i in (1, 2, 3, 4))]
        y = convolve(
            torch.cat([x.roll([stride * s for s in shift], (2, 3)) for shift in shifts]), weight, bias, **settings
        )
        for shift, moved in zip(shifts, y, strict=True):
            assert torch.equal(moved, y[0].roll(shift, (1, 2)))
        if stride == 1:
            padded = F.pad(x, (kernel // 2,) * 4, mode="circular")
            torch.testing.assert_close(y[:1], F.conv2d(padded, weight, bias, groups=groups), rtol=1e-4, atol=1e-4)


class Centred(nn.Module):
    """A layer of torch by its name, and so not taken apart: a sum over channels that nobody puts in order."""

    __module__ = "torch.nn"

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x - x.mean(1, keepdim=True)


def test_the_check_tries_a_size_that_fills_no_vector() -> None:
    network = built(lambda: nn.Sequential(unit(3, 16, stride=2), unit(16, 32, stride=2), Centred(), head(32)))
    with pytest.raises(lps.ConvertError, match=r"^2: outputs differ by .* of images \(20, 28\): precision"):
        lps.convert(network, "aps")


@pytest.mark.parametrize("features", [3, 6, 20, 512])
def test_the_rows_of_a_batch_round_alike(features: int) -> None:
    linear = Linear(nn.Linear(features, 1000)).eval()
    x = images(1, features).expand(7, -1).contiguous()
    with torch.no_grad():
        y = linear(x)
        assert torch.equal(y, y[:1].expand_as(y))
        torch.testing.assert_close(y, linear.train()(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "before", "dilation"), [(3, 1, 1), (2, 0, 1), (3, 2, 2)])
def test_the_largest_of_a_window_is_found_axis_by_axis(dims: int, kernel: int, before: int, dilation: int) -> None:
    pool = Pooling(True, (kernel,) * dims, (dilation,) * dims, "circular", Border((Pad((before,) * dims, ()),)))
    x = images(2, 3, *(7,) * dims)
    assert torch.equal(pool.eval()(x), pool.train()(x))


def test_maps_of_several_sizes_move_by_whole_samples() -> None:
    network = lps.convert(built(pyramid), example=SMALL).eval()
    assert lps.conversion_report(network).stride == 8
    x = images(1, 3, 32, 32)
    with torch.no_grad():
        maps, moved = network(x), network(lps.circular_shift(x, (8, -16)))
    for name, by in {"p2": (4, -8), "p3": (2, -4), "p4": (1, -2)}.items():
        assert torch.equal(moved[name], lps.circular_shift(maps[name], by))


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int) -> None:
    conv, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
    pool, mean = {1: (nn.MaxPool1d, nn.AdaptiveAvgPool1d), 3: (nn.MaxPool3d, nn.AdaptiveAvgPool3d)}[dims]
    layers = [conv(2, 4, 3, 2, 1), norm(4), nn.ReLU(), pool(2), mean(1), nn.Flatten(), nn.Linear(4, 3)]
    torch.manual_seed(0)
    network = lps.convert(nn.Sequential(*layers), example=torch.zeros(1, 2, *(16,) * dims)).eval()
    x = images(2, 2, *(8,) * dims)
    with torch.no_grad():
        for by in (1, 2, 3, 5):
            assert torch.equal(network(lps.circular_shift(x, by)), network(x))


def test_the_report_tells_who_chooses_and_what_is_new() -> None:
    original = built(cifar_shortcut)
    network = lps.convert(original)
    report = lps.conversion_report(network)
    assert [(s.layer, s.kind, s.stride, s.channels) for s in report.strides] == [
        ("main.0.0", "Conv2d", 2, 16),
        ("getitem", "getitem", 2, 8),
    ]
    chooses, follows = report.strides
    assert chooses.follows == () and follows.follows == (chooses.sampling,)
    assert report.parameters.keys() == {
        f"{chooses.sampling}.select.conv{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    assert report.stride == 2 and report.checked is not None
    assert "checked: equal outputs" in str(report) and "new parameters to train" in str(report)
    assert "without training" in str(lps.conversion_report(lps.convert(original, "aps")))
    with pytest.raises(ValueError, match="no result of lps"):
        lps.conversion_report(original)


def test_a_head_that_only_training_uses_is_left_out() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = net.stem(x)
        return (net.head(x), net.aux(x)) if net.training else net.head(x)

    original = built(lambda: Net(forward, stem=unit(3, 8, stride=2), aux=head(8), head=head(8)))
    network = lps.convert(original)
    assert "aux is left out" in str(lps.conversion_report(network)) and not hasattr(network, "aux")


def test_weights_keep_their_names_and_the_original_its_code() -> None:
    original = built(gated)
    original.get_parameter("conv.weight").requires_grad_(False)
    before = copy.deepcopy(original.state_dict())
    network = lps.convert(original)
    new = set(lps.conversion_report(network).parameters)
    assert set(network.state_dict()) - new - {"conv_sampling.select.tau"} == set(before)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(original.state_dict()[name], value) for name, value in before.items())
    assert isinstance(original.conv, nn.Conv2d) and original.conv.stride == (2, 2)
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {"conv.weight"}


def test_it_trains() -> None:
    network = lps.convert(built(gated).train())
    assert network.training
    x = images(4, 3, 16, 16)
    assert not torch.equal(network(x), network(x))  # dropout, and selections that are drawn
    network(x).square().sum().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert without <= {"conv_sampling.select.conv2.bias"}  # it raises all logits alike
    network.eval()
    assert lps.verify(network, images(1, 3, 8, 8)).exact


def test_copies_and_files_hold_the_same_network() -> None:
    network, x = lps.convert(built(branches)).eval(), images(2, 3, 16, 16)
    with torch.no_grad():
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(other(x), network(x))
            assert lps.conversion_report(other) == lps.conversion_report(network)


def test_other_sizes_are_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, got \(16, 18\)"):
        lps.convert(built(branches))(images(1, 3, 16, 18))


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 16, 16), (1, 3, 16)])
def test_images_of_another_form_are_refused_at_the_door(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"expected images \(N, 3, H, W\), got {re.escape(str(shape))}"):
        lps.convert(built(branches), "aps")(torch.zeros(shape))


def test_images_of_whole_numbers_are_refused_unless_the_network_scales_them() -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = built(branches)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.float() / 255)

    pixels = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert lps.convert(Scaling(), "aps").eval()(pixels).isfinite().all()
    with pytest.raises(ValueError, match=r"got a map of torch.uint8, .*; give x\.float\(\), and images scaled"):
        lps.convert(built(branches), "aps")(pixels)


def test_a_flattened_map_is_pooled_when_asked_for() -> None:
    layers = [unit(3, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 8 * 8, 5)]
    original = built(lambda: nn.Sequential(*layers)).eval()
    example = images(1, 3, 16, 16)
    with pytest.raises(lps.ConvertError, match=r'2: it turns the 8x8 positions .* head="pool"'):
        lps.convert(original, example=example)
    network = lps.convert(original, "aps", "none", head="pool", example=example)
    assert lps.verify(network, images(1, 3, 16, 16)).exact
    constant = torch.ones(1, 3, 1, 1).expand(1, 3, 16, 16)  # pooling loses nothing where there is nothing to lose
    next(m for m in original.modules() if isinstance(m, nn.Conv2d)).padding_mode = "circular"
    torch.testing.assert_close(network(constant), original(constant), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flatten", [lambda x: x.view(-1, 400), lambda x: x.reshape(len(x), 400)])
def test_a_flattened_map_is_pooled_whatever_its_code_says_of_features(flatten: Callable[[Tensor], Tensor]) -> None:
    layers = {"a": nn.Conv2d(3, 6, 5), "b": nn.Conv2d(6, 16, 5), "c": nn.Linear(400, 20), "d": nn.Linear(20, 4)}

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.a(x)), 2)
        x = F.max_pool2d(F.relu(net.b(x)), 2)
        return net.d(F.relu(net.c(flatten(x))))

    network = lps.convert(built(lambda: Net(forward, **layers)), "aps", head="pool", example=images(1, 3, 32, 32))
    assert network(images(5, 3, 16, 16)).shape == (5, 4)
    assert lps.verify(network, images(1, 3, 16, 16)).exact


DROPOUTS = (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_dropout_is_kept_and_other_noise_of_training_is_noted(dropout: Callable[..., Tensor]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(dropout(net.a(x), 0.5, net.training))

    network = lps.convert(built(lambda: Net(forward, a=unit(3, 8, stride=2), head=head(8))), "aps").train()
    x = images(2, 3, 16, 16)
    assert not torch.equal(network(x), network(x))
    assert lps.verify(network, images(1, 3, 8, 8)).exact
    noisy = lps.convert(built(Noisy), "aps")
    assert [note for note in lps.conversion_report(noisy).notes if note.startswith("Noisy asks whether")]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = unit(3, 8, stride=2), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(x + torch.randn_like(x) if self.training else x)


@pytest.mark.parametrize("antialias", ["tri-3", "adapt-3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_new_layers_have_the_type_of_their_map(dtype: torch.dtype, antialias: Any) -> None:
    network = lps.convert(built(branches).to(dtype), "lps", antialias).eval()
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert network(images(1, 3, 16, 16).to(dtype)).dtype == dtype


@PLACEMENTS
def test_one_graph_holds_all_of_a_network(placement: Any) -> None:
    network, x = converted("statistics", "lps", placement), images(2, 3, 16, 16)
    torch._dynamo.reset()
    with torch.inference_mode():
        assert torch.equal(torch.compile(network, backend="eager", fullgraph=True)(x), network(x))


def test_arguments_may_be_given_by_name() -> None:
    def forward(net: Any, x: Tensor, *, scale: float = 2.0, **unused: Any) -> Tensor:
        return net.b(torch.mean(input=net.a(input=x), dim=(2, 3)) * scale)

    named = type("Named", (Net,), {"forward": forward})
    network = lps.convert(built(lambda: named(forward, a=nn.Conv2d(3, 8, 3, 2, 1), b=nn.Linear(8, 4))), "aps")
    assert lps.verify(network, images(1, 3, 8, 8)).exact


FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "instance norm": lambda net, x: net.head(F.instance_norm(net.a(x), weight=net.weight, bias=net.weight)),
    "transposed": lambda net, x: net.head(F.conv_transpose2d(net.a(x), net.kernel, stride=2, padding=1, groups=2)),
    "largest": lambda net, x: net.head(torch.max_pool2d(net.a(x), 3, 2, 1, 1, True)),
    "zeros": lambda net, x: net.head(net.a(x)) + torch.zeros(x.shape[0], 5) + torch.ones(len(x), 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_converted_as_its_layer_is(name: str) -> None:
    def network() -> nn.Module:
        net = Net(FUNCTIONS[name], a=unit(3, 8, stride=2), head=head(8))
        net.weight, net.kernel = nn.Parameter(images(8)), nn.Parameter(images(8, 4, 4, 4))
        return net

    assert lps.verify(lps.convert(built(network), "aps", example=SMALL), images(1, 3, 8, 8)).exact


def test_what_fails_at_another_size_is_refused_by_the_check() -> None:
    """And is no error of torch."""

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., :100].reshape(len(x), -1, 10, 10)

    with pytest.raises(
        lps.ConvertError, match=r"^the network: what it became fails on random images \(32, 48\): shape"
    ):
        require_invariance(Narrow(), 1, 1, 2, [None])


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.where, self.head = unit(3, 8, stride=2), nn.Parameter(images(1, 8, 32, 32)), head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) + self.where)


REFUSED: dict[str, tuple[Network, str]] = {
    "flatten": (lambda: plain(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8192, 5))[:4], r"^2: .*into features"),
    "positions": (Embeds, r"^add: it meets where, which has values of its own at each position"),
    "transposed": (
        lambda: Net(
            lambda net, x: F.conv_transpose2d(net.a(x), net.w.weight, stride=3),
            a=unit(3, 8, stride=2),
            w=nn.Conv2d(4, 8, 3),
        ),
        r"^conv_transpose2d: an upsampling by 3 undoes no stride",
    ),
    "windows": (
        lambda: nn.Sequential(unit(3, 8, stride=2), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)),
        r"^1: it pools to \(4, 4\) windows",
    ),
    "strips": (lambda: plain(nn.AdaptiveAvgPool2d((4, 1))), r"^1: it pools to \(4, 1\) windows, and along one axis"),
    "factor": (
        lambda: nn.Sequential(unit(3, 8, stride=2), nn.Upsample(scale_factor=4), nn.Conv2d(8, 8, 3, 2, 1)),
        r"^2: it samples a map that is finer than the images",
    ),
    "size": (lambda: nn.Sequential(unit(3, 8, stride=4), nn.Upsample(size=24)), r"^1: it resizes \(16, 16\)"),
    "cubic": (lambda: nn.Sequential(unit(3, 8, stride=2), nn.Upsample(scale_factor=2, mode="bicubic")), r"'bicubic'"),
    "meeting": (
        lambda: Net(
            lambda net, x: net.head(torch.cat([net.a(x), net.b(x)], 1)),
            a=nn.Sequential(unit(3, 4, stride=3), unit(4, 4, stride=2)),
            b=nn.Sequential(unit(3, 4, stride=2), unit(4, 4, stride=3)),
            head=head(8),
        ),
        r"^cat: a stride of 3 meets strides of 2, 3",
    ),
    "crop": (
        lambda: Net(lambda net, x: net.head(net.a(x)[..., :9]), a=unit(3, 8), head=head(8)),
        "a size that its code",
    ),
    "fold": (lambda: nn.Sequential(unit(3, 12, stride=2), nn.Unfold(2, stride=2)), r"^1: it trades positions"),
    "parametrized": (
        lambda: plain(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, 2, 1))),
        r"^1: its weights are parametrized",
    ),
    "spectral": (lambda: plain(nn.utils.spectral_norm(nn.Conv2d(8, 8, 3, 2, 1))), r"^1: it has hooks"),
    "divisor": (lambda: plain(nn.AvgPool2d(2, divisor_override=1)), r"^1: .*\(divisor_override\)"),
    "two inputs": (
        lambda: type("Two", (Net,), {"forward": lambda net, x, y: net.head(net.a(x) + y)})(
            lambda: None, a=unit(3, 8), head=head(8)
        ),
        r"^the network: besides images it reads y",
    ),
    "norm": (lambda: plain(nn.LayerNorm((8, 64, 64))), r"^1: it mixes positions with weights of their own"),
    "rows": (lambda: plain(nn.Linear(64, 64)), r"^1: it mixes positions"),
    "rolled": (
        lambda: Net(lambda net, x: net.head(net.a(x).cumsum(2)), a=unit(3, 8), head=head(8)),
        r"outputs differ by .*padding",
    ),
    "data": (
        lambda: Net(lambda net, x: net.head(net.a(x) if x.mean() > 0 else x), a=unit(3, 8), head=head(8)),
        "its code cannot be followed .*it asks for values, and there are sizes alone",
    ),
    "our own": (lambda: lps.ResNet(18, classes=5, width=8), r"^the network: it is built of this library's layers"),
    "twice": (lambda: lps.convert(built(lambda: plain(nn.MaxPool2d(2)))), "it samples by polyphase components already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_proof_is_refused_with_layer_and_reason(name: str) -> None:
    network, words = REFUSED[name]
    example = torch.zeros(1, 3, 48, 48) if name == "meeting" else SMALL
    with pytest.raises(lps.ConvertError, match=words):
        lps.convert(built(network), example=example)


@pytest.mark.parametrize("seed", range(8))
def test_a_choice_of_few_hidden_channels_can_learn_whatever_its_maps(seed: int) -> None:
    """A lone unit on maps of one sign is open or shut, and half of all would be shut for good."""
    torch.manual_seed(seed)
    depthwise = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
    network = lps.convert(nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), depthwise, nn.AdaptiveAvgPool2d(1)))
    maps = 5 * torch.rand(4, 16, 8, 8) * torch.tensor([1.0, 1.0, -1.0, -1.0]).view(-1, 1, 1, 1)
    (choice,) = (layer for layer in network.modules() if isinstance(layer, lps.LearnedPhase))
    for x in maps.split(2):  # of either sign
        choice.zero_grad()
        scores = choice(x).scores
        assert (scores.amax(1) > scores.amin(1)).all()
        scores[:, 0].sum().backward()
        assert all(cast(Tensor, conv.weight.grad).any() for conv in (choice.conv1, choice.conv2))


@pytest.mark.parametrize(
    "setting",
    [
        {"method": "max"},
        {"antialias": "tri-5"},
        {"head": "mean"},
        {"placement": "after"},
        {"padding": "zero"},
        {"select_from": "unfilterd"},
    ],
)
def test_unknown_settings_are_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"no {name} "):
        lps.convert(built(cifar_shortcut), **setting)
    with pytest.raises(ValueError, match="hidden_divisor: expected at least 1, got 0"):
        lps.convert(built(cifar_shortcut), hidden_divisor=0)


@pytest.mark.parametrize("between", [nn.Softmax(1), nn.BatchNorm1d(8192), nn.LayerNorm(8192)])
def test_no_head_is_pooled_through_what_reads_its_features_together(between: nn.Module) -> None:
    network = built(lambda: nn.Sequential(unit(3, 8), nn.MaxPool2d(2), nn.Flatten(), between, nn.Linear(8192, 5)))
    with pytest.raises(lps.ConvertError, match="features that no linear layer reads alone"):
        lps.convert(network, head="pool", example=SMALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_kernel_behind_zeros_is_the_interpolation(mode: str, factor: int) -> None:
    x = images(1, 2, 6, 6)
    zeros = torch.zeros(1, 2, 6 * factor, 6 * factor)
    zeros[..., ::factor, ::factor] = x
    inner = (..., *(slice(factor, -factor),) * 2)
    expected = F.interpolate(x, scale_factor=factor, mode=mode)
    kernel = Interpolation(factor, mode != "nearest", "circular")
    for form in (kernel, torch.jit.trace(kernel, zeros)):
        torch.testing.assert_close(form(zeros)[inner], expected[inner])


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.GELU("tanh")])
def test_an_activation_rounds_alike_in_every_row(activation: nn.Module) -> None:
    exact = Pointwise(activation).eval()
    for width in range(1, 40):
        row = 4 * images(1, width, seed=width)
        y = exact(row.expand(7, width).contiguous())
        assert torch.equal(y, y[:1].expand(7, width))
        torch.testing.assert_close(y[:1], activation(row), rtol=1e-5, atol=1e-6)


def test_grids_of_equal_strides_share_their_steps() -> None:
    node = torch.fx.Graph().placeholder("x")
    a, b, c, four = (Step(node, (stride, stride), False) for stride in (2, 2, 2, 4))
    assert meet((a, b), (a, c)) == (a, b) or resolve((c,)) == resolve((b,))
    meet((a, b), (four,))
    assert four.roots() == resolve((a, b)) and resolve((c,)) == resolve((b,))
    with pytest.raises(ValueError, match="stride 4 and 2 meet"):
        meet((a, b), (a,))


def test_choices_beside_convolutions_in_groups_have_few_parameters() -> None:
    layers = nn.Conv2d(3, 128, 3, 2, 1), nn.Conv2d(128, 128, 3, 2, 1, groups=128), nn.Conv2d(128, 8, 3, 2, 1)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for divisor, expected in ((None, [16, 2, 2]), (16, [8, 8, 2])):
        converted = lps.convert(network, "lps", hidden_divisor=divisor)
        assert [m.conv1.out_channels for m in converted.modules() if isinstance(m, lps.LearnedPhase)] == expected


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (unit(3, 8, stride=2), unit(8, 8))
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(self.a(x)))
        return torch.cat([x.clone(), self.relu(x)], 1).amax((2, 3))


@pytest.mark.parametrize("placement", ["behind", "before"])
def test_activations_write_in_place_as_they_did_where_nothing_else_reads(placement: Placement) -> None:
    network = lps.convert(ReadTwice(), "aps", placement=placement)
    found = {name: module.inplace for name, module in network.named_modules() if isinstance(module, nn.ReLU)}
    assert found == {"a.2": True, "b.2": True, "relu": False}


def weekly(*names: str) -> list[Any]:
    """What repeats the kinds of others: networks whose layers are those of the small ones above, a placement."""
    return [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.exhaustive]) for name in names]


FAMILIES = weekly("efficientnet_b0", "regnet_x_400mf", "densenet121", "convnext_tiny")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", *FAMILIES])
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = lps.convert(models.get_model(name, weights=None))
    assert lps.verify(network, images(1, 3, 64, 64), shifts=3).exact


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", *weekly("deeplabv3_mobilenet_v3_large")])
def test_torchvision_segmenters(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = lps.convert(models.get_model(name, weights=None, weights_backbone=None))
    assert lps.verify(network, images(1, 3, 64, 64), shifts=2).exact


@pytest.mark.parametrize("name", weekly("all kinds", "r3d_18", "mc3_18", "r2plus1d_18"))
def test_torchvision_of_video(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    if name == "all kinds":  # in one network, with a block of each
        parts = models.video.resnet
        kinds = [parts.Conv3DSimple, parts.Conv3DSimple, parts.Conv2Plus1D, parts.Conv3DNoTemporal]
        original = parts.VideoResNet(parts.BasicBlock, kinds, [1] * 4, parts.R2Plus1dStem)
    else:
        original = models.get_model(name, weights=None)
    network = lps.convert(original, "aps").eval()
    x = images(1, 3, *steps(lps.conversion_report(network).stride, 3))
    with torch.inference_mode():
        for shift in ((1, 1, 1), (3, 5, 2)):
            assert torch.equal(network(x.roll(shift, (2, 3, 4))), network(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "convnextv2_atto", *weekly("resnet26d", "hrnet_w18_small")])
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    assert lps.verify(lps.convert(timm.create_model(name)), images(1, 3, 64, 64), shifts=3).exact


@pytest.mark.slow
@pytest.mark.parametrize("page", ["convert", "which-method", "questions"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "book" / f"{page}.md").read_text()
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)), {})


def test_the_command_converts_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    assert command(["convert", "torchvision:squeezenet1_1", "--method", "aps"]) == 0
    assert "without training" in capsys.readouterr().out
    assert command(["convert", "torchvision:alexnet"]) == 1
    assert "is refused: avgpool: it pools to" in capsys.readouterr().out
    assert command(["convert", "resnet18"]) == 2
    with pytest.raises(SystemExit) as ended:
        command(["convert"])
    assert ended.value.code == 2 and "arguments are required: network" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("placement", get_args(Placement))
def test_an_exported_network_gives_the_same_bits(placement: Placement, any_batch: Any) -> None:
    network = lps.convert(built(branches), placement=placement).eval()
    program = torch.export.export(network, (images(4, 3, 16, 16),), dynamic_shapes=any_batch)
    x = images(7, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(program.module()(x), network(x))
