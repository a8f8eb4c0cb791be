"""The page that is played with: the browser computes what torch computes, exactly so where the paper says so."""

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lps
from lps.notebooks.parameters import declared_parameters
from lps.paths import NOTEBOOKS, ROOT

pytestmark = pytest.mark.slow

SHOWN = "return document.getElementById('lps-drag').dataset.shown"
CARDS = "return [...document.querySelectorAll('.lps-cards section')].map((card) => ({...card.dataset}))"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What the cells of the notebook leave behind that make the networks and the page."""
    notebook = json.loads((NOTEBOOKS / "play.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = declared_parameters(notebook)
    for cell in notebook["cells"]:
        if "play" in cell["metadata"].get("tags", []):
            exec(compile("".join(cell["source"]), f"play.ipynb, cell {cell['id']}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def page(made: dict[str, Any], browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A browser that shows the page from the disk, as wide as a phone."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "book" / "_static", site / "_static")
    (site / "notebooks").mkdir()
    target = site / "notebooks" / "play.html"
    target.write_text(
        '<!doctype html><html data-theme="light"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="../_static/custom.css">'
        f'<body><div id="lps-drag" class="lps-play"></div><div id="lps-signal" class="lps-play"></div>{made["page"]}'
    )
    metrics = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(target.as_uri())
    return browser


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        page.find_element("css selector", ".lps-picture").send_keys(getattr(Keys, key, key))


def scores(page: Any, place: str) -> list[torch.Tensor]:
    """The logits of the four networks once the page shows the picture at this place, ``"down,right"``."""
    until(lambda: page.execute_script(SHOWN) == place)
    return [torch.tensor(json.loads(card["logits"]), dtype=torch.float64) for card in page.execute_script(CARDS)]


def test_keys_move_the_picture_and_the_logits_are_those_of_torch(page: Any, made: dict[str, Any]) -> None:
    picture = made["shown"].images[made["first"]][None].double() / 255 - 0.5
    press(page, "HOME")
    for keys, shift in ((), (0, 0)), (("ARROW_RIGHT",), (0, 1)), (("ARROW_UP", "ARROW_LEFT", "ARROW_LEFT"), (31, 31)):
        press(page, *keys)
        shown = scores(page, f"{shift[0]},{shift[1]}")
        for network, logits in zip(made["networks"].values(), shown, strict=True):
            network.double()
            expected = network(lps.circular_shift(picture, shift))[0]
            network.float()
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_only_those_that_select_give_equal_scores_everywhere(page: Any) -> None:
    cards = until(lambda: all(int(c["done"]) >= 100 for c in page.execute_script(CARDS)) and page.execute_script(CARDS))
    equal = [int(card["equal"]) == int(card["done"]) for card in cards]
    assert equal == [False, False, True, True]
    assert [float(card["largest"]) == 0 for card in cards] == equal


def test_what_is_drawn_on_moves_exactly_too(page: Any) -> None:
    draw = page.find_element("xpath", "//button[text()='Draw']")
    before = scores(page, "31,31")
    draw.click()
    press(page, " ")
    drawn = until(lambda: None if torch.equal((found := scores(page, "31,31"))[3], before[3]) else found)
    draw.click()
    press(page, "ARROW_DOWN")
    moved = scores(page, "0,31")
    assert torch.equal(moved[2], drawn[2]) and torch.equal(moved[3], drawn[3])
    assert not torch.equal(moved[0], drawn[0])


def test_of_the_rules_phase_0_alone_does_not_follow(page: Any) -> None:
    signal = page.find_element("id", "lps-signal")
    follows = {}
    for rule in signal.find_elements("css selector", "input[type=radio]"):
        rule.click()
        follows[rule.get_attribute("value")] = signal.get_attribute("data-good")
    first, *others = follows.values()
    assert len(others) == 3 and first != "12" and set(others) == {"12"}
    signal.find_element("css selector", "input[value^=Largest]").click()
    signal.find_element("xpath", ".//button[text()='Tie the norms']").click()
    assert signal.get_attribute("data-good") != "12"


def test_the_signal_is_moved_by_keys(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    bar = page.find_element("css selector", "[role=slider]")
    bar.send_keys(Keys.END)
    assert bar.get_attribute("aria-valuenow") == "9"
    bar.send_keys(Keys.ARROW_DOWN)
    assert bar.get_attribute("aria-valuenow") == "8"


def test_the_page_fits_a_phone_and_raises_no_error(page: Any) -> None:
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
