"""The one call that trains: rows of the paper, and a class of one's own beside them."""

import json
import linecache
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lps
from lps import experiments
from lps.__main__ import main
from lps.commands import experiments as cli
from lps.experiments import Trained, fit
from lps.experiments.records import read_record, read_records
from lps.processes import Session
from lps.report import compare
from lps.selection import choose

TINY = {"data.train": 40, "data.test": 20, "train.epochs": 1, "train.batch_size": "20", "model.width": 8}


class MinNorm(torch.nn.Module):
    """Keep the component with the smallest norm."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.norm = lps.MaxNorm(stride)

    def forward(self, x: torch.Tensor) -> lps.Selection:
        return choose(-self.norm(x).scores, x, self.norm.stride)


def train(rows: str | list[str], folder: Path, **settings: Any) -> experiments.Runs:
    changes = TINY | settings.pop("changes", {})
    return experiments.train(rows, profile="smoke", changes=changes, results=folder, jobs=1, **settings)


def own(folder: Path, select: Any = MinNorm, **settings: Any) -> experiments.Runs:
    sampling = lps.Sampling(lambda channels: select(), lambda channels: lps.LowPass(channels, 3))
    return train("mine/min-norm", folder, sampling=sampling, **{"like": "table1/lps-tri-3"} | settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> experiments.Runs:
    """Two rows with two seeds."""
    return train("table1/[al]ps", tmp_path_factory.mktemp("finished"), seeds=range(2))


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return own(tmp_path_factory.mktemp("own"))[0]


def in_a_cell(source: str, name: str) -> dict[str, Any]:
    """Names that a cell of a notebook defines: its source is known, but there is no file."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    space: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space)
    return space


def test_rows_are_trained_once_and_make_a_table(finished: experiments.Runs) -> None:
    titles = [f"table1/{row} seed {seed}" for seed in (0, 1) for row in ("lps", "aps")]
    assert [run.run.title for run in finished] == titles
    folder = finished[0].run.results
    before = {path: path.stat().st_mtime_ns for path in folder.glob("table1/*/*.json")}
    table = train("table1/lps", folder, seeds=range(2)).table()
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("table1/*/*.json")}
    values = [run.record["metrics"]["acc"]["value"] for run in finished if run.run.experiment.name == "table1/lps"]
    assert table.loc["table1/lps", "acc"] == pytest.approx(sum(values) / 2)
    assert table.loc["table1/lps", ["c_cons", "seeds"]].tolist() == [100, 2]
    assert [line.partition("  acc ")[0] for line in repr(finished).splitlines()] == titles


def test_what_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"train.epochs": 2}
    with pytest.raises(experiments.NotFinished, match="stopped with 2 of 2 runs not finished; make the same call"):
        train(["table1/lps", "table1/aps"], tmp_path, changes=changes, budget=0.0)
    asked: list[int] = []
    with monkeypatch.context() as patch:
        usual = fit.Place.on_train_batch_end

        def stopped(self: Any, trainer: Any, *given: Any) -> None:
            asked.append(trainer.global_step)
            self.session = Session(stop=lambda: len(asked) == 3)
            usual(self, trainer, *given)

        patch.setattr(fit.Place, "on_train_batch_end", stopped)
        with pytest.raises(experiments.NotFinished):
            train("table1/lps", tmp_path, changes=changes)
        runs = train("table1/lps", tmp_path, changes=changes)
    assert asked == [1, 2, 3, 4] and len(runs.records[0]["history"]) == 2


def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(experiments.RunsFailed, match=r"table5/lps-adapt-3 seed 0: .* has no weights"):
        train("table5/lps-adapt-3", tmp_path, changes={"model.backbone": "table2/lps-adapt-3"})


def test_a_trained_network_is_at_hand(finished: experiments.Runs) -> None:
    run = finished[0]
    network, images = run.network(), run.data.test
    assert not network.training
    agree = int((network(images.images).argmax(1) == images.labels).sum())
    assert agree == run.record["metrics"]["acc"]["agree"]


