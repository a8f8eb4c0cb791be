"""Notebooks as functions of what they read."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lps.paths import NOTEBOOKS

Cells = Callable[[str], dict[str, Any]]


@pytest.fixture
def cells() -> Cells:
    """Runs the code cells of a notebook in this process; gives the names that they leave behind."""

    def run(name: str) -> dict[str, Any]:
        notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
        names: dict[str, Any] = {}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {cell['id']}", "exec"), names)
        return names

    return run
