"""What tests share."""

from collections.abc import Callable, Iterator

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
