"""Each thing that is wrong with a machine is one sentence with its remedy."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lps.notebooks import environment

SCRIPT = Path(environment.__file__)


def test_an_old_python_is_named_with_the_remedy() -> None:
    (problem,) = environment.python_problems((3, 8), "/usr/bin/python3")
    assert problem == (
        "Python 3.11 or newer is needed and /usr/bin/python3 is Python 3.8: install a newer one and name it, "
        "as in `make reproduce PYTHON=python3.12`."
    )
    assert environment.python_problems((3, 11), "python3") == environment.python_problems((3, 14), "python3") == []


def test_too_little_disk_is_named_with_both_numbers() -> None:
    (problem,) = environment.disk_problems(Path("here"), 3_200_000_000)
    assert "3.2 GB are free in here" in problem and "about 8 GB" in problem
    assert environment.disk_problems(Path("here"), 9_000_000_000) == []


def test_missing_git_and_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    git, venv = environment.tool_problems()
    assert "install it (`apt install git`" in git and "apt install python3-venv" in venv


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.0.1", "jupyter-book 2.0.1 is installed and this book is written for 1.x"), (None, "make env")],
)
def test_jupyter_book(monkeypatch: pytest.MonkeyPatch, version: str | None, words: str) -> None:
    monkeypatch.setattr(environment, "installed", lambda package: version)
    (problem,) = environment.jupyter_book_problems()
    assert words in problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operator torchvision::nms does not exist\nmore"), "must be a matching pair"),
        (OSError("libcudart.so: cannot open shared object file"), "must be a matching pair"),
        (ModuleNotFoundError("no", name="torchvision"), "torchvision is not installed here: run `make env`"),
        (ModuleNotFoundError("no", name="PIL"), "torchvision lacks PIL: delete .venv"),
    ],
)
def test_torch_and_torchvision(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def import_module(name: str) -> object:
        if name == "torchvision":
            raise error
        return SimpleNamespace()

    monkeypatch.setattr("importlib.import_module", import_module)
    (problem,) = environment.torch_problems()
    assert words in problem and "\n" not in problem


def test_this_environment_is_complete() -> None:
    assert environment.check() == []


def test_runs_as_a_script_without_the_package() -> None:
    done = subprocess.run([sys.executable, "-S", str(SCRIPT), "--before-install"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if done.stderr else 0)
