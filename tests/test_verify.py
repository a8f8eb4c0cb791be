"""``lps.verify``: what it counts, which layer it blames, and padding an image once to a multiple."""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps.commands import verify as command
from lps.diagnose import displacement
from lps.exact.convolution import Conv2d, Padding, pad_to_multiple
from lps.exact.mean import exact_mean
from lps.experiments.run import DataCache, plan
from lps.selection import Selection
from lps.verify import Batch, Tally, verify

Factory = Callable[[int], nn.Module]
conv = partial(Conv2d, 3, 3, 3)
tri_3: Factory = partial(lps.LowPass, size=3)


def learned(channels: int, padding: Padding = "circular") -> nn.Module:
    return lps.LearnedPhase(channels, 2, padding=padding)


def network(
    select: Factory | None = None, antialias: Factory | None = None, padding: Padding = "circular"
) -> nn.Module:
    torch.manual_seed(0)
    sampling = None if select is antialias is None else lps.Sampling(select, antialias)
    return lps.ResNet(18, classes=10, width=8, stem="cifar", sampling=sampling, padding=padding).eval()


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class Pooled(nn.Module):
    """A network from layers: each is applied in turn, then the mean over space."""

    def __init__(self, *layers: nn.Module, exact: bool = True) -> None:
        super().__init__()
        self.layers, self.exact = nn.ModuleList(layers), exact

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y: Any = layer(x)
            x = y[0] if isinstance(y, tuple) else y
        return exact_mean(x, (2, 3)).to(x.dtype) if self.exact else x.mean((2, 3))


class Always(nn.Module):
    """The same phases one after the other through a batch, whatever the maps."""

    def __init__(self, *phases: int) -> None:
        super().__init__()
        self.phases = torch.tensor(phases or (1,))

    def forward(self, x: Tensor) -> Selection:
        phase = self.phases[torch.arange(len(x)) % len(self.phases)]
        z = nn.functional.one_hot(phase, 4).to(x.dtype)
        return Selection(z, z, phase)


class CoarseNorm(nn.Module):
    """The norm of each component, with three bits unless in float64, and the first of the largest."""

    def forward(self, x: Tensor) -> Selection:
        scores = lps.polyphase(x).double().square().mean((2, 3, 4))
        if x.dtype != torch.float64:
            scores = (8 * scores).round()
        phase = scores.argmax(1)
        return Selection(scores, nn.functional.one_hot(phase, 4).to(x.dtype), phase)


class FirstOfEqual(nn.Module):
    """Equal scores, and the first of them."""

    def forward(self, x: Tensor) -> Selection:
        z = nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 4).to(x.dtype)
        return Selection(torch.ones_like(z), z, z.argmax(1))


class TiedInFloat64(lps.MaxNorm):
    """The largest norm, but in float64."""

    def forward(self, x: Tensor, origin: lps.Origin | None = None) -> Selection:
        return FirstOfEqual()(x) if x.dtype == torch.float64 else super().forward(x, origin)


