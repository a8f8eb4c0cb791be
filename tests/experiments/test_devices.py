"""Several processes share a run: each image once, the same counts, the mean of their gradients."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lps.experiments.evaluate import predictor
from lps.experiments.fit import AtomicCheckpoints, Batches, EpochOrder
from lps.experiments.jobs import RunsFailed, attempt, run_all
from lps.experiments.learner import Learner
from lps.experiments.model import fresh
from lps.experiments.run import DataCache, Run, measure_again, perform, plan
from lps.experiments.weights import CHECKPOINT
from lps.processes import Session

ONE_STEP = {
    "data.train": "20",
    "data.test": "41",
    "train.batch_size": "20",
    "train.schedule": "step",
    "train.warmup": "0",
    "train.flip": "false",
    "evaluate.exhaustive": "0",
}
FIVE_STEPS = ONE_STEP | {"data.train": "100", "train.epochs": "1", "train.flip": "true"}
TWO = {"engine.devices": "2", "engine.strategy": "ddp"}


def planned(results: Path, row: str, changes: dict[str, str]) -> Run:
    return plan([row], "smoke", [0], changes, results, DataCache(None))[0]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """One step of each on its half of the images; then the counts of an odd number of test images."""
    run = planned(tmp_path, "table1/baseline", ONE_STEP | TWO)
    arguments = [sys.executable, "-m", "lps", "run", run.experiment.name, "--profile", "smoke", "--threads", "1"]
    arguments += [part for name, value in (ONE_STEP | TWO).items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run([*arguments, "--results", str(tmp_path)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 of 1 runs recorded") == 1
    record = json.loads(run.record.read_text())
    assert {cell["total"] for cell in record["metrics"].values()} == {41}
    assert measure_again(run, DataCache(None), {}) == record["metrics"]

    images, _ = DataCache(None)(run.experiment.data)
    alone = Learner(fresh(run.experiment, images, 0), run.experiment, 0)
    optimizer = alone.configure_optimizers()
    for rank in range(2):
        (share,) = EpochOrder(20, 20, 0, lambda: 0, rank, 2)
        half, labels = images.train.images[share], images.train.labels[share]
        (torch.nn.functional.cross_entropy(alone.network(half), labels) / 2).backward()
    optimizer.step()
    together = torch.load(run.weights)
    for name, parameter in alone.network.named_parameters():
        torch.testing.assert_close(together[name], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Path:
    """What two processes leave behind that share runs, as torchrun starts them: first what ends well, then an error."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(free_port)), ("WORLD_SIZE", "2")):
            patch.setenv(name, value)
        processes = []
        for rank in range(2):  # in their environment from the start: Lightning reads the rank when it is imported
            patch.setenv("RANK", str(rank))
            patch.setenv("LOCAL_RANK", str(rank))
            processes.append(get_context("spawn").Process(target=share, args=(folder,), daemon=True))
            processes[-1].start()
        for process in processes:
            process.join(250)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


def share(folder: Path) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    stop_and_go_on(folder)
    one_share_is_not_finite(folder)
    one_fails(folder / "failed")


def stop_and_go_on(results: Path) -> None:
    """A run left alone, and the same stopped after three of its five batches."""
    data = DataCache(None)
    whole, cut = (planned(results / name, "table1/lps", FIVE_STEPS | TWO) for name in ("whole", "cut"))
    perform(whole, data)
    asked = itertools.count(1)
    outcome = attempt(cut, data, Session(stop=lambda: next(asked) > 3))
    assert outcome.state == "stopped", outcome
    checkpoint = AtomicCheckpoints().load_checkpoint(cut.work / CHECKPOINT)
    assert 0 < checkpoint["global_step"] < 5
    assert len(checkpoint["processes"]) == 2
    perform(cut, data)


@pytest.mark.slow
def test_two_processes_stopped_within_an_epoch_go_on_to_the_same_bits(shared: Path) -> None:
    assert_same(*(planned(shared / name, "table1/lps", FIVE_STEPS | TWO) for name in ("whole", "cut")))


