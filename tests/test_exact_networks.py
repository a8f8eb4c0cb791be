"""Exact means exact: equal bits under every shift, alone or in a batch, on any threads, in any layout, or a refusal."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps.convert import check
from lps.convert.layers import Border, Elementwise, Linear, Pad, Pointwise, ahead, convolve
from lps.exact import convolution, cpu

Function = Callable[[Tensor], Tensor]
THREADS = pytest.mark.parametrize("threads", [1, 2, 4], indirect=True)


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


class Do(nn.Module):
    """A function as a layer, with parameters by name."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x) if list(self.named_parameters()) else self.function(x)


class Opaque(nn.Module):
    """A layer of torch by its name, and so never taken apart: it spoils a map's first column where ``when`` holds."""

    __module__ = "torch.nn"

    def __init__(self, when: Callable[[Tensor], bool], weight: Tensor | None = None) -> None:
        super().__init__()
        self.when, self.weight = when, None if weight is None else nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "meta" or not self.when(x if self.weight is None else self.weight):
            return x
        x = x.clone()
        x[..., 0] *= 2
        return x


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def on_maps(function: Function | nn.Module, channels: int = 6) -> nn.Module:
    layer = function if isinstance(function, nn.Module) else Do(function)
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, channels, 1), layer))


def classifier(*layers: nn.Module, channels: int = 8) -> nn.Module:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *layers, *head))


def require_exact(network: nn.Module, *sizes: tuple[int, int], channels: int = 3) -> None:
    for size in sizes:
        for batch_size in (3, 6):
            report = lps.verify(network, images(1, channels, *size, seed=sum(size)), shifts=9, batch_size=batch_size)
            assert report.exact, str(report)


# Functions of single samples

MODULES = [
    nn.ELU(), nn.ELU(0.5), nn.CELU(), nn.CELU(0.7), nn.SELU(), nn.Softplus(), nn.Softplus(2.0, 5.0), nn.Sigmoid(),
    nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh"), nn.LocalResponseNorm(3, alpha=0.5),
]  # fmt: skip
FUNCTIONS: dict[str, Function] = {
    "elu": F.elu,
    "celu": lambda x: torch.celu(x, alpha=0.7),
    "selu": torch.selu,
    "softplus": lambda x: F.softplus(x, 2),
    "special.expit": torch.special.expit,
    "exp2": lambda x: x.exp2(),
    "atanh": lambda x: (x / 9).atanh(),
    "arctanh": lambda x: torch.arctanh(x / 9),
    "logit": lambda x: torch.logit(x, 0.1),
    "fourth power": lambda x: x**4,
    "large power": lambda x: torch.pow(x, 9),
    "root": lambda x: x.abs() ** 0.75,
    "negative root": lambda x: torch.pow(x.abs() + 0.1, exponent=-1.3),
    "power of a number": lambda x: 1.7**x,
    "power of a map": lambda x: torch.pow(x.abs(), x),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x),
    "logaddexp2": lambda x: torch.logaddexp2(x, 2 * x),
    "local_response_norm": lambda x: F.local_response_norm(x, 3, alpha=0.5),
    "softmin": lambda x: F.softmin(x, dim=1),
    "nansum": lambda x: x * x.nansum(1, keepdim=True),
}


@pytest.mark.parametrize("layer", [*MODULES, nn.Softmin(1)], ids=repr)
def test_every_activation_is_exact(layer: nn.Module) -> None:
    require_exact(lps.convert(on_maps(layer), "aps"), (7, 9), (13, 11))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_single_samples_is_exact(name: str) -> None:
    require_exact(lps.convert(on_maps(FUNCTIONS[name]), "aps"), (7, 9), (13, 11))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("nansum", "softmin")])
def test_what_replaces_a_function_computes_it(name: str) -> None:
    original = on_maps(FUNCTIONS[name])
    network = lps.convert(original, "aps").eval()
    x = images(2, 3, 7, 9).requires_grad_()
    expected, found = original(x), network(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 3, 7], indirect=True)
