"""Parity with the original implementation, case by case, over its recorded outputs.

``LPS_REFERENCE`` names the folder of the recordings; the README in it says how they were made.
"""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lps
from lps import original
from lps.deeplab import DeepLabV3Plus
from lps.exact.convolution import Padding
from lps.exact.fused import Filter
from lps.sampling import Source
from lps.selection import choose

REFERENCE = Path(os.environ.get("LPS_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"))
if not REFERENCE.is_dir():
    pytest.skip(f"no recordings of the original at {REFERENCE}: set LPS_REFERENCE", allow_module_level=True)

DTYPES = {"64": torch.float64, "32": torch.float32}
PADDINGS: dict[str, Padding] = {"circular": "circular", **dict.fromkeys(("zeros", "zero", "constant"), "zeros")}
Case = Mapping[str, Any]
Recorded = Mapping[str, Tensor]
Found = dict[str, Tensor | None]


@cache
def arrays(path: Path) -> Recorded:
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def assert_close(found: Tensor | None, recorded: Tensor, tolerance: float) -> None:
    assert found is not None and found.shape == recorded.shape
    assert float((found.detach().double() - recorded.double()).abs().max()) <= tolerance


# Layers


class Convex(lps.LearnedPhase):
    """The original's convex mode, in training or evaluation: Eq. (17) with the plain softmax."""

    def forward(self, x: Tensor, blur: Filter | None = None, origin: lps.Origin | None = None) -> lps.Selection:
        logits = self.logits(x, blur)
        return lps.Selection(logits, (logits / self.tau).softmax(1))


def antialias_of(case: Case, recorded: Recorded) -> nn.Module | None:
    described, channels = case["antialias"], recorded["x"].shape[1]
    if described is None:
        return None
    size, padding, gain = described["size"], PADDINGS[described["padding_mode"]], described.get("gain", 1)
    if described["mode"] == "LowPassFilter":
        layer = lps.LowPass(channels, size, padding, gain)
        assert torch.equal(layer.kernel, recorded[f"param.{'up_' * (gain > 1)}lpf{size}._antialias_layer.filt"])
        return layer
    adaptive = lps.AdaptiveLowPass(channels, size, described["group"], padding, gain)
    prefix = f"param.ddac{size}g{described['group']}._antialias_layer."
    state = {k.removeprefix(prefix).replace("bn.", "norm."): v for k, v in recorded.items() if k.startswith(prefix)}
    adaptive.load_state_dict({**state, "norm.num_batches_tracked": torch.tensor(0)})
    return adaptive


def logit_network(case: Case, recorded: Recorded) -> lps.LearnedPhase:
    prefix = "param.component_selection.get_logits."
    state = {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}
    hidden, channels = state["conv1.weight"].shape[:2]
    kind = Convex if "convex" in case["mode"] else lps.LearnedPhase
    select = kind(channels, hidden, padding=PADDINGS[case["logits_padding_mode"]])
    select.load_state_dict({**state, "tau": torch.tensor(case.get("tau", 1.0))})
    return select


def given_selection(case: Case, recorded: Recorded, x: Tensor) -> lps.Selection:
    """The selection that a case was handed, as a shortcut or an upsampling layer is."""
    logits = recorded["given_logits"].to(x.dtype)
    if case.get("mode") == "test_convex":
        return lps.Selection(logits, (logits / case["tau"]).softmax(1))
    if case["selection_given"].startswith("given_prob"):
        return lps.Selection(logits, recorded["given_prob"].to(x.dtype))
    by_index = case["selection_given"] == "given_idx"
    return choose(F.one_hot(recorded["given_idx"], 4).to(x.dtype) if by_index else logits, x, 2)


def downsample(case: Case, recorded: Recorded, dtype: torch.dtype) -> Found:
    x = recorded["x"].to(dtype).requires_grad_()
    given = given_selection(case, recorded, x) if "selection_given" in case else None
    select: nn.Module | None = None
    if given is None and case["layer"] != "Decimation":
        select = lps.MaxNorm() if case["layer"] == "APS" else logit_network(case, recorded)
    antialias = antialias_of(case, recorded)
    layer = lps.Downsample(select, antialias, select_from=case.get("logits_from", "filtered"))
    layer.to(dtype).train(case.get("module_training", False))
    y, selection = layer(x, given)
    found: Found = {"out": y}
    if selection is not None:
        found |= {"logits": selection.scores, "norms": selection.scores, "prob": selection.z, "idx": selection.phase}
    if isinstance(antialias, lps.AdaptiveLowPass):
        found |= {f"bn_{name}_after": value for name, value in antialias.norm.named_buffers()}
    if case["case"].endswith("_grad") and select is not None:
        inputs: dict[str, Tensor] = {"grad_x": x}
        inputs |= {f"grad.component_selection.get_logits.{name}": p for name, p in select.named_parameters()}
        found |= dict(zip(inputs, torch.autograd.grad((y * recorded["cot"]).sum(), list(inputs.values())), strict=True))
    return found


