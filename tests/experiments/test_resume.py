"""Runs that end at any moment go on within their epoch, to the bits of a run that was never touched."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lps.data.photographs import Augmented
from lps.experiments import fit, learner
from lps.experiments.jobs import attempt, state
from lps.experiments.run import DataCache, Run, perform, plan
from lps.processes import Session

COMMON = {"train.epochs": "2"}
TASKS = {
    "table1/lps-tri-3": {"data.train": "60", "data.test": "40", "train.batch_size": "10", "evaluate.exhaustive": "0"},
    "table3/resnet50-lps-tri-3": {"data.train": "40", "train.batch_size": "8", "engine.workers": "1"},
    "table5/lps-adapt-3": {"data.train": "20", "train.batch_size": "4"},
}
"""A row of each task, with epochs of several batches."""
CLOCK = {"seconds", "processor_seconds", "images_per_second", "waiting"}


def planned(row: str, results: Path, **others: str) -> Run:
    return plan([row], "smoke", [0], COMMON | TASKS[row] | others, results, DataCache(None))[0]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each task from its start to its end."""
    runs = {row: planned(row, tmp_path_factory.mktemp("untouched")) for row in TASKS}
    for run in runs.values():
        perform(run, DataCache(None))
    return runs


def outcome(run: Run) -> tuple[Any, list[dict[str, float]]]:
    """Metrics, and the history but for the time it took."""
    record = json.loads(run.record.read_text())
    return record["metrics"], [{k: v for k, v in line.items() if k not in CLOCK} for line in record["history"]]


def assert_same(run: Run, other: Run) -> None:
    assert outcome(run) == outcome(other)
    ours, theirs = (torch.load(each.weights, weights_only=True) for each in (run, other))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def length(run: Run) -> int:
    """Steps of a run."""
    train, images = run.experiment.train, run.experiment.data.train
    assert images is not None
    return train.epochs * images // train.batch_size