def assert_same(*runs: Run) -> None:
    """Two runs with the same metrics, losses and weights."""
    records = [json.loads(run.record.read_text()) for run in runs]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert [line["loss"] for line in records[0]["history"]] == [line["loss"] for line in records[1]["history"]]
    for ours, theirs in zip(*(torch.load(run.weights).values() for run in runs), strict=True):
        assert torch.equal(ours, theirs)


CHILD = """
import os, sys
from pathlib import Path
Path(os.environ["PIDS"], os.environ.get("LOCAL_RANK", "0")).write_text(str(os.getpid()))
from lps.__main__ import main
if __name__ == "__main__":
    from lps.experiments import fit
    fit.EVERY = float(os.environ["EVERY"])
    sys.exit(main())
"""
MANY_STEPS = FIVE_STEPS | {"data.train": "400", "train.epochs": "6"}


def started(results: Path, monkeypatch: pytest.MonkeyPatch, every: float = 600) -> subprocess.Popen[str]:
    """Two processes that share a run, in a process group of their own, with a checkpoint ``every`` so many seconds.

    They leave their ids in ``results/pids``.
    """
    monkeypatch.setenv("EVERY", str(every))
    (results / "pids").mkdir(parents=True, exist_ok=True)
    for path in (results / "pids").iterdir():
        path.unlink()
    monkeypatch.setenv("PIDS", str(results / "pids"))
    script = results / "child.py"
    script.write_text(CHILD)
    arguments = [sys.executable, str(script), "run", "table1/lps", "--profile", "smoke", "--threads", "1", "--quiet"]
    arguments += [part for name, value in (MANY_STEPS | TWO).items() for part in ("--set", f"{name}={value}")]
    arguments += ["--results", str(results)]
    return subprocess.Popen(
        arguments, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and words of the first process, once both have ended; a hang ends both, and the test."""
    try:
        said, _ = process.communicate(timeout=200)  # the pipe is open until both have ended
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def steps(run: Run) -> int:
    """Steps that the checkpoint of a run has behind it, 0 without one."""
    checkpoint = run.work / CHECKPOINT
    return AtomicCheckpoints().load_checkpoint(checkpoint)["global_step"] if checkpoint.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif("LPS_EXHAUSTIVE" not in os.environ, reason="two minutes: in the weekly tests, LPS_EXHAUSTIVE=1")
def test_signals_to_one_of_two_processes_or_to_both_stop_both_and_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (planned(tmp_path / name, "table1/lps", MANY_STEPS | TWO) for name in ("whole", "cut"))
    moments = random.Random(0)
    for number, receiver in ((signal.SIGTERM, "1"), (signal.SIGINT, "0"), (signal.SIGTERM, ""), (signal.SIGINT, "")):
        before = steps(cut)
        process = started(cut.results, monkeypatch, every=0)
        while steps(cut) <= before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.1))
        for _ in range(2):  # and once more while they are about to stop
            if receiver:
                os.kill(int((cut.results / "pids" / receiver).read_text()), number)
            else:
                os.killpg(process.pid, number)
        code, said = ended(process)
        assert code == 3 and "stopped: interrupted" in said and "Traceback" not in said, (number, receiver, said)
        assert before < steps(cut) < 120
    for run in (whole, cut):
        code, said = ended(started(run.results, monkeypatch))
        assert code == 0, said
    assert_same(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, *([signal.SIGINT] if "LPS_EXHAUSTIVE" in os.environ else [])])
def test_a_signal_while_the_second_process_starts_stops_both(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(tmp_path, "table1/lps", MANY_STEPS | TWO)
    process = started(tmp_path, monkeypatch)
    while not (tmp_path / "pids" / "1").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, number)
    code, said = ended(process)
    assert code == 3 and "stopped: interrupted" in said and "Traceback" not in said, said
    assert steps(run) <= 1


def one_fails(results: Path) -> None:
    """The disk of the first process is full at the end of an epoch, and another run waits."""

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    if os.environ["RANK"] == "0":
        AtomicCheckpoints.save_checkpoint = full  # type: ignore[method-assign]
    runs = [planned(results, row, FIVE_STEPS | TWO) for row in ("table1/lps", "table1/aps")]
    try:
        run_all(runs, DataCache(None), quiet=True)
    except RunsFailed as error:
        Path(results, os.environ["RANK"]).write_text(str(error))


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_of_them(shared: Path) -> None:
    said = [(shared / "failed" / rank).read_text() for rank in "01"]
    assert said[0] == "table1/lps seed 0: no space left on device" and said[1].startswith("table1/lps seed 0: ")
    assert not list((shared / "failed").rglob("*.json"))


def one_share_is_not_finite(results: Path) -> None:
    """Logits that are not finite in the part of a batch that the second process predicts."""
    images = torch.ones(4, 2)
    images[3] = torch.nan
    try:
        predictor(torch.nn.Identity(), torch.device("cpu"))(images)
    except FloatingPointError as error:
        Path(results, os.environ["RANK"]).write_text(str(error))


@pytest.mark.slow
def test_logits_of_one_process_that_are_not_finite_end_all_of_them(shared: Path) -> None:
    for rank in "01":
        said = (shared / rank).read_text()
        assert said.startswith("batch 1 of the evaluation: the network's logits are not finite")


def test_runs_on_several_devices_go_one_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs on several devices go one at a time; 2 jobs"):
        run_all([planned(tmp_path, "table1/aps", TWO)], DataCache(None), jobs=2)


def test_the_shares_of_two_devices_are_the_batches_of_one() -> None:
    whole = list(EpochOrder(41, 10, 3, lambda: 0))
    shares = [list(EpochOrder(41, 10, 3, lambda: 0, rank, 2)) for rank in range(2)]
    assert [len(batch) for batch in whole] == [10, 10, 10, 10, 1]
    assert [[len(batch) for batch in share] for share in shares] == [[5, 5, 5, 5]] * 2
    images = [image for share in shares for batch in share for image in batch]
    assert len(set(images)) == 40
    with pytest.raises(ValueError, match="a batch of 10 images cannot be shared equally by 3 devices"):
        EpochOrder(41, 10, 3, lambda: 0, 0, 3)


def test_no_device_of_a_segmenter_gets_a_single_image(tmp_path: Path) -> None:
    """The pooled features of DeepLabV3+ have one value of each channel and image, and batch norm takes two."""

    def sizes(images: int, devices: int) -> list[int]:
        few = {"data.train": str(images), "data.test": "1", "train.batch_size": "4"}
        run = planned(tmp_path, "table5/lps-adapt-3", few)
        batches = Batches(DataCache(None)(run.experiment.data)[0], run.experiment, 0)
        batches.trainer = SimpleNamespace(world_size=devices, global_rank=0, global_step=0)  # type: ignore[assignment]
        order: Any = batches.train_dataloader().batch_sampler
        return [len(batch) for batch in order]

    assert sizes(14, 1) == [4, 4, 4, 2] and sizes(13, 1) == [4, 4, 4]
    assert sizes(13, 2) == [2, 2, 2] and sizes(10, 2) == [2, 2]
    with pytest.raises(ValueError, match="batches of 4 leave each of 4 devices one image"):
        sizes(12, 4)


def test_how_the_machine_is_used_changes_rounding_only(tmp_path: Path) -> None:
    other = {"engine.fused": "true", "engine.tf32": "true"}
    runs = [planned(tmp_path, "table1/lps-tri-3", ONE_STEP | changes) for changes in ({}, other)]
    for run in runs:
        perform(run, DataCache(None))
    assert torch.get_float32_matmul_precision() == "highest"
    for ours, theirs in zip(*(torch.load(run.weights).values() for run in runs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