class Between(nn.Module):
    """Something that is not a module, between two that are."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.down, self.before, self.after = lps.Downsample(lps.MaxNorm()), conv(), conv()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.down(x)
        y = self.after(self.function(self.before(y))).relu()
        return y if y.shape[2:] == x.shape[2:] else self.flatten(self.pool(y))


class DownAndUp(nn.Module):
    """A segmenter: downsample, then put features back by LPU or by repeating them."""

    def __init__(self, up: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.down, self.up = Conv2d(3, 4, 3), lps.Downsample(learned(4)), up

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y, selection = self.down(self.conv(x))
        return {"out": self.up(y, selection) if isinstance(self.up, lps.Upsample) else self.up(y)}


@pytest.mark.parametrize("antialias", [None, tri_3])
@pytest.mark.parametrize("select", [learned, lambda channels: lps.MaxNorm()])
def test_a_network_that_selects_is_exact(select: Factory, antialias: Factory | None) -> None:
    report = verify(network(select, antialias), images())
    assert report.exact and report.difference == 0.0 and report.worst is report.broken is None
    assert report.labels.agree == report.labels.total == 2 * 256
    assert list(report.choices) == [f"stages.{i}.0.downsample.select" for i in (1, 2, 3)]
    assert all(c.cases == 512 and c.flipped == 0 for c in report.choices.values())
    assert str(report).endswith("\nexact")


def test_under_autocast_to_bfloat16_it_is_exact_too() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = verify(network(learned, tri_3), images(1), shifts=40)
    assert report.exact and report.dtype == "bfloat16"


@pytest.mark.parametrize("batch_size", [2, 7, 32, 1000])
def test_counts_are_those_of_a_plain_evaluation(batch_size: int) -> None:
    model, x = network(None, tri_3).double(), images(3, 8).double()
    report = verify(model, x, batch_size=batch_size)
    with torch.inference_mode():
        outputs = torch.stack([model(lps.circular_shift(x, (i, j))) for i in range(8) for j in range(8)])
    differences = (outputs - outputs[0]).abs().amax(2)
    assert report.difference == pytest.approx(float(differences.max()), rel=1e-9)
    assert report.labels.agree == int((outputs.argmax(2) == outputs[0].argmax(1)).sum())
    assert report.labels.total == 3 * 64
    assert report.worst is not None
    image, (i, j) = report.worst
    assert differences[8 * i + j, image] == pytest.approx(report.difference, rel=1e-9)


decimate = lps.Downsample
pads = nn.CircularPad2d(1)
BREAKS: dict[str, tuple[Callable[[], nn.Module], int, str, str]] = {
    "strided convolution": (network, 16, "stride", "stages.1.0.conv1"),
    "low-pass filter": (lambda: network(None, tri_3), 16, "stride", "stages.1.0.downsample.antialias"),
    "first samples": (lambda: Pooled(conv(), decimate(), conv()), 8, "stride", "layers.1"),
    "zero padding": (lambda: network(learned, tri_3, "zeros"), 16, "padding", "stem.conv"),
    "reflection": (lambda: Pooled(conv(), conv(padding_mode="reflect")), 8, "padding", "layers.1"),
    "no padding": (lambda: Pooled(nn.Conv2d(3, 3, 3)), 8, "padding", "layers.0"),
    "odd size": (lambda: Pooled(conv(), conv(stride=2)), 9, "odd size", "layers.1"),
    "logits see the border": (
        lambda: network(partial(learned, padding="zeros")),
        16,
        "selection",
        "stages.1.0.downsample.select",
    ),
    "a fixed selection": (lambda: Pooled(decimate(Always()), conv(stride=2)), 8, "selection", "layers.0.select"),
    "repeated samples": (lambda: DownAndUp(nn.Upsample(scale_factor=2)), 8, "upsampling", "up"),
    "positions as features": (
        lambda: nn.Sequential(conv(), nn.Flatten(), nn.Linear(192, 5)),
        8,
        "flatten",
        "1",
    ),
    "padding by a layer of its own": (
        lambda: Pooled(nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3)),
        8,
        "padding",
        "layers.1",
    ),
    "stride after a layer that pads": (
        lambda: Pooled(pads, nn.Conv2d(3, 3, 3), pads, nn.Conv2d(3, 3, 3, stride=2)),
        8,
        "stride",
        "layers.3",
    ),
    "upsampling between two layers": (
        lambda: Between(partial(F.interpolate, scale_factor=2)),
        8,
        "upsampling",
        "",
    ),
    "slicing between two layers": (lambda: Between(lambda y: y[..., ::2, ::2]), 8, "stride", ""),
    "zeros around a map between two layers": (lambda: Between(lambda y: F.pad(y, (1, 1, 1, 1))), 8, "padding", ""),
    "a sum that is reordered": (lambda: Pooled(conv(), exact=False), 16, "precision", ""),
    "the first of tied scores": (lambda: Pooled(decimate(FirstOfEqual())), 8, "selection", "layers.0.select"),
    "a selection that is rounded": (lambda: Pooled(decimate(CoarseNorm())), 16, "precision", "layers.0.select"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_the_first_layer_that_breaks_is_named_with_its_cause(case: str) -> None:
    make, size, cause, layer = BREAKS[case]
    torch.manual_seed(0)
    report = verify(make(), images(2, size))
    assert not report.exact and report.worst is not None
    assert report.broken is not None
    assert (report.broken.cause, report.broken.layer) == (cause, layer)
    assert report.broken.difference > 0 and f"not exact; first broken by {cause}, in " in str(report)


@pytest.mark.parametrize(
    ("up", "cause", "layer"),
    [
        (nn.Upsample(scale_factor=2), "upsampling", "up"),
        (lps.Upsample(lps.LowPass(4, 3, "zeros")), "padding", "up.antialias"),
    ],
)
def test_ties_in_float64_do_not_hide_what_comes_after_them(up: nn.Module, cause: str, layer: str) -> None:
    model = DownAndUp(up)
    model.down.select = TiedInFloat64()
    report = verify(model, images(2, 8))
    assert report.choices["down.select"].flipped == 0
    assert report.broken is not None and (report.broken.cause, report.broken.layer) == (cause, layer)


def test_padding_around_a_layer_is_not_blamed() -> None:
    torch.manual_seed(0)
    assert verify(Pooled(pads, nn.Conv2d(3, 3, 3)), images(size=8)).exact


def test_a_network_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    report = verify(models.resnet18().train(), images(1, 32), shifts=20)
    assert report.broken is not None
    assert (report.broken.layer, report.broken.kind, report.broken.cause) == ("conv1", "Conv2d", "stride")
    assert (report.broken.before, report.broken.after) == ((32, 32), (16, 16))


def test_a_segmenter_moves_with_the_image() -> None:
    report = verify(DownAndUp(lps.Upsample(lps.LowPass(4, 3, gain=4))), images(2, 8))
    assert report.exact and report.labels.agree == report.labels.total == 2 * 64 * 64
    unlike = verify(DownAndUp(nn.Upsample(scale_factor=2)), images(2, 8))
    assert unlike.difference > 0 and unlike.labels.agree < unlike.labels.total


# Selections


def test_flipped_selections_are_counted() -> None:
    """A fixed phase is right for every other shift along each axis."""
    report = verify(Pooled(decimate(Always())), images(3, 8))
    assert report.choices["layers.0.select"].flipped == 3 * 64 * 3 // 4


def test_a_flipped_selection_is_not_exact_even_where_no_output_shows_it() -> None:
    report = verify(nn.Sequential(Pooled(decimate(Always())), nn.Threshold(1e9, 0.0)), images(1, 8))
    assert report.difference == 0.0 and not report.exact
    assert report.broken is not None and report.broken.cause == "selection"


def test_shifts_are_followed_through_several_selections() -> None:
    """The second layer sees a map that the first one moved: a fixed phase is right for a quarter of its moves."""
    torch.manual_seed(0)
    select = lps.MaxNorm()
    report = verify(Pooled(decimate(select), conv(), decimate(Always())), images(1, 16))
    assert report.choices["layers.0.select"].flipped == 0
    assert report.choices["layers.2.select"].flipped == 256 * 3 // 4


def test_phases_of_any_stride_move_with_the_shift() -> None:
    torch.manual_seed(0)
    layer = lps.Downsample(lps.LearnedPhase(3, 4, stride=3), stride=3)
    report = verify(Pooled(layer), images(1, 12))
    assert report.exact and report.choices["layers.0.select"].flipped == 0


def test_copies_may_be_selected_at_will() -> None:
    """On diagonals the components (0, 1) and (1, 0) are copies of each other, and (0, 0) is not."""
    line = torch.arange(8)
    x = ((line[:, None] + line) % 4).float()[None, None]
    shifts = [(0, 4), (4, 0), (2, 6)]
    assert verify(Pooled(decimate(Always(1, 2))), x, shifts=shifts).exact
    assert verify(Pooled(decimate(Always(1, 0))), x, shifts=shifts).choices["layers.0.select"].flipped == 2


def test_ties_and_margins() -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :2, :2] = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    x[1, 0, 0, 0], x[1, 0, 2, 3] = 2.0, -2.0
    report = verify(Pooled(decimate(lps.MaxNorm())), x)
    # norms 4, 3, 1, 0 in the first image; 2, 2, 0, 0 in the second
    assert report.choices["layers.0.select"] == Tally(cases=32, flipped=0, ties=16, margin=0.0)
    assert verify(Pooled(decimate(lps.MaxNorm())), x[:1]).choices["layers.0.select"].margin == 0.25


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (1, 4)])
def test_displacements_are_read_off_the_maps(size: tuple[int, int]) -> None:
    x = torch.randn(1, 5, *size, generator=torch.Generator().manual_seed(0))
    shifts = [(i, j) for i in range(size[0]) for j in range(size[1])]
    found = displacement(torch.stack([lps.circular_shift(x, shift) for shift in shifts]))
    assert found[:, 0].tolist() == [list(shift) for shift in shifts]


def test_choices_on_an_almost_constant_map_are_followed() -> None:
    """A few samples that differ from the others in their last bit tell where the map went."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        some = torch.rand(1, 4, 8, 8, generator=generator) < 0.02
        report = verify(Pooled(decimate(lps.MaxNorm())), torch.full((1, 4, 8, 8), 1e4).where(~some, 1e4 + 2**-10))
        assert report.choices["layers.0.select"].flipped == 0


