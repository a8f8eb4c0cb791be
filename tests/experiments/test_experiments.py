"""Configuration, data, training, records and the command line, on real runs of a few seconds."""

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
import torch
from PIL import Image

from lps import data as lps_data
from lps.__main__ import main
from lps.experiments import profiles, records, rows
from lps.experiments.config import SECTIONS, Experiment, parse_changes, shapes
from lps.experiments.fit import AtomicCheckpoints
from lps.experiments.jobs import attempt, run_all, state
from lps.experiments.learner import learning_rate, temperature
from lps.experiments.model import fresh
from lps.experiments.profiles import load_profile
from lps.experiments.run import DataCache, Run, measure_again, perform, plan
from lps.experiments.schema import read_yaml
from lps.experiments.weights import CHECKPOINT, HASHES, about, read_weights
from lps.paths import SHIPPED

TINY = {"data.train": "60", "data.test": "40", "train.epochs": "3", "train.batch_size": "20", "model.width": "8"}


def tiny(name: str = "table1/lps-tri-3", **changes: str) -> Experiment:
    row = next(row for row in rows.TABLE1 if row.name == name)
    settings = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return load_profile("smoke").row(row).override(settings)


def planned(results: Path, experiment: Experiment | None = None, data: DataCache | None = None, seed: int = 0) -> Run:
    experiment = experiment or tiny()
    _, fingerprint = (data or DataCache(None))(experiment.data)
    return Run(experiment, seed, records.run_id(experiment, seed, fingerprint), results)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.weights, weights_only=True)


# configuration


def test_full_is_the_papers_recipe() -> None:
    train = load_profile("full").row(rows.TABLE1[2]).train
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (250, 256, 0.1, 5e-4)
    assert [round(learning_rate(train, e), 6) for e in (0, 99.9, 100, 200, 249)] == [0.1, 0.1, 0.01, 0.001, 0.001]
    assert temperature(train, 0) == 1
    assert temperature(train, 249.9) == pytest.approx(0.85**24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.epoch": "5"}, "unknown setting 'train.epoch'; did you mean train.epochs.*known: data.name"),
        ({"optimizer.lr": "5"}, "unknown setting 'optimizer.lr'"),
        ({"train.epochs": "many"}, "train.epochs is 'many'; expected a whole number"),
        ({"train.epochs": "1.5"}, "train.epochs is 1.5; expected a whole number"),
        ({"train.flip": "1"}, "train.flip is 1; expected true or false"),
        ({"model.antialias": "tri-4"}, "model.antialias is 'tri-4'; it must be one of none, rect-2"),
        ({"model.method": "lpf", "model.antialias": "adapt-3"}, "LPF does not go with the filter adapt-3"),
        ({"model.method": "lpf", "model.antialias": "none"}, "LPF is a filter"),
        ({"model.method": "baseline"}, "the baseline has no filter"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny().override(changes)


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        ("table2/baseline", {"data.resize": "240"}, "data.resize is 240: windows of 224 pixels, .* at least 256"),
        ("table2/lps", {"data.resize": "270"}, "data.resize is 270: .* needs a multiple of 32"),
        ("table3/resnet50-lps-tri-3", {"data.crop": "200"}, "data.crop is 200: .* needs a multiple of 32"),
        ("table5/lps-adapt-3", {"data.resize": "513", "data.crop": "513"}, "data.resize is 513: .* a multiple of 32"),
    ],
)
def test_sizes_that_could_not_be_measured_are_refused(row: str, changes: dict[str, str], words: str) -> None:
    (found,) = rows.matching([row])
    with pytest.raises(ValueError, match=words):
        load_profile("full").row(found).override(changes)


def test_settings_are_checked_together() -> None:
    (row,) = rows.matching(["table2/baseline"])
    for sizes in ({"data.resize": "160", "data.crop": "128"}, {"data.crop": "128", "data.resize": "160"}):
        changed = load_profile("full").row(row).override(sizes).as_dict()
        assert (changed["data"]["resize"], changed["data"]["crop"]) == (160, 128)
    filtered = load_profile("smoke").row(rows.TABLE1[0]).override({"model.method": "lpf", "model.antialias": "tri-3"})
    assert filtered.model.antialias == "tri-3"


