"""A converted network is the same function, but for the phases, the filters and the borders that were asked for."""

import copy
import operator
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps.convert.check import drawn
from lps.convert.layers import Pooling, Reduction
from lps.polyphase import Stride, phases
from lps.selection import Selection

Forward = Callable[..., Any]
Network = Callable[[], nn.Module]


class First(nn.Module):
    """Phase 0 of each map: what a strided network keeps."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, *_: Any) -> Selection:
        z = F.one_hot(torch.zeros(len(x), dtype=torch.int64), phases(self.stride, x.dim() - 2)).to(x.dtype)
        return Selection(z, z, z.argmax(1))


class Net(nn.Module):
    """A convolution, a function, a strided convolution and a head; or whatever layers are given by name."""

    def __init__(self, function: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.a, self.down, self.head = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), head()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def head(channels: int = 8) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def built(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network().eval()


def images(count: int = 2, *size: int) -> Tensor:
    return torch.randn(count, 3, *(size or (16, 24)), generator=torch.Generator().manual_seed(1))


def first(network: nn.Module) -> nn.Module:
    for path, module in list(network.named_modules()):
        if isinstance(module, lps.MaxNorm):
            network.set_submodule(path, First(module.stride))
    return network.eval()


def assert_same(network: nn.Module, *batches: Tensor, **settings: Any) -> None:
    """Converted with phase 0, no filter and its own borders it gives what it gave, whatever the number of images."""
    settings = {"example": images(1), **settings}
    converted = first(lps.convert(network, "aps", "none", padding="zeros", **settings))
    for x in batches or (images(1), images(2), images(5)):
        with torch.no_grad():
            torch.testing.assert_close(converted(x.clone()), network(x.clone()), rtol=1e-4, atol=1e-5)


# writes in place


class Module(nn.Module):
    def __init__(self, f: Forward) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Any:
        return self.f(x)


def double(x: Tensor) -> Tensor:
    return x.mul_(2)


def squeeze_excite(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    y = F.relu(x, True)
    x *= x.mean((2, 3), keepdim=True).sigmoid()
    return net.head(net.down(y) + net.down(x))


def norm_by_hand(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = y
    y -= y.mean(1, keepdim=True)
    y /= y.square().mean(1, keepdim=True).add_(1e-3).sqrt_()
    return net.head(net.down(z))


def before(net: Any, x: Tensor) -> Tensor:
    """What was read before the write stays what it was."""
    y = net.a(x)
    z = y + 1
    y.relu_()
    return net.head(net.down(z) + net.down(y))


def result(net: Any, x: Tensor) -> Tensor:
    y, z = net.a(x), net.down.weight.new_zeros(1, 8, 1, 1)
    y = torch.add(y, z, alpha=2, out=y) + torch.clamp_(y, 0, 1)
    return net.head(net.down(y))


def halves(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    left, right = y.chunk(2, 1)
    left.relu_()
    right += left
    return net.head(net.down(y + torch.cat([right, left], 1)))


def both_ways(net: Any, x: Tensor) -> Tensor:
    """A write to the map is seen by a view made before, and one to the view by the map."""
    y = net.a(x)
    view = y[:, 2:6]
    y.mul_(2)
    view.add_(1)
    y[:, :1] = 3
    return net.head(net.down(torch.cat([view, y[:, :4]], 1)))


def groups(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    y.view(len(y), 2, 4, *y.shape[2:])[:, 1].mul_(-2.0)
    y.transpose(0, 1)[3].zero_()
    y.narrow(1, 5, 2).copy_(y.narrow(1, 0, 2))
    return net.head(net.down(y))


def masked(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    y[y < 0] = 0.5
    y[:, 0] = y[:, 1] * 2
    return net.head(net.down(y))


def shapes(net: Any, x: Tensor) -> Tensor:
    y = net.head(net.down(net.a(x)))
    z = y
    y.unsqueeze_(1)
    return z[:, 0] * 2


def numbers(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    n = c = y.shape[1]
    n += 1
    n -= c
    return net.head(net.down(y)) * n + c


def data(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    y.data.clamp_(0, 1)
    y.detach()[:, :2] *= 3
    return net.head(net.down(y))


def twice(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = net.act(y) + y
    return net.head(net.down(net.act(z) - z + y))


WRITES: dict[str, Network] = {
    "residual": lambda: Net(
        lambda net, x: (lambda y: net.head(net.down(net.body(y) + y)))(net.a(x)),
        body=nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(8, 8, 3, 1, 1)),
    ),
    "ignored": lambda: Net(
        lambda net, x: (lambda y: (net.act(y), net.head(net.down(y)))[1])(net.a(x)), act=nn.ReLU(True)
    ),
    "called twice": lambda: Net(twice, act=nn.Hardtanh(inplace=True)),
    "silu": lambda: Net(lambda net, x: (lambda y: net.head(net.down(net.act(y) + y)))(net.a(x)), act=nn.SiLU(True)),
    "own code": lambda: Net(
        lambda net, x: (lambda y: net.head(net.down(net.act(y) + y)))(net.a(x)), act=Module(double)
    ),
    "input": lambda: Net(lambda net, x: net.head(net.down(net.a(x.sub_(0.5).div_(0.2)))) + x.mean((2, 3))[:, :1]),
    "assignments": lambda: Net(squeeze_excite),
    "norm": lambda: Net(norm_by_hand),
    "before": lambda: Net(before),
    "out": lambda: Net(result),
    "halves": lambda: Net(halves),
    "both ways": lambda: Net(both_ways),
    "groups": lambda: Net(groups),
    "masked": lambda: Net(masked),
    "shapes": lambda: Net(shapes),
    "numbers": lambda: Net(numbers),
    "data": lambda: Net(data),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_in_place_is_read_afterwards(name: str) -> None:
    assert_same(built(WRITES[name]))


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_moves_with_the_image(name: str) -> None:
    network = lps.convert(built(WRITES[name]), "aps", example=images(1))
    assert lps.verify(network, images(1, 8, 8), shifts=4).exact


# what code asks of its maps


class Fields(nn.Module):
    """Asks all sorts of things of what it is given, and adds nothing where an answer is not that of a tensor."""

    def __init__(self, ask: Callable[[Any], bool]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if self.ask(x) else x


QUESTIONS: dict[str, Callable[[Any], bool]] = {
    "is_tensor": torch.is_tensor,
    "isinstance": lambda x: isinstance(x, torch.Tensor),
    "no list": lambda x: not isinstance(x, list | tuple),
    "size": lambda x: isinstance(x.shape, torch.Size) and isinstance(x.size(), tuple),
    "number": lambda x: isinstance(x.shape[1], int) and isinstance(x.dim(), int),
    "no attribute": lambda x: not hasattr(x, "tensors") and getattr(x, "mask", None) is None,
    "attribute": lambda x: hasattr(x, "shape") and not hasattr(x.shape, "shape"),
    "parts": lambda x: isinstance(x.chunk(2, 1), tuple) and torch.is_tensor(x.chunk(2, 1)[0]),
    "dimensions": lambda x: len(x.shape) == x.ndim == 4,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_code_is_told_the_truth_of_its_maps(name: str) -> None:
    ask = QUESTIONS[name]
    assert ask(images())
    assert_same(built(lambda: Net(lambda net, x: net.head(net.down(net.ask(net.a(x)))), ask=Fields(ask))))


# numbers of images


def rows(net: Any, x: Tensor) -> Tensor:
    y = net.down(net.a(x)).mean((2, 3))
    return y + torch.ones(len(y), 8).cumsum(1)


BATCHES: dict[str, Forward] = {
    "view": lambda net, x: net.down(net.a(x)).mean((2, 3)).view(len(x), -1),
    "integer": lambda net, x: net.down(net.a(x)).mean((2, 3)).reshape(int(x.shape[0]), 2, 4).sum(1),
    "multiple": lambda net, x: net.down(net.a(x)).mean((2, 3)).view(4 * len(x), 2).view(len(x), -1),
    "expand": lambda net, x: net.down(net.a(x)).mean((2, 3)) + net.a.bias.expand(len(x), -1),
    "repeat": lambda net, x: net.down(net.a(x)).mean((2, 3)) + net.a.bias[None].repeat(len(x), 1),
    "constant": rows,
    "zeros": lambda net, x: net.down(net.a(x)).mean((2, 3)) + torch.zeros((x.shape[0], 8), device=x.device),
    "new": lambda net, x: net.down(net.a(x) + x.new_full((len(x), 1, 1, 1), 2.0)),
    "groups": lambda net, x: net.down(net.a(x).view(len(x), 2, 4, *x.shape[2:]).flip(1).flatten(1, 2)),
    "squeezed": lambda net, x: net.head[0](net.down(net.a(x))).squeeze(),
    "one apart": lambda net, x: net.down(net.a(x)).mean((2, 3)) * (1 if len(x) == 1 else 1.0),
    "float": lambda net, x: net.down(net.a(x)).mean((2, 3)) / float(x.shape[0]) * len(x),
    "one more": lambda net, x: (lambda y: torch.cat([y, y[:1]]).narrow(0, 1, len(x) + 1 - 1))(
        net.head(net.down(net.a(x)))
    ),
    "slices": lambda net, x: net.down(net.a(x)).mean((2, 3))[: len(x)],
    "scaled": lambda net, x: net.down(net.a(x)).mean((2, 3)).sum(0, keepdim=True).expand(len(x), -1) * 0 + 1,
}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", BATCHES)
def test_the_number_of_images_is_not_that_of_the_example(name: str, count: int) -> None:
    batches = () if name != "squeezed" else (images(2), images(5))
    assert_same(built(lambda: Net(BATCHES[name])), *batches, example=images(count))


# borders and statistics


def between(*layers: nn.Module, low: bool = False) -> nn.Module:
    conv = nn.Conv2d(3, 8, 3, 1, 1)
    if low:
        nn.init.constant_(conv.bias, -3.0)  # type: ignore[arg-type]
    return nn.Sequential(conv, *layers, head())


class Same(nn.Module):
    """Pads as TensorFlow does, by an amount that depends on the size, then does ``function``."""

    def __init__(self, function: Forward, value: float = 0.0) -> None:
        super().__init__()
        self.function, self.value = function, value

    def forward(self, x: Tensor) -> Tensor:
        pads = [amount for size in reversed(x.shape[2:]) for amount in (max(3 - 2 + size % 2, 0) // 2, 1)]
        return self.function(F.pad(x, pads, value=self.value))


BORDERS: dict[str, Network] = {
    "max": lambda: between(nn.MaxPool2d(3, 2, 1), low=True),
    "max, stride 1": lambda: between(nn.MaxPool2d(5, 1, 2), low=True),
    "max, ceil": lambda: between(nn.MaxPool2d(3, 2, ceil_mode=True), low=True),
    "max, function": lambda: between(Module(lambda x: F.max_pool2d(x, 3, stride=2, padding=1)), low=True),
    "max of padded": lambda: between(nn.ConstantPad2d(1, -7.0), nn.MaxPool2d(3, 2), low=True),
    "max of zeros": lambda: between(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2), low=True),
    "mean": lambda: between(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "mean with border": lambda: between(nn.AvgPool2d(3, 2, 1)),
    "mean, stride 1": lambda: between(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "mean, ceil": lambda: between(nn.AvgPool2d(3, 2, ceil_mode=True)),
    "mean, function": lambda: between(Module(lambda x: F.avg_pool2d(x, 3, 2, 1, False, False))),
    "mean of padded": lambda: between(nn.ZeroPad2d(1), nn.AvgPool2d(3, 2, count_include_pad=False)),
    "circular": lambda: between(nn.Conv2d(8, 8, 3, 2, 1, padding_mode="circular")),
    "reflect": lambda: between(nn.Conv2d(8, 8, 3, 2, 1, padding_mode="reflect")),
    "replicate": lambda: between(nn.Conv2d(8, 8, 5, 2, 2, padding_mode="replicate")),
    "reflection": lambda: between(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3, 2)),
    "padded twice": lambda: between(nn.ReplicationPad2d((1, 0, 1, 0)), nn.Conv2d(8, 8, 5, 2, 1)),
    "padded with ones": lambda: between(nn.ConstantPad2d((0, 1, 0, 1), 1.0), nn.Conv2d(8, 8, 3, 2)),
    "even": lambda: between(nn.Conv2d(8, 8, 4, padding="same", dilation=2), nn.Conv2d(8, 8, 2, 2)),
    "nearest": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.Upsample(scale_factor=2)),
    "bilinear": lambda: between(nn.Conv2d(8, 8, 4, 4), nn.Upsample(scale_factor=4, mode="bilinear")),
    "transposed": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)),
    "group": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU()),
    "instance": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.InstanceNorm2d(8, affine=True), nn.SiLU()),
    "instance, tracked": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.InstanceNorm2d(8, track_running_stats=True)),
    "batch": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
    "group, function": lambda: between(nn.Conv2d(8, 8, 3, 2, 1), Module(lambda x: F.group_norm(x, 4))),
}


@pytest.mark.parametrize("placement", ["behind", "before"])
@pytest.mark.parametrize("name", BORDERS)
def test_borders_and_statistics_are_those_of_the_original(name: str, placement: Any) -> None:
    assert_same(built(BORDERS[name]), placement=placement)


# what is refused


def with_hook() -> nn.Module:
    net = between(nn.Conv2d(8, 8, 3, 2, 1))
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
    return net


def with_hook_behind() -> nn.Module:
    net = between(nn.Conv2d(8, 8, 3, 2, 1))
    net.register_forward_hook(lambda module, inputs, output: output * 3)
    return net


def with_hook_of_a_weight() -> nn.Module:
    net = between(nn.Conv2d(8, 8, 3, 2, 1))
    net.get_parameter("1.weight").register_hook(lambda gradient: 0 * gradient)
    return net


def with_hook_on_the_way_back() -> nn.Module:
    net = between(nn.Conv2d(8, 8, 3, 2, 1))
    net.get_submodule("1").register_full_backward_hook(lambda module, given, back: None)
    return net


class Reversed(torch.autograd.Function):
    """As in adversarial training: its forward does not say what its backward does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Swish(torch.autograd.Function):
    """Saves memory, and its backward is that of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradients[0] * (s + x * s * (1 - s))


def with_forward(layer: str) -> nn.Module:
    net = between(nn.Conv2d(8, 8, 3, 2, 1))
    part = net.get_submodule(layer)
    plain = type(part).forward
    part.forward = types.MethodType(lambda self, x: 2 * plain(self, x), part)
    return net


def test_what_is_attached_to_a_part_that_stays_is_kept() -> None:
    net = between(nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()))
    norm, block = net.get_submodule("1"), net.get_submodule("2")
    norm.register_forward_hook(lambda module, inputs, output: output * 2)
    block.register_forward_pre_hook(lambda module, inputs: (inputs[0] - 1,))
    block.forward = types.MethodType(lambda self, x: self[1](self[0](x) * 3), block)
    assert_same(net.eval())


class AlwaysOn(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


class Scaled(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


class Noise(nn.Module):
    """Reads its mode, so it stays as it is, and is random all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x + torch.rand_like(x)


