"""What a stranger meets first: the README's examples, and ``import lps`` alone."""

import re
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
    monkeypatch.setattr(lps, "LearnedPhase", lambda channels, hidden: None)
    monkeypatch.setattr(lps, "Sampling", lambda select, antialias: None)
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
    book = "pandas seaborn papermill nbformat sphinx IPython jupyter_book safetensors"
    code = f"import sys; [sys.modules.update({{m: None}}) for m in {book.split()!r}]; from lps.__main__ import main; "
    code += "import lps.experiments.train, lps.experiments.evaluate; sys.exit(main(['list']))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
