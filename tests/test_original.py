"""The original's names and checkpoints. No file of the original is needed: the tests write their own in its layout."""

import functools
import math
import os
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lps
from lps.exact.convolution import Padding
from lps.original import Filter, Layers, Logits, Named, Settings, Training, build, fill, load_checkpoint

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
LAYERS = {64: "maxpool", 128: "layer2", 256: "layer3", 512: "layer4"}
EIGHTH = {64: 8, 128: 16, 256: 32, 512: 64}
SAME = {channels: channels for channels in EIGHTH}
TRAINING = Training(
    Named("SGD", {"momentum": 0.9, "weight_decay": 1e-4}),
    0.1,
    Named("StepLR", {"step_size": 30, "gamma": 0.1}),
    0,
    Named("StepDecay", {"step_size": 10, "gamma": 0.825, "min_value": 0.025, "mode": "on_epoch"}),
    False,
    88,
)


def described(depth: int, layers: Layers | None, **others: Any) -> Settings:
    plain = {"classes": 10, "stem": "imagenet", "padding": "circular", "pool_padding": "circular"}
    return Settings(depth, layers=layers, **{**plain, **others})


def learned(antialias: Filter | None, hidden: dict[int, int] = EIGHTH, padding: Padding = "circular") -> Layers:
    return Layers("LPS", antialias, "filtered", Logits(hidden, padding))


RECT_2, TRI_3, BIN_5 = (Filter("LPF", size, "circular") for size in (2, 3, 5))
ADAPT_3 = Filter("DDAC", 3, "circular", 8)


def shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the original's state_dict, written out from the description of its modules."""
    found: dict[str, tuple[int, ...]] = {}
    layers = settings.layers

    def norm(key: str, channels: int) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{key}.{name}"] = (channels,)
        found[f"{key}.num_batches_tracked"] = ()

    def site(key: str, channels: int, filtered: bool = True, chooses: bool = True) -> None:
        assert layers is not None
        if layers.logits:
            found[f"{key}.component_selection.gumbel_tau"] = ()
        if layers.logits and chooses:
            hidden = layers.logits.hidden[channels]
            for name, inputs in (("conv1", channels), ("conv2", hidden)):
                found[f"{key}.component_selection.get_logits.{name}.weight"] = (hidden, inputs, 3, 3)
                found[f"{key}.component_selection.get_logits.{name}.bias"] = (hidden,)
        if layers.antialias and filtered and layers.antialias.kind == "LPF":
            found[f"{key}._antialias_layer.filt"] = (channels, 1, layers.antialias.size, layers.antialias.size)
        elif layers.antialias and filtered:
            found[f"{key}._antialias_layer.conv.weight"] = (9 * layers.antialias.groups, channels, 3, 3)
            norm(f"{key}._antialias_layer.bn", 9 * layers.antialias.groups)

    size = 3 if settings.stem == "cifar" else 7
    found["core.conv1.weight"] = (64, 3, size, size)
    norm("core.bn1", 64)
    if layers and settings.stem == "imagenet":
        site("core.maxpool.0", 64, filtered=False)
        site("core.maxpool.3", 64)
    elif layers and settings.stem == "imagenet-strided":
        site("core.maxpool.2", 64)
    inputs = 64
    for level, count in enumerate(BLOCKS[settings.depth]):
        width = 64 << level
        outputs = width if settings.depth == 18 else 4 * width
        for index in range(count):
            key = f"core.layer{level + 1}.{index}"
            sampled = bool(layers) and level > 0 and index == 0
            sizes = (3, 3) if settings.depth == 18 else (1, 3, 1)
            channels = [inputs, *(width for _ in sizes[1:]), outputs]
            for number, side in enumerate(sizes, 1):
                last = sampled and number == len(sizes)
                if last:
                    site(f"{key}.conv{number}.0", width)
                shape = (channels[number], channels[number - 1], side, side)
                found[f"{key}.conv{number}{'.1' * last}.weight"] = shape
                norm(f"{key}.bn{number}", channels[number])
            if inputs != outputs:
                if sampled:
                    site(f"{key}.downsample.0", inputs, chooses=False)
                found[f"{key}.downsample.{0 + sampled}.weight"] = (outputs, inputs, 1, 1)
                norm(f"{key}.downsample.{1 + sampled}", outputs)
            inputs = outputs
    found["core.fc.weight"] = (settings.classes, inputs)
    found["core.fc.bias"] = (settings.classes,)
    return found