REFUSED: dict[str, tuple[Network, str, str]] = {
    "hook": (with_hook, "the network", "it has hooks"),
    "hook behind": (with_hook_behind, "the network", "it has hooks"),
    "hook of a weight": (with_hook_of_a_weight, "1", "its weight has hooks"),
    "hook on the way back": (with_hook_on_the_way_back, "1", "it has hooks"),
    "backward": (
        lambda: Net(lambda net, x: net.head(Reversed.apply(net.down(net.a(x))))),
        "the model",
        "autograd function Reversed, whose backward would be lost",
    ),
    "name": (lambda: Net(lambda net, x: net.head(net.code(net.a(x))), code=nn.ReLU()), "code", "rename the layer"),
    "forward": (lambda: with_forward(""), "the network", "it has a forward of its own"),
    "forward of a layer": (lambda: with_forward("1"), "1", "it has a forward of its own"),
    "dropout": (lambda: between(Module(F.dropout)), "1.dropout", "on in evaluation too"),
    "dropout asked for": (
        lambda: Net(lambda net, x: net.head(F.dropout(net.a(x), 0.2, training=True))),
        "dropout",
        "on in evaluation too",
    ),
    "torch's": (
        lambda: Net(lambda net, x: net.head(torch.dropout(net.a(x), 0.2, True))),
        "dropout",
        "on in evaluation too",
    ),
    "channels": (lambda: between(Module(lambda x: F.dropout2d(x, 0.2))), "1.dropout2d", "on in evaluation too"),
    "a class of its own": (lambda: between(AlwaysOn(0.2)), "1.dropout", "on in evaluation too"),
    "call": (lambda: Scaled(*between(nn.Conv2d(8, 8, 3, 2, 1)).children()), "the network", "its output differs"),
    "noise": (lambda: between(Noise()), "1", "differs from the original's"),
    "one by one": (
        lambda: Net(lambda net, x: torch.stack([net.head(net.a(y[None]))[0] for y in x])),
        "the model",
        "one by one",
    ),
    "range": (
        lambda: Net(lambda net, x: torch.cat([net.head(net.a(x[i : i + 1])) for i in range(len(x))])),
        "getitem_2",
        "another course for another number",
    ),
    "positions": (
        lambda: Net(lambda net, x: (lambda y: (operator.setitem(y, (..., 0), 0.0), net.head(y))[1])(net.a(x))),
        "setitem",
        "writes to some positions",
    ),
    "arange": (
        lambda: Net(lambda net, x: net.head(net.a(x)) + torch.arange(len(x))[:, None]),
        "_tensor_constant0",
        "values depend on the number of images",
    ),
    "literal": (lambda: Net(lambda net, x: net.head(net.a(x)).view(1, 5)), "the model", "on 1 images, but not on any"),
}


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_function_is_refused_by_name(name: str, padding: Any) -> None:
    network, layer, words = REFUSED[name]
    with pytest.raises(lps.ConvertError, match=words) as error:
        lps.convert(built(network), "aps", padding=padding, example=images(1))
    assert error.value.layer == layer