def upsample(case: Case, recorded: Recorded, dtype: torch.dtype) -> Found:
    y = recorded["y"].to(dtype)
    layer = lps.Upsample(antialias_of(case, recorded)).to(dtype).train(case["mode"] == "train")
    return {"out": layer(y, given_selection(case, recorded, y))}


def down_and_up(case: Case, recorded: Recorded, dtype: torch.dtype) -> Found:
    amplified = case["antialias"] and {**case["antialias"], "gain": case["up_scale"] ** 2}
    down = lps.Downsample(logit_network(case, recorded), antialias_of(case, recorded)).to(dtype).eval()
    up = lps.Upsample(antialias_of({"antialias": amplified}, recorded)).to(dtype).eval()
    y, selection = down(recorded["x"].to(dtype))
    return {"down": y, "out": up(y, selection), "logits": selection.scores, "idx": selection.phase}


RUN: dict[str, Callable[[Case, Recorded, torch.dtype], Found]] = {
    **dict.fromkeys(("LPD", "APS", "Decimation"), downsample),
    **dict.fromkeys(("LPU", "APSU"), upsample),
    "LPD+LPU": down_and_up,
}


def layer_cases() -> list[Any]:
    files = sorted((REFERENCE / "layers").glob("*.json"))
    return [
        pytest.param(path.with_suffix(".npz"), case, id=f"{path.stem}-{case['case']}")
        for path in files
        for case in json.loads(path.read_text())["cases"]
    ]


