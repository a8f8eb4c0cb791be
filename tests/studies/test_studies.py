"""The studies of Sec. 5.3, on networks whose answers are known."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import lps
from lps.__main__ import main
from lps.experiments import Trained, train
from lps.experiments.evaluate import predictor
from lps.experiments.model import fresh
from lps.experiments.profiles import load_profile
from lps.experiments.rows import matching
from lps.experiments.run import DataCache, plan
from lps.report import section53
from lps.segmentation import confusion
from lps.selection import choose
from lps.studies.trained import measures, read, study

measure = SimpleNamespace(**measures("section53"), components=measures("figure4")["components"])


class Norm(lps.LearnedPhase):
    """LPD that has learned the rule of APS (Claim 2)."""

    def forward(self, x: torch.Tensor, *_: Any) -> lps.Selection:
        return lps.MaxNorm().eval()(x)


def network(select: Any, antialias: Any = None, select_from: Any = "filtered") -> lps.ResNet:
    torch.manual_seed(0)
    sampling = lps.Sampling(select, antialias, select_from=select_from)
    return lps.ResNet(18, classes=10, stem="cifar", width=8, sampling=sampling).eval()


IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("antialias", [None, lambda channels: lps.LowPass(channels, 3)])
@pytest.mark.parametrize("select_from", ["filtered", "unfiltered"])
def test_a_network_that_learned_aps_loses_nothing(antialias: Any, select_from: Any) -> None:
    trained = network(lambda channels: Norm(channels, 4), antialias, select_from)
    counts = measure.max_norm_counts(trained, [IMAGES[:4], IMAGES[4:]])
    assert [count.total for count in counts.values()] == [6, 6, 6]
    assert all(count.agree == count.total for count in counts.values())
    replaced = measure.with_max_norm(trained)
    with torch.no_grad(), lps.watch(trained) as before, lps.watch(replaced) as after:
        assert torch.equal(trained(IMAGES), replaced(IMAGES))
    kinds = [[type(choice.module) for choice in choices] for choices in (before, after)]
    assert kinds == [[Norm] * 3, [lps.MaxNorm] * 3]


def test_a_network_that_learned_another_rule_changes() -> None:
    trained = network(lambda channels: lps.LearnedPhase(channels, 4))
    counts = measure.max_norm_counts(trained, [IMAGES])
    assert any(count.agree < count.total for count in counts.values())
    with torch.no_grad():
        assert not torch.equal(trained(IMAGES), measure.with_max_norm(trained)(IMAGES))


def test_controls_lose_what_the_choice_gave() -> None:
    trained = network(lambda channels: lps.MaxNorm())
    moved = IMAGES.roll((1, 1), (2, 3))
    with torch.no_grad():
        assert torch.equal(trained(IMAGES), trained(moved))
        for change in (measure.with_random_phase, measure.with_lone_shortcuts):
            torch.manual_seed(0)
            changed = change(trained)
            assert not torch.equal(changed(IMAGES), trained(IMAGES)), change
            assert not torch.equal(changed(IMAGES), changed(moved)), change
        fresh = measure.untrained(trained)
        assert torch.equal(fresh(IMAGES), fresh(moved)), "the guarantee needs no training"
    before, after = (dict(net.named_parameters()) for net in (trained, fresh))
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("conv1.weight"))


def test_figure_4_shows_what_the_last_layer_chose_from() -> None:
    trained = network(lambda channels: lps.LearnedPhase(channels, 4))
    maps, kept, largest = measure.components(trained, IMAGES[:1], channels=5)
    assert maps.shape == (4, 5, 4, 4)
    with torch.no_grad():
        _, selections = trained.features(IMAGES[:1])
    assert selections[-1].phase is not None and kept == int(selections[-1].phase)
    everything, _, _ = measure.components(trained, IMAGES[:1], channels=64)
    assert largest == int(everything.square().sum((1, 2, 3)).argmax())


def made(
    acc: int, acc_max_norm: int, share: int, name: str = "cifar10", run: str = "a", profile: str = "reduced"
) -> dict[str, Any]:
    (row,) = matching(["table1/lps"])
    settings = load_profile(profile).row(row).as_dict()
    counts = {"acc": acc, "acc_max_norm": acc_max_norm, "max_norm": share, "max_norm, layer 1": share}
    metrics = {key: {"value": agree / 100, "agree": agree, "total": 10_000} for key, agree in counts.items()}
    config = {section: settings[section] for section in ("data", "model", "train")}
    return {
        "id": f"section53/{run}",
        "experiment": row.name,
        "run": run,
        "config": config,
        "profile": profile,
        "data": {"name": name, "fingerprint": "0", "train": 50_000, "test": 10_000, "classes": ["a class"] * 10},
        "metrics": metrics,
    }


def test_new_logit_networks_choose_otherwise_and_nothing_else_is_new() -> None:
    trained = network(lambda channels: lps.LearnedPhase(channels, 4))
    test = SimpleNamespace(batches=lambda size: [(part, None) for part in IMAGES.split(4)])
    found = measure.study_unlearned(trained, test, torch.device("cpu"))
    counts = [count.agree for count in measure.max_norm_counts(trained, [IMAGES]).values()]
    own = [found["metrics"][f"max_norm, layer {place}"].agree for place in (1, 2, 3)]
    assert own == counts and sum(own) == found["metrics"]["max_norm"].agree
    assert len(found["unlearned"]) == 20 and all(len(kept) == 3 for kept in found["unlearned"])
    by_hand = [measure.with_new_logits(trained, seed) for seed in (0, 7, 7)]
    again = [[count.agree for count in measure.max_norm_counts(one, [IMAGES]).values()] for one in by_hand]
    assert [found["unlearned"][seed] for seed in (0, 7, 7)] == again and again[0] != again[1]
    new = {name for name, p in by_hand[0].named_parameters() if not torch.equal(p, trained.get_parameter(name))}
    assert new == {name for name, _ in trained.named_parameters() if ".select." in name}


def test_new_logit_networks_of_a_converted_network_are_drawn_as_conversion_draws_them() -> None:
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU())

    def choice(converted: torch.nn.Module) -> list[torch.Tensor]:
        (found,) = (layer for layer in converted.modules() if isinstance(layer, lps.LearnedPhase))
        return list(found.parameters())

    torch.manual_seed(1)
    first = lps.convert(plain, "lps", example=torch.zeros(1, 3, 8, 8))
    torch.manual_seed(2)
    second = lps.convert(plain, "lps", example=torch.zeros(1, 3, 8, 8))
    new = choice(measure.with_new_logits(first, 2))
    assert all(map(torch.equal, new, choice(second))) and not torch.equal(new[0], choice(first)[0])
    half = len(new[0]) // 2
    assert torch.equal(new[0][half : 2 * half], -new[0][:half])


def test_beside_a_share_stands_that_of_new_logit_networks() -> None:
    studied = [made(9000, 1000, 2000)]
    new = made(9000, 1000, 2000, run="b") | {"unlearned": [[1000, 2000], [4000, 6000]]}
    told = section53.judge("share", studied, [new])
    assert "nobody trained, 2 sets in 1 trained network, keep the largest norm in 15.0 to 50.0 %;" in told["evidence"]
    assert section53.kept_unlearned(new, -1) == [20.0, 60.0]
    without = section53.judge("share", studied)
    assert {**told, "evidence": ""} == {**without, "evidence": ""} and told["evidence"].endswith(without["evidence"])
    other = new | {"data": new["data"] | {"fingerprint": "of other images"}}
    assert section53.judge("share", studied, [other]) == without
    assert section53.judge("replaced", studied, [new]) == section53.judge("replaced", studied)


def test_a_study_earns_direction_only_at_most() -> None:
    good, bad, full = (
        made(9000, 1000, 2000),
        made(9000, 8990, 9000, run="b"),
        made(9000, 8990, 9000, run="c", profile="full"),
    )
    for name, at_full in (("replaced", "fails"), ("share", "fails"), ("differs", "direction only")):
        assert section53.judge(name, [good])["verdict"] == "direction only"
        found = section53.judge(name, [good, bad])
        assert found["verdict"] == "undecided"
        assert "not seen at this scale in 1 of 2 networks" in found["evidence"]
        assert section53.judge(name, [good, full])["verdict"] == at_full
        drawn = section53.judge(name, [made(9000, 1000, 2000, "drawn")])
        assert drawn["verdict"] == "not run" and "drawn data" in drawn["evidence"]
        assert section53.judge(name, [])["verdict"] == "not run"
    assert section53.judge("differs", [made(9000, 9000, 10_000)])["verdict"] == "undecided"
    for share, expected in ((2450, "undecided"), (2600, "undecided"), (2400, "direction only")):
        assert section53.judge("share", [made(9000, 1000, share)])["verdict"] == expected, "below chance, or not"


def test_studies_on_other_data_have_no_part_in_a_share() -> None:
    several = [made(9000, 1000, 2000, run=run) for run in "ab"]
    few = made(5000, 4000, 9000, run="c")
    few["data"] = few["data"] | {"fingerprint": "other"}
    for name in section53.DIRECTIONS:
        assert section53.judge(name, [few, *several]) == section53.judge(name, several)


def test_a_network_that_was_studied_twice_counts_once() -> None:
    shipped, again = made(9000, 1000, 2000), made(8000, 1000, 2000) | {"id": "local"}
    assert section53.judge("replaced", [shipped, again]) == section53.judge("replaced", [shipped])


def test_without_weights_it_says_what_would_train_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "table1/lps", "--profile", "smoke", "--results", str(tmp_path)]) == 3
    assert "python -m lps run table1/lps --profile smoke --seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "kind", "task"),
    [
        ("table1/baseline", "section53", "images"),
        ("table5/lps-adapt-3", "shifts", "images"),
        ("table1/lps", "placed", "segmentation"),
        ("table5/ddac-adapt-3", "placed", "segmentation"),
    ],
)
def test_what_a_study_says_nothing_of_is_refused(row: str, kind: str, task: str, tmp_path: Path) -> None:
    data = DataCache(None)
    (run,) = plan([row], "smoke", [0], {}, tmp_path, data)
    with pytest.raises(ValueError, match=f"{kind} is a study of networks for {task} with .*lps; given: {row}"):
        study(Trained(run, data), kind)


def test_what_no_study_suits_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "table5/ddac-adapt-3", "--profile", "smoke"]) == 2
    assert "given: ['table5/ddac-adapt-3']" in capsys.readouterr().err


def test_samples_are_found_where_they_were_taken() -> None:
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")).expand(12, -1, -1, -1)
    torch.manual_seed(0)
    y, selections = torch.cat([places, 9 * torch.randn(12, 2, 16, 16)], 1), []
    for _ in range(3):
        y, selection = lps.Downsample(lps.LearnedPhase(4, 4)).eval()(y)
        selections.append(selection)
    taken = measures("table5")["taken_from"](selections)
    assert torch.equal(y[:, :2, 0, 0].long(), taken) and len(taken.unique(dim=0)) > 4


def test_interpolated_maps_that_are_put_right_move_with_the_picture() -> None:
    """But near the border, where interpolation does not wrap around."""
    changes = {"model.head_padding": "circular"}
    (run,) = plan(["table5/lpd-adapt-3"], "smoke", [0], changes, Path(), DataCache(None))
    data = DataCache(None)(run.experiment.data)[0]
    network = fresh(run.experiment, data, 0).double().eval()
    network[0].forward = lambda x: x
    images = torch.randn(2, 3, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = []
    for net in (network, measures("table5")["PutRight"](network)):
        with torch.no_grad():
            y, moved = net(images), net(lps.circular_shift(images, (3, 5)))
        left.append((lps.circular_shift(moved, (-3, -5)) - y)[..., 96:160, 96:160].abs().max() / y.abs().max())
    assert left[1] < 1e-9 < 1e-3 < left[0]


@pytest.mark.slow
def test_a_trained_network_is_studied_once(tmp_path: Path) -> None:
    (trained,) = train("table1/lps", profile="smoke", results=tmp_path)
    record, run = study(trained), trained.run
    assert record["id"] == f"section53/table1/lps/{run.id}"
    assert record["metrics"]["max_norm"]["total"] == 3 * record["data"]["test"]
    made = tmp_path / "section53" / "table1" / "lps" / f"{run.id}.json"
    stamp = made.stat().st_mtime_ns
    assert study(trained) == record and made.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_segmenter_is_studied_by_the_protocol_of_its_run(tmp_path: Path) -> None:
    runs = train(["table5/lpd-adapt-3", "table5/lps-adapt-3"], profile="smoke", results=tmp_path, jobs=1)
    for one in runs:
        measured, metrics = one.record["metrics"], study(one, "placed")["metrics"]
        assert metrics["mascc"] == measured["mascc"] and metrics["miou"] == measured["miou"]
        if one.run.experiment.name == "table5/lps-adapt-3":
            assert metrics["mascc, put right"] == metrics["mascc"]
        assert study(one, "segmenters")["metrics"]["miou"] == measured["miou"]
    assert len(read(tmp_path, kind="placed")) == 2


class MinNorm(lps.MaxNorm):
    def forward(self, x: torch.Tensor, origin: Any = None) -> lps.Selection:
        return choose(-super().forward(x).scores, x, self.stride, origin)


def test_the_rule_of_a_segmenter_is_told_by_the_norms_it_keeps() -> None:
    (run,) = plan(["table5/lpd-adapt-3"], "smoke", [0], {}, Path(), DataCache(None))
    data = DataCache(None)(run.experiment.data)[0]
    for rule, kept in ((lps.MaxNorm, "max_norm"), (MinNorm, "min_norm")):
        network = fresh(run.experiment, data, 0).eval()
        for layer in network.modules():
            if isinstance(layer, lps.Downsample) and layer.select is not None:
                layer.select = rule(layer.stride).eval()
        metrics = measure.study_segmenters(network, data, torch.device("cpu"))["metrics"]
        for name in ("max_norm", "min_norm"):
            counts = [metrics[f"{name}, layer {place}"] for place in range(1, 6)]
            assert [count.percent for count in counts] == [100 * (name == kept)] * 5
        confused = {name: found.counts for name, found in metrics.items() if name.startswith("miou")}
        assert torch.equal(confused["miou, APS"], confused["miou"])  # in all layers it takes the place of LPD alone


def test_in_a_segmenter_the_deepest_choice_is_exchanged() -> None:
    (run,) = plan(["table5/lpd-adapt-3"], "smoke", [0], {}, Path(), DataCache(None))
    data = DataCache(None)(run.experiment.data)[0]
    one = fresh(run.experiment, data, 0).eval()
    by_hand: Any = deepcopy(one)
    by_hand[1].backbone.stages[3][0].downsample.select = lps.MaxNorm().eval()
    found = measure.study_segmenters(one, data, torch.device("cpu"))
    expected = confusion(predictor(by_hand, torch.device("cpu")), data.batches(8), len(data.classes)).counts
    changed = found["metrics"]["miou, APS, deepest"].counts
    assert torch.equal(changed, expected) and not torch.equal(changed, found["metrics"]["miou"].counts)
    assert [sum(counts) for counts in found["phases"]] == [found["metrics"]["max_norm, layer 1"].total] * 5
    assert found["metrics"]["miou, fixed phase, deepest"].counts.sum() == 4 * expected.sum()


def test_one_choice_of_a_network_is_exchanged() -> None:
    one = network(lambda channels: lps.LearnedPhase(channels, 4))
    with torch.no_grad(), lps.watch(one) as before:
        one(IMAGES)
    deepest = before[-1].layer
    changed = measure.with_choice(one, deepest, lps.MaxNorm())
    with torch.no_grad(), lps.watch(changed) as after:
        changed(IMAGES)
    assert [type(choice.module) for choice in after] == [lps.LearnedPhase] * 2 + [lps.MaxNorm]
    own, exchanged = ([cast(torch.Tensor, choice.phase) for choice in choices] for choices in (before, after))
    assert all(torch.equal(own[at], exchanged[at]) for at in range(2))
    assert torch.equal(exchanged[-1], lps.MaxNorm().eval()(before[-1].seen).phase)
    for phase in range(4):
        assert measure.FixedPhase(phase)(IMAGES).phase.unique().tolist() == [phase]


@pytest.mark.slow
def test_a_study_of_a_changed_network_stands_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"model.choice": "convex"}
    (trained,) = train("table1/lps", profile="smoke", changes=changes, results=tmp_path / "mine")
    record = study(trained)
    assert record["command"].endswith("--set model.choice=convex")
    monkeypatch.setattr("lps.commands.experiments.SHIPPED", tmp_path / "shipped")
    assert main(["ship", "--profile", "smoke", "--results", str(tmp_path / "mine")]) == 0
    assert read(tmp_path / "shipped") == []
    assert read(tmp_path / "shipped", changes=changes) == [record]


def test_components_are_alike_by_their_correlation() -> None:
    one = torch.randn(3, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = (one - one.mean((1, 3, 4), keepdim=True)).expand(3, 4, 2, 8, 8)
    assert torch.allclose(measure.correlations(lps.merge(parts)), torch.ones(3))
    opposite = parts * torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 4, 1, 1, 1)  # of six pairs two are equal
    assert torch.allclose(measure.correlations(lps.merge(opposite)), torch.full((3,), -1 / 3))
    scaled = parts * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1)
    assert torch.allclose(
        measure.correlations(lps.merge(scaled) + torch.tensor([5.0, 9.0]).view(1, 2, 1, 1)), torch.ones(3)
    )
    unlike = torch.randn(3, 4, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    assert measure.correlations(lps.merge(unlike)).abs().max() < 0.05
