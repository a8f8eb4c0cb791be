"""Every notebook runs; their book builds without a warning, reads offline, and its links and pictures are in order."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import unquote, urldefrag

import pytest

import lps
from lps.experiments.config import SECTIONS
from lps.experiments.profiles import load_profile
from lps.experiments.rows import matching
from lps.experiments.schema import read_yaml
from lps.paths import ROOT
from lps.report import coverage, paper
from lps.report.answers import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
THEOREMS = {"lemma1": "Lemma 1", "claim1": "Claim 1", "claim2": "Claim 2", "claim3": "Claim 3", "claim4": "Claim 4"}
VERDICTS = ("holds", "holds+", "direction only", "undecided", "fails", "not run", "not checkable")
PHONE, SCREEN = 390, 1400
RESOURCES = {"script": "src", "img": "src", "link": "href", "source": "src"}


# The notebooks, executed --------------------------------------------------------------------------------


def execute(checkout: Path) -> str:
    """What ``python -m lps notebooks`` says when it executes there what is outstanding."""
    command = [sys.executable, "-m", "lps", "notebooks", "--profile", "smoke", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


class Executed(NamedTuple):
    checkout: Path
    said: str

    @property
    def notebooks(self) -> Path:
        return self.checkout / "build" / "notebooks" / "smoke"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """A copy of the checkout in which every notebook was executed from nothing at the size of ``smoke``."""
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("lps", "notebooks", "results/paper", "results/shipped"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Executed(checkout, execute(checkout))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_through(executed: Executed, name: str) -> None:
    target = executed.notebooks / f"{name}.ipynb"
    assert target.exists(), executed.said
    cells = [cell for cell in json.loads(target.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    assert json.loads(target.with_suffix(".json").read_text())["profile"] == "smoke"


def test_nothing_runs_again(executed: Executed) -> None:
    assert execute(executed.checkout) == f"smoke: {len(NOTEBOOKS)} of {len(NOTEBOOKS)} notebooks are up to date\n"


# A small book ------------------------------------------------------------------------------------------


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sample_results(tree: Path) -> None:
    """A ledger with every verdict, a record and a table that shows it, in the formats of the companion."""
    stem = "smoke-seed0-0123456789"
    (lps_row,) = matching(["table1/lps"])
    changes = {"train.epochs": "1", "data.train": "50", "data.test": "100", "evaluate.pairs": "1"}
    settings = load_profile("smoke").row(lps_row).override(changes).as_dict()
    record = {
        "experiment": "table1/lps",
        "profile": "smoke",
        "seed": 0,
        "config": {section: settings[section] for section in SECTIONS},
        "data": {
            "name": "drawn",
            "source": "drawn in memory",
            "fingerprint": "0" * 64,
            "train": 50,
            "test": 100,
            "classes": ["a", "b"],
        },
        "metrics": {
            name: {"value": 100.0, "agree": 100, "total": 100} for name in ("acc", "c_cons", "c_cons_original")
        },
        "history": [
            dict.fromkeys(("epoch", "loss", "accuracy", "lr", "tau", "seconds", "images_per_second"), 1),
        ],
        "parameters": 1,
        "code": {"commit": None, "dirty": None, "hash": "0" * 12},
        "versions": {"torch": "0"},
        "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
        "determinism": {"threads": 1},
        "seconds": {"training": 1.0, "this_session": 1.5},
        "started": "2026-01-01T00:00:00+00:00",
        "command": "python -m lps run table1/lps --profile smoke --seed 0",
    }
    write(tree / "results" / "local" / "table1" / "lps" / f"{stem}.json", record)
    entries = [
        {
            "id": f"sample-{i}",
            "kind": "theorem" if i == 0 else "cell",
            "place": "Table 1, LPS",
            "statement": f"statement {i}",
            "paper": "94.45 ± 0.05",
            "ours": None,
            "rule": "within the tolerance",
            "verdict": verdict,
            "evidence": "",
            "run": [f"table1/lps/{stem}"],
            "command": "python -m lps claims",
            "page": "notebooks/table1",
        }
        for i, verdict in enumerate(VERDICTS)
    ]
    counts = dict.fromkeys(VERDICTS, 1)
    answers = [
        {"question": f"Is it {o}?", "outcome": o, "text": "By 1 of 2.", "scale": "a scale", "page": "notebooks/table1"}
        for o in get_args(Outcome)
    ]
    about = {"answers": answers, "generated": "2026-01-01T00:00:00", "code": "0", "machine": "a machine"}
    write(tree / "build" / "claims.json", {**about, "counts": counts, "entries": entries})
    value = {"mean": 94.45, "std": 0.05, "n": 5}
    row = {
        "row": "table1/lps",
        "method": "LPS",
        "antialias": "-",
        "paper": {"acc": value, "c_cons": value},
        "ours": {name: {**value, "agree": 4_964_352, "total": 4_964_352} for name in ("acc", "c_cons")},
        "verdict": {"acc": "direction only", "c_cons": "holds"},
        "runs": [f"table1/lps/{stem}"],
        "stale": True,
    }
    group = {
        "label": "drawn data",
        "profile": "smoke",
        "data": "drawn",
        "differs": ["less of it"],
        "rows": [row],
    }
    content = {"title": "Table 1", "columns": paper.TABLES["table1"].metrics, "groups": [group]}
    write(tree / "build" / "tables" / "table1.json", content)
    (tree / "build" / "tables" / "table1.csv").write_text("row\n")
    write(tree / "build" / "coverage.json", coverage.report([]))


def build(tree: Path, repository: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-n", "-W", "--keep-going"]
    environment = {**os.environ, "BOOK_PROFILE": "smoke"}
    environment.pop("GITHUB_REPOSITORY", None)
    environment |= {"GITHUB_REPOSITORY": repository} if repository else {}
    return subprocess.run(
        [*command, "--path-output", "build", "."], cwd=tree, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, executed: Executed) -> Path:
    """A copy of what the book is made from, with executed notebooks and small results, built."""
    tree = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(ROOT / name, tree / name)
    for name in ("book", "lps", "notebooks", "results/paper", "results/shipped"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(executed.notebooks, tree / "build" / "notebooks" / "smoke")
    outdated = tree / "build" / "notebooks" / "smoke" / "lemma1.json"
    write(outdated, json.loads(outdated.read_text()) | {"hash": "0"})
    sample_results(tree)
    done = build(tree)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return tree


@pytest.fixture(scope="module")
def html(tree: Path) -> Path:
    return tree / "build" / "_build" / "html"


# What is on a page -------------------------------------------------------------------------------------


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]


class Page(HTMLParser):
    """The elements of a page, its anchors, and the tables without a caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[Element] = []
        self.bare_tables = 0
        self._pending: list[bool] = []
        self._documented = 0
        self.feed(path.read_text())
        self.anchors = {e.attributes[key] for e in self.elements for key in ("id", "name") if key in e.attributes}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, attributes))
        if tag == "dl":  # tables in docstrings have no caption
            self._documented += self._documented > 0 or "py" in attributes.get("class", "").split()
        if tag == "table":
            self._pending.append(self._documented > 0)
        if tag == "caption":
            self._pending[-1] = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "dl" and self._documented:
            self._documented -= 1
        if tag == "table":
            self.bare_tables += not self._pending.pop()

    def all(self, tag: str) -> Iterator[dict[str, str]]:
        return (e.attributes for e in self.elements if e.tag == tag)


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[Path, Page]:
    found = {path: Page(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    assert len(found) > len(NOTEBOOKS)
    return found


def written(pages: dict[Path, Page]) -> list[Page]:
    """The pages with text of ours, without indices and listings of source code."""
    return [page for path, page in pages.items() if path.parent.name in ("book", "notebooks")]


def test_nothing_is_loaded_from_elsewhere(html: Path, pages: dict[Path, Page]) -> None:
    outside = re.compile(r"^(https?:)?//")
    for page in pages.values():
        for tag, attribute in RESOURCES.items():
            for attributes in page.all(tag):
                if tag != "link" or "stylesheet" in attributes.get("rel", "") or "icon" in attributes["rel"]:
                    assert not outside.match(attributes.get(attribute, "")), (page.path, attributes)
    for sheet in html.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet
    assert (html / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert list((html / "_static" / "mathjax").rglob("*.woff"))


def test_links_and_anchors_resolve(pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for attributes in page.all("a"):
            target, anchor = urldefrag(unquote(attributes.get("href", "")))
            if re.match(r"[a-z]+:", target):
                continue
            path = (page.path.parent / target).resolve() if target else page.path
            if not path.is_file() or (anchor and path in pages and anchor not in pages[path].anchors):
                broken.append((page.path.name, attributes["href"]))
    assert not broken


def test_pictures_have_words_and_tables_have_captions(pages: dict[Path, Page]) -> None:
    for page in written(pages):
        for attributes in page.all("img"):
            alt = attributes.get("alt", "")
            assert alt and not alt.endswith((".png", ".svg")), (page.path.name, attributes)
        assert page.bare_tables == 0, page.path.name


def test_statements_are_numbered_as_in_the_paper(html: Path) -> None:
    for name, title in THEOREMS.items():
        assert f'<span class="caption-number">{title} </span>' in (html / "notebooks" / f"{name}.html").read_text()


def test_numbers_lead_to_their_record(html: Path) -> None:
    record = "record-table1-lps-smoke-seed0-0123456789"
    assert f'id="{record}"' in (html / "book" / "records.html").read_text()
    assert f"records.html#{record}" in (html / "book" / "claims.html").read_text()


def test_the_map_leads_to_the_line(html: Path) -> None:
    line = inspect.getsourcelines(lps.polyphase)[1]
    link = rf'href="../_modules/lps/polyphase.html#polyphase">.*polyphase.*\(lps/polyphase.py:{line}\)</a>'
    for page in ("map", "notation"):
        assert re.search(link, (html / "book" / f"{page}.html").read_text())


def test_tables_notebooks_and_figures_can_be_taken_away(html: Path) -> None:
    downloads = {path.name for path in (html / "_downloads").glob("*/*")}
    assert {"table1.csv", "lemma1.ipynb", "lemma1-1.svg", "lemma1-1.pdf"} <= downloads


def test_a_notebook_executed_before_a_change_says_so(html: Path) -> None:
    assert "has changed since" in (html / "notebooks" / "lemma1.html").read_text()


def test_the_download_button_gives_the_editable_notebook(html: Path) -> None:
    assert (html / "_sources" / "notebooks" / "lemma1.ipynb").read_text() == (
        ROOT / "notebooks" / "lemma1.ipynb"
    ).read_text()


# In a browser ------------------------------------------------------------------------------------------


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def show(browser: Any, path: Path, width: int) -> None:
    resize(browser, width)
    browser.get(path.as_uri())


class View(NamedTuple):
    """What a browser found on a page."""

    widths: dict[int, int]  # of the content, by that of the window
    errors: list[str]
    middle: float | None  # of the upper part of the first picture, in pixels from the top of a screen


@pytest.fixture(scope="module")
def views(browser: Any, pages: dict[Path, Page], html: Path) -> dict[Path, View]:
    """Each page opened once, as on a phone, and widened to a screen."""
    picture = """const picture = document.querySelector(".bd-article :is(img, .lps-scoreboard)");
        const box = picture?.getBoundingClientRect();
        return picture?.complete !== false && box?.height && box.top + Math.min(box.height, 400) / 2"""
    found = {}
    for path in [*(page.path for page in written(pages)), html / "search.html"]:
        show(browser, path, PHONE)
        widths = {}
        for width in (PHONE, SCREEN):
            resize(browser, width)
            widths[width] = browser.execute_script("return document.documentElement.scrollWidth")
        middle = browser.execute_script(picture)
        deadline = time.monotonic() + 20
        while has_picture(path, html) and not middle and time.monotonic() < deadline:
            time.sleep(0.1)
            middle = browser.execute_script(picture)
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        found[path] = View(widths, errors, middle)
    return found


def has_picture(path: Path, html: Path) -> bool:
    """Chapters have, but for lists of literature; the squares of the ledger are a picture too."""
    contents = read_yaml(ROOT / "_toc.yml")
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    name = path.relative_to(html).with_suffix("").as_posix()
    return name in {contents["root"], *chapters} - {"book/bibliography", "book/cite"}


def test_pages_raise_no_error(views: dict[Path, View]) -> None:
    assert {path.name: view.errors for path, view in views.items() if view.errors} == {}


def test_pages_fit(views: dict[Path, View]) -> None:
    wide = {
        path.name: view.widths for path, view in views.items() if any(w < found for w, found in view.widths.items())
    }
    assert wide == {}


def test_a_picture_stands_above_the_fold(views: dict[Path, View], html: Path) -> None:
    middles = {path.name: view.middle for path, view in views.items() if has_picture(path, html)}
    assert len(middles) > len(NOTEBOOKS)
    assert {name: middle for name, middle in middles.items() if not middle or middle >= 780} == {}


def test_no_table_of_results_is_cut_on_a_screen(browser: Any, html: Path) -> None:
    show(browser, html / "notebooks" / "table1.html", SCREEN)
    script = """const right = document.querySelector(".bd-article").getBoundingClientRect().right;
        const tables = [...document.querySelectorAll("table.lps-comparison")];
        return tables.map((table) => table.getBoundingClientRect().right - right)"""
    beyond = browser.execute_script(script)
    assert beyond and max(beyond) <= 0


CONTRAST = """document.documentElement.dataset.theme = "dark";
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
    function behind(node) {
        const color = getComputedStyle(node).backgroundColor;
        return (channels(color)[3] ?? 1) > 0 ? color : behind(node.parentElement);
    }
    return [...document.querySelectorAll(".cell_output :is(td, th, caption)")].filter((node) => node.innerText)
        .map((node) => [getComputedStyle(node).color, behind(node)].map(light).sort((a, b) => b - a))
        .map(([a, b]) => (a + 0.05) / (b + 0.05))"""


@pytest.mark.parametrize("name", ["audit", "section53"])
def test_tables_of_notebooks_can_be_read_in_the_dark(browser: Any, html: Path, name: str) -> None:
    show(browser, html / "notebooks" / f"{name}.html", PHONE)
    found = browser.execute_script(CONTRAST)
    assert found and min(found) >= 4.5


def test_wide_tables_say_so_and_what_widgets_read_is_not_shown(browser: Any, html: Path) -> None:
    show(browser, html / "notebooks" / "section53.html", PHONE)
    wide = """return [...document.querySelectorAll(".output.text_html, .pst-scrollable-table-container")]
        .map((node) => [node.scrollWidth > node.clientWidth + 1, node.classList.contains("lps-wide")])"""
    deadline = time.monotonic() + 20
    found = browser.execute_script(wide)
    while not any(said for _, said in found) and time.monotonic() < deadline:
        time.sleep(0.1)
        found = browser.execute_script(wide)
    assert any(over for over, _ in found) and all(over == said for over, said in found)
    show(browser, html / "notebooks" / "tau.html", SCREEN)
    data = "return document.getElementById('lps-tau-data').closest('.output').offsetHeight"
    assert browser.execute_script(f"document.documentElement.dataset.theme = 'dark'; {data}") == 0


def test_no_dash_of_a_table_is_a_list(html: Path) -> None:
    lists = re.compile(r"<td[^>]*><ul[^>]*>\s*(<span[^>]*>[^<]*</span>)?<li>(<p></p>)?</li>")
    assert [page.name for page in html.glob("book/*.html") if lists.search(page.read_text())] == []


def test_parameters_stand_once_folded_with_their_values(html: Path) -> None:
    page = (html / "notebooks" / "lemma1.html").read_text()
    folded = page.partition('<details class="lps-provenance">')[2].partition("</details>")[0]
    draws = load_profile("smoke").notebooks["lemma1"]["draws"]
    assert re.search(rf">draws</span>.*>{draws}</span>.*# random maps", folded)
    assert "# Parameters" not in page and page.count("# random maps of each size") == 1
    assert "build/variants/lemma1" in folded


def test_formulas_are_set_from_the_disk(browser: Any, html: Path) -> None:
    show(browser, html / "book" / "theory.html", PHONE)
    script = "return document.querySelectorAll('.math:not(:has(mjx-container))').length"
    deadline = time.monotonic() + 20
    while (unset := browser.execute_script(script)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert unset == 0
    assert browser.execute_script("return document.querySelectorAll('mjx-container').length") > 0


def test_a_link_to_a_record_unfolds_it(browser: Any, html: Path) -> None:
    anchor = "record-table1-lps-smoke-seed0-0123456789"
    show(browser, html / "book" / "records.html", SCREEN)
    browser.execute_script(f"window.location.hash = '{anchor}'")
    browser.get(browser.current_url)
    assert browser.execute_script(f"return document.getElementById('{anchor}').open")


# Last, as it builds again ------------------------------------------------------------------------------


def test_a_changed_result_is_shown_and_a_missing_notebook_is_an_error(tree: Path, html: Path) -> None:
    """Built again from few pages, which takes a quarter of the time."""
    ledger = json.loads((tree / "build" / "claims.json").read_text())
    ledger["entries"][0]["statement"] = "an entirely new statement"
    write(tree / "build" / "claims.json", ledger)
    (tree / "build" / "notebooks" / "smoke" / "claim3.ipynb").unlink()
    contents = read_yaml(tree / "_toc.yml")
    few = [{"file": page} for page in ("book/claims", "book/records", "notebooks/claim3", "notebooks/lemma1")]
    write(tree / "_toc.yml", {**contents, "parts": [{"caption": "few", "chapters": few}]})
    done = build(tree, "someone/fork")
    assert done.returncode != 0
    assert "make reproduce PROFILE=smoke NB=claim3" in done.stderr + done.stdout
    assert "an entirely new statement" in (html / "book" / "claims.html").read_text()


def test_where_the_repository_is_known_a_page_opens_elsewhere(tree: Path, html: Path) -> None:
    """In the pages that the test above has built."""
    page = (html / "notebooks" / "lemma1.html").read_text()
    assert "https://colab.research.google.com/github/someone/fork/blob/main/notebooks/lemma1.ipynb" in page
    assert re.search(r"https://mybinder.org/v2/gh/someone/fork/main\?urlpath=lab/tree/notebooks/lemma1.ipynb", page)
    cell = unescape(
        re.sub(r"<[^>]*>", "", page.partition("first cell to run")[2].partition("<pre>")[2].partition("</pre>")[0])
    )
    clone, move, imports = (line for line in cell.splitlines() if line.strip())
    assert "clone -q --depth 1 https://github.com/someone/fork companion" in clone and move == "%cd companion/notebooks"
    works = f"{imports}; import lps.paths, os; assert lps.paths.SHIPPED.is_dir() and lps.paths.ROOT.samefile('..')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", works], cwd=tree / "notebooks", env=environment, check=True)
