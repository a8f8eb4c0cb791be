"""Converted networks outside of torch's eager mode, with sizes left open: the same phases, and the same logits up to
rounding, at sizes that the export has not seen."""

import operator
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

import lps
from lps.convert.check import drawn
from lps.sampling import Downsample

Outputs = tuple[Tensor, ...]
EXAMPLE = (2, 3, 64, 64)
SIZES = [EXAMPLE, (3, 3, 96, 128), (2, 3, 128, 64)]


def images(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """ResNet's kinds: a pooling and two blocks, one with a strided shortcut; so wide that no choice is a near tie."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 2, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.main, self.shortcut = nn.Conv2d(32, 32, 3, 2, 1), nn.Conv2d(32, 32, 1, 2)
        self.last, self.head = nn.Conv2d(32, 32, 3, 1, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (self.main(x) + self.shortcut(x)).relu()
        return self.head((x + self.last(x)).relu().mean((2, 3)))


class Inverted(nn.Module):
    """MobileNet's kinds: wide maps with a stride and a filter for each channel, and a block that adds its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.keep = nn.Conv2d(3, 8, 3, 2, 1), self.block(8, 12, 2), self.block(12, 12, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))

    @staticmethod
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        wide = nn.Conv2d(inputs, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()
        return nn.Sequential(*wide, nn.Conv2d(16, 16, 3, stride, 1, groups=16), nn.ReLU6(), nn.Conv2d(16, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        return self.head(x + self.keep(x))


class Attention(nn.Module):
    """Each position a mean of all, weighed by their products with it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 10)
        self.last = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x).relu()
        rows = y.flatten(2)
        weights = (rows.transpose(1, 2) @ rows).softmax(-1)
        return self.head(self.last(y + (rows @ weights.transpose(1, 2)).view_as(y)).mean((2, 3)))


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("torchvision.models").get_model(name, weights=None)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any]] = {
    "residual": (Residual, "lps", "tri-3", "behind"),
    "inverted": (Inverted, "aps", "none", "before"),
    "attention": (Attention, "aps", "tri-3", "behind"),
    "resnet18": (of_torchvision("resnet18"), "lps", "tri-3", "behind"),
    "mobilenet_v2": (of_torchvision("mobilenet_v2"), "aps", "none", "before"),
}


def with_phases(name: str) -> fx.GraphModule:
    """A converted network that gives its outputs and the phase that each of its sampling layers kept."""
    build, method, antialias, placement = NETWORKS[name]
    torch.manual_seed(0)
    network = lps.convert(drawn(build(), images(*EXAMPLE)), method, antialias, placement=placement).eval()
    graph = network.graph
    *nodes, end = graph.nodes
    phases = []
    for node in nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), Downsample):
            with graph.inserting_before(end):
                chosen = graph.call_function(operator.getitem, (node, 1))
                phases.append(graph.call_function(getattr, (chosen, "phase")))
    end.args = ((end.args[0], *phases),)
    network.recompile()
    return network


def open_sizes() -> Any:
    height, width = (Dim(name, min=1, max=16) for name in ("height", "width"))
    return ({0: Dim("batch", min=1, max=16), 2: 32 * height, 3: 32 * width},)


def traced(network: nn.Module, folder: Path) -> Callable[[Tensor], Outputs]:
    with torch.no_grad():
        return torch.jit.trace(network, images(*EXAMPLE), check_trace=False)


def exported(network: nn.Module, folder: Path) -> Callable[[Tensor], Outputs]:
    return torch.export.export(network, (images(*EXAMPLE),), dynamic_shapes=open_sizes()).module()


def onnx(network: nn.Module, folder: Path) -> Callable[[Tensor], Outputs]:
    runtime = pytest.importorskip("onnxruntime")
    settings: dict[str, Any] = {"dynamic_shapes": open_sizes(), "dynamo": True, "verbose": False, "optimize": False}
    program = torch.onnx.export(network, (images(*EXAMPLE),), **settings)
    assert program is not None
    program.save(folder / "network.onnx")
    session = runtime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    return lambda x: tuple(map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: x.numpy()})))


def cases() -> Iterator[Any]:
    """Each network in each form; whole networks, and ONNX, which is made from what is exported, weekly."""
    for name, form in product(NETWORKS, (traced, exported, onnx)):
        weekly = name in ("resnet18", "mobilenet_v2") or form is onnx
        marks = [pytest.mark.slow, pytest.mark.exhaustive] * weekly
        yield pytest.param(name, form, marks=marks, id=f"{name}-{form.__name__}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "form"), list(cases()))
def test_a_deployed_network_keeps_the_same_phases_at_any_size(name: str, form: Any, tmp_path: Path) -> None:
    network = with_phases(name)
    deployed = form(network, tmp_path)
    for size in SIZES:
        x = images(*size)
        with torch.no_grad():
            (expected, *phases), (found, *kept) = network(x), deployed(x)
        assert len(phases) >= 2 and all(map(torch.equal, phases, kept)), (size, phases, kept)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_would_keep_the_windows_of_one_size_is_not_traced() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(x)
            return y + nn.functional.interpolate(nn.functional.adaptive_avg_pool2d(y, 2), size=y.shape[2:])

    network = lps.convert(Pyramid(), "aps", example=images(*EXAMPLE)).eval()
    with pytest.raises(RuntimeError, match=r"keep the size .* windows .*: export it with torch\.export"):
        torch.jit.trace(network, images(*EXAMPLE), check_trace=False)
