"""What tests share."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def quiet_canvas() -> Iterator[None]:
    """The book's style on a canvas without a screen; every figure is closed at the end."""
    import matplotlib
    from matplotlib import pyplot as plt

    from lps.companion import figures

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        figures.style()
        yield
    plt.close("all")


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


@pytest.fixture
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
