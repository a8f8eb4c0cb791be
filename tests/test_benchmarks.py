"""The benchmark measures what it says: its own networks, its rounds, its memory and its records. No time is judged."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn

from benchmarks import __main__ as program
from benchmarks import groups, measure
from benchmarks.groups import Device, Group, Setting
from benchmarks.measure import Case, Work, gigamacs
from benchmarks.networks import LPF, LPS, NAIVE, NAIVE_LPF, STRIDED, FilterDensely, classifier
from lps import Downsample, LowPass, ResNet
from lps.resnet import Stem

CPU = Setting("cpu")


def images(size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def pair() -> tuple[ResNet, ResNet]:
    """The library's LPD and the naive arrangement with the same weights."""
    torch.manual_seed(0)
    ours, naive = (classifier(row, 18, "cifar").double() for row in (LPS, NAIVE))
    state = {key.replace(".layer.", "."): key for key in naive.state_dict()}
    naive.load_state_dict({state[key]: value for key, value in ours.state_dict().items()})
    return ours, naive


# The networks ------------------------------------------------------------------------------------------


def test_the_naive_arrangement_computes_the_same_in_evaluation() -> None:
    ours, naive = (network.eval() for network in pair())
    assert not any(isinstance(m, Downsample) for name, m in naive.named_modules() if not name.endswith(".layer"))
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), naive(images()), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_naive_lpf_computes_the_same(stem: Stem) -> None:
    torch.manual_seed(0)
    ours, naive = (classifier(row, 18, stem).double().eval() for row in (LPF, NAIVE_LPF))
    state = {key.replace(".layer.", "."): value for key, value in naive.state_dict().items()}
    ours.load_state_dict(state)
    assert sum(isinstance(m, FilterDensely) for m in naive.modules()) == (6 if stem == "cifar" else 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(images(64)), naive(images(64)), rtol=1e-11, atol=1e-11)