def drawn(settings: Settings) -> dict[str, Tensor]:
    """A float64 state_dict: each tensor from the place of its key in the sorted list, constants as the original's."""
    state = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in shapes(settings).items()}
    for key, value in state.items():
        if key.endswith("gumbel_tau"):
            value.fill_(1)
        elif key.endswith(".filt"):
            value.copy_(binomial(value.shape))
    free = sorted(key for key in state if not key.endswith((".filt", "gumbel_tau", "num_batches_tracked")))
    for seed, key in enumerate(free):
        r, value = normal(state[key].shape, seed), state[key]
        if value.dim() == 4:
            value.copy_(r * (2 / math.prod(value.shape[1:])) ** 0.5)
        elif key.endswith("running_var"):
            value.copy_(0.5 + r.square())
        else:
            value.copy_(0.05 * r if value.dim() == 2 else 0.1 * r)
            if value.dim() == 1 and key.endswith(".weight"):
                value.add_(1)
    return state


def binomial(shape: tuple[int, ...]) -> Tensor:
    taps = torch.tensor([math.comb(shape[-1] - 1, k) for k in range(shape[-1])]).float()
    return (torch.outer(taps, taps) / taps.sum() ** 2).expand(shape)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_of(settings: Settings) -> lps.ResNet:
    network = build(settings).double().eval()
    fill(network, drawn(settings))
    return network