# The call


@pytest.mark.parametrize("antialias", [None, tri_3])
def test_choices_are_watched_in_the_order_of_their_calls(antialias: Factory | None) -> None:
    model = network(learned, antialias)
    with torch.no_grad(), lps.watch(model) as choices:
        model(images())
    assert [choice.layer for choice in choices] == [f"stages.{i}.0.downsample.select" for i in (1, 2, 3)]
    _, selections = model.features(images())  # type: ignore[operator]
    for choice, selection in zip(choices, selections, strict=True):
        assert torch.equal(choice.scores, selection.scores) and choice.phase is not None
        assert torch.equal(choice.phase, selection.phase)
        torch.testing.assert_close(choice.module(choice.seen).scores, choice.scores, rtol=1e-6, atol=1e-6)
    with lps.watch(model.train(), lambda choice: choices.append(choice)) as none:
        model(images())
    assert none == [] and len(choices) == 6 and choices[-1].phase is None
    assert not any(module._forward_hooks for module in model.modules())


def test_modes_and_hooks_are_left_as_they_were() -> None:
    model = network(learned).train()
    model.get_submodule("stem.norm").eval()
    before = [module.training for module in model.modules()]
    running = model.get_buffer("stem.norm.running_mean").clone()
    verify(model, images(1), shifts=3)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model.get_buffer("stem.norm.running_mean"), running)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.dtype == torch.float32 and not p.is_inference() for p in model.parameters())


