"""What a stranger meets first: the README's examples, and ``import lps`` alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lps

README = Path(__file__).parents[1] / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_readmes_examples_run() -> None:
    converted, whole, layers = examples()
    exec(converted, {})
    exec(whole, {})
    names: dict[str, Any] = {"lps": lps, "torch": torch, "x": torch.randn(2, 64, 8, 8)}
    exec(layers, names)
    assert isinstance(names["u"], torch.Tensor) and names["u"].shape == names["x"].shape


def test_the_example_would_notice_a_network_that_is_not_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lps.Sampling, "named", lambda *names: None)
    with pytest.raises(AssertionError):
        exec(examples()[1], {})


def test_importing_the_layers_needs_torch_alone() -> None:
    heavy = "pytorch_lightning lightning torchvision matplotlib pandas yaml papermill sphinx IPython"
    code = f"import sys, lps; print([m for m in {heavy.split()!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_has_a_docstring() -> None:
    for name in lps.__all__:
        assert (getattr(lps, name).__doc__ or "").strip(), name


def test_training_needs_none_of_the_books_packages() -> None:
    """As on a GPU node that has torch, torchvision, pytorch-lightning, numpy and matplotlib."""
    book = "pandas seaborn papermill nbformat sphinx IPython jupyter_book"
    code = f"import sys; [sys.modules.update({{m: None}}) for m in {book.split()!r}]; from lps.__main__ import main; "
    code += "import lps.experiments.learner, lps.experiments.evaluate; sys.exit(main(['list']))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_published_installs_and_works_on_torch_alone(kind: str, tmp_path: Path) -> None:
    """Built from the files that git would hold, installed in an empty folder, run without anything else of ours."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(README.with_name(name), source)
    shutil.copytree(README.with_name("lps"), source / "lps", ignore=shutil.ignore_patterns("__pycache__"))
    build = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    built = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    package = tmp_path / built.stdout.split()[-1]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", site, package], check=True)
    assert {path.name for path in site.iterdir()} == {"lps", f"lps_companion-{lps.__version__}.dist-info"}
    assert (site / "lps" / "py.typed").exists() and (site / "lps" / "profiles" / "quick.yml").exists()
    program = tmp_path / "stranger.py"
    program.write_text(STRANGER)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{site / 'lps' / '__init__.py'}\n"), done.stderr


STRANGER = """
import sys
for name in "torchvision pytorch_lightning matplotlib pandas yaml papermill sphinx IPython timm".split():
    sys.modules[name] = None
import lps, torch
from torch import nn
layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
assert lps.verify(lps.convert(nn.Sequential(*layers)), torch.randn(1, 3, 8, 8)).exact
print(lps.__file__)
"""