CIFAR: dict[str, Any] = {"stem": "cifar"}
ZEROS: dict[str, Any] = {"padding": "zeros", "pool_padding": "zeros"}
TRI_3_ZEROS = Filter("LPF", 3, "zeros")
NETWORKS: dict[str, tuple[Settings, int, list[float], list[list[int]]]] = {
    "G1": (
        described(18, learned(None, SAME), **CIFAR),
        32,
        [27.06367101, -163.9196679, -120.8151419, -51.65957374],
        [[0, 3], [3, 0], [0, 2]],
    ),
    "G2": (
        described(18, learned(TRI_3, SAME), **CIFAR),
        32,
        [21.88372815, -161.6427576, -102.7044796, -48.35110307],
        [[2, 1], [2, 2], [0, 2]],
    ),
    "G3": (
        described(18, Layers("APS", RECT_2), **CIFAR),
        32,
        [51.54513929, -37.97091178, -30.93389554, -35.06923806],
        [],
    ),
    "G4": (
        described(18, Layers("Decimation", BIN_5), **CIFAR),
        32,
        [52.10772911, -38.84601481, -29.23295418, -35.40655024],
        [],
    ),
    "G5": (
        described(18, learned(ADAPT_3, SAME), **CIFAR),
        32,
        [-0.4011910891, 0.1639948715, -0.1045897802, 0.03438482772],
        [[1, 3], [3, 3], [1, 3]],
    ),
    "G6": (described(18, None, **CIFAR), 32, [54.44732013, -40.33883331, -38.2909426, -40.15004567], []),
    "G7": (
        described(18, learned(RECT_2)),
        64,
        [60.1719902, -299.1668328, -200.0070493, -105.4318161],
        [[1, 0], [2, 2], [2, 3], [1, 0], [1, 0]],
    ),
    "G8": (
        described(50, learned(TRI_3_ZEROS, padding="zeros"), **ZEROS),
        64,
        [-2909.048318, 3699.741034, 1515.079423, -1047.919111],
        [[0, 1], [0, 0], [3, 3], [2, 3], [0, 0]],
    ),
    "G9": (
        described(18, learned(ADAPT_3)),
        64,
        [-0.1341620967, 0.1352710801, -0.3592094917, -0.02013549752],
        [],
    ),
    "G10": (described(18, None), 64, [144.7216721, -103.7436837, -96.95466858, -82.76366082], []),
    "G11": (
        described(18, learned(None)),
        64,
        [48.20759014, -334.415112, -210.5976426, -110.975172],
        [[1, 0], [0, 3], [1, 0], [0, 1], [3, 0]],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_numbers_of_the_original(name: str) -> None:
    """Ten digits of its float64 outputs, recorded once from its code."""
    settings, size, expected, phases = NETWORKS[name]
    network = network_of(settings)
    x = normal((2, 3, size, size), 100)
    with torch.inference_mode():
        _, selections = network.features(x)
        output = network(x)
    assert output[0, :4].tolist() == pytest.approx(expected, rel=1e-9)
    if phases:
        assert [s.phase.tolist() for s in selections if s.phase is not None] == phases


X = normal((2, 4, 6, 6), 100)


def logit_network(padding: Padding = "circular") -> lps.LearnedPhase:
    select = lps.LearnedPhase(4, 3, padding=padding).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(select.parameters(), 1):
            parameter.copy_(normal(tuple(parameter.shape), seed))
    return select


def close(found: Tensor, expected: list[float]) -> bool:
    return found.flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_lpd_gives_the_numbers_of_the_original() -> None:
    y, selection = lps.Downsample(logit_network())(X)
    assert close(selection.scores[0], [-8.341169249, -11.74753609, -6.669022809, -11.18345752])
    assert close(selection.scores[1], [-10.25823668, -11.54555525, -4.03357242, -5.590916181])
    assert selection.phase.tolist() == [2, 2]
    assert close(y.sum(), [-1.580082763]) and close(y[0, 0, 0], [1.432785062, -0.3297582919, 0.4542477536])
    zeros = logit_network("zeros")(X)
    assert close(zeros.scores[0], [-0.7524029772, -9.830419807, -1.936753528, -3.827313617])
    u = lps.Upsample(lps.LowPass(4, 3, gain=4).double())(y, selection)
    assert close(u[0, 0, 0, :4], [0.9794704859, 0.220744555, -0.537981376, -0.4511258172])
    assert close(u.square().sum(), [171.6851914])


@pytest.mark.parametrize(
    ("size", "first", "energy"),
    [
        (2, [0.9511041221, -0.2432416935, -0.5340254475], 71.46750929),
        (3, [1.144955037, 0.1866779963, -0.4879084406], 38.10758834),
        (5, [0.6782416572, 0.1601873742, -0.3489912609], 17.09864217),
    ],
)
def test_low_pass_filters_give_the_numbers_of_the_original(size: int, first: list[float], energy: float) -> None:
    y = lps.LowPass(4, size).double()(X)
    assert close(y[0, 0, 0, :3], first) and close(y.square().sum(), [energy])


def test_the_adaptive_filter_gives_the_numbers_of_the_original() -> None:
    layer = lps.AdaptiveLowPass(4, 3, groups=2).double().eval()
    norm = layer.norm
    with torch.no_grad():
        layer.conv.weight.copy_(0.5 * normal(tuple(layer.conv.weight.shape), 1))
        norm.bias.copy_(normal((18,), 2))
        norm.running_mean = normal((18,), 3)
        norm.running_var = 0.5 + normal((18,), 4).square()
        y = layer(X)
    assert close(y[0, 0, 0, :3], [0.003594198107, 0.001031348663, 0.1029678233])
    assert close(y[0, 3, 0, :3], [-1.526079227, -1.515100605, 0.0006932185065])
    assert close(y.square().sum(), [71.15411208])


def test_selections_see_the_filtered_map_or_not_as_in_the_original() -> None:
    tri = lps.LowPass(4, 3).double()
    y, selection = lps.Downsample(logit_network(), tri)(X)
    assert close(selection.scores[0], [-2.880823642, -2.430100967, -3.209510786, -2.133392916])
    assert selection.phase.tolist() == [3, 3] and close(y.square().sum(), [10.27757245])
    y, selection = lps.Downsample(logit_network(), tri, select_from="unfiltered")(X)
    assert selection.phase.tolist() == [2, 2] and close(y.square().sum(), [10.71799018])
    y, selection = lps.Downsample(lps.MaxNorm()).eval()(X)
    assert selection.phase.tolist() == [1, 2] and close(y.square().sum(), [86.51902632])


# Checkpoints

MODULES = {
    "layers.polydown": ["PolyphaseInvariantDown2D", "LPS", "max_p_norm", "Decimation"],
    "layers.lps_logit_layers": ["LPSLogitLayersV2", "SAInner"],
    "layers.lowpass_filter": ["LowPassFilter", "DDAC"],
    "models.paramscheduler": ["StepDecay", "MultiStep"],
    "pytorch_lightning.callbacks.model_checkpoint": ["ModelCheckpoint"],
}


@contextmanager
def code_of_the_original() -> Iterator[dict[str, Any]]:
    """Modules and classes by the names that a checkpoint has for them, importable while a file is written."""
    classes: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for path, members in MODULES.items():
            parts = path.split(".")
            for depth in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
            for name in members:
                classes[name] = type(name, (), {"__module__": path})
                setattr(sys.modules[path], name, classes[name])
        yield classes


def spelled(padding: Padding, zeros: str) -> str:
    return zeros if padding == "zeros" else padding


def hyper_parameters(settings: Settings, code: dict[str, Any]) -> dict[str, Any]:
    """What the original's training keeps of its command line."""
    layers, training, imagenet = settings.layers, settings.training, settings.stem != "cifar"
    assert training is not None
    hidden = layers.logits.hidden if layers and layers.logits else SAME
    return {
        "input_shape": (3, 224, 224),
        "num_classes": settings.classes,
        "padding_mode": settings.padding,
        "learning_rate": training.learning_rate,
        "pooling_layer": layers and pooling_layer(layers, training.convex, code),
        "extras_model": {
            "logits_channels": None if hidden == SAME else {LAYERS[channels]: h for channels, h in hidden.items()},
            "maxpool_zpad": settings.pool_padding == "zeros",
            "swap_conv_pool": False,
            "conv1_stride": settings.stem == "imagenet-strided",
            "inc_conv1_support": imagenet,
            "apply_maxpool": imagenet,
            "ret_prob": True,
            "ret_logits": True,
            "forward_pool_method": "LPS",
        },
        "warmup_epochs": training.warmup_epochs,
        "optimizer": torch.optim.SGD,
        "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 1e-4},
        "scheduler": torch.optim.lr_scheduler.StepLR,
        "scheduler_kwargs": {"step_size": 30, "gamma": 0.1},
        "param_scheduler": code["StepDecay"],
        "param_scheduler_kwargs": {"step_size": 10, "gamma": 0.825, "min_value": 0.025, "mode": "on_epoch"},
    }


def pooling_layer(layers: Layers, convex: bool, code: dict[str, Any]) -> Any:
    """The factory of the sampling layers; zero padding has a name of its own in each of them."""
    antialias = None
    if layers.antialias and layers.antialias.kind == "LPF":
        border = layers.antialias.padding.replace("zeros", "constant")
        sizes = {"filter_size": layers.antialias.size, "filter_scale": 1}
        antialias = functools.partial(code["LowPassFilter"], **sizes, padding="same", padding_mode=border)
    elif layers.antialias:
        border = layers.antialias.padding.replace("zeros", "zero")
        sizes = {"kernel_size": layers.antialias.size, "kernel_scale": 1, "group": layers.antialias.groups}
        antialias = functools.partial(code["DDAC"], **sizes, pad_type=border)
    if layers.method == "Decimation":
        return functools.partial(code["Decimation"], stride=2, antialias_layer=antialias)
    selection: dict[str, Any] = {"component_selection": code["max_p_norm"]}
    if layers.logits:
        selection = {"component_selection": code["LPS"], "get_logits": code["LPSLogitLayersV2"]}
        selection |= {"logits_pad": layers.logits.padding, "comp_train_convex": convex}
        selection |= {"comp_fix_train": False, "comp_convex": False}
    selection |= {"selection_noantialias": layers.select_from == "unfiltered"}
    return functools.partial(code["PolyphaseInvariantDown2D"], **selection, antialias_layer=antialias)


def hollow(settings: Settings) -> dict[str, Tensor]:
    """A state_dict of the right keys and shapes that takes no room in a file; its filters are right."""
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes(settings).items()}
    return {key: binomial(value.shape) if key.endswith(".filt") else value for key, value in state.items()}


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def write(path: Path, settings: Settings, state: dict[str, Tensor] | None = None, change: Change | None = None) -> Path:
    """A checkpoint as PyTorch Lightning 1.4 wrote it, on a GPU; ``change`` gets it and the original's classes."""
    with code_of_the_original() as code, pytest.MonkeyPatch.context() as patch:
        state = OrderedDict(hollow(settings) if state is None else state)
        checkpoint = {
            "epoch": 88,
            "global_step": 445_000,
            "pytorch-lightning_version": "1.4.0",
            "state_dict": state,
            "callbacks": {
                code["ModelCheckpoint"]: {
                    "monitor": "val_acc",
                    "best_model_score": torch.tensor(0.7),
                    "dirpath": "logs",
                },
                code["StepDecay"]: {"counter": 88, "t": 0, "offset": 0, "milestone_idx": 0},
            },
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [{"step_size": 30, "base_lrs": [0.1, 0.1], "_get_lr_called_within_step": False}],
            "hparams_name": "kwargs",
            "hyper_parameters": hyper_parameters(settings, code),
        }
        if change is not None:
            change(checkpoint, code)
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(checkpoint, path)
    return path


def trained(depth: int, antialias: Filter | None, padding: Padding = "circular") -> Settings:
    return described(depth, learned(antialias), padding=padding, classes=1000, training=TRAINING)


RELEASED = {
    "ResNet18_LPS_circular_basic": trained(18, None),
    "ResNet18_LPS_LPF2_circular_basic": trained(18, RECT_2),
    "ResNet18_LPS_DDAC3_circular_basic": trained(18, ADAPT_3),
    "ResNet50_LPS_LPF3_zero_randomresized": trained(50, TRI_3, "zeros"),
    "ResNet101_LPS_LPF3_zero_randomresized": trained(101, TRI_3, "zeros"),
    "ResNet101_LPS_DDAC3_zero_randomresized": trained(101, ADAPT_3, "zeros"),
}
OTHERS = {
    "APS, unfiltered": described(18, Layers("APS", TRI_3, "unfiltered"), training=TRAINING),
    "LPF": described(18, Layers("Decimation", RECT_2), training=TRAINING),
    "plain decimation": described(18, Layers("Decimation", None), training=TRAINING),
    "baseline": described(50, None, training=TRAINING),
    "CIFAR": described(18, learned(TRI_3, SAME), stem="cifar", training=TRAINING),
    "strided stem": described(18, learned(TRI_3), stem="imagenet-strided", training=TRAINING),
    "zeros": described(18, learned(Filter("DDAC", 3, "zeros", 8), padding="zeros"), **ZEROS, training=TRAINING),
    "convex": described(18, learned(None), training=replace(TRAINING, convex=True)),
}


@pytest.mark.parametrize("name", [*RELEASED, *OTHERS])
def test_a_checkpoint_says_what_its_network_is(name: str, tmp_path: Path) -> None:
    settings = {**RELEASED, **OTHERS}[name]
    network, found = load_checkpoint(write(tmp_path / "a.ckpt", settings))
    assert found == settings
    assert str(network) == str(build(settings).eval())
    assert all(not parameter.any() for parameter in network.parameters())


def test_a_loaded_network_computes_what_was_saved(tmp_path: Path) -> None:
    settings = replace(NETWORKS["G7"][0], training=TRAINING)
    network, _ = load_checkpoint(write(tmp_path / "a.ckpt", settings, drawn(settings)))
    x = normal((2, 3, 64, 64), 100)
    with torch.inference_mode():
        assert torch.equal(network(x.float()), network_of(settings).float()(x.float()))
    assert not network.training


SMALL = described(18, learned(TRI_3), training=TRAINING)


class Attack:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("where", ["hyper_parameters", "state_dict", "callbacks"])
@pytest.mark.parametrize("call", [os.system, exec, eval])
def test_a_file_that_would_run_code_is_refused_and_does_not(
    call: Callable[..., object], where: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    command = f"touch {mark}" if call is os.system else f"open({str(mark)!r}, 'w').close()"
    attack = Attack(call, command)
    path = write(tmp_path / "a.ckpt", SMALL, change=lambda checkpoint, _: checkpoint[where].update(x=attack))
    with pytest.raises(ValueError, match=rf"refused: .* does not name \w+\.{call.__name__}$"):
        load_checkpoint(path)
    assert not mark.exists()
    with code_of_the_original():
        torch.load(path, map_location="cpu", weights_only=False)
    assert mark.exists(), "the attack is harmless, so this test says nothing"


def test_a_stand_in_cannot_be_called(tmp_path: Path) -> None:
    def attack(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
        code["LPS"].__init__ = lambda self, *arguments: None
        checkpoint["hyper_parameters"]["x"] = Attack(code["LPS"], "some", "arguments")

    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(write(tmp_path / "a.ckpt", SMALL, change=attack))


def test_later_pickle_protocols_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"x": os.system}}, tmp_path / "a.ckpt", pickle_protocol=4)
    with pytest.raises(ValueError, match="pickled by protocol 4"):
        load_checkpoint(tmp_path / "a.ckpt")


