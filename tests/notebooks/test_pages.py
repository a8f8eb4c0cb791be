"""What the written pages show as code does what they say."""

import csv
import json
import linecache
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from lps import experiments
from lps.experiments.profiles import load_profile
from lps.notebooks.execute import plan
from lps.paths import NOTEBOOKS, PAPER, ROOT
from lps.report.answers import Outcome
from lps.report.coverage import pages

BOOK = ROOT / "book"


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (BOOK / f"{page}.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["new-row", "original-code"])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "\n".join(fences(page, "python"))
    assert source.count("assert ") >= 2
    # as a cell of a notebook: its source is known by its name
    monkeypatch.setitem(linecache.cache, f"{page}.md", (len(source), None, source.splitlines(True), f"{page}.md"))
    monkeypatch.setitem(cast(Any, experiments.train).__kwdefaults__, "results", tmp_path)
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


def test_what_is_drawn_is_a_numbered_figure_with_words() -> None:
    names = []
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "plt.show()" in source:
                shown = cell["metadata"].get("mystnb", {})
                assert shown["figure"]["caption"] and shown["image"]["alt"], (path.name, source)
                assert source.endswith("plt.show()"), (path.name, "what follows would be in the figure too")
                names.append(shown["figure"]["name"])
    assert len(names) == len(set(names)) > len(TAUGHT)


# No result is typed by hand ----------------------------------------------------------------------------

RESULT = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?=\s?(?:%|per cent|points\b|ms\b|[GM]B\b))|(?<![\w.])\d+\.\d+(?![\w.])")
"""What a result looks like in prose: a percentage, points, a time, memory, or any decimal number."""
NOT_PROSE = re.compile(
    "|".join(
        (
            r"^(`{3,})(?!\{)[^\n]*\n.*?^\1`*$",  # code; a directive is prose
            r"`[^`\n]*`",  # code, and roles, which read a value from its file
            r"\$\$.*?\$\$|\$[^$\n]*\$",
            r"\]\([^)\n]*\)",  # targets of links
            r"^:\w+:.*?$",  # options of directives
            r"Secs?\. ?\d\.\d(?: (?:and|to) \d\.\d)?",
        )
    ),
    re.M | re.S,
)
SETTINGS = {
    "book/index": {"3.11", "95"},
    "book/reproduce": {"3.11", "6"},
    "book/original-checkpoints": {"1.4"},
    "book/deviations": {"0.85", "0.825", "0.025", "0.001", "0.01", "0.9"},
    "book/experiments": {"95"},
    "notebooks/finetune": {"0.02"},
    "notebooks/statistics": {"95", "80"},
    "notebooks/table4": {"1.25"},
    "notebooks/tau": {"85"},
}
"""Numbers on a page that are no results: versions, settings, tolerances."""


def typed(page: str, text: str) -> Iterator[str]:
    """Results in the text of a page that its author typed: neither a bound of 0 or 100 % nor a value of the paper."""
    allowed = {"0", "100", *paper_values(), *SETTINGS.get(page, ())}
    for found in RESULT.finditer(NOT_PROSE.sub(" ", text)):
        if found[0] not in allowed:
            yield f"{page}: {found[0]} is typed; show a result through a role, a directive or a cell"


@cache
def paper_values() -> set[str]:
    """Every number of the paper's tables and text, as it is printed."""
    values = set()
    for path in PAPER.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            values |= {cell for line in csv.DictReader(file) for cell in line.values()}
    return values


def prose(page: str) -> str:
    """The written text of a page of the book."""
    path = ROOT / f"{page}.md"
    if path.exists():
        return path.read_text(encoding="utf-8")
    cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LPS reaches 73.35 % here", ["73.35"]),
        ("a gain of 12 points", ["12"]),
        ("1.08 times the time of LPF", ["1.08"]),
        ("20.57 % in the paper, Sec. 5.3, and 100 % here", []),  # the paper's number
        ("`lr=0.15` and $x = 0.5$ and {paper}`table1:lps:acc`", []),
        ("```python\nx = 0.123\n```\nprose", []),
        ("```{note}\n0.123\n```", ["0.123"]),
    ],
)
def test_a_typed_result_is_found(text: str, found: list[str]) -> None:
    assert [problem.split()[1] for problem in typed("book/theory", text)] == found


def test_no_result_is_typed_and_every_exception_is_needed() -> None:
    texts = {page: prose(page) for page in pages()}
    assert [problem for page, text in texts.items() for problem in typed(page, text)] == []
    for page, values in SETTINGS.items():
        assert all(value in texts[page] for value in values), page