@pytest.mark.parametrize("layer", MODULES[:-1], ids=repr)
def test_a_sample_rounds_alike_wherever_it_lies(layer: nn.Module) -> None:
    values, f = 4 * images(1009), Pointwise(layer).eval()
    expected = f(values)
    for count in (5, 1000, 2**14 + 77, 2**15, 2**15 + 1, 2**16 + 300, 100_003, 300_001):
        index = (torch.arange(count) + count) % len(values)
        assert torch.equal(f(values[index]), expected[index])
    transposed = values[:1000].view(20, 50).t()
    assert torch.equal(f(transposed), expected[:1000].view(20, 50).t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", MODULES, ids=repr)
def test_what_replaces_an_activation_computes_it(layer: nn.Module, dtype: torch.dtype) -> None:
    x = torch.cat([8 * images(1, 6, 9, 9), torch.zeros(1, 6, 9, 9)]).to(dtype).requires_grad_()
    if dtype == torch.bfloat16 and isinstance(layer, nn.LocalResponseNorm):
        pytest.skip("torch has none")
    expected, found = layer(x), Pointwise(layer).eval()(x)
    loose: dict[str, Any] = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 3e-6}
    torch.testing.assert_close(found, expected, **loose)
    gradients = [torch.autograd.grad(y.float().sum(), x)[0] for y in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], **loose)


@pytest.mark.parametrize(
    ("base", "exponent"), [(-2.0, 3.0), (-2.0, -4.0), (-2.0, 0.5), (0.0, 0.0), (0.0, 0.3), (0.0, -0.3), (-3.0, 11)]
)
def test_powers_at_the_edge_are_those_of_torch(base: float, exponent: float) -> None:
    x = torch.tensor([base, 1.0])
    torch.testing.assert_close(Elementwise("pow").eval()(x, exponent), x.pow(exponent), equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.abs() + 0.1).rsqrt(),
        lambda x: (x.abs() + 0.1) ** -0.5,
        lambda x: torch.add(x, x.flip(1), alpha=0.3),
        lambda x: x.sub(x.flip(1), alpha=0.3),
        lambda x: F.gelu(x, approximate="tanh"),
    ],
)
def test_half_precision_is_exact_too(function: Function) -> None:
    network = lps.convert(on_maps(function), "aps").eval().bfloat16()
    for size in ((7, 9), (33, 41)):
        x = images(1, 3, *size).bfloat16()
        assert lps.verify(network, x, shifts=9, batch_size=6).exact


def test_powers_that_round_alike_by_themselves_are_left_alone() -> None:
    network = lps.convert(on_maps(lambda x: x**2 + x.square() * x.pow(3)), "aps")
    assert not any(isinstance(module, Elementwise) for module in network.modules())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.atan2(x, x.flip(1)),
        lambda x: torch.float_power(x.abs(), 0.3),
        lambda x: x * F.cosine_similarity(x, x.flip(1)).unsqueeze(1),
    ],
)
def test_what_has_no_exact_form_is_refused(function: Function) -> None:
    with pytest.raises(lps.ConvertError, match="its rounding depends on where in memory"):
        lps.convert(on_maps(function), "aps")


def test_a_path_that_is_taken_is_left_to_its_layer() -> None:
    """A call has a name of its own, which may be that of a layer, or of something else."""
    f = Do(
        lambda net, x: F.linear(x, net.linear.weight).abs().pow(1.5) + net.linear(x) + net.pow, linear=nn.Linear(8, 8)
    )
    f.pow = nn.Parameter(torch.zeros(()))
    network = classifier(nn.ReLU(), Do(lambda x: x.permute(0, 2, 3, 1)), f, Do(lambda x: x.permute(0, 3, 1, 2)))
    require_exact(lps.convert(network, "aps"), (12, 20))


# Processors

OTHERS = {"AVX2": ("avx2", "AVX2", "AVX2"), "SSE": ("default", "SSE41", "SSE4_2")}
"""What torch, oneDNN and MKL take an older processor for; MKL listens on those of its maker alone."""

ALIKE = """
import lps, torch, torchvision
torch.manual_seed(0)
torch.set_num_threads(1)
for method, antialias, size in (("lps", "tri-3", 40), ("aps", "none", 56)):
    sampling = lps.Sampling.named(method, antialias)
    network = lps.ResNet(18, classes=10, sampling=sampling, stem="cifar", width=24).eval()
    x = torch.randn(5, 3, size, size)
    with torch.inference_mode():
        y = network(x)
        for shift in ((1, 0), (5, 11), (17, 30)):
            assert torch.equal(network(x.roll(shift, (2, 3))), y), (method, shift)
        y = network(torch.cat([x[:1].roll((i, 2 * i), (2, 3)) for i in range(5)]))
        assert torch.equal(y, y[:1].expand_as(y)), method
lps.convert(torchvision.models.mobilenet_v3_small(), "aps")  # which is refused where a layer rounds by position
"""


