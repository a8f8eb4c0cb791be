"""What the written pages show as code does what they say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lps.companion.notebooks import plan
from lps.companion.paths import NOTEBOOKS, ROOT
from lps.experiments.profiles import load_profile

BOOK = ROOT / "book"


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (BOOK / f"{page}.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["new-row", "original-code"])
def test_the_code_of_a_page_runs(page: str) -> None:
    source = "\n".join(fences(page, "python"))
    assert source.count("assert ") >= 2
    exec(compile(source, f"{page}.md", "exec"), {})


def text_of(path: Path) -> str:
    """Prose and code of a page or a notebook."""
    if path.suffix == ".md":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def test_the_variants_that_pages_suggest_exist() -> None:
    pages = [*NOTEBOOKS.glob("*.ipynb"), *BOOK.glob("*.md"), ROOT / "README.md"]
    suggested = {command for page in pages for command in re.findall(r"make variant (NB=[^`\n#]*)", text_of(page))}
    assert len(suggested) > 10
    for command in suggested:
        given = dict(word.split("=", 1) for word in shlex.split(command))
        profile = given.get("PROFILE", "quick")
        changes = given["P"].split()
        (job,) = plan(profile, load_profile(profile).notebooks, [given["NB"]], changes, variant=True)
        assert all(change.partition("=")[0] in job.parameters for change in changes)


def edit(checkout: Path, diff: str) -> None:
    """Make the replacements of a page's diff, each of which has to fit once."""
    _, *files = re.split(r"^--- (\S+)\n", diff, flags=re.M)
    for name, changes in zip(files[::2], files[1::2], strict=True):
        text = (checkout / name).read_text()
        for change in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", changes, re.M):
            before, after = ("".join(line[1:] + "\n" for line in part.splitlines()) for part in change)
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        (checkout / name).write_text(text)


@pytest.mark.slow
def test_the_new_row_can_be_trained(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lps", tmp_path / "lps", ignore=shutil.ignore_patterns("__pycache__"))
    block = next(block for block in fences("new-row", "python") if "class MinNorm" in block)
    rule = block[block.index("class MinNorm") :].replace("torch.nn.", "nn.").replace("lps.MaxNorm", "MaxNorm")
    with (tmp_path / "lps" / "selection.py").open("a") as file:
        file.write(f"\n\n{rule}")
    edit(tmp_path, "\n".join(fences("new-row", "diff")))
    command = "-m lps run table1-mine/least-tri-3 --profile smoke --quiet".split()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"table1-mine/least-tri-3 +seed 0 +acc +[\d.]+ +c_cons 100.00", done.stdout), done.stdout
