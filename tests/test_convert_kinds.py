"""``lps.convert`` and whole kinds of code: each spelling of what keeps shifts, exact by a test of its own."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from math import prod
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps.convert.grids import as_images
from lps.convert.plan import follow, unpacked
from lps.exact.sums import EXACT, exact_einsum, softmax
from lps.selection import Selection
from lps.watch import tensors

Function = Callable[[Any], Any]
SMALL = torch.zeros(1, 3, 32, 32)


class Do(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def assert_exact(network: nn.Module, x: Tensor, factor: int | None = None, **settings: Any) -> nn.Module:
    """Converted, outputs are equal under shifts, in a batch and alone, or move by ``factor`` times the shift."""
    settings = {"method": "aps", "antialias": "none", **settings}
    converted = lps.convert(network, **settings).eval()
    axes = tuple(range(2, x.dim()))
    with torch.no_grad():
        for batch in (x, x[1:]):
            y = converted(batch)
            for i in (1, 2, 3, 6, 7):
                shift = [(i * (2 + axis) + 1) % x.shape[axis] for axis in axes]
                moved = y if factor is None else y.roll([factor * by for by in shift], axes)
                assert torch.equal(converted(batch.roll(shift, axes)), moved)
    return converted


def strided(*layers: nn.Module, features: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), *layers, nn.Linear(features, 5))


def attended(x: Tensor) -> Tensor:
    """Global context: a mean weighed by a softmax over all positions."""
    weights = x.mean(1, keepdim=True).flatten(2).softmax(2)
    return torch.matmul(x.flatten(2), weights.transpose(1, 2)).squeeze(2)


POOLINGS: dict[str, Function] = {
    "mean, axis by axis": lambda x: x.mean(3).mean(2),
    "mean, kept": lambda x: x.mean(2, keepdim=True).mean(3, True).flatten(1),
    "mean, numpy's names": lambda x: x.mean(axis=(2, 3), keepdims=True)[..., 0, 0],
    "mean of a view": lambda x: x.view(*x.shape[:2], -1).mean(2),
    "mean of rows": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1]).mean(dim=1),
    "mean by pooling": lambda x: F.avg_pool2d(x, x.shape[2:]).flatten(1),
    "mean by pooling rows": lambda x: F.avg_pool2d(x, (x.shape[2], 1)).mean(3)[..., 0],
    "mean by adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (1, None)).mean(3).squeeze(2),
    "mean by a sum": lambda x: x.sum((-2, -1)) / (x.shape[2] * x.shape[3]),
    "mean by einsum": lambda x: torch.einsum("nchw->nc", x) / x[0, 0].numel(),
    "maximum": lambda x: x.amax((2, 3)),
    "maximum, axis by axis": lambda x: x.max(3).values.max(dim=2)[0],
    "maximum of a view": lambda x: x.flatten(2).max(-1)[0],
    "maximum by pooling": lambda x: F.max_pool2d(x, x.size()[2:]).flatten(1),
    "maximum by adaptive pooling": lambda x: F.adaptive_max_pool2d(x, 1).flatten(1),
    "both": lambda x: torch.maximum(x.mean((2, 3)), x.flatten(2).amin(2)),
    "variance": lambda x: x.var((2, 3)),
    "variance of a view": lambda x: torch.var(x.flatten(2), dim=2, unbiased=False),
    "deviation": lambda x: torch.std(x, (2, 3), correction=0),
    "norm": lambda x: x.norm(dim=(2, 3)),
    "norm of a view": lambda x: torch.linalg.vector_norm(x.flatten(2), 3, dim=-1),
    "norm of order 1": lambda x: x.flatten(2).norm(1, 2),
    "normalized": lambda x: F.normalize(x.flatten(2), dim=2).amax(2),
    "generalized mean": lambda x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), x.shape[-2:]).pow(1 / 3).flatten(1),
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "median": lambda x: x.flatten(2).median(2).values,
    "softmax-weighted": lambda x: (x * x.mean(1, True).flatten(2).softmax(2).view(len(x), 1, *x.shape[2:])).sum((2, 3)),
    "softmax, axis by axis": lambda x: (x * x.softmax(2).log_softmax(3)).sum((2, 3)),
    "attended": attended,
    "covariance": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).diagonal(dim1=1, dim2=2) / 100,
    "strips": lambda x: (x * x.mean(2, True).sigmoid() * x.mean(3, True).sigmoid()).mean((2, 3)),
    "standardized": lambda x: ((x - x.mean((2, 3), True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()).amax((2, 3)),
}

CHANNELS: dict[str, Function] = {
    "largest": lambda x: x * x.max(1)[0][:, None].sigmoid(),
    "largest and mean": lambda x: x * torch.cat([x.mean(1, True), x.max(1, keepdim=True).values], 1).amax(1, True),
    "maxout": lambda x: x.view(len(x), 4, 2, *x.shape[2:]).max(2)[0].repeat(1, 2, 1, 1),
    "stacked": lambda x: torch.stack([x, x.relu(), x.sigmoid()], 1).sum(1),
    "stacked last": lambda x: torch.stack([x, x.tanh()], dim=-1).amax(-1),
    "unbound": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "variance": lambda x: x / (x.var(1, keepdim=True) + 1e-3).sqrt(),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-6),
    "deviation of groups": lambda x: x / x.unflatten(1, (4, 2)).std((2, 3, 4), keepdim=True).expand(
        -1, -1, 2, *x.shape[2:]).flatten(1, 2),
    "normalized": lambda x: F.normalize(x),
    "einsum": lambda x: torch.einsum("nchw,nchw->nhw", x, x.relu())[:, None] * x,
    "einsum of a matrix": lambda x: torch.einsum("oc,n...->n...", x.new_ones(1, 1), x),
    "matmul": lambda x: (x.permute(0, 2, 3, 1) @ x.new_ones(8, 8)).permute(0, 3, 1, 2) - x,
    "argmax": lambda x: x * x.argmax(1, keepdim=True),
    "softmax": lambda x: x.softmax(1) * x.flatten(2).softmax(1).view_as(x),
    "picked": lambda x: x[:, [3, 1, 0, 2, 4, 7, 6, 5]] + x[:, :1],
    "empty": lambda x: torch.cat([x, torch.empty(len(x), 0, *x.shape[2:])], 1),
    "of pairs": lambda x: x * torch.matmul(
        (x.flatten(2).transpose(1, 2) @ x.flatten(2)).flatten(1).softmax(1).unflatten(1, 2 * (x[0, 0].numel(),)),
        x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x),
    "as a tensor": lambda x: torch.as_tensor(x.relu()) + torch.asarray(x, dtype=x.dtype, copy=True).sigmoid(),
    "of one position": lambda x: torch.matmul(x.mean((2, 3))[:, None], x.flatten(2)).view(len(x), 1, *x.shape[2:]) * x,
}  # fmt: skip


@pytest.mark.parametrize("name", POOLINGS)
def test_every_spelling_of_a_reduction_over_all_positions(name: str) -> None:
    assert_exact(strided(Do(POOLINGS[name])), images(2, 3, 24, 40), example=SMALL)


@pytest.mark.parametrize("name", CHANNELS)
def test_what_reads_channels_at_each_position(name: str) -> None:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert_exact(strided(Do(CHANNELS[name]), pool), images(2, 3, 24, 40), example=SMALL)


OUTPUTS: dict[str, Function] = {
    "squeezed": lambda x: x[:, 0],
    "labels": lambda x: x.argmax(1),
    "rows": lambda x: x.flatten(2),
    "channels last": lambda x: x.movedim(1, -1),
    "all": lambda x: {"map": x, "means": (x.mean((2, 3)), [x[:, 1]])},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_move_along_their_own_axes(name: str) -> None:
    torch.manual_seed(0)
    up = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1))
    network = lps.convert(nn.Sequential(up, Do(OUTPUTS[name])), "aps", example=SMALL).eval()
    x = images(2, 3, 16, 24)
    with torch.no_grad():
        plain = lps.convert(up, "aps", example=SMALL).eval()
        expected, found = OUTPUTS[name](plain(x)), network(x)
    torch.testing.assert_close(found, expected)


REFUSED: dict[str, tuple[Function, str]] = {
    "over images": (lambda x: x.mean((2, 3)) + x.mean((0, 2, 3)), "so over the images"),
    "indices": (lambda x: x.flatten(2).max(2)[1].float(), "hands out the positions of its maxima"),
    "product": (lambda x: x.prod(3).prod(2), "depends on their order, or rounds by it"),
    "class token": (
        lambda x: torch.cat([x.flatten(2), x.new_zeros(len(x), 8, 1)], 2).mean(2),
        r"puts tokens of its own among the positions of a map \(8, 64\)",
    ),
    "mixed": (
        lambda x: x[:, 4:].flatten(2).transpose(1, 2).reshape(len(x), 4, *x.shape[2:]).mean((2, 3)).repeat(1, 2),
        r"reads \(64, 4\), positions first, as a map \(4, 8, 8\), channels first, without a transpose",
    ),
    "windows": (lambda x: x.unflatten(2, (2, -1)).mean((2, 3, 4)), "its code holds a size, 2 where images have"),
    "maxima": (lambda x: F.adaptive_max_pool2d(x[:, :2], 2).flatten(1), "stay where they are under a shift$"),
    "embedding": (lambda x: (x.flatten(2) + torch.linspace(0, 1, 64)).mean(2), "has values of its own at each"),
    "matrix": (lambda x: (x.flatten(2) @ x.new_ones(64, 2)).flatten(1)[:, :8], "has values of its own at each"),
    "crossed": (lambda x: (x + x.transpose(2, 3)).mean((2, 3)), "on different axes meet"),
    "coordinates": (
        lambda x: torch.cat([x, torch.linspace(0, 1, x.shape[3]).expand_as(x[:, :1])], 1).mean((2, 3))[:, :8],
        "has values of its own at each position",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_proof_is_refused_with_the_true_reason(name: str) -> None:
    function, words = REFUSED[name]
    with pytest.raises(lps.ConvertError, match=words) as error:
        lps.convert(strided(Do(function)), "aps", example=SMALL)
    assert "\n" not in str(error.value)


VIEWS: list[tuple[Function, Any]] = [
    (lambda x: x.flatten(2), ((), (), (0, 1))),
    (lambda x: x.permute(0, 2, 3, 1).flatten(1, 2), ((), (0, 1), ())),
    (lambda x: x.transpose(2, 3)[:, :2], ((), (), (1,), (0,))),
    (lambda x: x.view(3, 2, 2, 5, 7), ((), (), (), (0,), (1,))),
    (lambda x: x.flatten(0, 1), ((), (0,), (1,))),
    (lambda x: x[:, None, 1:3], ((), (), (), (0,), (1,))),
    (lambda x: x.flatten(1), None),
    (lambda x: x.flatten(1, 2), None),
    (lambda x: x[:, :, 1:], None),
    (lambda x: x[:, :, 0], None),
    (lambda x: x.view(3, 4, 7, 5), None),
]


@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_axes_are_followed_through_views(view: int) -> None:
    function, axes = VIEWS[view]
    x = torch.empty(3, 4, 5, 7)
    assert follow(function(x), unpacked(x.shape, as_images(2))) == axes


def test_a_row_of_positions_is_cut_into_the_axes_it_was_made_of() -> None:
    row, x = torch.empty(3, 4, 35), torch.empty(3, 4, 7, 5)
    assert follow(row.view(3, 4, 7, 5), unpacked(row.shape, ((), (), (1, 0)))) == ((), (), (1,), (0,))
    assert follow(x.flatten(2), unpacked(x.shape, ((), (), (1,), (0,)))) == ((), (), (1, 0))
    assert follow(row.view(3, 4, 5, 7, 1), unpacked(row.shape, ((), (), (0,)))) is None


@pytest.mark.parametrize("count", [1, 2, 49, 3136])
def test_sums_over_positions_have_no_order(count: int) -> None:
    for seed in range(10):
        x, y = 3 * images(2, 3, count, seed=seed), images(2, count, 5, seed=seed + 100) ** 3
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        for name, reduce in EXACT.items():
            a, b = reduce(x, (2,)), reduce(x[..., order], (2,))
            assert torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))
            assert not a.isnan().any() or (count == 1 and name in ("var", "std"))
        assert torch.equal(softmax(x, 2)[..., order], softmax(x[..., order], 2))
        product = exact_einsum("nct,ntd->ncd", x, y)
        assert torch.equal(product, exact_einsum("nct,ntd->ncd", x[..., order], y[:, order]))
        torch.testing.assert_close(product, x.double() @ y.double(), rtol=1e-10, atol=1e-9 * prod(product.shape))
    torch.testing.assert_close(softmax(x, 2), x.softmax(2))


def test_an_exact_product_has_the_gradients_of_a_product() -> None:
    a, b = images(2, 3, 4).double().requires_grad_(), images(2, 4, 5).double().requires_grad_()
    ours = torch.autograd.grad(exact_einsum("nij,njk->nki", a, b).square().sum(), (a, b))
    theirs = torch.autograd.grad(torch.einsum("nij,njk->nki", a, b).square().sum(), (a, b))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def branches() -> nn.Module:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.rows, self.columns = (
                nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, (2, 1), 1), nn.Conv2d(8, 8, 3, (1, 2), 1)
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return self.both(x) + self.columns(self.rows(x).relu())

    return nn.Sequential(nn.Conv2d(3, 8, 3, (1, 3), 1), nn.ReLU(), Branches(), nn.ReLU(), head(8))


def recognition() -> nn.Module:
    """Of text: rows shrink faster than columns, and are averaged in the end; what is left is read column by column."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, (2, 1), 1), nn.ReLU(),
        nn.MaxPool2d((2, 1)), Do(lambda x: x.mean(2).permute(0, 2, 1)), nn.Linear(8, 6), nn.Softmax(2),
    )  # fmt: skip