def entry(*keys: str, value: object) -> Change:
    """Sets ``checkpoint[...]``; a ``functools.partial`` on the way is entered through its keywords."""

    def change(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
        inside: Any = checkpoint
        for key in keys[:-1]:
            inside = inside[key]
            inside = inside.keywords if isinstance(inside, functools.partial) else inside
        inside[keys[-1]] = code.get(value, value) if isinstance(value, str) else value

    return change


def without(*keys: str) -> Change:
    def change(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
        inside = checkpoint
        for key in keys[:-1]:
            inside = inside[key]
        del inside[keys[-1]]

    return change


def other_code(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
    checkpoint["x"] = Path("/somewhere")


def positional(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
    checkpoint["hyper_parameters"]["pooling_layer"] = functools.partial(code["Decimation"], 2)


def torchvision_names(checkpoint: dict[str, Any], code: dict[str, Any]) -> None:
    checkpoint["state_dict"] = {k.removeprefix("core."): v for k, v in checkpoint["state_dict"].items()}


POOLING = ("hyper_parameters", "pooling_layer")
EXTRAS = ("hyper_parameters", "extras_model")
FILT = "core.layer2.0.conv2.0._antialias_layer.filt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_code, "refused: a checkpoint of the original does not name pathlib"),
        (without("hyper_parameters"), "lacks state_dict, hyper_parameters or epoch"),
        (without("state_dict"), "lacks state_dict, hyper_parameters or epoch"),
        (without("state_dict", "core.fc.bias"), "no value for head.bias$"),
        (
            entry("state_dict", "core.layer5.0.conv1.weight", value=torch.zeros(1)),
            "no place for core.layer5.0.conv1.we",
        ),
        (entry("state_dict", "core.fc.weight", value=torch.zeros(5, 512)), "another shape of core.fc.weight$"),
        (entry("state_dict", FILT, value=torch.full((128, 1, 3, 3), 1 / 9)), f"other filter taps in {FILT}$"),
        (torchvision_names, r"no ResNet here has \(0, 0, 0, 0\) blocks"),
        (without("state_dict", "core.layer3.1.conv1.weight"), "no value for stages.2.1.conv1.weight$"),
        (entry(*EXTRAS, "logits_channels", value=None), "another shape of core.layer2.0.conv2.0.component_selection"),
        (entry(*EXTRAS, "swap_conv_pool", value=True), "extras_model: swap_conv_pool is True, known are False"),
        (entry(*EXTRAS, "maxpool_no_antialias", value=False), "maxpool_no_antialias is False, known are True"),
        (entry(*EXTRAS, "novelty", value=1), "extras_model holds unknown entries: novelty"),
        (entry("hyper_parameters", "novelty", value=1), "hyper_parameters holds unknown entries: novelty"),
        (without("hyper_parameters", "padding_mode"), "hyper_parameters lacks padding_mode"),
        (
            entry("hyper_parameters", "padding_mode", value="replicate"),
            "padding_mode is 'replicate', known are 'circular'",
        ),
        (entry("hyper_parameters", "extras_model", value=3), "extras_model should be a dictionary, got 3"),
        (entry(*POOLING, value=3), "pooling_layer should be a class with keyword arguments, got 3"),
        (positional, "pooling_layer should be a class with keyword arguments"),
        (entry(*POOLING, "comp_convex", value=True), "pooling_layer: comp_convex is True, known are False"),
        (entry(*POOLING, "get_logits", value="SAInner"), "get_logits is 'SAInner', known are 'LPSLogitLayersV2'"),
        (entry(*POOLING, "novelty", value=1), "pooling_layer holds unknown entries: novelty"),
        (entry(*POOLING, "antialias_layer", "filter_scale", value=2), "filter_scale is 2, known are 1"),
        (entry(*POOLING, "antialias_layer", "filter_size", value="3"), "filter_size should be a positive integer"),
        (entry("hyper_parameters", "scheduler", value=[1]), r"scheduler should be a class, got \[1\]"),
        (entry("state_dict", "core.fc.bias", value=3), "something other than named tensors in its state_dict"),
    ],
)
def test_what_the_format_does_not_call_for_is_named(change: Change, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        load_checkpoint(write(tmp_path / "a.ckpt", SMALL, change=change))


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.ckpt", SMALL).read_bytes()
    path = tmp_path / "b.ckpt"
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"", b"<html>not found</html>"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.ckpt .*(cut short|cannot be read)"):
            load_checkpoint(path)
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"b\.ckpt is cut short or no checkpoint"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/words.txt", "words")
    with pytest.raises(ValueError, match=r"b\.ckpt cannot be read"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*c\.ckpt"):
        load_checkpoint(tmp_path / "c.ckpt")


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", SMALL)
    with zipfile.ZipFile(path) as archive:
        part = next(part for part in archive.infolist() if "/data/" in part.filename)
    content = bytearray(path.read_bytes())
    content[part.header_offset + 64] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read as a checkpoint: its part .*/data/\d+ is damaged"):
        load_checkpoint(path)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    network = build(SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"no value for head\.bias$"):
        fill(network, {key: value for key, value in hollow(SMALL).items() if key != "core.fc.bias"})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_two_keys_cannot_claim_one_place() -> None:
    state = hollow(SMALL)
    state["core.layer2.0.conv2.weight"] = state["core.layer2.0.conv2.1.weight"]
    with pytest.raises(ValueError, match=r"no place for core\.layer2\.0\.conv2"):
        fill(build(SMALL), state)
