"""Every row of every table: the paper's rows, under every profile, and each trained once on a few drawn images."""

import csv
import json
from pathlib import Path

import pytest
import torch

from lps.experiments.config import Experiment, Finetune, Photographs, Segmenter
from lps.experiments.learner import Learner, learning_rate, temperature
from lps.experiments.model import ConvexPhase, HardPhase, started
from lps.experiments.profiles import load_profile, profile_names
from lps.experiments.records import read_record, write_json
from lps.experiments.rows import ROWS, Row, matching
from lps.experiments.run import DataCache, Run, perform, plan
from lps.experiments.weights import sha256
from lps.paths import PAPER

TABLES = {name: matching([f"{name}/*"]) for name in ("table1", "table2", "table3", "table5", "table6")}


def run_of(name: str, results: Path, **changes: str) -> Run:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return plan([name], "smoke", [0], settings, results, DataCache(None))[0]


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_those_of_the_paper(table: str) -> None:
    with (PAPER / f"{table}.csv").open(newline="") as file:
        printed = [(row["row"], row["method"], row["antialias"]) for row in csv.DictReader(file)]
    assert [(row.name, *row.labels) for row in TABLES[table]] == printed


def test_the_model_of_table_3_is_the_papers() -> None:
    with (PAPER / "table3.csv").open(newline="") as file:
        depths = [int(row["model"].removeprefix("ResNet-")) for row in csv.DictReader(file)]
    assert [load_profile("full").row(row).model.depth for row in TABLES["table3"]] == depths


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_profile_makes_every_row(row: Row) -> None:
    for name in profile_names():
        experiment = load_profile(name).row(row)
        assert (experiment.model.method, experiment.model.antialias) == (row.method, row.antialias)


def full(name: str) -> Experiment:
    (row,) = matching([name])
    return load_profile("full").row(row)


def test_recipes_of_the_photographs() -> None:
    circular, standard = full("table2/lps").data, full("table3/resnet50-lps-tri-3").data
    assert isinstance(circular, Photographs) and isinstance(standard, Photographs)
    assert (circular.augment, circular.resize, circular.crop) == ("center", 256, 224)
    assert standard.augment == "random-resized" and full("table3/resnet50-lps-tri-3").model.padding == "zeros"
    recipe = full("table2/lps").train
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (90, 256, 1e-4)
    assert [round(learning_rate(recipe, epoch), 6) for epoch in (0, 29.9, 30, 60)] == [0.1, 0.1, 0.01, 0.001]
    assert temperature(recipe, 89) == pytest.approx(0.825**8)
    assert learning_rate(full("table3/resnet101-ddac-adapt-3").train, 7.5) == pytest.approx(0.05)


def test_recipes_of_segmentation() -> None:
    bilinear, lps = full("table5/lpd-adapt-3"), full("table5/lps-adapt-3")
    assert isinstance(bilinear.model, Segmenter) and isinstance(lps.model, Segmenter)
    assert (bilinear.model.unpool, lps.model.unpool) == (False, True)
    assert lps.model.backbone == "table2/lps-adapt-3"
    assert isinstance(lps.train, Finetune) and lps.train.backbone_lr == 0.1
    half = learning_rate(lps.train, 45)
    assert half == pytest.approx(0.01 * 0.5**0.9)
    assert [temperature(lps.train, epoch) for epoch in (0, 5, 10, 60, 90, 99)] == [1, 0.75, 0.5, 0.15, 0.01, 0.01]
    dilated = full("table6/lpf-tri-3").model
    assert isinstance(dilated, Segmenter) and (dilated.depth, dilated.output_stride) == (101, 16)


def test_backbones_are_rows_of_the_same_network() -> None:
    for row in (*TABLES["table5"], *TABLES["table6"]):
        model = full(row.name).model
        assert isinstance(model, Segmenter)
        backbone = full(model.backbone).model
        for setting in ("method", "antialias", "depth", "stem", "width", "padding", "groups"):
            assert getattr(model, setting) == getattr(backbone, setting), row.name