STRIDES: dict[str, Callable[[], nn.Module]] = {
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(8, 8, 3, (1, 2), 1), head(8)
    ),
    "mean pooling": lambda: nn.Sequential(nn.Conv2d(3, 8, (1, 5), (1, 4), (0, 2)), nn.AvgPool2d((3, 1)), head(8)),
    "slices": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Do(lambda x: x[:, :, 1::2]), nn.ReLU(), head(8)),
    "branches": branches,
}


@pytest.mark.parametrize("placement", ["behind", "before"])
@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("name", STRIDES)
def test_strides_may_differ_by_axis(name: str, method: Any, placement: Any) -> None:
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 48, 48)
    settings = {"method": method, "antialias": "tri-3", "placement": placement, "example": example}
    converted = assert_exact(STRIDES[name](), images(2, 3, 24, 48), **settings)
    strides = [stride.stride for stride in lps.conversion_report(converted).strides]
    assert any(isinstance(stride, tuple) for stride in strides)
    assert lps.verify(converted, images(1, 3, 24, 48), shifts=3).exact


@pytest.mark.parametrize("mode", ["transposed", "nearest", "bilinear"])
def test_decoders_undo_strides_that_differ_by_axis(mode: str) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(8, 8, (3, 4), (1, 2), 1) if mode == "transposed" else nn.Upsample(None, (1, 2), mode)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, (1, 2), 1), nn.ReLU(), up]
    layers += [nn.ReLU(), nn.ConvTranspose2d(8, 2, 4, 2, 1)]
    assert_exact(nn.Sequential(*layers), images(2, 3, 16, 24), factor=1, example=SMALL)


