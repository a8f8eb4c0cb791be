"""What can be seen of runs: the log of each epoch, and the overview of a plan."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from lps.__main__ import main
from lps.experiments.jobs import attempt, clock, estimate, overview, state
from lps.experiments.run import DataCache, Run, perform, plan
from lps.processes import Session

SMALL = {
    "data.train": "40",
    "data.test": "10",
    "train.batch_size": "20",
    "train.epochs": "3",
    "evaluate.exhaustive": "0",
}


def planned(results: Path, *names: str) -> list[Run]:
    return plan(names, "smoke", [0], SMALL, results, DataCache(None))


@pytest.mark.parametrize("stopped", [False, True])
def test_every_epoch_has_a_line(stopped: bool, tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]) -> None:
    """Also those before an interruption, once."""
    (run,) = planned(tmp_path, "table1/lps-tri-3")
    if stopped:
        attempt(run, DataCache(None), Session(stop=stop_after(3)))
    perform(run, DataCache(None))
    with run.record.with_suffix(".csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    history = json.loads(run.record.read_text())["history"]
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert [float(line["loss"]) for line in lines] == [epoch["loss"] for epoch in history]
    layers = [f"1.stages.{stage}.0.downsample.select" for stage in (1, 2, 3)]
    for line in lines:
        assert 0 <= float(line["waiting"]) < 1 and float(line["images_per_second"]) > 0
        for layer in layers:
            assert sum(float(line[f"{layer}.phase{k}"]) for k in range(4)) == pytest.approx(1)
            assert float(line[f"{layer}.lead"]) > 0
    assert_on_tensorboard(history, run.record.with_suffix(".tensorboard"))


def assert_on_tensorboard(history: list[dict[str, float]], folder: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # a file for each epoch; those of one second have names that do not sort by epoch
    files = [accumulator.EventAccumulator(str(path)).Reload() for path in folder.iterdir()]
    assert all(set(events.Tags()["scalars"]) == set(history[0]) for events in files)
    for name in history[0]:
        points = sorted((event.step, event.value) for events in files for event in events.Scalars(name))
        assert points == [(epoch["epoch"], pytest.approx(epoch[name], rel=1e-6)) for epoch in history]


def test_how_far_runs_are(tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]) -> None:
    runs = planned(tmp_path, "table1/aps", "table1/baseline", "table1/lps")
    data = DataCache(None)
    perform(runs[0], data)
    attempt(runs[1], data, Session(stop=stop_after(3)))
    assert [state(run)[0] for run in runs] == ["done", "begun, 1 of 3 epochs", "outstanding"]
    records = [json.loads(runs[0].record.read_text())]
    seconds = estimate(runs[2], records)
    assert seconds is not None and seconds == max(records[0]["seconds"].values())
    _, history = state(runs[1])
    rest = estimate(runs[1], records, history)
    assert rest is not None and rest == pytest.approx(seconds - records[0]["seconds"]["training"] / 3)
    assert overview(runs, records).endswith(f"1 of 3 done, 2 to go: about {clock(rest + seconds)}")
    assert estimate(runs[1], [], history) == 2 * history[0]["seconds"]
    assert overview(runs, []).endswith(" and 1 of unknown length")
    with FileLock(runs[2].record.with_suffix(".lock")):
        assert state(runs[2])[0] == "running"


@pytest.mark.parametrize(("seconds", "words"), [(12, "12 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_readable(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_weights_are_measured_again_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    arguments = ["table1/aps", "--profile", "smoke", "--results", str(tmp_path), *changes]
    assert main(["evaluate", *arguments]) == 2
    assert "table1/aps seed 0 has no weights" in capsys.readouterr().err
    main(["run", *arguments, "--quiet"])
    said = capsys.readouterr().out.split("acc")[1].split("\n")[0]
    assert main(["evaluate", *arguments]) == 0
    assert capsys.readouterr().out == f"table1/aps seed 0  acc{said}\n"
    assert main(["evaluate", *arguments, "--with", "evaluate.exhaustive=1"]) == 0
    assert "c_cons_all 100.00" in capsys.readouterr().out
    assert main(["verify", *arguments, "--shifts", "4"]) == 0
    assert "table1/aps (trained, " in capsys.readouterr().out
    (weights,) = tmp_path.rglob("*.pt")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["evaluate", *arguments]) == 2
    assert f"{weights} is not a readable file of weights" in capsys.readouterr().err
