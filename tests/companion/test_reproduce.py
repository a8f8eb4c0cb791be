"""Every notebook of the companion, executed from nothing at the size of the profile ``smoke``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lps.companion.paths import NOTEBOOKS

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_through(executed: Path, name: str) -> None:
    target = executed / "build" / "notebooks" / "smoke" / f"{name}.ipynb"
    assert target.exists(), (executed / "build" / "said.txt").read_text()
    cells = [cell for cell in json.loads(target.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    assert json.loads(target.with_suffix(".json").read_text())["profile"] == "smoke"


def test_nothing_runs_again(executed: Path, execute_notebooks: Callable[[Path], str]) -> None:
    assert execute_notebooks(executed) == f"smoke: {len(NAMES)} of {len(NAMES)} notebooks are up to date\n"