def test_an_ablation_changes_one_choice() -> None:
    base = full("table1/lps-tri-3").as_dict()
    for row in matching(["table1-ablations/*"]):
        changed = load_profile("full").row(row).as_dict()
        differing = [(s, n) for s in ("model", "train") for n in base[s] if base[s][n] != changed[s][n]]
        assert len(differing) == 1, row.name


@pytest.mark.parametrize(
    ("line", "words"),
    [("10", "expected epoch:tau"), ("10:a", "expected epoch:tau"), ("5:1 2:1", "its epochs must rise")],
)
def test_a_wrong_line_of_temperatures_is_named(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        full("table1/lps").override({"train.tau_line": line})


def test_the_learning_rate_follows_the_batch_size_where_it_is_asked_to() -> None:
    recipe = full("table1/lps").override({"train.lr_batch": "128"}).train
    assert learning_rate(recipe, 0) == 0.2


def test_rows_of_the_photographs_tell_the_methods_apart(tmp_path: Path) -> None:
    """A network that learned something and does not keep its phases is not consistent, whatever a smoke run shows."""
    run = run_of("table2/baseline", tmp_path, data__train="200", train__epochs="3")
    perform(run, DataCache(None))
    metrics = json.loads(run.record.read_text())["metrics"]
    assert metrics["c_cons"]["value"] < 100 and metrics["s_cons"]["value"] < 100


def test_a_temperature_that_leaves_float32_is_told_before_training(tmp_path: Path) -> None:
    long = {"train.epochs": "100", "data.train": "20", "data.test": "10"}
    (run,) = plan(["table1/lps"], "smoke", [0], long, tmp_path, DataCache(None))
    with pytest.raises(ValueError, match=r"train\.tau_every 0\.05 lower the temperature of LPD to 8e-142,"):
        perform(run, DataCache(None))
    assert not run.done


@pytest.mark.parametrize("row", [row for row in TABLES["table5"] if row.labels[0] != "LPS"], ids=lambda row: row.name)
def test_rows_of_the_masks_tell_the_methods_apart(row: Row, tmp_path: Path) -> None:
    run = run_of(row.name, tmp_path, data__train="20", data__test="4")
    perform(run, DataCache(None))
    metrics = json.loads(run.record.read_text())["metrics"]
    assert metrics["mascc"]["value"] < 100 and metrics["mascc_original"]["value"] < 100


def test_training_without_noise() -> None:
    layer = ConvexPhase(4, 2)
    x = torch.randn(2, 4, 8, 8)
    layer.tau.fill_(0.5)
    assert torch.equal(layer(x).z, (layer.logits(x) / 0.5).softmax(1))
    assert torch.equal(layer.eval()(x).z.sum(1), torch.ones(2)) and set(layer(x).z.unique().tolist()) == {0, 1}


def test_a_backbone_starts_from_the_weights_of_its_row(tmp_path: Path) -> None:
    classifier = run_of("table2/lps-adapt-3", tmp_path)
    run = run_of("table5/lps-adapt-3", tmp_path, model__backbone="table2/lps-adapt-3", model__groups="8")
    images, _ = DataCache(None)(run.experiment.data)
    with pytest.raises(FileNotFoundError, match="python -m lps run table2/lps-adapt-3 --profile smoke --seed 0"):
        started(run.experiment, images, 0, tmp_path)
    perform(classifier, DataCache(None))
    other = run_of("table5/lps-adapt-3", tmp_path, model__backbone="table2/lps-adapt-3", model__hidden_divisor="4")
    with pytest.raises(ValueError, match="are of another network: hidden_divisor is 8 there"):
        started(other.experiment, images, 0, tmp_path)
    network, backbone = started(run.experiment, images, 0, tmp_path)
    assert backbone == classifier.weights
    taken = {name.replace("1.backbone.", "1."): value for name, value in network.state_dict().items()}
    for name, value in torch.load(classifier.weights).items():
        if not name.startswith("1.head."):
            assert torch.equal(taken[name], value), name


def test_other_backbones_make_other_runs(tmp_path: Path) -> None:
    """The weights that a run starts from are part of its id, and those of an override are taken by name alone."""
    changes = {"model__backbone": "table2/lps-adapt-3", "model__groups": "8", "data__train": "10", "data__test": "2"}
    run = run_of("table5/lps-adapt-3", tmp_path, **changes)
    unsettled = run.id
    longer = run_of("table2/lps-adapt-3", tmp_path, train__epochs="2")
    perform(longer, DataCache(None))
    assert run.id == unsettled
    with pytest.raises(
        ValueError,
        match=rf"not those of the profile smoke: train.epochs; .*model.backbone=table2/lps-adapt-3/{longer.id}",
    ):
        perform(run, DataCache(None))
    named = run_of("table5/lps-adapt-3", tmp_path, **changes | {"model__backbone": f"table2/lps-adapt-3/{longer.id}"})
    assert perform(named, DataCache(None)) and named.done
    classifier = run_of("table2/lps-adapt-3", tmp_path)
    perform(classifier, DataCache(None))
    first = run.id
    assert first != unsettled and perform(run, DataCache(None)) and run.done
    record = read_record(run.record)
    assert record["backbone"] == f"table2/lps-adapt-3/{classifier.id}"
    assert (
        record["weights"]["backbone"]
        == sha256(classifier.weights)
        == read_record(classifier.record)["weights"]["sha256"]
    )

    state = {name: value + 1 for name, value in torch.load(classifier.weights).items()}
    torch.save(state, classifier.weights)
    with pytest.raises(ValueError, match="is not the file that was recorded"):
        perform(run, DataCache(None))
    changed = read_record(classifier.record)
    changed["weights"]["sha256"] = sha256(classifier.weights)
    write_json(classifier.record, {key: value for key, value in changed.items() if key != "id"})
    assert run.id not in (first, unsettled) and not run.record.exists()
    assert perform(run, DataCache(None)) and run.done
    second = read_record(run.record)
    assert {path.stem for path in run.record.parent.glob("*.json")} == {first, run.id, named.id}
    assert second["weights"]["backbone"] != record["weights"]["backbone"]

    classifier.weights.unlink()
    longer.weights.unlink()
    assert run.done and read_record(run.record)["id"] == second["id"]  # a copy of the results may lack the backbones


def test_the_backbone_learns_more_slowly(tmp_path: Path) -> None:
    run = run_of("table5/lps-adapt-3", tmp_path, train__backbone_lr="0.1")
    images, _ = DataCache(None)(run.experiment.data)
    learner = Learner(started(run.experiment, images, 0, tmp_path)[0], run.experiment, 0)
    groups = learner.configure_optimizers().param_groups
    names = {id(p): name for name, p in learner.network.named_parameters()}
    found = {(group["scale"], group["weight_decay"] > 0): [names[id(p)] for p in group["params"]] for group in groups}
    assert set(found) == {(0.1, True), (0.1, False), (1.0, True)}
    assert all(name.startswith("1.backbone.") for key, part in found.items() if key[0] == 0.1 for name in part)
    assert all(".select." in name for name in found[0.1, False])
    assert sum(map(len, found.values())) == len(names)


def test_lpu_needs_a_selection() -> None:
    with pytest.raises(ValueError, match="LPU puts back what a selection took: lpf makes none"):
        full("table5/lpf-rect-2").override({"model.unpool": "true"})


def test_a_hard_choice_trains_on_one_component_and_has_the_gradient_of_the_mixture() -> None:
    layer, logits = HardPhase(4, 2), torch.randn(64, 4).requires_grad_()
    layer.tau.fill_(0.5)
    weights = torch.randn(64, 4)
    found = []
    for sample in (layer.sample, super(HardPhase, layer).sample):
        torch.manual_seed(0)
        z = sample(logits)
        found.append((z.detach(), *torch.autograd.grad((z * weights).sum(), logits)))
    (hard, gradient), (mixture, expected) = found
    assert torch.equal(hard.sort(1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(64, 4))
    assert torch.equal(hard.argmax(1), mixture.argmax(1)) and len(hard.argmax(1).unique()) == 4
    torch.testing.assert_close(gradient, expected)
