"""Several runs at a time, each in a process of its own: same bits, and nothing lost when one of them ends badly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from lps.experiments.config import Experiment
from lps.experiments.profiles import load_profile
from lps.experiments.rows import Row, matching
from lps.experiments.run import DataCache, Run, RunsFailed, Worker, default_jobs, perform, plan, run_all, serve

CHANGES = {"data.train": "60", "data.test": "40", "train.epochs": "3", "train.batch_size": "20"}


def planned(results: Path, rows: list[str], **changes: str) -> list[Run]:
    settings = CHANGES | {name.replace("__", "."): value for name, value in changes.items()}

    def experiment_of(row: Row) -> Experiment:
        return load_profile("smoke").row(row).override(settings)

    return plan(matching(rows), experiment_of, [0], results, DataCache(None))


def outcome(run: Run) -> tuple[dict[str, object], list[torch.Tensor]]:
    """What a run found, and its weights."""
    weights = torch.load(run.weights, weights_only=True)
    return json.loads(run.record.read_text())["metrics"], list(weights.values())


def assert_same(run: Run, other: Run) -> None:
    (found, weights), (others_found, others_weights) = outcome(run), outcome(other)
    assert found == others_found
    assert all(torch.equal(a, b) for a, b in zip(weights, others_weights, strict=True))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_fails_is_named_and_the_others_end_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what the workers would take if they were not told
    failing = planned(tmp_path, ["table1/baseline"], train__lr="1e30")
    runs = planned(tmp_path, ["table1/baseline", "table1/lps"])
    with pytest.raises(RunsFailed, match=r"^table1/baseline seed 0: the loss became nan .*lower train.lr"):
        run_all([*failing, *runs], DataCache(None), CHANGES, quiet=True, jobs=2)
    assert [run.done for run in (*failing, *runs)] == [False, True, True]
    for run, alone in zip(runs, planned(tmp_path / "alone", ["table1/baseline", "table1/lps"]), strict=True):
        perform(alone, DataCache(None), CHANGES)
        record = json.loads(run.record.read_text())
        assert record["determinism"]["threads"] == 1
        assert record["command"].endswith("--threads 1")
        assert_same(run, alone)


@pytest.mark.slow
def test_a_worker_that_was_killed_is_started_anew_and_goes_on(tmp_path: Path) -> None:
    (run,) = planned(tmp_path, ["table1/lps"])
    (alone,) = planned(tmp_path / "alone", ["table1/lps"])
    perform(alone, DataCache(None), CHANGES)
    seen: list[int] = []

    def kill(step: int, steps: int, images: float) -> None:
        if step == 5:
            os.kill(worker.process.pid or 0, signal.SIGKILL)

    with closing(Worker(None, CHANGES, None, torch.get_num_threads())) as worker:
        killed = worker.attempt(run, kill, lambda: False)
        assert killed.state == "failed" and "ended with code -9" in killed.reason
        assert not run.done
        done = worker.attempt(run, lambda step, steps, images: seen.append(step), lambda: False)
    assert done.state == "recorded"
    assert seen == [4, 5, 6, 7, 8, 9]  # the first epoch of three batches is not repeated
    assert_same(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_signals_stop_every_worker_and_what_was_learned_is_kept(tmp_path: Path, kill: bool) -> None:
    rows = ["table1/baseline", "table1/aps"]
    settings = CHANGES | {"train.epochs": "1000"}
    arguments = [sys.executable, "-m", "lps", "run", *rows, "--profile", "smoke", "--jobs", "2"]
    arguments += ["--results", str(tmp_path)]
    arguments += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        while not any(tmp_path.rglob("last.ckpt")):  # the other run may still be on its way to its first batch
            assert process.poll() is None, "the runs ended before they could be interrupted"
            time.sleep(0.02)
        if kill:
            process.kill()
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
        _, said = process.communicate(timeout=200)  # standard error is open until the last worker has ended
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (-signal.SIGKILL if kill else 3)
    assert ("stopped: interrupted" in said) == (not kill)
    assert "Traceback" not in said
    assert not any(tmp_path.rglob("*.json"))
    for path in tmp_path.rglob("last.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] // 3 == len(checkpoint["history"])


def test_a_worker_keeps_the_budget(tmp_path: Path) -> None:
    (run,) = planned(tmp_path, ["table1/baseline"])
    ours, theirs = Pipe()
    ours.send(run)
    ours.send(None)
    serve(theirs, None, CHANGES, time.monotonic(), torch.get_num_threads())
    assert ours.recv() == ("stopped", "the time budget is used up")


def test_jobs_are_counted_from_one(tmp_path: Path) -> None:
    assert default_jobs() >= 1
    with pytest.raises(ValueError, match="0 jobs were asked for; expected 1 or more"):
        run_all([], DataCache(None), {}, jobs=0)