@pytest.mark.parametrize("row", TASKS)
def test_stops_at_random_batches_repeat_nothing(
    row: str, untouched: dict[str, Run], tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    run, moments = planned(row, tmp_path), random.Random(row)
    steps: list[int] = []
    stops = 0
    while not run.done:
        stop = stop_after(moments.randint(1, 6))
        ended = attempt(run, DataCache(None), Session(lambda step, _: steps.append(step), stop))
        assert ended.state == ("recorded" if run.done else "stopped"), ended.reason
        stops += not run.done
    assert stops > 1
    # the batch after which a run stops is not reported
    assert steps == sorted(set(steps)) and length(run) - stops <= len(steps) <= length(run)
    assert_same(run, untouched[row])


@pytest.fixture
def in_a_process(command_line: Any) -> Callable[[Run], Any]:
    """Starts a run, with a checkpoint after every batch; returns once the first is there."""

    def start(run: Run) -> Any:
        arguments = ["run", run.experiment.name, "--profile", "smoke", "--quiet", "--results", str(run.results)]
        arguments += ["--threads", str(torch.get_num_threads())]
        for name, value in (COMMON | TASKS[run.experiment.name]).items():
            arguments += ["--set", f"{name}={value}"]
        process = command_line(arguments, every=0)
        while not (run.work / "last.ckpt").exists():
            assert process.runs, process.ended()
            time.sleep(0.01)
        return process

    return start


@pytest.mark.slow
@pytest.mark.parametrize("row", ["table1/lps-tri-3", "table5/lps-adapt-3"])
def test_a_kill_at_a_random_moment_changes_no_bit(
    row: str, untouched: dict[str, Run], in_a_process: Callable[[Run], Any], tmp_path: Path
) -> None:
    run = planned(row, tmp_path)
    process = in_a_process(run)
    time.sleep(random.Random(row).uniform(0, 0.3))
    os.kill(process.pid, signal.SIGKILL)
    assert process.ended()[0] == -signal.SIGKILL
    step = torch.load(run.work / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < length(run)
    seen: list[int] = []
    perform(run, DataCache(None), Session(lambda step, _: seen.append(step)))
    assert seen == [*range(step + 1, length(run) + 1)]
    assert_same(run, untouched[row])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_spares_those_that_read_images(
    number: signal.Signals, untouched: dict[str, Run], in_a_process: Callable[[Run], Any], tmp_path: Path
) -> None:
    run = planned("table3/resnet50-lps-tri-3", tmp_path)
    process = in_a_process(run)
    for _ in range(3):
        os.killpg(process.pid, number)
        time.sleep(0.01)
    code, said = process.ended()
    assert code == 3 and "stopped: interrupted" in said and "Traceback" not in said, said
    assert 0 < torch.load(run.work / "last.ckpt", weights_only=True)["global_step"] < length(run)
    perform(run, DataCache(None))
    assert_same(run, untouched[run.experiment.name])


def test_checkpoints_within_an_epoch_change_nothing(
    untouched: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "EVERY", 0.0)
    run = planned("table1/lps-tri-3", tmp_path)
    perform(run, DataCache(None))
    assert_same(run, untouched["table1/lps-tri-3"])


def test_a_stop_after_the_last_batch_keeps_the_epoch(
    tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    """Also where each epoch is one batch."""
    run = planned("table1/lps-tri-3", tmp_path, **{"train.batch_size": "60"})
    ended = attempt(run, DataCache(None), Session(stop=stop_after(1)))
    checkpoint = torch.load(run.work / "last.ckpt", weights_only=True)
    assert (ended.state, checkpoint["global_step"], len(checkpoint["history"])) == ("stopped", 1, 1)


# bad luck


@pytest.mark.parametrize("writes", [1, 2], ids=["checkpoint", "weights"])
def test_a_full_disk_ends_a_run_that_then_goes_on(
    writes: int, untouched: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned("table1/lps-tri-3", tmp_path)
    left = [writes]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and "No space left on device" in ended.reason
    assert len(torch.load(run.work / "last.ckpt", weights_only=True)["history"]) == writes
    assert not run.weights.exists()
    perform(run, DataCache(None))
    assert_same(run, untouched["table1/lps-tri-3"])


def test_a_loss_that_is_not_finite_leaves_the_last_epoch(
    untouched: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, usual = planned("table1/lps-tri-3", tmp_path), learner.learning_rate
    with monkeypatch.context() as patch:
        patch.setattr(learner, "learning_rate", lambda recipe, epoch: usual(recipe, epoch) if epoch < 1 else 1e30)
        ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and "the loss became nan in epoch 1" in ended.reason
    assert len(torch.load(run.work / "last.ckpt", weights_only=True)["history"]) == 1
    perform(run, DataCache(None))
    assert_same(run, untouched["table1/lps-tri-3"])


def test_a_damaged_checkpoint_ends_its_run_with_a_sentence(tmp_path: Path) -> None:
    run = planned("table1/lps-tri-3", tmp_path)
    run.work.mkdir(parents=True)
    (run.work / "last.ckpt").write_bytes(b"garbage")
    assert state(run)[0] == "begun, checkpoint not readable"
    ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and "remove it to start over" in ended.reason
    assert (run.work / "last.ckpt").read_bytes() == b"garbage"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2]])
def test_a_checkpoint_that_is_none_ends_its_run_with_a_sentence(content: Any, tmp_path: Path) -> None:
    run = planned("table1/lps-tri-3", tmp_path)
    run.work.mkdir(parents=True)
    torch.save(content, run.work / "last.ckpt")
    ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and ended.reason.endswith("is no checkpoint of a run; remove it to start over")


def test_a_flipped_bit_of_a_checkpoint_ends_its_run(
    tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    run = planned("table1/lps-tri-3", tmp_path)
    attempt(run, DataCache(None), Session(stop=stop_after(3)))
    content = bytearray((run.work / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run.work / "last.ckpt").write_bytes(content)
    ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and "remove it to start over" in ended.reason
    assert not run.done


def test_the_checkpoint_of_another_model_is_named(
    tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    narrow, wide = (planned("table1/lps-tri-3", tmp_path, **{"model.width": width}) for width in ("8", "16"))
    attempt(narrow, DataCache(None), Session(stop=stop_after(3)))
    narrow.work.rename(wide.work)
    ended = attempt(wide, DataCache(None))
    assert ended.state == "failed"
    assert "last.ckpt holds another network, which differs in network.1." in ended.reason


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_photograph_is_one_sentence_from_every_process(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned("table3/resnet50-lps-tri-3", tmp_path, **{"engine.workers": workers})
    monkeypatch.setattr(Augmented, "__getitem__", damaged)
    ended = attempt(run, DataCache(None))
    assert ended == ("failed", "a.jpg is not a readable image; fetch it again")


def damaged(self: Augmented, look: tuple[int, int]) -> None:
    raise ValueError("a.jpg is not a readable image; fetch it again")