def test_modes_are_given_back_after_an_error() -> None:
    model = nn.Sequential(conv(), nn.Dropout()).train()
    with pytest.raises(ValueError, match="expected logits"):
        verify(nn.Sequential(model, nn.MaxPool2d(2)), images())
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_shifts_drawn_from_a_seed() -> None:
    def tried(**options: Any) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []

        def watch(batches: Sequence[Batch]) -> Sequence[Batch]:
            seen.extend(tuple(shift.tolist()) for index, chunk in batches for shift in chunk)
            return batches

        report = verify(Pooled(conv()), images(1, 8), progress=watch, **options)
        assert report.shifts == len(seen) == report.labels.total
        return seen

    assert len(set(tried(shifts=63))) == 63 and (0, 0) not in tried(shifts=63)
    assert tried(shifts=9) == tried(shifts=9) != tried(shifts=9, seed=1)
    assert tried(shifts="all") == [(i, j) for i in range(8) for j in range(8)]
    assert tried(shifts=[(1, 2), (-3, 40)]) == [(1, 2), (-3, 40)]


def test_shifts_given_as_pairs_are_judged_by_themselves() -> None:
    model = network()
    assert verify(model, images(), shifts=[(8, 0), (0, -8), (16, 24)]).exact
    assert not verify(model, images(), shifts=[(8, 0), (0, 1)]).exact