class Experts(nn.Module):
    """CondConv: a convolution whose weights each image mixes, with the images side by side as channels."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.route, self.weight = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8 * (8 // groups) * 9) / 5)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        weight = (self.route(x.mean((2, 3))).sigmoid() @ self.weight).view(count * 8, -1, 3, 3)
        joined = x.reshape(1, count * channels, height, width)
        y = F.conv2d(joined, weight, stride=2, padding=1, groups=count * self.groups)
        return y.permute(1, 0, 2, 3).view(count, 8, *y.shape[2:])


@pytest.mark.parametrize("placement", ["behind", "before"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_weights_may_be_those_of_each_image(groups: int, placement: Any) -> None:
    network = strided(Experts(groups), Do(lambda x: x.relu().mean((2, 3))))
    x = images(2, 3, 32, 48)
    converted = assert_exact(network, x, example=SMALL, placement=placement)
    moved = torch.cat([x[:1], x[:1].roll((3, 5), (2, 3)), x[1:], x[1:].roll((6, 1), (2, 3))])
    with torch.no_grad():
        y = converted(moved)
    assert torch.equal(y[0], y[1]) and torch.equal(y[2], y[3]) and not torch.equal(y[0], y[2])


def test_columns_are_read_one_by_one() -> None:
    torch.manual_seed(0)
    network = lps.convert(recognition(), "aps", example=torch.zeros(1, 3, 32, 64)).eval()
    assert lps.conversion_report(network).stride == (8, 2)
    x = images(2, 3, 16, 24)
    with torch.no_grad():
        y = network(x)
        for rows, columns in ((3, 0), (0, 2), (5, 8)):
            assert torch.equal(network(x.roll((rows, columns), (2, 3))), y.roll(columns // 2, 1))


def test_video_and_its_time_axis() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(3, 8, (3, 5, 5), (1, 2, 2), (1, 2, 2)), nn.BatchNorm3d(8), nn.ReLU(),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.Conv3d(8, 8, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    converted = assert_exact(network, images(2, 3, 4, 8, 12), example=torch.zeros(1, 3, 8, 16, 16))
    assert lps.conversion_report(converted).stride == (2, 4, 4)


class Named(OrderedDict[str, Any]):
    """As the outputs of Hugging Face: a dictionary, and a data class."""

    def __init_subclass__(cls) -> None:
        dataclass(cls)

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value


class Output(Named):
    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


@dataclass
class Plain:
    logits: Tensor
    maps: list[Tensor]


class Pair(NamedTuple):
    logits: Tensor
    map: Tensor


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.stem, self.up, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 4, 2, 1), head(8)

    def forward(self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if pixel_values is None:
            raise ValueError("no images")
        x = self.up(self.stem(pixel_values).relu())
        return self.make(self.head(x), x)


def choosing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """As Hugging Face wraps forward: what it is given by name decides what comes out."""

    @wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        as_tuple = not kwargs.pop("return_dict", True)
        output = forward(self, *args, **kwargs)
        return tuple(output.values()) if as_tuple else output

    return wrapper


class Chooses(Returns):
    @choosing
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any
    ) -> Any:
        assert return_dict is None and not kwargs
        return super().forward(pixel_values, labels, scale=kwargs.get("scale", 1))


def test_arguments_beside_the_images_keep_their_defaults() -> None:
    torch.manual_seed(0)
    network = lps.convert(Chooses(RETURNED["dictionary and data class"]), "aps", example=SMALL).eval()
    assert isinstance(network(images(2, 3, 16, 16)), Output)


RETURNED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dictionary and data class": lambda y, x: Output(logits=y, hidden=(x, x + 1)),
    "data class": lambda y, x: Plain(y, [x]),
    "named tuple": lambda y, x: Pair(y, map=x),
    "dictionary": lambda y, x: {"logits": y, "maps": {"x": x}},
}


@pytest.mark.parametrize("name", RETURNED)
def test_outputs_keep_their_class(name: str) -> None:
    torch.manual_seed(0)
    original = Returns(RETURNED[name]).eval()
    network, x = lps.convert(original, "aps", example=SMALL).eval(), images(2, 3, 16, 16)
    with torch.no_grad():
        y, moved, expected = network(x), network(x.roll((1, 5), (2, 3))), original(x)
    assert type(y) is type(expected)
    (logits, *maps), (same, *others) = tensors(y), tensors(moved)
    assert torch.equal(logits, same) and maps
    assert all(torch.equal(a.roll((1, 5), (2, 3)), b) for a, b in zip(maps, others, strict=True))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), head(8))


WRAPPED: dict[str, Callable[[], Any]] = {
    "parallel": lambda: nn.DataParallel(small()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(small()),
    "compiled": lambda: torch.compile(small()),
    "both": lambda: torch.optim.swa_utils.AveragedModel(nn.DataParallel(small())),
    "a part": lambda: nn.Sequential(nn.DataParallel(small()[:2]), small()[2]),
    "a compiled part": lambda: nn.Sequential(cast(Any, torch.compile(small()[:2])), small()[2]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name: str) -> None:
    model = WRAPPED[name]()
    network = assert_exact(model, images(2, 3, 16, 16))
    names = {n.removeprefix("module.").removeprefix("module.").removeprefix("_orig_mod.") for n in model.state_dict()}
    assert set(network.state_dict()) == names - {"n_averaged"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: torch.jit.script(small()), "^the network: it is scripted or traced"),
        (lambda: nn.Sequential(torch.jit.trace(small()[:2], images(1, 3, 8, 8)), head(8)), "^0: it is scripted"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3, 2), head(8)), "^0: it is lazy and has no weights yet"),
        (lambda: lambda x: x, "a torch.nn.Module is expected, got function"),
        (lambda: Detector(), r"one by one; its part `backbone` can be converted by itself"),
        (lambda: nn.Sequential(small()[:2], Do(lambda x: x[{}])), "cannot be followed"),
    ],
)
def test_other_models_are_refused_in_a_sentence(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(lps.ConvertError, match=words) as error:
        lps.convert(build(), "aps")
    assert "\n" not in str(error.value)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.heads = small()[:2], nn.Conv2d(8, 4, 1)

    def forward(self, images: list[Tensor], targets: None = None) -> list[Tensor]:
        return [self.heads(self.backbone(image[None])) for image in images]


def test_a_failure_of_our_own_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lps.convert.__globals__, "require_sameness", lambda *_: dict[str, int]()["no such thing"])
    with pytest.raises(lps.ConvertError, match=r"no rule foresees \(KeyError: 'no such thing'\)"):
        lps.convert(small(), "aps")


class Pyramid(nn.Module):
    """Maps of a tenth stride, which no image of 224 samples has, put back to their size."""

    def __init__(self, side: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.stem, self.head = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 8, 8)), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * F.interpolate(F.avg_pool2d(x, 2).sigmoid(), size=x.shape[2:], mode="nearest"))


def test_the_size_of_the_images_follows_from_the_strides() -> None:
    torch.manual_seed(0)
    assert lps.conversion_report(lps.convert(Pyramid(nn.Identity()), "aps")).stride == 64


def test_channels_are_those_of_the_convolution_that_reads_the_images() -> None:
    torch.manual_seed(0)
    assert_exact(Pyramid(nn.Conv2d(7, 9, 1)), images(2, 3, 64, 64))
    folded = nn.Sequential(Do(lambda x: x.unflatten(1, (3, 1)).mean(2)), nn.Conv2d(3, 8, 3, 2, 1), head(8))
    assert_exact(folded, images(2, 3, 16, 16))


def convolved(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, padding_mode="circular"), nn.ReLU())


def to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def to_space(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


class OnConvNeXt(nn.Module):
    """A stem of stride 4, and a decoder that goes back by 2 twice, past a skip at stride 2 where there is one."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.stem, self.down, self.out = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 4, 3, 1, 1)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.skip = nn.Conv2d(3, 8, 3, 2, 1) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.up(self.down(y.relu()).relu())
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        y = y if self.skip is None else y + self.skip(x)
        return self.out(F.interpolate(y, scale_factor=2))


