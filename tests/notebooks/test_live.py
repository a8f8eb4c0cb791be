"""Pages that are played with: the browser computes what torch computes, exactly so where the paper says so."""

import ast
import json
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch

import lps
from lps.notebooks.cells import declared_parameters
from lps.paths import NOTEBOOKS, ROOT
from lps.studies.small import SAMPLINGS, WIDTHS

pytestmark = pytest.mark.slow

CARDS = "return [...document.querySelectorAll('.lps-cards section')].map((card) => ({...card.dataset}))"
PHONE = 390


def made(name: str) -> dict[str, Any]:
    """What the cells of a notebook leave behind that make what is live in its page; ``page`` is the HTML."""
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = declared_parameters(notebook)
    for cell in notebook["cells"]:
        if "live" in cell["metadata"].get("tags", []):
            tree = ast.parse("".join(cell["source"]))
            if isinstance(shown := tree.body[-1], ast.Expr):
                tree.body[-1] = ast.Assign([ast.Name("page", ast.Store())], shown.value)
            with torch.enable_grad(), mpl.rc_context():  # both as they were afterwards
                exec(compile(ast.fix_missing_locations(tree), f"{name}.ipynb, cell {cell['id']}", "exec"), names)
    return names


Show = Callable[[str, Any], Any]