def test_there_is_a_table_without_pandas(finished: experiments.Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = finished[:1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert runs.table() == {
        "table1/lps": {name: metric["value"] for name, metric in runs.records[0]["metrics"].items()} | {"seeds": 1}
    }


def test_a_class_of_ones_own_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = own(tmp_path) + train("table1/lps-tri-3", tmp_path)
    table = runs.table()
    assert list(table.index) == ["mine/min-norm", "table1/lps-tri-3"]
    assert table.loc["mine/min-norm", "c_cons"] == 100
    assert any(isinstance(module, MinNorm) for module in runs[0].network().modules())
    record, theirs = runs.records
    source = record["own"]["source"]
    assert record["own"]["like"] == "table1/lps-tri-3" and "choose(-self.norm(x).scores" in source
    assert source.endswith(
        "sampling = lps.Sampling(select=lambda channels: select(), antialias=lambda channels: "
        "lps.LowPass(channels, 3), stride=2, select_from='filtered')\n"
    )
    assert (record["config"]["train"], record["config"]["data"]) == (
        theirs["config"]["train"],
        theirs["config"]["data"],
    )
    assert "sampling=sampling, like='table1/lps-tri-3', profile='smoke', seeds=[0]" in record["command"]

    assert [r["experiment"] for r in read_records(tmp_path)] == ["table1/lps-tri-3"]  # those of the paper
    assert [r["experiment"] for r in read_records(tmp_path, rows="mine")] == ["mine/min-norm"]
    for module in (cli, compare):
        monkeypatch.setattr(module, "LOCAL", tmp_path)
    assert main(["list", "mine/*", "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.startswith("mine/min-norm                            local: seed 0 ")
    main(["compare", "--profile", "smoke"])
    assert "not in the paper, and so not compared: mine/min-norm" in capsys.readouterr().out


def test_another_source_is_another_run(tmp_path: Path, own_run: Trained) -> None:
    first = own_run
    (again,) = own(first.run.results, seeds=range(1))
    assert again.run.id == first.run.id
    head = "import lps\nSIZE = 2\nclass Rule(lps.MaxNorm):\n    def forward(self, x):\n"
    found = {first.run.id}
    for number, word in enumerate(("x", "-x", "x * SIZE")):
        rule = in_a_cell(f"{head}        return super().forward({word})\n", f"<cell {number}>")["Rule"]
        (run,) = own(tmp_path, rule)
        assert f"super().forward({word})" in run.record["own"]["source"]
        assert ("SIZE = 2" in run.record["own"]["source"]) == ("SIZE" in word)
        found.add(run.run.id)
    assert len(found) == 4


def test_a_segmenter_brings_its_maps_back_by_a_choice_of_ones_own(tmp_path: Path) -> None:
    sampling = lps.Sampling(lambda channels: MinNorm(), lambda channels: lps.LowPass(channels, 3))
    changes = {"data.train": 10, "data.test": 4}
    (run,) = experiments.train(
        "mine/seg", sampling=sampling, like="table5/lps-adapt-3", profile="smoke", changes=changes, results=tmp_path
    )
    mascc = run.record["metrics"]["mascc"]
    assert mascc["agree"] == mascc["total"]


RULE = MinNorm()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": lps.Sampling(eval("lambda channels: None"))}, "the source of select cannot be had"),
        ({"sampling": lps.Sampling(lambda channels: RULE)}, "the source of RULE, of type MinNorm, cannot be had"),
        ({"jobs": 2}, "2 jobs were asked for, but your own class exists in this process alone"),
        ({"like": ""}, "mine/min-norm needs both a sampling"),
        ({"like": "table1/*"}, "is like one row; 'table1/.' matches 15"),
        ({"like": "table1/lsp"}, "no experiment matches 'table1/lsp'"),
        ({"sampling": "lps"}, "mine/min-norm needs both a sampling"),
        ({"rows": [], "sampling": None, "like": ""}, r"there is nothing to train: rows=\[\], seeds=\(0,\)"),
        ({"rows": "table1/lps"}, "is 'table1/lps'; expected mine/ and a word"),
        ({"seeds": 3}, r"seeds is 3; expected several, as range\(3\), or one in a list, as \[3\]"),
        ({"changes": {"model.method": "aps"}}, "mine/min-norm: model.method is 'aps'"),
    ],
)
def test_what_cannot_be_a_row_is_said(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    usual: dict[str, Any] = {
        "sampling": lps.Sampling(lambda channels: MinNorm()),
        "like": "table1/lps",
        "profile": "smoke",
    }
    given = usual | {"rows": "mine/min-norm", "results": tmp_path} | settings
    with pytest.raises(ValueError, match=words):
        experiments.train(given.pop("rows"), **given)


def test_own_is_no_method_of_the_papers_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table1/lps: model.method is 'own'; own is for a sampling of your own"):
        train("table1/lps", tmp_path, changes={"model.method": "own"})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"own": {"like": "table1/lsp", "source": ""}}, "own.like is 'table1/lsp', which is not known here"),
        ({"own": {"like": "table1/lps"}}, "own.source is missing"),
        ({"own": None}, "experiment is 'mine/min-norm', which is not known here"),
        ({"experiment": "table1/lps"}, "experiment is 'table1/lps'; expected mine/ and a word"),
    ],
)
def test_a_record_of_ones_own_is_checked(edit: dict[str, Any], words: str, own_run: Trained) -> None:
    path = own_run.run.record
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | edit))
    with pytest.raises(ValueError, match=words):
        read_record(path)
    path.write_text(whole)