EQUIVARIANT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "to depth and back": (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), convolved(12), nn.PixelShuffle(2)), 1
    ),
    "by hand": (lambda: nn.Sequential(Do(to_depth), convolved(12), Do(to_space)), 1),
    "by hand, back by a shuffle": (lambda: nn.Sequential(Do(to_depth), convolved(12), nn.PixelShuffle(2)), 1),
    "a shuffle that undoes a stride": (
        lambda: nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), Do(lambda x: F.pixel_shuffle(x, 2))), 1
    ),
    "a shuffle that undoes two": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.PixelShuffle(4)), 1
    ),
    "a shuffle that enlarges": (
        lambda: nn.Sequential(convolved(3), nn.Conv2d(3, 12, 3, 1, 1), nn.PixelShuffle(2), convolved(3)), 2
    ),
    "enlarged in steps": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3, 1, 1), Do(to_space), nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ReLU(), nn.ConvTranspose2d(3, 2, 3, 3),
        ), 12
    ),
    "a stride, then larger": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=4), convolved(8)), 2
    ),
    "back by two after four": (lambda: OnConvNeXt(skip=False), 1),
    "past a skip": (lambda: OnConvNeXt(skip=True), 1),
}  # fmt: skip


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("name", EQUIVARIANT)
def test_phases_become_channels_and_go_back(name: str, method: Any) -> None:
    torch.manual_seed(0)
    build, factor = EQUIVARIANT[name]
    network = build()
    assert_exact(network, images(2, 3, 16, 24), factor, method=method, example=SMALL)
    smooth = images(2, 3, 16, 8).repeat(1, 1, 1, 3)  # equal to shifted copies of themselves
    converted = assert_exact(network, smooth, factor, example=SMALL)
    assert_exact(network, torch.ones(2, 3, 16, 24), factor, example=SMALL)
    assert converted.train()(smooth).isfinite().all()