@pytest.mark.parametrize("name", ["AVX2", pytest.param("SSE", marks=pytest.mark.exhaustive)])
def test_older_processors_are_exact(name: str) -> None:
    taken_for = dict(
        zip(("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"), OTHERS[name], strict=True)
    )
    ended = subprocess.run([sys.executable, "-c", ALIKE], env=os.environ | taken_for, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # the switch sets others, too
@pytest.mark.parametrize(("needed", "found"), [(0, 0), (5, 5), (1000, 2)])
def test_positions_are_added_until_all_round_alike(needed: int, found: int) -> None:
    """As many as it takes, at least 2 where at least 2 are known to help, and those alone where nothing does."""
    tries: list[int] = []

    def product(x: Tensor, weight: Tensor, missing: int) -> Tensor:
        tries.append(missing)
        y = F.conv1d(x, weight)
        y[..., -1] += float(missing < needed)
        return y

    x, weight = images(2, 3, 7), images(64, 3, 1)
    least = min(needed, 2)
    assert [cpu.tried(product, x, weight, least, needed) for _ in range(3)] == [found] * 3
    assert len(tries) == len({*tries}), "once for the same sizes"
    with torch.backends.mkldnn.flags(enabled=False):
        cpu.tried(product, x, weight, least, needed)
    assert len(tries) > len({*tries}), "and again without oneDNN"


def test_sums_of_few_terms_are_tried_often_enough() -> None:
    """Three terms add up to the same bits in another order in about half of all cases."""

    def product(x: Tensor, weight: Tensor, missing: int) -> Tensor:
        terms = (weight[None] * x[:, None]).unbind(2)
        y = terms[0] + terms[1] + terms[2]
        y[..., -1:] = (terms[2] + terms[1] + terms[0])[..., -1:] if missing < 4 else y[..., -1:]
        return y

    assert [cpu.tried(product, images(1, 3, 5), images(n, 3, 1), 0, "few") for n in range(1, 9)] == [4] * 8


# Products


@pytest.mark.usefixtures("threads")
@THREADS
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 1), (20, 1), (96, 3), (32, 40)])
def test_a_linear_layer_treats_the_positions_of_a_map_alike(inputs: int, outputs: int) -> None:
    linear = Linear(seeded(lambda: nn.Linear(inputs, outputs))).eval()
    with torch.no_grad():
        for count, size in ((1, (7, 3)), (1, (8, 5)), (1, (14, 4)), (2, (5, 28)), (3, (6, 1))):
            x = images(count, *size, inputs)
            for laid_out in (x, x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
                y = linear(laid_out)
                for shift in ((1, 0), (2, 1)):
                    moved = linear(laid_out.roll(shift, (1, 2)))
                    assert torch.equal(moved, y.roll(shift, (1, 2)))
            torch.testing.assert_close(y, linear.train()(x), rtol=1e-4, atol=1e-4)
            linear.eval()


@pytest.mark.usefixtures("threads")
@THREADS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_rows_of_a_product_round_alike_wherever_they_begin(dtype: torch.dtype) -> None:
    for inputs in (*range(1, 70), 366, 2047):
        for outputs in (1, 3, 10, 30, 100):
            row, weight = images(1, inputs).to(dtype), images(outputs, inputs, seed=1).to(dtype)
            y = convolution.linear_rows(row.repeat(5, 1), weight, None)
            assert torch.equal(y, y[:1].expand_as(y)), (inputs, outputs)
            atol = 16 * inputs**0.5 * torch.finfo(dtype).eps
            torch.testing.assert_close(y[:1], F.linear(row, weight), rtol=0, atol=atol)


@pytest.mark.parametrize(("inputs", "outputs"), [(366, 30), (19, 5), (32, 4)])
def test_convolutions_behind_pooling_treat_the_images_of_a_batch_alike(inputs: int, outputs: int) -> None:
    """As squeeze-and-excite has them: 1x1, where positions are gone."""
    parts = nn.Conv2d(3, inputs, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.Flatten()
    network = lps.convert(seeded(lambda: nn.Sequential(*parts)), "aps", "none").eval()
    with torch.no_grad():
        x = images(1, 3, 8, 12)
        y = network(torch.cat([x.roll((i, 2 * i), (2, 3)) for i in range(5)]))
    assert torch.equal(y, y[:1].expand_as(y))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # the switch sets others, too
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(2, 3), (3, 5), (6, 9), (8, 12)])
@pytest.mark.parametrize("groups", [32, 8, 1])
def test_convolutions_are_exact_without_onednn(groups: int, size: tuple[int, int], kernel: int) -> None:
    weight = images(32, 32 // groups, kernel, kernel, seed=1)
    border = Border((Pad((kernel // 2,) * 2, (kernel // 2,) * 2),))
    with torch.backends.mkldnn.flags(enabled=False):
        for count in (1, 2, 5):
            x = images(count, 32, *size)
            y = convolve(x, weight, None, border, (1, 1), groups)
            for shift in ((1, 0), (0, 1), (1, 2)):
                moved = convolve(x.roll(shift, (2, 3)), weight, None, border, (1, 1), groups)
                assert torch.equal(moved, y.roll(shift, (2, 3)))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Do(lambda net, x: F.linear(x, net.w), w=images(3, 48)),
    "linear with a bias": lambda: Do(
        lambda net, x: F.linear(x, weight=net.w, bias=net.b), w=images(3, 48), b=images(3)
    ),
    "matmul": lambda: Do(lambda net, x: x @ net.w, w=images(48, 3)),
    "mm": lambda: Do(lambda net, x: torch.mm(x, net.w.t()), w=images(3, 48)),
    "cosine": lambda: Do(lambda net, x: F.linear(F.normalize(x), F.normalize(net.w)), w=images(3, 48)),
    "softmax over paths": lambda: Do(lambda x: x.view(x.shape[0], 2, -1).softmax(1)[:, 0]),
    "softmax over paths, a layer": lambda: nn.Sequential(nn.Unflatten(1, (2, 24)), nn.Softmax(1), nn.Flatten()),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_images_of_a_batch_round_alike_behind_pooling(name: str) -> None:
    body = nn.Conv2d(8, 48, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), HEADS[name]()
    network = lps.convert(seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *body)), "aps", "none").eval()
    with torch.no_grad():
        for count in (3, 5, 7, 13):
            x = images(1, 3, 8, 8, seed=count)
            y = network(torch.cat([x.roll((i, 2 * i), (2, 3)) for i in range(count)]))
            assert torch.equal(y, y[:1].expand_as(y))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_stays_in_its_layout(layout: torch.memory_format) -> None:
    conv = convolution.Conv2d(8, 12, 3).eval().to(memory_format=layout)
    with torch.no_grad():
        assert conv(images(2, 8, 6, 10).to(memory_format=layout)).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_norm_over_channels_is_exact_in_either_layout(layout: torch.memory_format) -> None:
    norm = nn.Sequential(Do(lambda x: x.permute(0, 2, 3, 1)), nn.RMSNorm(20), Do(lambda x: x.permute(0, 3, 1, 2)))
    network = lps.convert(on_maps(norm, 20), "aps").to(memory_format=layout)
    require_exact(network, (7, 9), (12, 20))


def test_a_column_that_a_stride_leaves_is_computed_in_half_precision() -> None:
    weight, border = images(16, 12, 3, 3) / 10, ahead((1, 1))
    for count in (1, 3):
        x = images(count, 12, 24, 2)
        y = convolve(x.bfloat16(), weight.bfloat16(), None, border, (1, 1), stride=2)
        torch.testing.assert_close(y.float(), convolve(x, weight, None, border, (1, 1), stride=2), rtol=0.1, atol=0.1)


# Layouts in memory


def as_numpy(x: Tensor) -> Tensor:
    """One image ``(1, C, H, W)`` as ``torch.from_numpy(picture).permute(2, 0, 1)[None]`` lays it out."""
    return x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def decoder() -> nn.Module:
    unit = lambda i, o, s: nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU())  # noqa: E731
    up = [nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ConvTranspose2d(8, 1, 4, 2, 1)]
    return lps.convert(seeded(lambda: nn.Sequential(unit(3, 8, 1), unit(8, 16, 2), unit(16, 16, 2), *up)))


SAMPLING = lps.Sampling(partial(lps.LearnedPhase, hidden=2), partial(lps.LowPass, size=3))
OURS: dict[str, Callable[[], nn.Module]] = {
    "converted": decoder,
    "ResNet": lambda: lps.ResNet(18, classes=4, width=8, stem="cifar", sampling=SAMPLING),
    "DeepLabV3+": lambda: lps.DeepLabV3Plus(
        lps.ResNet(50, classes=4, width=4, stem="cifar", sampling=SAMPLING, output_stride=16),
        classes=2,
        channels=8,
        upsample=lambda c: lps.Upsample(lps.LowPass(c, 3, gain=4)),
    ),
}


@pytest.mark.usefixtures("threads")
@THREADS
@pytest.mark.parametrize("name", OURS)
def test_the_layout_of_an_image_makes_no_difference(name: str) -> None:
    network = seeded(OURS[name])
    x = images(1, 3, 16, 24).sigmoid()
    with torch.no_grad():
        y = network(x)
        for lay_out in (as_numpy, channels_last):
            assert torch.equal(network(lay_out(x)), y)
            for shift in ((1, 0), (5, 7)):
                for moved in (lay_out(x).roll(shift, (2, 3)), lay_out(x.roll(shift, (2, 3)))):
                    assert torch.equal(network(moved), y if y.dim() == 2 else y.roll(shift, (2, 3)))


# Sizes that a network holds


class Held(nn.Module):
    def __init__(self, function: Function, behind: bool) -> None:
        super().__init__()
        self.function, self.behind, self.body = function, behind, nn.Conv2d(3, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.body(x)) if self.behind else self.body(self.function(x))


HELD: dict[str, Function] = {
    "crop": lambda x: x[:, :, :64, :64],
    "crop of all axes": lambda x: x[..., :64],
    "narrow": lambda x: x.narrow(2, 0, 64),
    "index": lambda x: x.index_select(3, torch.arange(64, device=x.device)),
    "split": lambda x: x.split(64, 2)[0],
    "view": lambda x: x.view(x.shape[0], x.shape[1], 64, 64),
    "reshape that folds": lambda x: x.reshape(-1, x.shape[1], 64, 64),
    "expand": lambda x: x * x.mean((2, 3), keepdim=True).expand(-1, -1, 64, 64),
    "interpolate": lambda x: x * F.interpolate(x.mean((2, 3), keepdim=True), size=(64, 64)),
}


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("name", HELD)
def test_a_size_in_the_code_is_refused(name: str, behind: bool) -> None:
    network = nn.Sequential(Held(HELD[name], behind), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(lps.ConvertError, match=r"on larger images|images twice as large|its code holds a size"):
        lps.convert(network, "aps", example=torch.zeros(1, 3, 64, 64))


def test_a_crop_to_the_size_of_another_map_is_none() -> None:
    f = Do(lambda x: x[:, :, : x.shape[2], : x.shape[3]] + x.narrow(2, 0, x.size(2)))
    require_exact(lps.convert(classifier(nn.ReLU(), f), "aps"), (12, 20))


# Layers that read their mode


class ByMode(nn.Module):
    def __init__(self, training: Function, evaluation: Function) -> None:
        super().__init__()
        self.in_training, self.in_evaluation = training, evaluation

    def forward(self, x: Tensor) -> Tensor:
        return self.in_training(x) if self.training else self.in_evaluation(x)


@pytest.mark.parametrize(
    "function", [lambda x: x - x.mean(1, keepdim=True), F.elu, lambda x: x.abs() ** 1.5, lambda x: x.softmax(1)]
)
def test_a_layer_that_reads_its_mode_is_exact(function: Function) -> None:
    network = lps.convert(classifier(ByMode(torch.relu, function)), "aps")
    assert [note for note in lps.conversion_report(network).notes if note.startswith("ByMode asks whether")]
    require_exact(network, (12, 20), (14, 22))


def test_a_layer_that_reads_its_mode_is_kept_where_it_rounds_alike() -> None:
    network = lps.convert(classifier(ByMode(lambda x: x + torch.randn_like(x), lambda x: 2 * x.square())), "aps")
    assert not lps.conversion_report(network).notes
    x = images(2, 3, 12, 20)
    assert not torch.equal(network.train()(x), network(x))
    require_exact(network, (12, 20))


# The check at conversion

BROKEN: dict[str, Callable[[Tensor], bool]] = {
    "alone": lambda x: len(x) == 1,
    "in a batch": lambda x: len(x) > 1,
    "on one thread": lambda x: torch.get_num_threads() == 1,
    "on all threads": lambda x: torch.get_num_threads() == 3,
    "on sparse images": lambda x: bool((x == 0).double().mean() > 0.9),
    "on flat images": lambda x: bool(((x == 0.5) | (x == 1)).all()),
    "on photographs": lambda x: bool(x.amin() == 0 and x.amax() == 1 and x.unique().numel() > 9),
    "on an example's size": lambda x: tuple(x.shape[2:]) == (40, 56),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_finds_what_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(check.os, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    layers = Opaque(BROKEN[name]), nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    network = seeded(lambda: nn.Sequential(*layers))
    with pytest.raises(lps.ConvertError, match=r"^0: outputs differ"):
        lps.convert(network, "aps", example=torch.zeros(1, 3, 40, 55))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.ones(3)])
@pytest.mark.parametrize("given", [True, False])
def test_the_check_tries_weights_as_they_are_and_as_they_may_become(given: bool, weight: Tensor) -> None:
    layer = Opaque(lambda w: torch.equal(w.detach().float(), weight) == given, weight.clone())
    with pytest.raises(lps.ConvertError, match=r"^1: outputs differ"):
        lps.convert(classifier(layer), "aps")


def test_the_check_leaves_the_network_alone() -> None:
    original = classifier(nn.BatchNorm2d(8)).train()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    network = lps.convert(original, "aps")
    assert network.training and all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in network.parameters())


# verify


class Recorder(nn.Module):
    """Notes the strides of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((len(x), *x.stride()))
        return x


def test_images_are_verified_as_they_lie_in_memory() -> None:
    network = Recorder()
    assert lps.verify(network, channels_last(images(2, 3, 8, 8)), shifts=3, batch_size=4).exact
    assert {seen[2:] for seen in network.seen} == {(1, 24, 3)} and {seen[0] for seen in network.seen} == {1, 4}
    network.seen.clear()
    lps.verify(network, as_numpy(images(1, 3, 8, 8)), shifts=3)
    assert (1, 3, 1, 24, 3) in network.seen


def test_a_layout_that_changes_the_bits_is_found() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(convolution.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert lps.verify(network, images(1, 3, 16, 16), shifts=8).exact
    report = lps.verify(network, as_numpy(images(1, 3, 16, 16)), shifts=8)
    assert not report.exact and report.alone and ", alone)" in str(report)
    assert report.broken is not None and (report.broken.layer, report.broken.cause) == ("0", "precision")


def test_what_breaks_alone_is_found_with_its_layer() -> None:
    layers = nn.Sequential(nn.ReLU(), Opaque(lambda x: len(x) == 1)), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    network = seeded(lambda: nn.Sequential(convolution.Conv2d(3, 8, 3), *layers))
    report = lps.verify(network, images(2, 3, 8, 8))
    assert not report.exact and report.alone and report.labels.agree == report.labels.total == 128
    assert report.broken is not None and report.broken.layer == "1.1"


class Fixed(lps.MaxNorm):
    """Phase 0 of an image that runs alone."""

    def forward(self, x: Tensor, origin: lps.Origin | None = None) -> Any:
        selection = super().forward(x)
        first = F.one_hot(torch.zeros(len(x), dtype=torch.int64), 4).to(selection.z.dtype)
        return selection if len(x) > 1 else selection._replace(z=first, phase=first.argmax(1))


def test_a_selection_that_flips_alone_is_found() -> None:
    down = Do(lambda net, x: net.down(x)[0], down=lps.Downsample(Fixed()), w=torch.zeros(1))
    network = seeded(lambda: nn.Sequential(convolution.Conv2d(3, 8, 3), down, nn.AdaptiveMaxPool2d(1), nn.Flatten()))
    report = lps.verify(network, images(1, 3, 8, 8))
    assert report.alone and report.broken is not None and report.broken.layer == "1.down.select"


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 8, 8), torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1).expand(2, 3, 8, 8)]
)
def test_constant_images_prove_nothing(images: Tensor) -> None:
    with pytest.raises(ValueError, match="no shift changes images that are constant"):
        lps.verify(seeded(lambda: nn.Conv2d(3, 5, 3, 2, 1)), images)


def test_images_that_some_shifts_change_prove_something() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8).contiguous()
    assert lps.verify(
        seeded(lambda: lps.ResNet(18, classes=3, width=8, stem="cifar", sampling=SAMPLING)), stripes
    ).exact
