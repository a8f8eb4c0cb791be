"""A network of ours in the hands of torch's tools: compile, export, ONNX, autocast, channels_last, copies, DDP."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lps
from lps.exact import convolution

pytestmark = pytest.mark.slow


class WithPhases(nn.Module):
    """Logits and the phase that each sampling layer keeps, ``(N, layers)``."""

    def __init__(self, network: lps.ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, selections = self.network.features(x)
        phases = [selection.phase for selection in selections if selection.phase is not None]
        return self.network(x), torch.stack(phases, 1)


def network(method: str = "lps") -> lps.ResNet:
    """Logits from unfiltered components: those of filtered ones are tied up to rounding in an untrained network."""
    torch.manual_seed(0)
    rules = {"lps": lambda c: lps.LearnedPhase(c, c // 8), "aps": lambda c: lps.MaxNorm()}
    sampling = lps.Sampling(rules[method], partial(lps.LowPass, size=3), select_from="unfiltered")
    return lps.ResNet(18, classes=10, sampling=sampling, stem="cifar", width=16).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Convolution, sampling layer, convolution, its inverse: every operation of the library in a small graph."""

    def __init__(self, select: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = convolution.Conv2d(3, 8, 3), convolution.Conv2d(8, 8, 3)
        self.down = lps.Downsample(select, lps.LowPass(8, 3), select_from="unfiltered")
        self.up = lps.Upsample(lps.LowPass(8, 3, gain=4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, selection = self.down(self.first(x).relu())
        return self.up(self.second(y), selection), selection.phase


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a ResNet": lambda: WithPhases(network()),
    "aps": lambda: Small(lps.MaxNorm()),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_network_gives_the_same_bits_at_any_batch_size(name: str, any_batch: Any) -> None:
    model = MODELS[name]().eval()
    program = torch.export.export(model, (images(4),), dynamic_shapes=any_batch)
    with torch.no_grad():
        for actual, expected in zip(program.module()(images(7)), model(images(7)), strict=True):
            assert torch.equal(actual, expected)


class Attends(nn.Module):
    """Exact sums of every kind, once it is converted: a group norm, attention and a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        tokens = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        return (self.attention(tokens, tokens, tokens)[0].mean(1),)


@pytest.mark.parametrize("traced_with_gradients", [True, False])
@pytest.mark.parametrize("name", ["aps", "lps", "converted", pytest.param("a ResNet", marks=pytest.mark.exhaustive)])
def test_an_exported_network_hands_gradients_back(name: str, traced_with_gradients: bool) -> None:
    """To the images, as a saliency map asks for; nobody has to turn gradients off to run it."""
    more = {"lps": lambda: Small(lps.LearnedPhase(8, 4)), "converted": lambda: lps.convert(Attends())}
    model = {**MODELS, **more}[name]().eval()
    with torch.set_grad_enabled(traced_with_gradients):
        program = torch.export.export(model, (images(2),))
    gradients: list[Any] = []
    for run in (model, program.module()):
        x = images(2).requires_grad_()
        run(x)[0].square().sum().backward()
        gradients.append(x.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_selects_the_same_phases(through_onnx: Callable[..., list[Tensor]]) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aps, self.lps = Small(lps.MaxNorm()), Small(lps.LearnedPhase(8, 4))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return *self.aps(x), *self.lps(x)

    model, x = Both().eval(), images(7)
    found = through_onnx(model, images(4), x)
    with torch.no_grad():
        expected = model(x)
    assert all(map(torch.equal, found[1::2], expected[1::2]))
    for features, wanted in zip(found[::2], expected[::2], strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_sampling_layer_has_no_graph_break(training: bool) -> None:
    torch.manual_seed(0)
    down, up = lps.Downsample(lps.LearnedPhase(4, 2), lps.LowPass(4, 3)), lps.Upsample(lps.LowPass(4, 3, gain=4))

    def there_and_back(x: Tensor) -> Tensor:
        y, selection = down(x)
        assert selection is not None
        return up(y.relu(), selection)

    down.train(training)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    torch.manual_seed(3)
    (expected,) = torch.autograd.grad(there_and_back(x).square().sum(), x)
    torch.manual_seed(3)
    (actual,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(actual, expected)


def test_copies_and_files_hold_the_same_network() -> None:
    original, x = network(), images(2)
    with torch.no_grad():
        expected = original(x)
        file = io.BytesIO()
        torch.save(original.state_dict(), file)
        file.seek(0)
        loaded = network()
        for parameter in loaded.parameters():
            parameter.zero_()
        loaded.load_state_dict(torch.load(file, weights_only=True))
        for other in (copy.deepcopy(original), pickle.loads(pickle.dumps(original)), loaded):
            assert torch.equal(other(x), expected)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"select\.conv1\.weight"):
        network("aps").load_state_dict(network("lps").state_dict())


def test_channels_last_selects_the_same_phases() -> None:
    model, x = WithPhases(network()), images(4)
    with torch.no_grad():
        logits, phases = model(x)
        last = model.to(memory_format=torch.channels_last)
        logits_last, phases_last = last(x.to(memory_format=torch.channels_last))
    assert torch.equal(phases_last, phases)
    torch.testing.assert_close(logits_last, logits, rtol=1e-4, atol=1e-5)


def test_autocast_keeps_the_logits_of_a_selection_in_full_precision() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps, selections = network().features(images(2))
    assert maps[-1].dtype == torch.bfloat16
    assert {selection.scores.dtype for selection in selections} == {torch.float64}


def _train(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(network("aps"))
    model(images(4)[2 * rank : 2 * rank + 2]).square().mean().backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}, folder / "grad")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path, free_port: int) -> None:
    """In evaluation mode, so that batch norms do not depend on how a batch is divided."""
    torch.multiprocessing.spawn(_train, (free_port, tmp_path), nprocs=2)
    single = network("aps")
    single(images(4)).square().mean().backward()
    shared = torch.load(tmp_path / "grad", weights_only=True)
    expected = {name: p.grad for name, p in single.named_parameters() if p.grad is not None}
    assert shared.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-3, atol=1e-5)