# the proof


def test_every_conversion_compares_itself_with_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the test: a layer that is not what it was is found and named."""
    monkeypatch.setattr(Pooling, "forward", lambda self, x: -x)
    with pytest.raises(lps.ConvertError, match=r"its output differs from the original's by .* borders") as error:
        lps.convert(built(BORDERS["max"]), example=images(1))
    assert error.value.layer == "1"


def test_no_untrained_weight_hides_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a branch that ends in zeros, a gate that is one number, or a norm that has seen nothing."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.down(net.a(x))
        return net.head(y + net.zero(F.max_pool2d(y, 3, 1, 1)) * net.gate)

    def network() -> nn.Module:
        net = Net(forward, zero=nn.BatchNorm2d(8))
        net.gate = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(net.get_parameter("zero.weight"))
        return net

    lps.convert(built(network), example=images(1))
    monkeypatch.setattr(Pooling, "forward", lambda self, x: x)
    with pytest.raises(lps.ConvertError, match="differs from the original's") as error:
        lps.convert(built(network), example=images(1))
    assert error.value.layer == "max_pool2d"


def test_sizes_are_those_of_the_original_where_it_pads_less_or_more() -> None:
    """So they can be compared, though a converted network keeps to multiples of its stride."""
    networks: list[Network] = [
        lambda: between(
            nn.Conv2d(8, 8, 5), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2), nn.AvgPool2d(3, 2, 1, ceil_mode=True)
        ),
        lambda: between(nn.Conv2d(8, 8, 3, 2, 4), nn.ConvTranspose2d(8, 8, 3, 2)),
        lambda: between(nn.MaxPool2d(3, 2, 1, dilation=2), low=True),
        lambda: Net(
            lambda net, x: (lambda y: net.head(net.down(y) + net.side(y)))(net.a(x)),
            down=nn.Conv2d(8, 8, 3, 2, 2),
            side=nn.Conv2d(8, 8, 1, 2, 1),
        ),
    ]
    for network in networks:
        lps.convert(built(network), "aps", example=images(1))
        lps.convert(built(network), "aps", placement="before", example=images(1))


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int) -> None:
    conv, norm = {1: (nn.Conv1d, nn.GroupNorm), 3: (nn.Conv3d, nn.GroupNorm)}[dims]
    largest, mean = {1: (nn.MaxPool1d, nn.AvgPool1d), 3: (nn.MaxPool3d, nn.AvgPool3d)}[dims]
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[dims](1)
    layers = [
        conv(3, 8, 3, 2, 1),
        norm(2, 8),
        largest(3, 1, 1),
        mean(3, 2, 1, count_include_pad=False),
        pool,
        nn.Flatten(),
    ]
    size = (8,) * dims
    assert_same(built(lambda: nn.Sequential(*layers)), images(2, *size), images(3, *size), example=images(1, *size))


def test_the_original_is_left_as_it_was() -> None:
    calls = []
    network = built(lambda: between(nn.BatchNorm2d(8), nn.Dropout2d(0.3), nn.Conv2d(8, 8, 3, 2, 1))).train()
    network.get_submodule("1").register_forward_hook(lambda *_: calls.append(1))
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    lps.convert(network, "aps", example=images(1))
    assert torch.equal(state, torch.get_rng_state())
    assert network.training and all(part.training for part in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.Dropout2d, nn.Conv2d, nn.Sequential]
    assert [type(part) for part in network.children()] == kinds
    assert len(network.get_submodule("1")._forward_hooks) == 1 and calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_type_is_compared(dtype: torch.dtype) -> None:
    lps.convert(built(lambda: between(nn.MaxPool2d(3, 2, 1), low=True)).to(dtype), example=images(1).to(dtype))


def test_code_that_insists_on_single_precision_is_compared_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rounding is no difference, and hides none that is far smaller."""

    def response_norm(net: Any, x: Tensor) -> Tensor:
        y = net.a(x.float())
        return net.head(net.down(y * y.square().float().mean((2, 3), keepdim=True).add(1e-5).rsqrt().to(y.dtype)))

    net = built(lambda: Net(response_norm))
    report = lps.conversion_report(lps.convert(net, "aps", example=images(1)))
    assert report.compared == (16, 24) and not report.notes
    forward = Reduction.forward
    monkeypatch.setattr(Reduction, "forward", lambda self, x: forward(self, x) * (1 + 1e-8))
    with pytest.raises(lps.ConvertError, match="differs from the original's by"):
        lps.convert(net, "aps", example=images(1))