def test_a_report_is_plain_data() -> None:
    report = verify(network(learned, None, "zeros"), images(1, 8), shifts=5)
    content = json.loads(json.dumps(report.as_dict()))
    assert content["exact"] is False and content["broken"]["cause"] == "padding"
    assert content["labels"]["total"] == content["choices"]["stages.1.0.downsample.select"]["cases"] == 5


@pytest.mark.parametrize(
    ("model", "x", "options", "words"),
    [
        (Pooled(), torch.zeros(3, 8, 8), {}, r"expected images \(N, C, H, W\), got \(3, 8, 8\)"),
        (Pooled(), torch.zeros(0, 3, 8, 8), {}, "expected images"),
        (Pooled(), torch.full((1, 3, 8, 8), torch.nan), {}, "the images hold NaN"),
        (Pooled(nn.Threshold(9.0, torch.nan)), images(), {}, "the model's output holds NaN"),
        (nn.MaxPool2d(2), images(), {}, r"or \(N, classes, H, W\) for images \(32, 3, 16, 16\), got \(32, 3, 8, 8\)"),
        (nn.Flatten(0), images(), {}, r"got \(24576,\)"),
        (Pooled(), images(), {"batch_size": 1}, "batch_size must be at least 2 .* got 1"),
        (Pooled(), images(), {"shifts": 256}, r"255 shifts to draw from, 256 were asked for"),
        (Pooled(), images(), {"shifts": [(1, 2, 3)]}, r"pairs of rows and columns, got \[\(1, 2, 3\)\]"),
        (Pooled(), images(), {"shifts": []}, "pairs of rows and columns"),
        (Pooled(), images(), {"shifts": "every"}, "pairs of rows and columns, got 'every'"),
        (lps.ResNet(18, classes=2, width=8, sampling=lps.Sampling(learned)), images(1, 36), {}, "pad_to_multiple"),
    ],
)
def test_bad_input_is_named(model: nn.Module, x: Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        verify(model, x, **options)


# Padding once


@pytest.mark.parametrize(("padding", "last"), [("circular", [0, 1, 2]), ("zeros", [0, 0, 0]), ("reflect", [3, 2, 1])])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_to_a_multiple(dims: int, padding: Padding, last: list[int]) -> None:
    line = torch.arange(5)
    x = line.view(1, 1, 5, *(1,) * (dims - 1)).expand(2, 3, *(5,) * dims)
    grown = pad_to_multiple(x, 8, padding)
    assert grown.shape == (2, 3, *(8,) * dims)
    inner = grown
    for axis in range(2, 2 + dims):
        inner = inner.narrow(axis, 0, 5)
    assert torch.equal(inner, x)
    assert grown[0, 0].reshape(8, -1)[:, 0].tolist() == [0, 1, 2, 3, 4, *last]
    assert pad_to_multiple(grown, 4, padding) is grown


@pytest.mark.parametrize("padding", ["circular", "zeros", "reflect"])
def test_an_image_padded_once_is_verified_exactly(padding: Padding) -> None:
    model, x = network(learned, tri_3), images(1, 13)
    with pytest.raises(ValueError, match=r"lps\.pad_to_multiple"):
        verify(model, x)
    grown = pad_to_multiple(x, 8, padding)
    assert grown.shape[2:] == (16, 16)
    assert verify(model, grown).exact


def test_padding_after_the_shift_is_no_cure() -> None:
    """What is invariant are shifts of the padded image, not those of the image that is then padded."""
    model, x = network(learned, tri_3), images(1, 13)
    with torch.inference_mode():
        y, moved = (model(pad_to_multiple(image, 8)) for image in (x, lps.circular_shift(x, (1, 0))))
    assert not torch.equal(y, moved)


def test_a_map_is_not_reflected_beyond_itself() -> None:
    with pytest.raises(ValueError, match="reflect padding of size 3"):
        pad_to_multiple(torch.zeros(1, 1, 3), 8, "reflect")


# The command line


def ask(*words: str, tmp_path: Path) -> int:
    parser = argparse.ArgumentParser()
    command.verify_arguments(parser)
    small = ["--profile", "smoke", "--shifts", "20", "--images", "2", "--results", str(tmp_path)]
    return command.verify_main(parser.parse_args([*words, *small]))


def test_verifying_a_row_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("table1/lps-tri-3", "--json", str(tmp_path / "report.json"), tmp_path=tmp_path) == 0
    assert capsys.readouterr().out.startswith("table1/lps-tri-3 (untrained) on drawn\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exact"] and report["labels"] == {"agree": 40, "total": 40} and report["weights"] == "untrained"
    assert ask("table1/lps-tri-3", "--probe", tmp_path=tmp_path) == 0
    assert "oneDNN: exact\nCPU: exact with oneDNN\n" in capsys.readouterr().out
    assert ask("table1/baseline", tmp_path=tmp_path) == 1
    assert "first broken by stride, in 1.stages.1.0.conv1" in capsys.readouterr().out


def test_trained_weights_are_taken_where_they_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = plan(["table1/lpf-tri-3"], "smoke", [0], {}, tmp_path, DataCache(None))
    from lps.experiments.model import fresh

    network = fresh(run.experiment, DataCache(None)(run.experiment.data)[0], 0)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    run.weights.parent.mkdir(parents=True)
    torch.save(network.state_dict(), run.weights)
    assert ask("table1/lpf-tri-3", tmp_path=tmp_path) == 0  # zero weights see nothing
    assert f"(trained, {run.id})" in capsys.readouterr().out


def test_verifying_a_network_of_torchvision_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("torchvision:resnet18", tmp_path=tmp_path) == 1
    assert "first broken by stride, in 1.conv1 (Conv2d, 32x32 to 16x16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["table1/none"], "no experiment matches"),
        (["table1/*"], "one network at a time"),
        (["torchvision:resnet7"], "resnet7"),
    ],
)
def test_networks_that_are_not_there(words: list[str], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        ask(*words, tmp_path=tmp_path)


class Cast(nn.Module):
    """A network of bytes, which makes floats of them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular"), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.float() / 255).flatten(1)


def test_a_network_may_cast_its_images() -> None:
    report = lps.verify(Cast(), torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8), shifts=8)
    assert not report.exact and report.labels.total == 8


def test_views_of_an_image_may_share_a_batch() -> None:
    torch.manual_seed(0)
    sampling = lps.Sampling(lambda c: lps.MaxNorm(), lambda c: lps.LowPass(c, 3))
    inner = lps.ResNet(18, classes=4, stem="cifar", width=8, sampling=sampling)

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.cat([x, x.flip(-1)])).unflatten(0, (2, -1)).mean(0)

    assert lps.verify(Views(), torch.randn(1, 3, 8, 8), shifts=5).exact


def test_what_a_network_keeps_can_be_trained_afterwards() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    lps.verify(network, torch.randn(1, 3, 8, 8), shifts=2)
    network(torch.randn(1, 3, 8, 8)).sum().backward()


def test_shifts_by_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the shifts"):
        lps.verify(Cast(), torch.randn(1, 3, 16, 16), shifts=[(0, 0), (16, 32)])


def test_a_function_is_no_network() -> None:
    with pytest.raises(ValueError, match=r"expected a torch\.nn\.Module, got <function"):
        lps.verify(cast(Any, lambda x: x), torch.randn(1, 3, 16, 16))