INVARIANT: dict[str, Callable[[], nn.Module]] = {
    "a stem of phases": lambda: nn.Sequential(Do(to_depth), nn.Conv2d(12, 8, 3, 2, 1), nn.ReLU(), head(8)),
    "phases beside a stride": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), Beside(), nn.ReLU(), head(8)),
    "crops": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 5, 1, 3), Do(lambda x: x[..., 1:-1, 1:-1]), nn.MaxPool2d(2), head(8)
    ),
    "negative padding": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 2), Do(lambda x: F.pad(x, (-1, 0, -1, 0))), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), head(8)
    ),
    "padded, then normed": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReflectionPad2d(1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), head(8)
    ),
    "shrunk": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Upsample(scale_factor=0.5, mode="bilinear"), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1),
        Do(lambda x: F.interpolate(x, scale_factor=(0.25, 0.5), mode="nearest")), head(8),
    ),
    "shrunk by area": lambda: nn.Sequential(
        Do(lambda x: F.interpolate(x, size=[n // 4 for n in x.shape[2:]], mode="area")), nn.Conv2d(3, 8, 3, 1, 1),
        nn.Upsample(scale_factor=0.5, mode="nearest-exact"), head(8),
    ),
    "shrunk to the middle": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Upsample(scale_factor=0.25, mode="bilinear"), nn.ReLU(), head(8)
    ),
    "a cropped skip": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Cropped(), nn.ReLU(), head(8)),
}  # fmt: skip


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.phases, self.mix = nn.Conv2d(4, 8, 3, 2, 1), nn.PixelUnshuffle(2), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x).relu() + self.mix(self.phases(x))


