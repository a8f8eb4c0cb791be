"""Converted networks outside of torch's eager mode, with sizes left open: the same phases, and the same logits up to
rounding, at sizes that the export has not seen."""

import operator
from collections.abc import Callable
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


def small() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


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
    "small": (small, "aps", "tri-3", "behind"),
    "small, before": (small, "aps", "none", "before"),
    "attention": (Attention, "aps", "none", "behind"),
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [traced, exported, pytest.param(onnx, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith(("small", "attention")) else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS
    ],
)
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