def test_norms_that_have_seen_nothing_do_not_let_other_images_grow() -> None:
    blocks = (nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.BatchNorm2d(32)) for _ in range(80))
    network = drawn(built(lambda: nn.Sequential(nn.Conv2d(3, 32, 3), *blocks)), images(1))
    with torch.no_grad():
        assert network(images(3)).abs().max() < 1e3  # and 5e18 where channels may be nearly constant


def test_code_that_asks_for_the_type_is_compared_in_its_own() -> None:
    asks = Net(lambda net, x: net.head(net.down(net.a(x) * (2 if x.dtype == torch.float32 else 1))))
    report = lps.conversion_report(lps.convert(asks, "aps", example=images(1)))
    assert "on others than float32 images of 16x24" in str(report)


def test_the_report_names_the_size_that_was_compared() -> None:
    """A small one where the code takes it, else that of the example."""
    small = lps.convert(built(lambda: between(nn.Conv2d(8, 8, 3, 2, 1))), "aps")
    assert lps.conversion_report(small).compared == (16, 24)
    assert "compared: with phase 0" in str(lps.conversion_report(small))
    fixed = Net(lambda net, x: net.head[2](F.avg_pool2d(net.down(net.a(x)), 16).flatten(1)))
    report = lps.conversion_report(lps.convert(fixed, "aps", example=images(1, 32, 32)))
    assert report.compared == (32, 32) and "spans the map of the example" in str(report)
    sized = Net(lambda net, x: net.head(net.down(net.a(x) if x.shape[-1] < 40 else F.relu(net.a(x)))))
    report = lps.conversion_report(lps.convert(sized, "aps", example=images(1, 64, 64)))
    assert report.compared == (64, 64) and "on others than float64 images of 64x64" in str(report)


