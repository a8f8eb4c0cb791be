"""Every notebook of the companion, executed from nothing at the size of the profile ``smoke``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lps.companion.paths import NOTEBOOKS, ROOT

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
COPIED = ("lps", "notebooks", "results/paper", "results/shipped")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Executed(NamedTuple):
    checkout: Path
    said: str


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """A copy of the checkout with nothing executed or recorded, after ``python -m lps notebooks``."""
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Executed(checkout, notebooks(checkout))


def notebooks(checkout: Path) -> str:
    command = [sys.executable, "-m", "lps", "notebooks", "--profile", "smoke", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_through(executed: Executed, name: str) -> None:
    target = executed.checkout / "build" / "notebooks" / "smoke" / f"{name}.ipynb"
    assert target.exists(), executed.said
    cells = [cell for cell in json.loads(target.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    assert json.loads(target.with_suffix(".json").read_text())["profile"] == "smoke"


def test_nothing_runs_again(executed: Executed) -> None:
    said = notebooks(executed.checkout)
    assert said == f"smoke: {len(NAMES)} of {len(NAMES)} notebooks are up to date\n"