class Cropped(nn.Module):
    """A valid convolution beside its input, cropped to its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        top, left = ((n - m) // 2 for n, m in zip(x.shape[2:], y.shape[2:], strict=True))
        return y + x[:, :, top : top + y.shape[2], left : left + y.shape[3]]


@pytest.mark.parametrize("placement", ["behind", "before"])
@pytest.mark.parametrize("name", INVARIANT)
def test_crops_and_stems_of_phases(name: str, placement: Any) -> None:
    torch.manual_seed(0)
    assert_exact(INVARIANT[name](), images(2, 3, 16, 24), placement=placement, example=SMALL)


def test_a_stride_that_is_undone_in_steps_is_chosen_in_steps() -> None:
    torch.manual_seed(0)
    report = lps.conversion_report(lps.convert(OnConvNeXt(skip=False), "aps", example=SMALL))
    assert report.stride == 8 and [len(steps) for steps in report.raised.values()] == [1, 1, 1]
    assert report.raised["interpolate"] != report.raised["interpolate_1"]


class Attends(nn.Module):
    """Attention of all positions to all, without a word of where they are."""

    def __init__(self, attention: nn.Module, function: Callable[[Any, Tensor], Any], features: int = 8) -> None:
        super().__init__()
        self.stem, self.attention, self.function = nn.Conv2d(3, 8, 4, 4), attention, function
        self.head = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.attention, self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def by_hand(attention: Any, x: Tensor) -> Tensor:
    q, k, v = attention(x).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2) + x


def fused(attention: Any, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in attention(x).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).reshape(x.shape)


class Reduced(nn.Module):
    """Keys and values are those of a coarser map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce, self.head = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 2, 2), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k = x.flatten(2).transpose(1, 2), self.reduce(x).flatten(2).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(q, k, k).transpose(1, 2).view_as(x))