def test_the_naive_arrangement_has_the_same_gradients() -> None:
    gradients = []
    for network in pair():
        torch.manual_seed(2)
        network.train()(images()).square().sum().backward()
        gradients.append({name.replace(".layer.", "."): p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_strided_network_filters_before_each_stride_and_has_least_arithmetic(depth: int) -> None:
    x = images(128, torch.float32)
    counted = {}
    for row in ("baseline", LPF, STRIDED):
        network = classifier(row, depth, "imagenet").eval()
        with torch.no_grad():
            counted[row] = gigamacs(lambda network=network: network(x))  # type: ignore[misc]
            assert network(x).shape == (2, 10)
    assert counted["baseline"] < counted[STRIDED] < 1.02 * counted["baseline"] < counted[LPF]
    strided = [m for m in network.stages.modules() if isinstance(m, nn.Sequential)]
    assert len(strided) == 3 and all(isinstance(m[0], LowPass) and m[1].stride == (2, 2) for m in strided)


def test_every_row_of_table_4_is_a_network_with_its_parameters() -> None:
    with torch.device("meta"):
        counts = {row: sum(p.numel() for p in classifier(row, 101, "imagenet").parameters()) for row in groups.ALL}
    assert counts[LPS] == counts[NAIVE] == 42_966_730 and counts[LPF] == counts[STRIDED] == 42_520_650
    assert (
        counts["baseline"] < counts["aps-tri-3"] + 1 == counts[LPF] + 1 < counts["ddac-adapt-3"] < counts["lps-adapt-3"]
    )


def test_calibrated_networks_have_maps_of_one_scale() -> None:
    x = images(32, torch.float32)
    network = groups.calibrated(classifier("lps-adapt-3", 18, "cifar"), x).eval()
    scales: list[float] = []
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.register_forward_hook(lambda module, given, y: scales.append(float(y.std())))
    with torch.no_grad():
        network(x)
    assert len(scales) > 20 and all(0.9 < scale < 1.1 for scale in scales)


# The measurement ---------------------------------------------------------------------------------------


def sleeper(seconds: float) -> Work:
    return Work(lambda: time.sleep(seconds), lambda: [torch.empty(1000)])


def test_cases_take_turns_and_are_divided_within_a_round() -> None:
    cases = {"fast": Case(lambda: sleeper(0.01), "fast"), "slow": Case(lambda: sleeper(0.03), "fast", {"shape": [1]})}
    found = measure.measure(cases, "cpu", 0.5, time.monotonic() + 60)
    assert len(found["turns_ms"]) >= measure.MIN_ROUNDS
    assert all(set(taken) == {"fast", "slow"} for taken in found["turns_ms"])
    assert found["cases"]["fast"]["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    slow = found["cases"]["slow"]
    assert slow["shape"] == [1] and slow["memory_ratio"] == 1
    ratios = sorted(taken["slow"] / taken["fast"] for taken in found["turns_ms"])
    assert ratios[0] <= slow["ratio"]["q1"] <= slow["ratio"]["median"] <= slow["ratio"]["q3"] <= ratios[-1]
    assert slow["ms"]["median"] >= 30 > slow["cpu_ms"]["median"]


def test_cases_also_run_in_a_row() -> None:
    cases = {"fast": Case(lambda: sleeper(0.06), "fast"), "slow": Case(lambda: sleeper(0.09), "fast")}
    found = measure.measure(cases, "cpu", 0, time.monotonic() + 60, in_a_row=3)
    assert len(found["turns_ms"]) == measure.MIN_ROUNDS
    for case, least in zip(found["cases"].values(), (60, 90), strict=True):
        assert case["in_a_row"].keys() == {"ms", "cpu_ms", "ratio", "cpu_ratio"}
        assert least <= case["in_a_row"]["ms"]["q1"] < 2 * least
    assert "in_a_row" not in measure.measure(cases, "cpu", 0, time.monotonic() + 60)["cases"]["fast"]


def test_a_passed_deadline_ends_the_group_without_numbers() -> None:
    cases = {"fast": Case(lambda: sleeper(0.001), "fast")}
    with pytest.raises(measure.OutOfTime):
        measure.measure(cases, "cpu", 1, time.monotonic())


def test_peak_memory_is_what_is_alive_at_once() -> None:
    def step() -> None:
        a = torch.empty(1000)
        b = a + a
        del a
        b + b

    assert measure.peak_on_cpu(step) == 2 * 4000
    held = torch.empty(500)
    found = measure.memory_of(Work(step, lambda: [held, held[1:]]), "cpu")
    assert found == {"allocated_mb": 0.008, "peak_mb": 0.01}


def test_a_training_step_trains_and_leaves_no_gradient() -> None:
    linear = nn.Linear(12, 10)
    network, before = nn.Sequential(nn.Flatten(), linear), linear.weight.clone()
    work = CPU.training(network, torch.randn(2, 3, 2, 2), torch.tensor([1, 2]))
    work.step()
    assert not torch.equal(before, linear.weight)
    assert all(p.grad is None for p in network.parameters())
    numbers = sum(t.numel() for t in work.held())
    assert numbers == 2 * (12 * 10 + 10) + 2 * 12 + 2  # weights, momenta, images, labels


@pytest.mark.parametrize("row", [LPS, NAIVE])
def test_the_profile_names_the_sampling_layers_and_their_parts(row: str) -> None:
    work = CPU.inference(classifier(row, 18, "cifar"), images(dtype=torch.float32))
    found = measure.where_time_goes({"case": work}, "cpu", steps=1)["case"]
    parts = found["parts_ms"]
    assert 0 < parts["sampling layers"] < found["ms"]
    assert parts.get("choice", 0) + parts.get("filter", 0) < parts["sampling layers"]
    assert ("choice" in parts) == (row == LPS)
    assert any(name.startswith("aten::") for name in found["operators_ms"])
    assert not [m for m in work.network.modules() if "forward" in vars(m)]  # type: ignore[union-attr]


# The groups and the command ----------------------------------------------------------------------------


@pytest.mark.parametrize("device", get_args(Device))
def test_groups_have_names_of_their_own_and_references_among_their_cases(device: Device) -> None:
    planned = groups.plan(device, None)
    assert len({group.name for group in planned}) == len(planned)
    for group in planned:
        assert group.setting.device == device
        assert all(case.against in group.cases for case in group.cases.values())
        assert set(group.profiled) <= set(group.cases)
        json.dumps(group.describe())


def test_long_groups_are_measured_by_name(planned: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planned[1] = replace(planned[1], by_name=True, setting=Setting("cpu", threads=2), in_a_row=2)
    before = torch.get_num_threads()
    try:
        assert run(monkeypatch, "--threads", "1", "--results", str(tmp_path)) == 0
        assert len(list(tmp_path.glob("*.json"))) == 1
        assert run(monkeypatch, "*", "--threads", "1", "--results", str(tmp_path)) == 0
    finally:
        torch.set_num_threads(before)
    first, second = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json")))
    assert "threads" not in first["config"] and first["determinism"]["threads"] == 1
    assert second["config"] == {"batch": 1, "channels_last": False, "compiled": False, "device": "cpu",
                                "in_a_row": 2, "precision": "float32", "threads": 2}  # fmt: skip
    assert second["determinism"]["threads"] == 2 and "in_a_row" in second["cases"]["one"]


def test_every_map_is_profiled() -> None:
    upsampling = [group for group in groups.plan("cpu", None) if group.name.startswith("upsampling")]
    assert upsampling and all(set(group.profiled) == set(group.cases) for group in upsampling)


@pytest.mark.parametrize("setting", [CPU, Setting("cpu", "bf16"), Setting("cpu", channels_last=True)])
def test_every_kind_of_group_runs(setting: Setting) -> None:
    small = [
        groups.classifiers(setting, (LPF, LPS), 18, "imagenet", 2, 32, 0),
        groups.classifiers(setting, (LPF, NAIVE), 18, "cifar", 2, 16, 0, train=True),
        groups.segmentation(setting, 2, 64, 0),
        groups.upsampling(setting, 1, ((4, 4),), 0),
    ]
    for group in small:
        for case in group.cases.values():
            assert measure.memory_of(case.build(), "cpu")["peak_mb"] > 0  # of a step, and of all that is held


def test_a_converted_network_is_timed_beside_its_original() -> None:
    group = groups.conversion(CPU, "torchvision:mobilenet_v3_small", 2, 32, 0)
    original, aps, lps = (group.cases[name].build() for name in ("original", "aps-none before", "lps-tri-3 before"))
    counts = [sum(p.numel() for p in cast(nn.Module, work.network).parameters()) for work in (original, aps, lps)]
    assert counts[0] == counts[1] < counts[2] < 1.02 * counts[0]
    for work in (original, aps, lps):
        work.step()
    assert len(group.cases) == 7 and {case.against for case in group.cases.values()} == {"original"}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Two short groups in place of the real ones; a third kind of case is never done in time."""

    def briefly(cases: Any, device: str, seconds: float, deadline: float, *rest: Any) -> dict[str, Any]:
        if "endless" in cases:
            raise measure.OutOfTime
        return measure.measure(cases, device, 0, time.monotonic() + 100, *rest)

    quick = {"one": Case(lambda: sleeper(0.001), "one")}
    planned = [Group(name, CPU, quick, {"batch": 1}, 1) for name in ("first", "second")]
    monkeypatch.setattr(program, "plan", lambda device, batch: planned)
    monkeypatch.setattr(program, "measure", briefly)
    return planned


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return program.main()


def test_a_record_says_what_where_and_how_to_repeat_it(
    planned: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--results", str(tmp_path)) == 0
    paths = sorted(tmp_path.glob("*.json"))
    assert [path.name.rsplit("-", 1)[0] for path in paths] == ["first", "second"]
    record = json.loads(paths[0].read_text())
    assert record["config"] == planned[0].describe() and record["config"]["precision"] == "float32"
    assert record["command"].startswith("python -m benchmarks first --device cpu --budget ")
    assert record["hardware"]["cpu"] and record["versions"]["torch"] and record["code"]["version"]
    assert record["determinism"]["threads"] == torch.get_num_threads() and record["date"]
    assert "1.000 (1.000 to 1.000) x one" in capsys.readouterr().out


def test_the_budget_ends_cleanly_and_what_is_done_is_kept(
    planned: list[Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned[1] = Group("second", CPU, {"endless": Case(lambda: sleeper(1), "endless")}, {"batch": 1}, 1)
    assert run(monkeypatch, "--results", str(tmp_path)) == 3
    assert [path.name.rsplit("-", 1)[0] for path in tmp_path.glob("*.json")] == ["first"]
    assert "not measured: second" in capsys.readouterr().out


def test_a_group_that_fails_does_not_cost_the_rest(
    planned: list[Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Work:
        raise torch.OutOfMemoryError("too large")

    planned[0] = Group("first", CPU, {"one": Case(fail, "one")}, {"batch": 1}, 1)
    assert run(monkeypatch, "--results", str(tmp_path)) == 1
    assert [path.name.rsplit("-", 1)[0] for path in tmp_path.glob("*.json")] == ["second"]
    assert "first: too large" in capsys.readouterr().err


def test_an_unknown_group_and_a_missing_gpu_are_named(
    planned: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "third") == 2
    assert "first\nsecond" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch, "--device", "cuda") == 2
    assert "no GPU" in capsys.readouterr().err
