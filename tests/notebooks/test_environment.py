"""Each thing that is wrong with a machine is one sentence with its remedy."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lps.notebooks import environment

SCRIPT = Path(environment.__file__)


def test_too_little_disk_is_named_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3_200_000_000))
    (problem,) = environment.before_install(Path("here"))
    assert "3.2 GB are free in here" in problem and "about 8 GB" in problem


def test_missing_git_and_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**12))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    git, venv = environment.before_install()
    assert "install it (`apt install git`" in git and "apt install python3-venv" in venv


@pytest.mark.parametrize(("version", "words"), [("2.0.1", "2.0.1: this book is written for 1.x"), ("", "is missing")])
def test_jupyter_book(monkeypatch: pytest.MonkeyPatch, version: str, words: str) -> None:
    monkeypatch.setattr(environment, "installed", lambda package: version)
    (problem,) = environment.after_install()
    assert words in problem and "make env" in problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operator torchvision::nms does not exist\nmore"), "must be a matching pair"),
        (OSError("libcudart.so: cannot open shared object file"), "must be a matching pair"),
        (
            ModuleNotFoundError("no", name="torchvision"),
            "torchvision needs torchvision, which is not installed: delete .venv",
        ),
        (ModuleNotFoundError("no", name="PIL"), "torchvision needs PIL, which is not installed: delete .venv"),
    ],
)
def test_torch_and_torchvision(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def import_module(name: str) -> object:
        if name == "torchvision":
            raise error
        return SimpleNamespace()

    monkeypatch.setattr("importlib.import_module", import_module)
    (problem,) = environment.after_install()
    assert words in problem and "\n" not in problem


def test_this_environment_is_complete() -> None:
    assert [*environment.after_install()] == []


def test_runs_as_a_script_without_the_package() -> None:
    done = subprocess.run([sys.executable, "-S", str(SCRIPT), "--before-install"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if done.stderr else 0)