def test_overrides_keep_everything_else() -> None:
    changed = tiny().override({"train.lr": "1", "data.train": "null", "train.flip": "false"})
    assert changed.train == replace(tiny().train, lr=1.0, flip=False)
    assert changed.data.train is None
    assert "train.lr" in changed.setting_names()


def test_wrong_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no experiment matches 'table1/lsp'; did you mean .*table1/lps"):
        rows.matching(["table1/lsp"])
    with pytest.raises(ValueError, match="unknown profile 'huge'; known: smoke, quick"):
        load_profile("huge")
    with pytest.raises(ValueError, match=r"a setting is given as name=value, .*; given: 'train\.epochs'"):
        parse_changes(["train.epochs"])


# data


def folder_of_images(root: Path, per_class: int = 2, size: int = 32) -> Path:
    for part in ("train", "test"):
        for label, name in enumerate(lps_data.CIFAR10_CLASSES):
            folder = root / "cifar10" / part / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                Image.new("RGB", (size, size), (label * 20, i, 0)).save(folder / f"{i}.png")
    return root


def test_cifar10_from_a_folder(tmp_path: Path) -> None:
    images = lps_data.load("cifar10", None, 5, 0, folder_of_images(tmp_path))
    assert images.train.images.shape == (20, 3, 32, 32)
    assert images.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert images.train.images[:, 0, 0, 0].tolist() == [label * 20 for label in range(10) for _ in range(2)]
    assert len(images.test) == 5
    assert "folder" in images.source


@pytest.mark.parametrize("profile", ["full", "reduced"])
def test_an_incomplete_cifar10_is_refused_unless_it_is_called_a_subset(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-root", str(folder_of_images(tmp_path)), "--results", str(tmp_path / "results")]
    assert main(["run", "table1/lps", "--profile", profile, *where]) == 2
    said = capsys.readouterr().err
    for part, number, all_of, of_each in (("train", 20, "50,000", "5,000"), ("test", 20, "10,000", "1,000")):
        words = (
            f"{tmp_path}/cifar10/{part} holds {number} images, 2 of airplane, and CIFAR-10 has {all_of}, {of_each} of"
        )
        assert words in said and f"--set data.{part}=20" in said
    assert said.count("\n") == 1 and not (tmp_path / "results").exists()
    experiment = load_profile(profile).row(rows.TABLE1[0])
    with pytest.raises(ValueError, match=r"cifar10/test holds 20 images.* say with --set data.test=20 that"):
        DataCache(tmp_path)(experiment.override({"data.train": "20"}).data)
    images, _ = DataCache(tmp_path)(experiment.override({"data.train": "20", "data.test": "9"}).data)
    assert (len(images.train), len(images.test)) == (20, 9)


def test_a_run_on_fewer_photographs_says_so_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        folder = tmp_path / "imagenet" / part / "n01"
        folder.mkdir(parents=True)
        Image.new("RGB", (300, 300)).save(folder / "a.png")
    where = ["--data-root", str(tmp_path), "--results", str(tmp_path / "results"), "--budget", "0s"]
    main(["run", "table2/lps", "--profile", "full", *where])
    words = "imagenet has 1 images to train and 1 to test on, of 1 classes (at full scale: 1,281,167, 50,000 and 1,000)"
    assert f"{words}: its runs count as runs at reduced scale\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notes", "notes.txt", "folder"])
def test_what_is_no_image_is_named_and_not_left_out(name: str, tmp_path: Path) -> None:
    path = folder_of_images(tmp_path) / "cifar10/train/cat" / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=rf"cat/{name} is not a readable image"):
        lps_data.load("cifar10", None, None, 0, tmp_path)


