"""What tests share."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn


LONGEST = ("test_book.py", "test_deploy.py", "test_convert.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is for the weekly tests alone is skipped elsewhere.

    The longest files first, then others with slow tests: where files are shared out, short ones fill the end.
    """
    if "LPS_EXHAUSTIVE" not in os.environ:
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="in the weekly tests, LPS_EXHAUSTIVE=1"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.name, len(places)), item.path not in slow))


@pytest.hookimpl(optionalhook=True)  # a GPU's machine may be without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for many tests wait for other processes; at most four, for their memory."""
    return min(4, 1 + (os.cpu_count() or 1))


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many threads of the CPU as the test's parameter says."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet_canvas() -> Iterator[None]:
    """The book's style on a canvas without a screen; every figure is closed at the end."""
    import matplotlib
    from matplotlib import pyplot as plt

    from lps.report import figures

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        figures.style()
        yield
    plt.close("all")


@pytest.fixture
def run_notebook(quiet_canvas: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run the code cells of a notebook here, with some parameters changed; what they leave behind, by name."""
    from matplotlib import pyplot as plt

    from lps.paths import NOTEBOOKS

    monkeypatch.setattr(plt, "show", lambda: None)

    def run(name: str, **parameters: Any) -> dict[str, Any]:
        names: dict[str, Any] = {"display": print}
        for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {cell['id']}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert parameters.keys() <= names.keys()
                names |= parameters
        return names

    return run


@pytest.fixture(scope="session")
def some_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few real images of each class, where LPS_DATA holds them; to read all takes half a minute."""
    few = tmp_path_factory.mktemp("some") / "cifar10"
    for folder in Path(os.environ.get("LPS_DATA") or "nowhere", "cifar10").glob("*/*"):
        target = few / folder.parent.name / folder.name
        target.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:4]:
            (target / path.name).symlink_to(path)
    return few


@pytest.fixture(scope="module")
def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Counter:
    """Asks to stop after a number of batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def stop_after() -> Callable[[int], Callable[[], bool]]:
    """From a number of batches to a ``stop`` for a run."""
    return Counter


class CommandLine:
    """``python -m lps`` in the first process of a group of its own, with a checkpoint ``every`` so many seconds. It is
    forked from one that has what trains imported, which takes seconds.
    """

    def __init__(self, arguments: Sequence[str], every: float = 600) -> None:
        from lps.experiments.jobs import PRELOADED
        from lps.processes import forks

        context = forks(PRELOADED)
        self._said, its = context.Pipe(duplex=False)
        self.process = context.Process(target=run_command_line, args=(arguments, every, its))
        self.process.start()
        its.close()
        self.pid = self.process.pid

    @property
    def runs(self) -> bool:
        return bool(self.process.is_alive())

    def ended(self) -> tuple[int, str]:
        """Exit code, negative for a signal, and standard error, once this and all that it has started have ended."""
        with os.fdopen(os.dup(self._said.fileno()), encoding="utf-8") as said:  # it ends when nobody can write any more
            words = said.read()
        self.process.join()
        return self.process.exitcode, words


def run_command_line(arguments: Sequence[str], every: float, said: Connection) -> None:
    from lps.__main__ import main
    from lps.experiments import fit

    os.setsid()
    os.dup2(said.fileno(), 2)
    said.close()
    fit.EVERY = every
    sys.exit(main([*arguments]))


@pytest.fixture
def command_line() -> type[CommandLine]:
    return CommandLine


@pytest.fixture
def any_batch() -> Any:
    """What ``torch.export`` is told of a first dimension that may change."""
    from torch.export import Dim

    return ({0: Dim("batch", min=1, max=64)},)


@pytest.fixture
def through_onnx(tmp_path: Path, any_batch: Any) -> Callable[[nn.Module, Tensor, Tensor], list[Tensor]]:
    """From a network, an example of its input and another input to what ONNX Runtime makes of that."""
    import torch

    runtime = pytest.importorskip("onnxruntime")

    def outputs(network: nn.Module, example: Tensor, x: Tensor) -> list[Tensor]:
        path = tmp_path / "network.onnx"
        # the optimizer takes longer than all else; the code of a page is tested with it
        settings = {"dynamic_shapes": any_batch, "dynamo": True, "verbose": False, "optimize": False}
        program = torch.onnx.export(network, (example,), **settings)
        assert program is not None
        program.save(path)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(out) for out in session.run(None, {session.get_inputs()[0].name: x.numpy()})]

    return outputs


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, that keeps what pages log."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with its driver here; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for switch in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()
