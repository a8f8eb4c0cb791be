import runpy
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from torch import Tensor

from lps.paths import ROOT
from lps.polyphase import circular_shift
from lps.report import figures

pytestmark = pytest.mark.usefixtures("quiet_canvas")

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
DEFICIENCIES = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def _lab(color: str, seen_by: str) -> Tensor:
    rgb = torch.tensor(to_rgb(color), dtype=torch.float64)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (torch.tensor(DEFICIENCIES[seen_by], dtype=torch.float64) @ linear).clamp(0, 1)
    to_xyz = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=torch.float64
    )
    xyz = to_xyz @ linear / torch.tensor([0.9505, 1, 1.089], dtype=torch.float64)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])))


@pytest.mark.parametrize("palette", [tuple(figures.COLORS.values()), figures.PHASES], ids=["methods", "phases"])
@pytest.mark.parametrize("seen_by", DEFICIENCIES)
def test_colours_can_be_told_apart(palette: tuple[str, ...], seen_by: str) -> None:
    for one, other in combinations(palette, 2):
        assert (_lab(one, seen_by) - _lab(other, seen_by)).norm() > 15, (one, other)


def test_every_method_of_the_tables_has_a_colour() -> None:
    assert set(figures.COLORS) == {"Baseline", "LPF", "DDAC", "APS", "LPS"}


def pictures(fig: plt.Figure) -> list[Tensor]:
    return [torch.as_tensor(image.get_array()) for ax in fig.axes for image in ax.images]


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (3, -2), (-1, -1), (2, -4)])
def test_figures_1_and_2_hold_for_every_shift(run_notebook: Any, rows: int, columns: int) -> None:
    shift = {"shift_rows": rows, "shift_columns": columns}
    one, two = run_notebook("figure1", filter_size=5, **shift), run_notebook("figure2", **shift)
    shown = pictures(one["fig"])
    assert len(shown) == 2 + 3 * 3
    x_hat = (circular_shift(one["x"], (rows, columns))[0] + 0.5).permute(1, 2, 0)
    assert any(torch.equal(image, x_hat) for image in shown if image.shape == x_hat.shape)
    words = " ".join(ax.get_xlabel() for ax in one["fig"].axes)
    assert words.count("0, exactly") == (1 if rows % 2 or columns % 2 else 3)

    tiles = {ax.get_title() or ax.get_xlabel(): ax for ax in two["fig"].axes if ax.images}
    assert len(tiles) == 2 * (1 + 4 + 1)
    for k, moved in enumerate(two["where"]):  # a colour follows one content
        before, after = (
            next(ax for words, ax in tiles.items() if f"({letter})_{phase}$" in words)
            for letter, phase in (("x", k), (r"\hat{x}", moved))
        )
        assert before.spines["left"].get_edgecolor() == after.spines["left"].get_edgecolor()


def test_figure_3_shows_every_step_of_every_component(run_notebook: Any) -> None:
    found = run_notebook("figure3", taus=[2.0, 0.5], count=5)
    assert len(pictures(found["fig"])) == 4 * 4
    assert sum(len(ax.collections) == 4 for ax in found["fig"].axes) == 2
    assert not found["select"].training


def test_the_fitted_choice_leaves_the_random_numbers_alone_and_tells_components_apart() -> None:
    state = torch.get_rng_state()
    p = figures.fitted_selection().logits(figures.picture()).softmax(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert p.max() > 0.4


DRAWN = runpy.run_path(str(ROOT / "book" / "pictures.py"))


@pytest.mark.parametrize("name", DRAWN["PICTURES"])
def test_the_pictures_of_written_pages_are_what_their_code_draws(name: str, tmp_path: Path) -> None:
    drawn = tmp_path / f"{name}.svg"
    figure = DRAWN["PICTURES"][name]()
    figure.savefig(drawn, metadata={"Date": None})
    plt.close(figure)
    assert drawn.stat().st_size < 300_000
    kinds = [[child.tag for child in ET.parse(path).iter()] for path in (drawn, DRAWN["TARGET"] / drawn.name)]
    assert kinds[0] == kinds[1]