def test_a_missing_data_folder_is_an_error_and_not_drawn_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LPS_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"^CIFAR-10, downloaded .*: set LPS_DATA or pass --data-root$"):
        lps_data.load("cifar10", None, None, 0)
    for table, where in (("table2", "imagenet, laid out as imagenet"), ("table5", "voc, laid out as voc")):
        data = load_profile("full").row(next(row for row in rows.ROWS if row.table == table)).data
        with pytest.raises(FileNotFoundError, match=rf"^the folder {where}, .*: set LPS_DATA or pass --data-root$"):
            DataCache(None)(data)


def test_missing_weights_are_told_before_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataCache, "_load", lambda *_: pytest.fail("the data were read"))
    assert main(["evaluate", "table2/lps", "--profile", "reduced", "--results", str(tmp_path)]) == 2
    assert "made by: python -m lps run table2/lps --profile reduced --seed 0" in capsys.readouterr().err


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path)
    for path in (tmp_path / "cifar10/train/frog").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no images of frog"):
        lps_data.load("cifar10", None, None, 0, tmp_path)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path)
    (tmp_path / "cifar10/train/cat/1.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cat/1.png is not a readable image"):
        lps_data.load("cifar10", None, None, 0, tmp_path)


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    cats = folder_of_images(tmp_path) / "cifar10" / "train" / "cat"
    for name in (".DS_Store", "._0.png"):
        (cats / name).write_bytes(b"hidden")
    (cats / ".ipynb_checkpoints").mkdir()
    assert len(lps_data.load("cifar10", None, None, 0, tmp_path).train) == 20


def test_a_truncated_download_is_not_taken_for_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(url: str, filename: Path, chunk_size: int = 0) -> None:
        Path(filename).write_bytes(b"half an archive")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", half)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(.*corrupt.*\); put the folder cifar10"):
        lps_data.load("cifar10", None, None, 0, tmp_path)


def test_images_of_another_size_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is 28x28 pixels; CIFAR-10 images are 32x32"):
        lps_data.load("cifar10", None, None, 0, folder_of_images(tmp_path, size=28))


def test_more_images_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="21 images were asked for, the split holds 20"):
        lps_data.load("cifar10", 21, None, 0, folder_of_images(tmp_path))


