"""The versions of results are honest: a small run of each subject gives what is stored in ``results/<subject>.json``.

After a change of results that is meant, raise the number in ``lps/experiments/records.py`` and store the new ones:

    python tests/experiments/test_versions.py images
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import lps
from lps.experiments.model import fresh
from lps.experiments.records import VERSION, Subject, version_of, write_json
from lps.experiments.run import DataCache, perform, plan
from lps.experiments.weights import read_weights

STORED = Path(__file__).with_name("results")
ROWS = {
    "images": ("table1/lps-tri-3", "table1/aps-adapt-3"),
    "photographs": ("table2/lps-rect-2",),
    "segmentation": ("table5/lps-adapt-3",),
}
CHANGES = {
    "images": {"train.lr": "1e-4"},
    "photographs": {"train.lr": "1e-4"},
    "segmentation": {"train.lr": "1e-6", "model.antialias": "tri-3"},
}
"""Settings under which another processor's rounding does not grow from step to step."""

TOLERANCE = {"losses": 1e-3, "weights": 1e-3, "updates": 0.05, "outputs": 1e-3, "counts": 0.2}
"""Relative, of numbers that processors round differently; all others are equal."""


def norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each tensor its norm: a file of weights is too large to store."""
    return {name: t.detach().double().norm().item() for name, t in sorted(tensors.items())}


def choices(network: nn.Module, images: Tensor) -> list[list[int]]:
    """The phases that each layer keeps of random maps, on which no choice is close."""
    found: list[list[int]] = []
    generator = torch.Generator().manual_seed(0)

    def try_out(layer: Any, inputs: Any, output: Any) -> None:
        if layer.select is not None:
            _, selection = layer.forward(torch.randn(inputs[0].shape, generator=generator))
            found.append(selection.phase.tolist())

    for layer in network.modules():
        if isinstance(layer, lps.Downsample):
            layer.register_forward_hook(try_out)
    with torch.inference_mode():
        network.eval()(images)
    return found


def trained(row: str, folder: Path, changes: dict[str, str]) -> dict[str, Any]:
    """What a run of the profile ``smoke`` leaves, but for times and machine."""
    changes = changes | {"train.epochs": "2", "train.batch_size": "20", "data.train": "40"}

    data = DataCache(None)
    (run,) = plan([row], "smoke", [0], changes, folder, data)
    perform(run, data)
    record = json.loads(run.record.read_text())
    images, _ = data(run.experiment.data)
    network = fresh(run.experiment, images, run.seed)
    start = {name: w.clone() for name, w in network.state_dict().items()}
    some, _ = next(iter(images.batches(4)))
    chosen = choices(network, some)
    network.load_state_dict(read_weights(run.weights))
    weights = network.state_dict()
    return {
        "exact": sorted(name for name, cell in record["metrics"].items() if cell.get("agree") == cell.get("total", -1)),
        "totals": {name: cell["total"] for name, cell in record["metrics"].items() if "total" in cell},
        "counts": {name: cell["agree"] for name, cell in record["metrics"].items() if "agree" in cell},
        "choices": chosen,
        "losses": [epoch["loss"] for epoch in record["history"]],
        "weights": norms(weights),
        "updates": norms({name: weights[name] - start[name] for name in weights}),
    }


class Operations(TorchDispatchMode):
    """Counts the operations that compute something: views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = [out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns]
        self.seen[str(func)] += not any(views)
        return func(*args, **(kwargs or {}))

    def counts(self) -> dict[str, int]:
        return {name: count for name, count in sorted(self.seen.items()) if count}