def linear(attention: Any, x: Tensor) -> Tensor:
    """Keys and values first: a matrix of features by features."""
    q, k, v = attention(x).chunk(3, -1)
    return q.softmax(-1) @ (k.softmax(1).transpose(1, 2) @ v)


def layer(**settings: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **settings)


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "by hand": lambda: Attends(nn.Linear(8, 24), by_hand),
    "fused": lambda: Attends(nn.Linear(8, 24), fused),
    "linear": lambda: Attends(nn.Linear(8, 24), linear),
    "of a coarser map": Reduced,
    "layer": lambda: Attends(nn.MultiheadAttention(8, 2, batch_first=True), lambda a, x: a(x, x, x)[0] + x),
    "weights": lambda: Attends(nn.MultiheadAttention(8, 2), lambda a, x: a(*[x.transpose(0, 1)] * 3)[1].amax(1)[:, None]
        .transpose(1, 2) * x),
    "encoder": lambda: Attends(nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False), lambda a, x: a(x)),
    "norm first": lambda: Attends(layer(norm_first=True, activation="gelu"), lambda a, x: a(x)),
    "of channels": lambda: Attends(nn.Linear(8, 24), lambda a, x: torch.einsum(
        "ncd,ntd->ntc", F.normalize(a(x)[..., :8], dim=1).transpose(1, 2) @ F.normalize(a(x)[..., 8:16], dim=1), x)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_without_positions_is_equivariant(name: str) -> None:
    torch.manual_seed(0)
    network = ATTENTION[name]()
    converted = assert_exact(network, images(2, 3, 16, 24), example=SMALL)
    assert set(network.state_dict()) - set(converted.state_dict()) <= {
        "attention.out_proj.weight",
        "attention.out_proj.bias",
    }
    assert converted.train()(images(2, 3, 16, 24)).isfinite().all()


def test_a_recurrent_layer_is_refused_before_it_walks_through_a_map() -> None:
    net = Attends(nn.LSTM(8, 8, batch_first=True), lambda lstm, x: lstm(x)[0])
    with pytest.raises(lps.ConvertError, match=r"^\w+: it reads \d+ positions in their order, which a shift changes"):
        lps.convert(net, "aps")


def test_attention_under_a_mask_is_refused() -> None:
    torch.manual_seed(0)
    masked = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = Attends(masked, lambda a, x: a(x, src_mask=torch.ones(64, 64).triu()))
    with pytest.raises(lps.ConvertError, match="cannot be followed"):
        lps.convert(network, "aps", example=SMALL)
    causal = Attends(nn.Linear(8, 24), lambda a, x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    with pytest.raises(lps.ConvertError, match="attends under a mask"):
        lps.convert(causal, "aps", example=SMALL)


class PoolingPyramid(nn.Module):
    """Pyramid pooling, as PSPNet and UPerNet have it."""

    def __init__(self, bins: tuple[int, ...], aligned: bool, largest: bool = False) -> None:
        super().__init__()
        self.aligned, kind = aligned, nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d
        self.blocks = nn.ModuleList(nn.Sequential(kind(n), nn.Conv2d(8, 4, 1), nn.ReLU()) for n in bins)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            F.interpolate(block(x), size=x.shape[2:], mode="bilinear", align_corners=self.aligned)
            for block in self.blocks
        ]
        return torch.cat([x, *parts], 1)


def segmenter(pyramid: nn.Module, channels: int) -> nn.Module:
    torch.manual_seed(0)
    down = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    up = nn.Upsample(scale_factor=4, mode="bilinear")
    return nn.Sequential(*down, pyramid, nn.Conv2d(channels, 5, 3, 1, 1), up).eval()


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize(("aligned", "largest"), [(True, False), (False, True)])
def test_a_pyramid_of_windows_follows_shifts_at_every_size(aligned: bool, largest: bool, method: Any) -> None:
    original = segmenter(PoolingPyramid((1, 2, 3), aligned, largest), 20)
    converted = assert_exact(original, images(2, 3, 24, 48), 1, method=method, antialias="tri-3")
    report = lps.conversion_report(converted)
    assert report.stride == 24 and "(3, 3) windows, whose size follows that of the images" in str(report)
    with pytest.raises(ValueError, match="multiples of 24"):
        converted(images(1, 3, 28, 24))


def plain(network: nn.Module, x: Tensor) -> Tensor:
    """With phase 0 everywhere."""

    class First(nn.Module):
        stride = (2, 2)

        def forward(self, x: Tensor, *_: Any) -> Selection:
            z = x.new_zeros(len(x), self.stride[0] * self.stride[1])
            z[:, 0] = 1
            return Selection(z, z, z.argmax(1))

    for module in network.modules():
        if isinstance(module, lps.Downsample) and module.select is not None:
            module.select = First()
    return network(x)


@pytest.mark.parametrize("size", [(24, 24), (48, 24), (72, 120)])
def test_windows_are_those_of_the_original_at_every_size(size: tuple[int, int]) -> None:
    """Means of windows of a map that was not moved, at sizes that conversion did not see."""
    original = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2)), nn.Conv2d(8, 4, 1)).eval()
    converted = lps.convert(original, "aps", example=torch.zeros(1, 3, 12, 12)).eval()
    x = images(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(plain(converted, x), original(x))


def test_an_example_is_found_that_the_windows_divide_and_one_that_is_given_is_refused() -> None:
    network = segmenter(PoolingPyramid((5, 6), False), 16)
    assert lps.conversion_report(lps.convert(network, "aps")).stride == 120
    with pytest.raises(lps.ConvertError, match=r"4.blocks.0.0: it pools a map .* to \(5, 5\) windows of several"):
        lps.convert(network, "aps", example=torch.zeros(1, 3, 64, 64))


def test_pooling_to_the_size_of_another_map_is_a_stride() -> None:
    def forward(x: Tensor) -> Tensor:
        coarse = F.max_pool2d(x, 2)
        return F.adaptive_avg_pool2d(x, (coarse.shape[2], coarse.shape[3])) + coarse

    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    converted = assert_exact(strided(Do(forward), pool), images(2, 3, 24, 40), example=torch.zeros(1, 3, 32, 32))
    assert [stride.stride for stride in lps.conversion_report(converted).strides] == [2, 2, 2, 2]


@pytest.mark.parametrize("between", [[], [nn.Dropout(), nn.ReLU()]])
def test_windows_in_front_of_a_linear_layer_stay_refused(between: list[nn.Module]) -> None:
    network = strided(nn.AdaptiveAvgPool2d(4), *between, nn.Flatten(), *between, features=128)
    with pytest.raises(lps.ConvertError, match=r'3: it pools to \(4, 4\) windows .* head="pool"'):
        lps.convert(network, "aps", example=torch.zeros(1, 3, 32, 32))
    assert_exact(network, images(2, 3, 24, 40), head="pool", example=torch.zeros(1, 3, 32, 32))


def test_windows_go_back_only_to_a_size_that_follows_the_images() -> None:
    up = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=4))
    with pytest.raises(lps.ConvertError, match="it enlarges by a fixed factor, or to a fixed size"):
        lps.convert(segmenter(up, 8), "aps", example=torch.zeros(1, 3, 32, 32))


def test_windows_meet_no_stride_by_chance() -> None:
    def forward(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 4) + F.max_pool2d(x, 2)

    with pytest.raises(lps.ConvertError, match="windows whose size follows that of the images meet a stride"):
        lps.convert(segmenter(Do(forward), 8), "aps", example=torch.zeros(1, 3, 32, 32))


def test_a_parameter_without_values_is_in_no_one_s_way() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    converted = lps.convert(network, "aps", antialias="none")
    assert lps.verify(converted, torch.randn(1, 3, 32, 32), shifts=4).exact