def test_statistics_are_those_of_the_pixels() -> None:
    images = lps_data.load("drawn", 50, 10, 0)
    pixels = images.train.images.double() / 255
    mean, deviation = images.statistics()
    torch.testing.assert_close(mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.double(), pixels.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_the_fingerprint_follows_the_pixels() -> None:
    images = lps_data.load("drawn", 50, 10, 0)
    before = images.fingerprint()
    images.test.images[0, 0, 0, 0] ^= 1
    assert images.fingerprint() != before


# runs and records


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run made without interruption."""
    run = planned(tmp_path_factory.mktemp("results"))
    assert perform(run, DataCache(None))
    return run


def test_a_record_says_everything(finished: Run) -> None:
    record = json.loads(finished.record.read_text())
    settings = finished.experiment.as_dict()
    assert record["config"] == {name: settings[name] for name in SECTIONS}
    assert record["metrics"]["acc"]["total"] == 40
    assert record["metrics"]["c_cons"]["agree"] == record["metrics"]["c_cons"]["total"] == 40
    assert record["data"]["fingerprint"] == lps_data.load("drawn", 60, 40, 0).fingerprint()
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2, 3]
    assert {"commit", "dirty", "version"} == set(record["code"])
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["hardware"]["cores"] and record["determinism"]["threads"]
    assert record["determinism"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert "table1/lps-tri-3 --profile smoke --seed 0" in record["command"]
    assert "--set train.epochs=3" in record["command"]
    assert not finished.work.exists()


def test_a_recorded_run_is_not_made_again(finished: Run) -> None:
    before = finished.record.stat().st_mtime_ns
    assert not perform(finished, DataCache(None))
    assert finished.record.stat().st_mtime_ns == before


def test_the_id_covers_settings_seed_data_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {
        records.run_id(tiny(), 0, "fingerprint"),
        records.run_id(tiny(), 1, "fingerprint"),
        records.run_id(tiny(train__lr="0.01"), 0, "fingerprint"),
        records.run_id(tiny(), 0, "other"),
    }
    monkeypatch.setitem(records.VERSION, "images", 2)
    ids.add(records.run_id(tiny(), 0, "fingerprint"))
    assert len(ids) == 5


def test_another_seed_starts_elsewhere(finished: Run) -> None:
    images, _ = DataCache(None)(finished.experiment.data)
    first, again, other = (list(fresh(finished.experiment, images, seed).parameters()) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


def test_a_budget_stops_before_the_epoch_that_would_pass_it(tmp_path: Path) -> None:
    run = planned(tmp_path)
    assert run_all([run], DataCache(None), budget=0, quiet=True) == 1
    assert not run.record.exists()
    assert run_all([run], DataCache(None), quiet=True) == 0


def test_batches_of_ignored_pixels_cost_nothing(tmp_path: Path) -> None:
    """No loss that is not finite, no gradient, no accuracy of nothing."""
    changes = {"data.train": "8", "train.batch_size": "4", "train.epochs": "2", "train.weight_decay": "0"}
    data = DataCache(None)
    (run,) = plan(["table5/lps-adapt-3"], "smoke", [0], changes, tmp_path, data)
    images, _ = data(run.experiment.data)
    before = fresh(run.experiment, images, 0).state_dict()
    images.train.labels.fill_(images.ignored)
    perform(run, data)
    history = json.loads(run.record.read_text())["history"]
    assert [(epoch["loss"], epoch["accuracy"]) for epoch in history] == [(0, 0)] * 2
    after = weights(run)
    moving = ("running_mean", "running_var", "num_batches_tracked", "tau")
    assert all(torch.equal(before[name], after[name]) for name in before if not name.endswith(moving))


@pytest.mark.parametrize("name", ["table1/baseline", "table1/lps", "table2/baseline", "table5/deeplabv3plus"])
def test_a_network_without_finite_logits_is_not_measured(name: str, tmp_path: Path) -> None:
    """One step that leads out of the numbers, whose own loss is finite."""
    changes = {"data.train": "8", "train.batch_size": "8", "train.epochs": "1", "train.lr": "1e38", "train.warmup": "0"}
    changes |= {"train.schedule": "step", "train.momentum": "0", "train.nesterov": "false"}
    (run,) = plan([name], "smoke", [0], changes, tmp_path, DataCache(None))
    ended = attempt(run, DataCache(None))
    assert ended.state == "failed" and not run.done and not run.weights.exists()
    assert re.match(r"batch 1 of the evaluation: .* not finite", ended.reason) and "Traceback" not in ended.reason
    network = fresh(run.experiment, DataCache(None)(run.experiment.data)[0], 0)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    torch.save(network.state_dict(), run.weights)
    with pytest.raises(ValueError, match=rf"^{name} seed 0: batch 1 of the evaluation: .* not finite"):
        measure_again(run, DataCache(None), {})


def test_checkpoints_are_read_without_unpickling_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt is not a readable checkpoint; remove it to start over") as said:
        AtomicCheckpoints().load_checkpoint(tmp_path / "last.ckpt")
    assert re.search("(?i)weights.only", str(said.value.__cause__))
    assert "weights_only" not in str(said.value)  # torch's advice is to set it to false


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match=r"last.ckpt is not a readable checkpoint; remove it to start over"):
        AtomicCheckpoints().load_checkpoint(tmp_path / "last.ckpt")


def flipped(path: Path, bits: int) -> Iterator[Path]:
    """A copy of ``path`` that differs in one bit: ``bits`` of them, spread over the file, one after the other."""
    whole, copy = path.read_bytes(), path.with_name(f"flipped-{path.name}")
    for place in range(0, 8 * len(whole), max(1, 8 * len(whole) // bits)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        copy.write_bytes(changed)
        yield copy


@pytest.mark.parametrize(("name", "read"), [("a.pt", read_weights), ("last.ckpt", AtomicCheckpoints().load_checkpoint)])
def test_no_flipped_bit_changes_what_is_read(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    """A bit of a part is refused; one of the padding between the parts changes nothing."""
    content = {f"layer{i}": torch.randn(300, generator=torch.Generator().manual_seed(i)) for i in range(4)}
    torch.save(content, tmp_path / name)
    refused = read_alike = 0
    for path in flipped(tmp_path / name, 400):
        try:
            found = read(path)
        except ValueError as error:
            assert str(path) in str(error) and "weights_only" not in str(error)
            refused += 1
        else:
            assert found.keys() == content.keys()
            assert all(torch.equal(found[key], value) for key, value in content.items())
            read_alike += 1
    assert refused > 3 * read_alike


def test_a_part_that_is_called_a_folder_is_refused(tmp_path: Path) -> None:
    """One bit of the directory, on which torch takes for weights what it finds in memory."""
    path = tmp_path / "a.pt"
    layer = torch.rand(300)  # kept, so that its memory is not what torch finds
    torch.save({"layer": layer}, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"a/data/0") - 8] ^= 0x10  # in the directory, eight bytes before the name
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["layer"], layer), "torch reads it well, so this says nothing"
    with pytest.raises(ValueError, match=r"a.pt is not a readable file of weights"):
        read_weights(path)


def test_a_flipped_bit_ends_an_evaluation(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.results, tmp_path, dirs_exist_ok=True)
    run = replace(finished, results=tmp_path)
    content = bytearray(run.weights.read_bytes())
    content[len(content) // 2] ^= 1
    run.weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"\.pt is not a readable file of weights; remove it and its record"):
        measure_again(run, DataCache(None), {})


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = AtomicCheckpoints(), tmp_path / "last.ckpt"
    store.save_checkpoint({"epoch": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        store.save_checkpoint({"epoch": 2}, path)
    assert store.load_checkpoint(path) == {"epoch": 1}


def test_most_informative_rows_come_first() -> None:
    names = [row.name for row in rows.by_value()]
    assert names[0] == "table1/baseline"
    assert set(names[:5]) == {f"table1/{n}" for n in ("baseline", "lps", "aps", "lpf-tri-3", "lps-tri-3")}
    assert len(set(names)) == 15


# the command line


def test_the_command_line_runs_lists_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    code = main(["run", "table1/aps", "--profile", "smoke", "--quiet", "--results", str(tmp_path), *changes])
    assert code == 0 and "1 of 1 runs recorded" in capsys.readouterr().out
    assert main(["show", "table1/aps", *changes]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["epochs"] == 3
    assert main(["list", "table1/lps*"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "table9/x"], "no experiment matches 'table9/x'"),
        (["run", "table1/lps", "--set", "train.lrr=1"], "unknown setting 'train.lrr'"),
        (["show", "table1/lps", "--set", "lr"], "given: 'lr'"),
        (["run", "mine/own"], "rows of your own are trained by lps.experiments.train"),
        (
            ["evaluate", "table1/lps", "--seed", "4000"],
            "made by: python -m lps run table1/lps --profile quick --seed 4000",
        ),
        (["convert", "torchvision:resnet17"], "'torchvision:resnet17' cannot be built: ValueError: Unknown model"),
        (["convert", "timm:resnet17"], "'timm:resnet17' cannot be built: RuntimeError: Unknown model"),
        (["convert", "monai:UNet"], "'monai:UNet' needs monai"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_names_may_stand_on_both_sides_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "table1/lps", "--profile", "smoke", "table1/aps"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["table1/aps", "table1/lps"]


@pytest.mark.parametrize("content", ["", "x", "[1]", "{}", '{"experiment": "table1/lps", "metr'])
def test_a_file_that_is_no_record_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "table1" / "lps" / "quick-seed0-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"quick-seed0-0.json is no readable record; copy it again, or remove it"):
        records.read_records(tmp_path)


def test_the_command_of_a_record_survives_a_shell() -> None:
    changes = {"train.tau_line": "10:0.5 60:0.15", "train.epochs": "3"}
    words = shlex.split(records.command(load_profile("smoke").row(rows.TABLE1[0]).override(changes), 0))
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert parse_changes(given) == changes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.train", "-5"), ("data.test", "0"), ("model.width", "0"), ("model.hidden_divisor", "0"),
        ("train.epochs", "0"), ("train.batch_size", "-1"), ("evaluate.pairs", "0"), ("evaluate.exhaustive", "-1"),
        ("engine.devices", "0"), ("engine.workers", "-1"),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected at least"):
        tiny().override({name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("train.tau_every", "0", "train.tau_every is 0.0; expected above 0"),
        ("train.decay_every", "0", "train.decay_every is 0.0; expected above 0"),
        ("train.decay_every", "NaN", "train.decay_every is nan; expected a finite number, above 0"),
        ("train.lr", "Infinity", "train.lr is inf; expected a finite number, above 0"),
        ("train.lr", "0", "train.lr is 0.0; expected above 0"),
        ("train.weight_decay", "-1", "train.weight_decay is -1.0; expected at least 0"),
        ("train.momentum", "1.5", "train.momentum is 1.5; expected at least 0 and at most 1"),
        ("train.warmup", "-1", "train.warmup is -1.0; expected at least 0"),
        ("train.tau_decay", "-0.5", "train.tau_decay is -0.5; expected above 0"),
        ("train.tau_floor", "-0.5", "train.tau_floor is -0.5; expected at least 0"),
        ("train.tau_line", "1:-2", "train.tau_line is '1:-2'; its epochs are at least 0, and its temperatures above 0"),
        ("train.tau_line", "1:0", "train.tau_line is '1:0'; its epochs are at least 0"),
        ("train.tau_line", "-1:1", "train.tau_line is '-1:1'; its epochs are at least 0"),
        ("train.tau_line", "nan:1", "train.tau_line is 'nan:1'; its epochs are at least 0"),
        ("train.tau_line", "1:inf", "train.tau_line is '1:inf'; its epochs are at least 0"),
        ("train.tau_line", "1", "train.tau_line is '1'; expected epoch:tau"),
        ("train.momentum", "0", "train.nesterov is true and train.momentum 0"),
        ("data.seed", "-3", "data.seed is -3; expected at least 0"),
        ("evaluate.seed", str(2**32), f"evaluate.seed is {2**32}; expected at least 0 and at most"),
    ],
)
def test_impossible_settings_are_refused_by_name(name: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        tiny().override({name: value})


def test_every_numeric_setting_has_its_range() -> None:
    for row in rows.ROWS:
        experiment = load_profile("full").row(row)
        for section in SECTIONS:
            for name, shape in shapes(type(getattr(experiment, section))).items():
                assert not {int, float} & {shape, *(get_args(shape) if get_origin(shape) is UnionType else ())}, name


def test_impossible_seeds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("-3", str(2**40)):
        assert main(["run", "table1/lps", "--profile", "smoke", "--seed", seed, "--results", str(tmp_path)]) == 2
        assert f"the seed is {seed}; expected at least 0 and at most" in capsys.readouterr().err


def test_settings_with_few_values_can_be_given() -> None:
    (row,) = rows.matching(["table5/lps-adapt-3"])
    model = load_profile("smoke").row(row).override({"model.output_stride": "16"}).as_dict()["model"]
    assert model["output_stride"] == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "x.yml, line 4: b is there twice"),
        (
            "a: 1\nb: !!python/name:os.getcwd\n",
            "x.yml, line 2: could not determine a constructor for the tag",
        ),
        ("a: !secret 1\n", "x.yml, line 1: could not determine a constructor for the tag '!secret'"),
        ("a: 1\nb: [1, 2\nc: 3\n", "x.yml, line 3: "),
        ("a: 1\n b: 2\n", "x.yml, line 2: "),
        ("a: \x07\n", "x.yml is no YAML: "),
    ],
)
def test_a_yaml_that_cannot_be_read_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as said:
        read_yaml(path)
    assert "\n" not in str(said.value)


def test_a_profile_that_lacks_a_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quick.yml").write_text("about: little\n")
    monkeypatch.setattr(profiles, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"quick\.yml lacks experiments"):
        load_profile.__wrapped__("quick")


@pytest.mark.parametrize("content", [b"hello", b"", b"<html>", None])
def test_a_file_that_holds_no_weights_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.pt is not a readable file of weights"):
        read_weights(path)


def test_a_record_holds_the_hash_of_its_weights_and_use_checks_it(finished: Run, tmp_path: Path) -> None:
    run = replace(finished, results=tmp_path)
    shutil.copytree(finished.results, tmp_path, dirs_exist_ok=True)
    held = records.read_record(run.record)["weights"]
    assert held == {"sha256": hashlib.sha256(run.weights.read_bytes()).hexdigest(), "precision": "float32"}
    assert measure_again(run, DataCache(None), {}) == records.read_record(run.record)["metrics"]
    others = {name: value + 1 for name, value in weights(run).items()}
    torch.save(others, run.weights)
    with pytest.raises(
        ValueError, match=rf"{run.weights} is not the file that was recorded, of SHA-256 {held['sha256'][:12]}"
    ):
        measure_again(run, DataCache(None), {})
    without = {key: value for key, value in records.read_record(run.record).items() if key not in ("weights", "id")}
    records.write_json(run.record, without)
    assert measure_again(run, DataCache(None), {})  # an older record does not know


def test_weights_in_half_precision_say_so_where_they_are_measured(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(finished, results=tmp_path)
    shutil.copytree(finished.results, tmp_path, dirs_exist_ok=True)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights(run).items()}, run.weights)
    listed = run.weights.relative_to(tmp_path).as_posix()
    (tmp_path / HASHES).write_text(f"{hashlib.sha256(run.weights.read_bytes()).hexdigest()}  {listed}\n")
    changes = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    assert main(["evaluate", "table1/lps-tri-3", "--profile", "smoke", "--results", str(tmp_path), *changes]) == 0
    assert "with weights in float16: counts may differ from those of the record" in capsys.readouterr().out


def test_shipped_weights_are_those_of_the_list(tmp_path: Path) -> None:
    lines = (line.split("  ") for line in (SHIPPED / HASHES).read_text().splitlines())
    listed = {name: digest for digest, name in lines}
    paths = {path.relative_to(SHIPPED).as_posix(): path for path in SHIPPED.rglob("*.pt")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()} == listed
    name, path = next(iter(paths.items()))
    copied = tmp_path / name
    copied.parent.mkdir(parents=True)
    shutil.copy(SHIPPED / HASHES, tmp_path)
    shutil.copy(path, copied)
    assert about(copied) == {"sha256": listed[name], "precision": "float16"}
    torch.save({key: value * 2 for key, value in read_weights(path).items()}, copied)
    with pytest.raises(ValueError, match="is not the file that was recorded"):
        read_weights(copied)


def test_a_checkpoint_that_is_none_stops_no_overview(finished: Run, tmp_path: Path) -> None:
    run = planned(tmp_path)
    run.work.mkdir(parents=True)
    for content in (b"hello", b"<html>"):
        (run.work / CHECKPOINT).write_bytes(content)
        assert state(run)[0] == "begun, checkpoint not readable"


def test_how_weights_were_made_is_past_changing(finished: Run) -> None:
    with pytest.raises(ValueError, match=r"train.epochs: how weights were made"):
        measure_again(finished, DataCache(None), {"train.epochs": "9"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "table1/lps", "--seeds", "0"],
        ["run", "table1/lps", "--threads", "0"],
        ["list", "--set", "train.epochs=1"],
        ["study", "--images", "-1"],
        ["verify", "table1/lps", "--shifts", "many"],
        ["verify", "table1/lps", "--device", "gpu"],
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "_shifts" not in capsys.readouterr().err


def test_no_notebooks_at_a_time_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notebooks", "figure1", "--jobs", "0"]) == 2
    assert "at least one notebook" in capsys.readouterr().err
