"""What the written pages show as code does what they say."""

import json
import linecache
import re
import shlex
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from lps.experiments import training
from lps.experiments.profiles import load_profile
from lps.notebooks.execute import plan
from lps.paths import NOTEBOOKS, ROOT
from lps.report.answers import Outcome

BOOK = ROOT / "book"


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (BOOK / f"{page}.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["new-row", "original-code"])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "\n".join(fences(page, "python"))
    assert source.count("assert ") >= 2
    # as a cell of a notebook: its source is known by its name
    monkeypatch.setitem(linecache.cache, f"{page}.md", (len(source), None, source.splitlines(True), f"{page}.md"))
    monkeypatch.setitem(cast(Any, training.train).__kwdefaults__, "results", tmp_path)
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


UNTRUE = {
    r"(?i)\breal CIFAR": "the images are JPEG",
    r"(?i)\bprove[sd]? (it )?by running": "running a network on some images proves nothing",
    r"(?i)\bby tenths of a point": "the least is less than one",
    r"(?i)\bretrained DDAC|trained it again": "Table 6 measures a released checkpoint",
    r"250 (epochs )?is the paper's|the paper's 250 epochs": "the number is in the authors' files alone",
    r"(?i)training\b[^.|]{0,40}\bnot needed": "for the guarantee it is not, for accuracy it is",
}
"""What pages once said, and why they must not."""


@pytest.mark.parametrize("words", UNTRUE)
def test_what_was_found_untrue_is_not_said_again(words: str) -> None:
    pages = [*NOTEBOOKS.glob("*.ipynb"), *BOOK.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    assert not [(page.name, found[0]) for page in pages if (found := re.search(words, text_of(page)))]


def test_the_front_page_defines_each_outcome_that_an_answer_can_have() -> None:
    defined = re.findall(r"^- \*(.+?)\*: ", (BOOK / "index.md").read_text().partition("(outcomes)=")[2], re.M)
    assert [outcome.lower() for outcome in defined] == list(get_args(Outcome))


TAUGHT = [
    "why",
    "sixty-lines",
    "lemma1",
    *(f"claim{n}" for n in "1234"),
    *(f"figure{n}" for n in "123"),
    "tau",
    "antialiasing",
]


@pytest.mark.parametrize("name", TAUGHT)
def test_a_page_that_teaches_has_an_exercise_with_an_answer_that_is_asserted(name: str) -> None:
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    (n,) = (n for n, cell in enumerate(cells) if "exercise" in cell["metadata"].get("tags", []))
    question, answer = ("".join(cell["source"]) for cell in cells[n - 1 : n + 1])
    assert question.startswith("## Exercise")
    assert answer.startswith("# ") and "assert" in answer
    assert "hide-cell" in cells[n]["metadata"]["tags"]