def operations() -> dict[str, dict[str, int]]:
    """The operations of each sampling layer in evaluation and in a step of training: a new way of computing shows."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "LPF": lambda: lps.Downsample(None, lps.LowPass(8, 3)),
        "DDAC": lambda: lps.Downsample(None, lps.AdaptiveLowPass(8, groups=2)),
        "APS": lambda: lps.Downsample(lps.MaxNorm(), lps.LowPass(8, 3)),
        "LPS": lambda: lps.Downsample(lps.LearnedPhase(8, 2), lps.LowPass(8, 3)),
    }
    found = {}
    for name, build in layers.items():
        torch.manual_seed(0)
        layer, x = build(), torch.randn(2, 8, 16, 16)
        with torch.no_grad():
            layer.eval()(x)  # which tries what rounds alike
        with Operations() as evaluated, torch.no_grad():
            y, selection = layer.eval()(x)
        if selection is not None:
            with Operations() as put_back, torch.no_grad():
                lps.Upsample(lps.LowPass(8, 3, gain=4))(y, selection)
            found[f"{name}, put back"] = put_back.counts()
        with Operations() as trained:
            layer.train()(x.requires_grad_())[0].sum().backward()
        found[f"{name}, evaluation"] = evaluated.counts()
        found[f"{name}, training"] = trained.counts()
    return found


def converted() -> dict[str, Any]:
    """What conversion makes of a small network: its layers, and its outputs."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    made = {}
    for method in ("aps", "lps"):
        torch.manual_seed(1)
        result = lps.convert(network, method).eval()
        with torch.no_grad():
            outputs = {"outputs": result(images)}
        made[method] = {"weights": norms(dict(result.named_parameters())), "outputs": norms(outputs)}
    return made


def outcome(subject: Subject) -> dict[str, Any]:
    torch.set_num_threads(1)
    if subject == "layers":
        return operations()
    if subject == "convert":
        return converted()
    with TemporaryDirectory() as folder:
        return {row: trained(row, Path(folder), CHANGES[subject]) for row in ROWS[subject]}


def differences(ours: Any, stored: Any, where: str = "", tolerance: float = 0.0) -> list[str]:
    """Places at which two outcomes differ by more than they may."""
    if isinstance(ours, dict) and isinstance(stored, dict) and ours.keys() == stored.keys():
        below = [(f"{where}/{name}", ours[name], stored[name], TOLERANCE.get(name, tolerance)) for name in ours]
    elif isinstance(ours, list) and isinstance(stored, list) and len(ours) == len(stored):
        below = [(f"{where}/{i}", a, b, tolerance) for i, (a, b) in enumerate(zip(ours, stored, strict=True))]
    else:
        alike = ours == (pytest.approx(stored, rel=tolerance, abs=1e-6) if tolerance else stored)
        return [] if alike else [f"{where}: {stored} became {ours}"]
    return [found for place, a, b, allowed in below for found in differences(a, b, place, allowed)]


@pytest.mark.slow
@pytest.mark.parametrize("subject", VERSION)
def test_equal_settings_give_the_results_of_this_version(subject: Subject) -> None:
    stored = json.loads((STORED / f"{subject}.json").read_text())
    again = f"python tests/experiments/test_versions.py {subject}"
    assert stored["version"] == VERSION[subject], f"the stored results are of another version: {again}"
    changed = differences(outcome(subject), stored["outcome"])
    assert not changed, (
        f"results of {subject!r} changed; where that is meant, raise VERSION[{subject!r}] in "
        f"lps/experiments/records.py and run `{again}`: {'; '.join(changed[:5])}"
    )


def test_records_from_before_versions_are_of_the_first() -> None:
    assert version_of({"hash": "72a1d91b569f"}, "images") == 1
    assert version_of({"hash": "72a1d91b569f"}, "segmentation") == 0
    assert version_of({"version": 3, "hash": "72a1d91b569f"}, "images") == 3
    assert version_of({}, "convert") == 0


def test_a_difference_is_found() -> None:
    stored = {"counts": {"acc": [3, 10]}, "losses": [0.5, 0.25]}
    assert differences({"counts": {"acc": [3, 10]}, "losses": [0.5, 0.25001]}, stored) == []
    assert differences({"counts": {"acc": [4, 10]}, "losses": [0.5, 0.25]}, stored) == ["/counts/acc/0: 3 became 4"]
    assert differences({"counts": {"acc": [3, 10]}, "losses": [0.5, 0.26]}, stored) == ["/losses/1: 0.25 became 0.26"]
    assert differences({"counts": {"acc": [3, 10]}}, stored) == [f": {stored} became {{'counts': {{'acc': [3, 10]}}}}"]


if __name__ == "__main__":
    for named in sys.argv[1:] or VERSION:
        write_json(STORED / f"{named}.json", {"version": VERSION[named], "outcome": outcome(named)})  # type: ignore[index,arg-type]
