import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from torch import Tensor

from lps.filters import LowPass
from lps.polyphase import circular_shift, polyphase
from lps.report import figures
from lps.sampling import Downsample
from lps.selection import LearnedPhase, MaxNorm

pytestmark = pytest.mark.usefixtures("quiet_canvas")

SHIFTS = [(0, 1), (1, 0), (3, -2), (-1, -1)]

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
DEFICIENCIES = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.fixture(scope="module")
def x() -> Tensor:
    return figures.picture()


@pytest.fixture(scope="module")
def select() -> LearnedPhase:
    return figures.fitted_selection(steps=2)


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


@pytest.mark.parametrize("shift", SHIFTS)
def test_moved_phases_are_where_lemma_1_puts_the_components(x: Tensor, shift: tuple[int, int]) -> None:
    before, after = (polyphase(image)[0].flatten(2) for image in (x, circular_shift(x, shift)))
    assert torch.equal(after[figures.moved_phases(shift)].sort(-1).values, before.sort(-1).values)


@pytest.mark.parametrize("shift", SHIFTS)
def test_only_the_adaptive_selections_keep_the_same_content(
    x: Tensor, select: LearnedPhase, shift: tuple[int, int]
) -> None:
    assert figures.compare(Downsample(MaxNorm()), x, shift).equal
    assert figures.compare(Downsample(select), x, shift).equal
    strided = figures.compare(Downsample(), x, shift)
    filtered = figures.compare(Downsample(None, LowPass(3, 3)), x, shift)
    if any(d % 2 for d in shift):
        assert not strided.equal and not filtered.equal
        assert filtered.difference.square().mean() < strided.difference.square().mean()
    assert strided.phases == (0, 0)


def test_every_method_is_equivariant_to_even_shifts(x: Tensor) -> None:
    assert figures.compare(Downsample(), x, (2, -4)).equal


def test_activations_end_in_the_logits_of_the_layer(x: Tensor, select: LearnedPhase) -> None:
    steps = figures.f_theta(select, polyphase(x)[0])
    torch.testing.assert_close(steps.logits, select.logits(x)[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(steps.component, polyphase(x)[0])


def test_samples_sharpen_as_the_temperature_falls_and_leave_the_layer_alone(x: Tensor, select: LearnedPhase) -> None:
    state = torch.get_rng_state()
    z = {tau: figures.samples(select, x, tau, count=50) for tau in (5.0, 1.0, 0.05)}
    largest = [float(weights.amax(1).mean()) for weights in z.values()]
    assert largest == sorted(largest) and largest[-1] > 0.9
    for weights in z.values():
        torch.testing.assert_close(weights.sum(1), torch.ones(50, dtype=torch.float64))
    assert select.tau == 1 and not select.training
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_pixels_are_those_of_the_phase(x: Tensor) -> None:
    for phase in range(4):
        shown = figures.kept_pixels(x, phase)
        assert torch.equal(polyphase(shown)[0, phase], polyphase(x)[0, phase])
        assert int((shown == x).all(1).sum()) == x.shape[-1] * x.shape[-2] // 4


def _pictures(fig: plt.Figure) -> list[Tensor]:
    return [torch.as_tensor(image.get_array()) for ax in fig.axes for image in ax.images]


def test_figure_1_shows_what_the_layers_return(x: Tensor) -> None:
    fig = figures.figure_1(x, shift=(1, 0), filter_size=5)
    shown = _pictures(fig)
    assert len(shown) == 2 + 3 * 3
    assert torch.equal(shown[1], (circular_shift(x, (1, 0))[0] + 0.5).permute(1, 2, 0))
    assert shown[-1].max() == 0 and shown[4].max() > shown[7].max() > 0
    words = " ".join(ax.get_xlabel() + ax.get_ylabel() for ax in fig.axes)
    assert "0, exactly" in words and "Bin-5" in words


def test_figure_2_permutes_components_and_keeps_their_content(x: Tensor, select: LearnedPhase) -> None:
    fig = figures.figure_2(x, select, shift=(1, 1))
    shown = _pictures(fig)
    assert len(shown) == 2 * (1 + 4 + 1)
    words = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert any("the same content" in text for text in words)
    frames = [ax.spines["left"].get_edgecolor() for ax in fig.axes if ax.images]
    assert frames[1:5] == [frames[6 + 1 + k] for k in (3, 2, 1, 0)]


def test_figure_3_shows_every_step_of_every_component(x: Tensor, select: LearnedPhase) -> None:
    fig = figures.figure_3(x, select, taus=(2.0, 0.5), count=5)
    assert len(_pictures(fig)) == 4 * 4
    assert sum(len(ax.patches) == 4 * 5 for ax in fig.axes) == 2


def test_hero_is_written_where_the_landing_page_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: LearnedPhase
) -> None:
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "fitted_selection", lambda: select)
    figures.main()
    written = tmp_path / "book" / "_static" / "hero.svg"
    assert written.stat().st_size < 300_000
    ET.parse(written)
    first = written.read_bytes()
    figures.main()
    assert written.read_bytes() == first