@pytest.mark.parametrize(("bits", "tolerance"), [("64", 1e-12), ("32", 1e-5)])
@pytest.mark.parametrize(("path", "case"), layer_cases())
def test_a_layer(path: Path, case: Case, bits: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recorded field: phases equal, values to a tolerance relative to the largest of the field."""
    recorded = arrays(path)
    prefix = f"{case['case']}."
    fields = {field.replace(bits, ""): recorded[prefix + field] for field in case["fields"] if bits in field}
    if "gumbel_noise" in fields:
        noise = fields.pop("gumbel_noise")
        monkeypatch.setattr(torch.Tensor, "exponential_", lambda drawn: drawn.copy_((-noise).exp()))
    found = RUN[case["layer"]](case, recorded, DTYPES[bits])
    if "idx" in case["fields"]:
        phase = found["idx"]
        assert phase is not None and torch.equal(phase, recorded[f"{prefix}idx"])
    assert "out" in fields
    # gradients share one scale, because that of the last bias is nothing but rounding
    gradient = max((float(value.abs().max()) for name, value in fields.items() if name.startswith("grad")), default=0)
    for name, value in fields.items():
        scale = gradient if name.startswith("grad") else float(value.abs().max())
        assert_close(found[name], value, tolerance * scale)


# Networks

CHANNELS = {"maxpool": 64, "layer2": 128, "layer3": 256, "layer4": 512}
METHODS: dict[str, original.Method] = {"Decimation": "Decimation", "max_2_norm": "APS", "LPS": "LPS"}
FILTERS: dict[str, original.Kind] = {"LowPassFilter": "LPF", "DDAC": "DDAC"}


def settings_of(config: Case, classes: int) -> original.Settings:
    """A recorded configuration, which holds the original's command-line options, as settings."""
    extras = config["extras_model"]
    hidden = extras["logits_channels"] or CHANNELS
    antialias = logits = layers = None
    if config["antialias_mode"] != "skip":
        mode, size, padding, groups = (config[f"antialias_{k}"] for k in ("mode", "size", "padding_mode", "group"))
        antialias = original.Filter(FILTERS[mode], size, PADDINGS[padding], groups)
    if config["pool_method"] == "LPS":
        logits = original.Logits({c: hidden[name] for name, c in CHANNELS.items()}, PADDINGS[config["LPS_pad"]])
    if config["pool_method"] != "skip":
        source: Source = "unfiltered" if config.get("selection_noantialias") else "filtered"
        layers = original.Layers(METHODS[config["pool_method"]], antialias, source, logits)
    return original.Settings(
        depth=int(config["lightning_class"].removeprefix("ResNet").removesuffix("Custom")),
        classes=classes,
        stem="imagenet" if extras["inc_conv1_support"] else "cifar",
        padding=PADDINGS[config["padding_mode"]],
        pool_padding="zeros" if extras["maxpool_zpad"] else "circular",
        layers=layers,
    )


def segmenter(config: Case) -> nn.Module:
    """The circular head of the original is circular but for its largest atrous rate."""
    unpool = config["unpool"]
    up: Callable[[int], lps.Upsample] | None = None
    if unpool is not None:
        gain = unpool["antialias_scale"] ** 2

        def up(channels: int) -> lps.Upsample:
            if unpool["antialias_mode"] == "DDAC":
                return lps.Upsample(lps.AdaptiveLowPass(channels, unpool["antialias_size"], 1, gain=gain))
            return lps.Upsample(lps.LowPass(channels, unpool["antialias_size"], gain=gain))

    return DeepLabV3Plus(
        original.build(settings_of(config["backbone"], 1)),
        classes=config["num_classes"],
        upsample=up,
        padding=PADDINGS[config["classifier_padding_mode"]],
        third_branch_padding="zeros",
    )


def draw(key: str, shape: list[int], kind: str, gain: float) -> Tensor:
    """An entry of a recorded state_dict: from its own name, or the constant that the original keeps there."""
    if kind == "keep":
        if not key.endswith(".filt"):
            return torch.full(shape, float(key.endswith("gumbel_tau")))
        taps = torch.tensor([math.comb(shape[-1] - 1, k) for k in range(shape[-1])], dtype=torch.float64)
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        return (kernel * (4 if "unpool" in key else 1)).expand(shape).float()
    n = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    value = {
        "conv": lambda: n * gain * (2 / math.prod(shape[1:])) ** 0.5,
        "linear": lambda: n * (1 / shape[1]) ** 0.5,
        "bn_weight": lambda: 1 + 0.1 * n,
        "bias": lambda: 0.02 * n,
        "running_mean": lambda: 0.02 * n,
        "running_var": lambda: 1 + 0.1 * abs(n),
    }[kind]()
    return torch.from_numpy(value).float()


def weights(case: str, config: Case) -> dict[str, Tensor]:
    rows = json.loads((REFERENCE / "models" / f"{case}.state.json").read_text())
    backbone, head = config["conv_gain"], config.get("head_conv_gain", 1)
    return {
        key: draw(key, shape, kind, backbone if key.startswith(("core.", "model.backbone.")) else head)
        for key, shape, _, kind in rows
    }


def images(described: Case) -> Tensor:
    count, _, height, width = described["shape"]
    rng = np.random.RandomState(described["seed"])
    mean = rng.standard_normal((count, 3, 1, 1))
    coarse = rng.standard_normal((count, 3, -(-height // 8), -(-width // 8)))
    fine = rng.standard_normal((count, 3, height, width))
    blocks = coarse.repeat(8, 2).repeat(8, 3)[..., :height, :width]
    return torch.from_numpy(0.5 * mean + blocks + fine).float()


def network_cases(segmentation: bool) -> list[str]:
    found = sorted(path.stem for path in (REFERENCE / "models").glob("*.npz"))
    return [case for case in found if case.startswith("seg") == segmentation]


def slow(case: str) -> Any:
    """A parameter, marked where the network takes seconds; the deepest repeat the cases of ResNet-18."""
    deepest = case.startswith("R101")
    weekly = case != "R101_lps_lpf3_zcli_64x64" and (deepest or (case.startswith("R50") and "_zcli" in case))
    marks = [pytest.mark.slow] * (deepest or case.startswith(("R50", "seg"))) + [pytest.mark.exhaustive] * weekly
    return pytest.param(case, marks=marks)


def load(case: str, make: Callable[[Case], nn.Module]) -> tuple[nn.Module, Case, Recorded]:
    """The network of a case with its weights; every entry of the original's state_dict has found its place."""
    described = json.loads((REFERENCE / "models" / f"{case}.json").read_text())
    network = make(described["config"])
    original.fill(network, weights(case, described["config"]))
    return network.eval(), described, arrays(REFERENCE / "models" / f"{case}.npz")


def count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def run(network: nn.Module, backbone: lps.ResNet, x: Tensor) -> tuple[Tensor, list[lps.Selection]]:
    """Output of ``network``, and the selections that its backbone made on the way."""
    made: list[lps.Selection] = []

    def features(x: Tensor) -> tuple[list[Tensor], list[lps.Selection]]:
        maps, selections = lps.ResNet.features(backbone, x)
        made.extend(selections)
        return maps, selections

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "features", features)
        return network(x), made


def assert_selections(found: list[lps.Selection], described: Case, recorded: Recorded, tolerance: float) -> None:
    """The same phases, by the same scores, in the order of execution."""
    for selection, layer in zip(found, described["selection_layers"], strict=True):
        name = layer["layer"]
        assert selection.phase is not None and torch.equal(selection.phase, recorded[f"idx.{name}"]), name
        scores = recorded[f"score64.{name}"]
        assert_close(selection.scores, scores, tolerance * float(scores.abs().max()))


@pytest.mark.parametrize("case", [slow(case) for case in network_cases(segmentation=False)])
def test_a_classifier(case: str) -> None:
    """Equal phases; float64 to 1e-9 relative, float32 to ten times the error of the original's own float32."""
    network, described, recorded = load(case, lambda config: original.build(settings_of(config, config["num_classes"])))
    assert isinstance(network, lps.ResNet)
    layers = [layer for layer in network.modules() if isinstance(layer, lps.Downsample)]
    assert count(network.parameters()) == described["n_params"]
    assert (
        count(p for layer in layers if layer.select for p in layer.select.parameters()) == described["n_params_logits"]
    )
    assert (
        count(p for layer in layers if layer.antialias for p in layer.antialias.parameters())
        == described["n_params_ddac"]
    )
    truth = recorded["logsoftmax64"]
    x = images(described["input"])
    with torch.inference_mode():
        output, selections = run(network, network, x)
        assert_close(output.log_softmax(1), truth, 10 * described["max_abs_f32_vs_f64"])
        assert_selections(selections, described, recorded, 1e-4)
        output, selections = run(network.double(), network, x.double())
        # the stages were recorded in the last float64 pass, whose input was shifted
        stages, _ = network.features(lps.circular_shift(x.double(), described["invariance"]["shifts"][2]))
    assert_close(output.log_softmax(1), truth, 1e-9 * float(truth.abs().max()))
    assert_selections(selections, described, recorded, 1e-9)
    for stage, features in enumerate(stages, 1):
        head = recorded[f"feat64.layer{stage}.head"]
        assert_close(features.flatten(1)[:, :8], head, 1e-9 * float(features.abs().max()))


@pytest.mark.parametrize("case", [slow(case) for case in network_cases(segmentation=True)])
def test_a_segmenter(case: str) -> None:
    """As the classifiers, at input resolution; labels are equal at every pixel, and as many change with a shift."""
    network, described, recorded = load(case, segmenter)
    assert isinstance(network, DeepLabV3Plus)
    assert count(network.parameters()) == described["n_params"]
    x = images(described["input"])
    with torch.inference_mode():
        output, selections = run(network, network.backbone, x)
        truth = recorded["out64_sub"]
        assert_close(output[..., ::13, ::17], truth, 10 * described["max_abs_f32_vs_f64"])
        assert_selections(selections, described, recorded, 1e-4)
        if x.shape[2] < 100:
            labels, changed = output.argmax(1), 0
            for row, column in described["equivariance"]["shifts"]:
                moved = network(lps.circular_shift(x, (row, column))).argmax(1)
                changed += int((lps.circular_shift(moved[:, None], (-row, -column))[:, 0] != labels).sum())
            assert abs(changed - described["equivariance"]["label_changes"]) <= 2  # two near ties may round apart
        output, selections = run(network.double(), network.backbone, x.double())
    assert_close(output[..., ::13, ::17], truth, 1e-9 * float(truth.abs().max()))
    assert_selections(selections, described, recorded, 1e-9)
    assert torch.equal(output.argmax(1), recorded["argmax"].long())
    for name, value in (("mean", output.mean((0, 2, 3))), ("std", output.std((0, 2, 3)))):
        stored = recorded[f"out64_class_{name}"]
        assert_close(value, stored, 1e-9 * float(stored.abs().max()))


# Invariance, on inputs that were fixed before anyone looked


def went_wrong() -> list[str]:
    """Classifiers of which the original moved a phase wrongly under some shift."""
    path = REFERENCE / "inv_unselected.json"
    cases = json.loads(path.read_text()) if path.exists() else {}
    return [case for case, found in cases.items() if found["phase_mismatches"] and not case.startswith("seg")]


@pytest.mark.slow
@pytest.mark.parametrize("case", [slow(case) for case in went_wrong()])
def test_where_the_original_loses_a_phase_to_a_tie(case: str) -> None:
    """Equal logits, and no phase wrong, in float32: ties are told apart by content.

    On the images on which the original went wrong, and in the weekly tests on all that it was tried on.
    """
    network, described, _ = load(case, lambda config: original.build(settings_of(config, config["num_classes"])))
    tried = json.loads((REFERENCE / "inv_unselected.json").read_text())[case]
    first, last = tried["seeds"]
    wrong = sorted({seed for seed, *_ in tried["mismatch_examples"]})
    seeds = range(first, last + 1) if "LPS_EXHAUSTIVE" in os.environ else wrong
    inputs = torch.cat([images({**described["input"], "seed": seed}) for seed in seeds])
    shifts = described["invariance"]["shifts"]
    report = lps.verify(network, inputs, shifts=shifts, batch_size=2 * (len(shifts) + 1))
    assert report.exact, report
    assert report.labels.total == len(inputs) * len(shifts)
    assert min(choices.margin for choices in report.choices.values()) < 1e-6
