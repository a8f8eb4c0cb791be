"""Several runs at a time, each in a process of its own: same bits, and nothing lost when one of them ends badly."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from lps.experiments.jobs import RunsFailed, default_jobs, run_all
from lps.experiments.run import DataCache, Run, perform, plan
from lps.experiments.weights import CHECKPOINT

CHANGES = {"data.train": "60", "data.test": "40", "train.epochs": "3", "train.batch_size": "20"}


def planned(results: Path, rows: list[str], **changes: str) -> list[Run]:
    settings = CHANGES | {name.replace("__", "."): value for name, value in changes.items()}
    return plan(rows, "smoke", [0], settings, results, DataCache(None))


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
        run_all([*failing, *runs], DataCache(None), quiet=True, jobs=2)
    assert [run.done for run in (*failing, *runs)] == [False, True, True]
    for run, alone in zip(runs, planned(tmp_path / "alone", ["table1/baseline", "table1/lps"]), strict=True):
        perform(alone, DataCache(None))
        record = json.loads(run.record.read_text())
        assert record["determinism"]["threads"] == 1
        assert record["command"].endswith("--threads 1")
        assert_same(run, alone)


@pytest.mark.slow
def test_a_process_that_was_killed_ends_its_run_alone(tmp_path: Path) -> None:
    """A budget holds for the processes, too."""
    runs = planned(tmp_path, ["table1/lps", "table1/baseline"], train__epochs="20", train__tau_every="1")

    def kill() -> None:
        while not any((run.work / CHECKPOINT).exists() for run in runs):
            time.sleep(0.01)
        active_children()[0].kill()  # whichever run it has: they start in any order

    killer = Thread(target=kill)
    killer.start()
    with pytest.raises(RunsFailed) as failure:
        run_all(runs, DataCache(None), quiet=True, jobs=2)
    killer.join()
    (killed,) = (run for run in runs if not run.done)
    assert str(failure.value).startswith(f"{killed.title}: its process was ended")
    assert ";" not in str(failure.value)
    assert run_all(runs, DataCache(None), quiet=True, jobs=2, budget=0) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_signals_stop_every_worker_and_what_was_learned_is_kept(command_line: Any, tmp_path: Path, kill: bool) -> None:
    rows = ["table1/baseline", "table1/aps"]
    settings = CHANGES | {"train.epochs": "1000"}
    arguments = ["run", *rows, "--profile", "smoke", "--jobs", "2", "--results", str(tmp_path)]
    arguments += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = command_line(arguments)
    try:
        while not any(tmp_path.rglob("last.ckpt")):  # the other run may still be on its way to its first batch
            assert process.runs, "the runs ended before they could be interrupted"
            time.sleep(0.02)
        if kill:
            os.kill(process.pid, signal.SIGKILL)
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
        code, said = process.ended()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert code == (-signal.SIGKILL if kill else 3)
    assert ("stopped: interrupted" in said) == (not kill)
    assert "Traceback" not in said
    assert not any(tmp_path.rglob("*.json"))
    for path in tmp_path.rglob("last.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] // 3 == len(checkpoint["history"])


def test_jobs_are_counted_from_one(tmp_path: Path) -> None:
    assert default_jobs() >= 1
    with pytest.raises(ValueError, match="0 jobs were asked for; expected 1 or more"):
        run_all([], DataCache(None), jobs=0)