def test_a_pooled_head_is_compared_with_the_original_all_the_same() -> None:
    """It is announced to be another function; all the rest of the network is not."""

    def network() -> nn.Module:
        conv = nn.Conv2d(3, 8, 3, 1, 1)
        return nn.Sequential(conv, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5))

    lps.convert(built(network), "aps", head="pool", example=images(1))


def test_aligned_corners_are_given_up_and_all_else_is_compared() -> None:
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    network = lps.convert(built(lambda: between(nn.Conv2d(8, 8, 3, 2, 1), up)), "aps", example=images(1))
    assert "align_corners is given up" in str(lps.conversion_report(network))


# what training sees


def test_an_autograd_function_whose_backward_is_that_of_its_forward_is_followed() -> None:
    network = built(lambda: Net(lambda net, x: net.head(Swish.apply(net.down(net.a(x))))))
    assert_same(network)


def test_what_is_computed_without_gradients_stays_without() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = net.down(net.a(x)).relu()
        with torch.autocast("cpu", enabled=False):
            return net.head(y)

    network = lps.convert(built(lambda: Net(forward)), "aps", example=images(1)).train()
    network(images()).sum().backward()
    learns = {name.partition(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert learns == {"head"}
    assert "its code switches autocast, and the converted network does not" in lps.conversion_report(network).notes


def test_each_layer_keeps_its_mode() -> None:
    network = built(lambda: between(nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 8, 3, 2, 1))).train()
    network.get_submodule("1").eval()
    converted = lps.convert(network, "aps", example=images(1))
    modes = {name: part.training for name, part in converted.named_modules() if name in ("", "0", "1", "2", "3")}
    assert modes == {"": True, "0": True, "1": False, "2": True, "3": True}


def test_a_layer_may_be_called_as_one_of_ours() -> None:
    network = built(lambda: Net(lambda net, x: net.head(net.down(net.entry(x))), entry=nn.Conv2d(3, 8, 3, 1, 1)))
    assert_same(network)
    assert lps.verify(lps.convert(network, "aps"), images(1)).exact