@pytest.fixture(scope="module")
def show(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Show:
    """Opens what is live in a page from the disk, in a browser as wide as a phone, and gives its element."""
    site: Path = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "book" / "_static", site / "_static")
    (site / "notebooks").mkdir()

    def open_page(name: str, page: Any) -> Any:
        target = site / "notebooks" / f"{name}.html"
        target.write_text(
            '<!doctype html><html data-theme="light"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="../_static/custom.css">'
            f'<body><div id="lps-{name}" class="lps-play"></div>{page.data}'
        )
        metrics = {"width": PHONE, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(target.as_uri())
        return browser.find_element("id", f"lps-{name}")

    return open_page


@pytest.fixture(autouse=True)
def fits_and_raises_no_error(browser: Any) -> Iterator[None]:
    yield
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def press(node: Any, *keys: str) -> None:
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        node.send_keys(getattr(Keys, key, key))


def slide(root: Any, slider: str, value: float) -> None:
    """Set a slider as its own keys would, without pressing each."""
    script = "const [root, id, value] = arguments, input = root.querySelector('#' + id); input.value = value;"
    root.parent.execute_script(script + "input.dispatchEvent(new Event('input'))", root, slider, str(value))


def given(root: Any, name: str) -> Any:
    return json.loads(root.get_attribute(f"data-{name}"))


# Four networks --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def play() -> dict[str, Any]:
    return made("play")


@pytest.fixture(scope="module")
def drag(play: dict[str, Any], show: Show) -> Any:
    return show("drag", play["page"])


def scores(drag: Any, place: str) -> list[torch.Tensor]:
    """The logits of the four networks once the page shows the picture at this place, ``"down,right"``."""
    until(lambda: drag.get_attribute("data-shown") == place)
    return [torch.tensor(json.loads(card["logits"]), dtype=torch.float64) for card in drag.parent.execute_script(CARDS)]


def test_keys_move_the_picture_and_the_logits_are_those_of_torch(drag: Any, play: dict[str, Any]) -> None:
    picture = play["shown"].images[play["first"]][None].double() / 255 - 0.5
    press(drag.find_element("class name", "lps-picture"), "HOME")
    for keys, shift in ((), (0, 0)), (("ARROW_RIGHT",), (0, 1)), (("ARROW_UP", "ARROW_LEFT", "ARROW_LEFT"), (31, 31)):
        press(drag.find_element("class name", "lps-picture"), *keys)
        shown = scores(drag, f"{shift[0]},{shift[1]}")
        for network, logits in zip(play["networks"].values(), shown, strict=True):
            network.double()
            expected = network(lps.circular_shift(picture, shift))[0]
            network.float()
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_only_those_that_select_give_equal_scores_everywhere(drag: Any) -> None:
    def filled() -> Any:
        cards = drag.parent.execute_script(CARDS)
        return all(int(card.get("done", 0)) >= 1024 for card in cards) and cards

    cards = until(filled)
    equal = [int(card["equal"]) == int(card["done"]) for card in cards]
    assert equal == [False, False, True, True]
    assert [float(card["largest"]) == 0 for card in cards] == equal


def test_what_is_drawn_on_moves_exactly_too(drag: Any) -> None:
    draw, picture = (
        drag.find_element("xpath", "//button[text()='Draw']"),
        drag.find_element("class name", "lps-picture"),
    )
    before = scores(drag, "31,31")
    draw.click()
    press(picture, " ")
    drawn = until(lambda: None if torch.equal((found := scores(drag, "31,31"))[3], before[3]) else found)
    draw.click()
    press(picture, "ARROW_DOWN")
    moved = scores(drag, "0,31")
    assert torch.equal(moved[2], drawn[2]) and torch.equal(moved[3], drawn[3])
    assert not torch.equal(moved[0], drawn[0])


def test_a_move_computes_each_network_once(drag: Any) -> None:
    """While the maps fill, which wait: an answer takes what four networks on one picture take."""
    drag.find_elements("css selector", ".lps-thumbs button")[3].click()  # all maps begin anew
    for column in range(1, 4):
        press(drag.find_element("class name", "lps-picture"), "ARROW_RIGHT")
        scores(drag, f"0,{column}")
        assert int(drag.get_attribute("data-products")) == play_products()
        assert float(drag.get_attribute("data-took")) > 0


def play_products() -> int:
    """Multiply-adds of the four networks on one picture: convolutions, the filter of LPF, the norms of APS."""
    total = 0
    for name in SAMPLINGS:
        side = 32
        for n, (i, o) in enumerate(pairwise(WIDTHS)):
            samples = n < len(WIDTHS) - 2
            halved = side // 2 if samples else side
            total += 9 * i * o * (halved if name == "Baseline" else side) ** 2
            if samples:
                hidden = o // 4
                own = {"Baseline": 0, "LPF": 9 * o * halved**2, "APS": o * side**2, "LPS": 9 * o * hidden * side**2}
                total += own[name]
            side = halved
    return total


# A signal, the temperature, few bits ----------------------------------------------------------------------


def test_phase_0_and_zero_padding_do_not_follow_and_the_others_do(show: Show) -> None:
    signal = show("signal", made("claim1")["page"])
    follows = {}
    for rule in signal.find_elements("css selector", "input[type=radio]"):
        rule.click()
        follows[rule.get_attribute("value")] = signal.get_attribute("data-good") == "12"
    assert list(follows.values()) == [False, True, True, True, False]
    signal.find_element("css selector", "input[value^=Largest]").click()
    signal.find_element("xpath", ".//button[text()='Tie the norms']").click()
    assert signal.get_attribute("data-good") != "12"
    bar = signal.find_element("css selector", "[role=slider]")
    press(bar, "END")
    assert bar.get_attribute("aria-valuenow") == "9"
    press(bar, "ARROW_DOWN")
    assert bar.get_attribute("aria-valuenow") == "8"


def test_the_draws_are_gumbel_softmax_samples_at_the_temperature_of_the_slider(show: Show) -> None:
    cells = made("tau")
    root = show("tau", cells["page"])
    logits = torch.tensor(cells["data"]["logits"], dtype=torch.float64)
    wins = set()
    for power in (0.7, 0, -1.7):
        slide(root, "lps-tau-slider", power)
        z = ((logits + cells["noise"]) / float(root.get_attribute("data-tau"))).softmax(1)  # Eq. (17)
        torch.testing.assert_close(torch.tensor(given(root, "z"), dtype=torch.float64), z[:8], atol=1e-12, rtol=0)
        assert given(root, "largest") == pytest.approx(float(z.amax(1).mean()), abs=1e-12)
        wins.add(given(root, "wins"))
    assert wins == {float((z.argmax(1) == logits.argmax()).double().mean())}
    before = given(root, "z")
    press(root.find_element("id", "lps-tau-slider"), "ARROW_RIGHT")
    press(root.find_element("xpath", ".//button[text()='Draw again']"), "ENTER")
    assert given(root, "z") != before


def one_after_the_other(components: torch.Tensor, dtype: torch.dtype) -> str:
    """The component that is kept at each shift, by sums in the order of the shifted map and the first of equals."""
    size = 2 * components.shape[-1]
    whole = lps.merge(components[:, None][None], 2)  # (1, 1, H, W)
    number = lps.merge(torch.arange(4).view(1, 4, 1, 1, 1).expand(1, 4, 1, *components.shape[1:]), 2)
    kept = []
    for d in ((i, j) for i in range(size) for j in range(size)):
        parts = lps.polyphase(lps.circular_shift(whole, (-d[0], -d[1])))[0].flatten(1).to(dtype)
        total = torch.zeros(4, dtype=dtype)
        for term in parts.T:
            total = total + term
        origin = lps.polyphase(lps.circular_shift(number, (-d[0], -d[1])))[0].flatten(1)[:, 0]
        kept.append(int(origin[int(total.argmax())]))
    return "".join(map(str, kept))


def test_selections_flip_where_those_of_torch_do_and_whole_numbers_do_not(show: Show) -> None:
    cells = made("exactness")
    root = show("exact", cells["page"])
    for bits, dtype in ((8, torch.bfloat16), (24, torch.float32)):
        slide(root, "lps-exact-bits", bits)
        assert root.get_attribute("data-kept") == one_after_the_other(cells["values"], dtype)
        assert (given(root, "flipped") > 0) == (bits == 8)
    assert given(root, "different") > 1
    root.find_element("css selector", "input[value^=whole]").click()
    assert (given(root, "different"), given(root, "flipped")) == (1, 0)
    first = root.find_element("id", "lps-exact-shift")
    before = given(root, "logits")
    press(first, "ARROW_RIGHT")
    assert given(root, "logits") != before and sorted(given(root, "logits")) == sorted(before)
