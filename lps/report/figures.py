"""The paper's Figures 1, 2 and 3 drawn from real layers on real pixels, and the look of every figure.

``python -m lps.report.figures`` draws the picture of the landing page, ``book/_static/hero.svg``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from math import ceil, floor
from typing import Any, Literal, NamedTuple, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, FancyArrowPatch, Rectangle
from matplotlib.rcsetup import cycler
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.drawn import draw
from ..filters import LowPass
from ..paths import ROOT
from ..polyphase import circular_shift, offsets, polyphase
from ..sampling import Downsample
from ..selection import LearnedPhase, MaxNorm
from ..shifts import pi

COLORS = {"Baseline": "#5F6368", "LPF": "#E69F00", "DDAC": "#CC79A7", "APS": "#0072B2", "LPS": "#D55E00"}
"""One colour for each method, the same in every figure and table (Okabe and Ito's palette)."""

PHASES = ("#332288", "#44AA99", "#C9A227", "#AA4499")
"""One colour for each phase 0 to 3 of a 2-D map with stride 2 (after Tol's muted palette)."""

INK, MUTED, RULE, PAPER = "#1F2328", "#57606A", "#D0D7DE", "#FFFFFF"
"""Text, secondary text, lines, and the background: opaque, so that a figure reads on light and dark pages."""

RC: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 200,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "regular",
    "axes.titlepad": 6,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in ("LPS", "APS", "LPF", "DDAC", "Baseline")]),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "image.interpolation": "none",
    "image.cmap": "cividis",
    "svg.fonttype": "path",
    "svg.hashsalt": "lps",
}


def style(formats: Literal["svg", "png"] = "svg") -> None:
    """Set matplotlib to the companion's look; in a notebook also the format in which figures are shown.

    ``svg`` stays sharp at every width; take ``png`` where a figure holds many thousand marks.
    """
    mpl.rcParams.update(RC)
    if "ipykernel" in sys.modules:
        from IPython.core.getipython import get_ipython
        from IPython.core.pylabtools import print_figure
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        options: dict[str, Any] = {"metadata": {"Date": None}} if formats == "svg" else {"dpi": 160}
        set_matplotlib_formats(formats, **options)
        whole = partial(print_figure, fmt="pdf", base64=True, metadata={"CreationDate": None})
        shell: Any = get_ipython()
        shell.display_formatter.formatters["application/pdf"].for_type(Figure, whole)  # to take away


# What the figures show


def picture(index: int = 47, seed: int = 0, size: int = 32) -> Tensor:
    """Image ``index`` of the drawn data set as ``(1, 3, size, size)`` float64, -0.5 black to 0.5 white."""
    return draw(index + 1, seed, size).images[index:].double() / 255 - 0.5


def fitted_selection(steps: int = 50, hidden: int = 8, seed: int = 0) -> LearnedPhase:
    """LPD's choice for pictures, trained for a few seconds to choose as APS does (Claim 2 says that it can).

    A random start gives four almost equal logits; after the fit they differ as in a trained network.
    """
    batch = 32
    images = draw(steps * batch, seed + 1).images.float() / 255 - 0.5
    phases = MaxNorm().eval()(images).phase
    assert phases is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        select = LearnedPhase(3, hidden)
    weights = list(select.parameters())
    for x, phase in zip(images.split(batch), phases.split(batch), strict=True):
        logits = f_theta(select, polyphase(x).flatten(0, 1)).logits.unflatten(0, (batch, -1))
        gradients = torch.autograd.grad(F.cross_entropy(logits, phase), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(0.05 * gradient.sign())
    return select.double().eval().requires_grad_(False)


@dataclass(frozen=True)
class Comparison:
    """Downsampling a map and its shifted copy to ``y`` and ``y_hat`` ``(1, C, *space / s)``.

    ``moved_back`` is ``y_hat`` after the whole-sample shift that brings it closest to ``y``: equal to ``y``
    where the layer is shift-equivariant (Eq. 1). ``phases`` are those kept of the map and of its copy.
    """

    y: Tensor
    y_hat: Tensor
    moved_back: Tensor
    phases: tuple[int, int]

    @property
    def difference(self) -> Tensor:
        """Largest difference over the channels at each sample, ``(*space / s)``."""
        return (self.moved_back - self.y).abs().amax((0, 1))

    @property
    def equal(self) -> bool:
        return torch.equal(self.moved_back, self.y)


def compare(layer: Downsample, x: Tensor, shift: Sequence[int]) -> Comparison:
    """Downsample ``x`` ``(1, C, *space)`` and ``circular_shift(x, shift)``, the layer in evaluation mode."""
    layer.eval()
    (y, first), (y_hat, second) = (layer(image) for image in (x, circular_shift(x, shift)))
    candidates = product(*({floor(d / layer.stride), ceil(d / layer.stride)} for d in shift))
    back = [circular_shift(y_hat, tuple(-d for d in candidate)) for candidate in candidates]
    closest = min(back, key=lambda moved: float((moved - y).square().sum()))
    phases = tuple(0 if s is None else int(s.phase) for s in (first, second))
    return Comparison(y, y_hat, closest, (phases[0], phases[1]))


def moved_phases(shift: Sequence[int], stride: int = 2) -> list[int]:
    """The permutation of Lemma 1: under which phase each component turns up in the shifted copy."""
    moved: list[int] = pi([-d for d in shift], stride).tolist()
    return moved


class Activations(NamedTuple):
    """What ``f_theta`` computes on the way to the logits of Eq. (23), for each of ``P`` components.

    ``component`` ``(P, C, H, W)``, ``conv1``, ``relu``, ``conv2`` ``(P, hidden, H, W)``, ``logits`` ``(P,)``.
    """

    component: Tensor
    conv1: Tensor
    relu: Tensor
    conv2: Tensor
    logits: Tensor


def f_theta(select: LearnedPhase, component: Tensor) -> Activations:
    """The steps of ``select`` over components ``(P, C, H, W)``."""
    conv1 = _convolve(component, select.conv1)
    relu = conv1.relu()
    conv2 = _convolve(relu, select.conv2)
    return Activations(component, conv1, relu, conv2, conv2.mean((1, 2, 3)))


def _convolve(x: Tensor, conv: nn.Module) -> Tensor:
    weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def samples(select: LearnedPhase, x: Tensor, tau: float, count: int, seed: int = 0) -> Tensor:
    """Selection variables ``z`` ``(count, P)`` that the layer draws in training at ``tau`` (Eq. 17)."""
    before, training = float(select.tau), select.training
    try:
        select.train().tau.fill_(tau)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return select(x.expand(count, *x.shape[1:])).z
    finally:
        select.train(training).tau.fill_(before)


# Pieces of figures


def show(ax: Axes, image: Tensor, frame: str = RULE, width: float = 1.0) -> None:
    """Show a colour picture ``(1, 3, H, W)`` or ``(3, H, W)``, -0.5 to 0.5, in a frame."""
    pixels = (image.reshape(image.shape[-3:]) + 0.5).clamp(0, 1)
    ax.imshow(pixels.permute(1, 2, 0).numpy())
    _frame(ax, frame, width)


def show_map(ax: Axes, values: Tensor, cmap: str, norm: Normalize, frame: str = RULE) -> Any:
    """Show a map of numbers ``(H, W)`` in a frame; return what a colour bar needs."""
    mappable = ax.imshow(values.numpy(), cmap=cmap, norm=norm)
    _frame(ax, frame, 1.0)
    return mappable


def _frame(ax: Axes, color: str, width: float) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=width)


def _bare(ax: Axes) -> Axes:
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = MUTED) -> None:
    """Arrow between two points in the coordinates of a bare ``ax``."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.2))


def _connect(
    fig: Figure,
    start: Axes,
    start_at: tuple[float, float],
    end: Axes,
    end_at: tuple[float, float],
    **line: Any,
) -> None:
    """Join two points, each in the fractions of its axes."""
    fractions = ("axes fraction", "axes fraction")
    fig.add_artist(ConnectionPatch(start_at, end_at, *fractions, axesA=start, axesB=end, shrinkA=2, shrinkB=2, **line))


def kept_pixels(x: Tensor, phase: int, stride: int = 2, fade: float = 0.86) -> Tensor:
    """``x`` ``(1, C, H, W)`` with the samples that ``phase`` drops faded to white."""
    row, column = offsets(stride, 2)[phase]
    faded = x + fade * (0.5 - x)
    faded[..., row::stride, column::stride] = x[..., row::stride, column::stride]
    return faded


def _size_of_shift(shift: Sequence[int]) -> str:
    parts = [f"{abs(d)} {name}{'s' * (abs(d) > 1)}" for d, name in zip(shift, ("row", "column"), strict=True) if d]
    return " and ".join(parts) or "nothing"


# The figures


def figure_1(x: Tensor, shift: Sequence[int] = (0, 1), filter_size: int = 3) -> Figure:
    """Figure 1: a picture ``(1, 3, H, W)`` and its shifted copy through striding, LPF and APS."""
    channels = x.shape[1]
    antialias = LowPass(channels, filter_size)
    name = {2: "Rect-2", 3: "Tri-3", 5: "Bin-5"}.get(filter_size, f"{filter_size} taps")
    rows = [
        ("Baseline", "Stride 2", "keeps phase 0", compare(Downsample(), x, shift)),
        (
            "LPF",
            f"LPF, {name}",
            "averages first",
            compare(Downsample(None, antialias), x, shift),
        ),
        ("APS", "APS", "keeps the largest", compare(Downsample(MaxNorm()), x, shift)),
    ]
    fig = plt.figure(figsize=(10, 5.7))
    columns = fig.add_gridspec(1, 3, width_ratios=(1.3, 3.5, 1.75), wspace=0.05)
    left, middle, right = (columns[column] for column in range(3))
    inputs = left.subgridspec(3, 1, height_ratios=(1, 0.25, 1))
    for cell, image, title in (
        (inputs[0], x, "picture $x$"),
        (inputs[2], circular_shift(x, shift), rf"$\hat{{x}}$: shifted by {_size_of_shift(shift)}"),
    ):
        ax = fig.add_subplot(cell)
        show(ax, image)
        ax.set_title(title)
    _arrow(_bare(fig.add_subplot(inputs[1])), (0.5, 1), (0.5, 0))

    norm = Normalize(0, max(float(c.difference.max()) for *_, c in rows))
    cells = middle.subgridspec(3, 3)
    titles = ("$y$, from $x$", r"$\hat{y}$, from $\hat{x}$", r"$|\hat{y} - y|$, moved to fit")
    maps = []
    for row, (method, label, rule, comparison) in enumerate(rows):
        axes = [fig.add_subplot(cells[row, column]) for column in range(3)]
        show(axes[0], comparison.y, COLORS[method], 2.2)
        show(axes[1], comparison.y_hat, COLORS[method], 2.2)
        mappable = show_map(axes[2], comparison.difference, "Purples", norm)
        maps.append(axes[2])
        axes[0].set_ylabel(f"{label}\n{rule}", fontsize=9)
        verdict = "0, exactly" if comparison.equal else f"up to {float(comparison.difference.max()):.2f}"
        axes[2].set_xlabel(verdict, weight="bold")
        if row == 0:
            for ax, title in zip(axes, titles, strict=True):
                ax.set_title(title)
    bar = fig.colorbar(mappable, ax=maps, shrink=0.45, aspect=20)
    bar.set_label("white less black is 1", fontsize=8.5)
    bar.outline.set_visible(False)
    _norms(fig.add_subplot(right), x, shift)
    return fig


def _norms(ax: Axes, x: Tensor, shift: Sequence[int]) -> None:
    """Norms of the components of ``x`` and of its shifted copy as the two ends of level lines."""
    select = MaxNorm().eval()
    before, after = select(x).scores[0], select(circular_shift(x, shift)).scores[0]
    best, moved = int(before.argmax()), moved_phases(shift)
    for phase, value in enumerate(before.tolist()):
        partner = moved[phase]
        kept = phase == best
        color, width = (COLORS["APS"], 2.8) if kept else (MUTED, 1.2)
        ax.plot((0, 1), (value, float(after[partner])), color=color, linewidth=width, marker="o", markersize=5)
        for end, k, side in ((-0.12, phase, "right"), (1.12, partner, "left")):
            ax.text(end, value, f"$k={k}$", ha=side, va="center", color=color)
        if kept:
            ax.annotate("kept", (0.5, value), (0, 5), textcoords="offset points", ha="center", color=color)
    ax.set_xlim(-0.6, 1.6)
    ax.margins(y=0.12)
    ax.set_xticks((0, 1), ("$x$", r"$\hat{x}$"), fontsize=11)
    ax.tick_params(length=0)
    ax.locator_params(axis="y", nbins=5)
    ax.spines["bottom"].set_visible(False)
    ax.grid(axis="y")
    ax.set_title("APS's scores: the norms\n$\\|\\mathrm{Poly}(\\cdot)_k\\|_2$ of the components")


def figure_2(x: Tensor, select: LearnedPhase, shift: Sequence[int] = (0, 1)) -> Figure:
    """Figure 2: a shift permutes the components of ``x`` ``(1, 3, H, W)`` and LPD's probabilities."""
    images = (x, circular_shift(x, shift))
    comparison = compare(Downsample(select), x, shift)
    components = [polyphase(image)[0] for image in images]
    probabilities = [select.logits(image)[0].softmax(0) for image in images]
    partner = moved_phases(shift)
    colors = (PHASES, [PHASES[partner.index(k)] for k in range(4)])

    fig = plt.figure(figsize=(10, 5.8))
    grid = fig.add_gridspec(
        5, 8, width_ratios=(1.45, 0.42, 1, 1, 1, 1, 0.42, 1.1),
        height_ratios=(1, 0.2, 0.62, 0.2, 1), hspace=0.02,
    )  # fmt: skip
    gauges: list[list[Axes]] = [[], []]
    for side, (row, gauge_row) in enumerate(((0, 1), (4, 3))):
        hat = ("{x}", r"\hat{x}")[side]
        ax = fig.add_subplot(grid[row, 0])
        show(ax, images[side])
        text = "$x$" if side == 0 else rf"$\hat{{x}}$: shifted by {_size_of_shift(shift)}"
        (ax.set_title if side == 0 else ax.set_xlabel)(text, color=INK)
        for k in range(4):
            kept = k == comparison.phases[side]
            tile = fig.add_subplot(grid[row, 2 + k])
            show(tile, components[side][k], colors[side][k], 4.5 if kept else 1.8)
            label = rf"$\mathrm{{Poly}}({hat})_{k}$" + (", kept" if kept else "")
            (tile.set_title if side == 0 else tile.set_xlabel)(label, color=INK, weight="bold" if kept else None)
            gauge = fig.add_subplot(grid[gauge_row, 2 + k])
            _gauge(gauge, float(probabilities[side][k]), colors[side][k])
            gauges[side].append(gauge)
        for column, text in ((1, "Poly"), (6, "arg max")):
            between = _bare(fig.add_subplot(grid[row, column]))
            _arrow(between, (0.02, 0.5), (0.98, 0.5))
            between.text(0.5, 0.58, text, ha="center", color=MUTED, fontsize=8.5)
        output = fig.add_subplot(grid[row, 7])
        show(output, (comparison.y, comparison.y_hat)[side], COLORS["LPS"], 3)
        name = (r"$y=\mathrm{LPD}(x)$", r"$\hat{y}=\mathrm{LPD}(\hat{x})$")[side]
        (output.set_title if side == 0 else output.set_xlabel)(name, color=INK)
    for k, to in enumerate(partner):
        width = 3.2 if k == comparison.phases[0] else 1.6
        _connect(fig, gauges[0][k], (0.5, 0), gauges[1][to], (0.5, 1), color=PHASES[k], linewidth=width)
    note = _bare(fig.add_subplot(grid[1:4, 7]))
    same = "the same content,\nsample for sample" if comparison.equal else "different content"
    note.text(0.5, 0.5, same, ha="center", va="center", color=COLORS["LPS"], weight="bold")
    aside = _bare(fig.add_subplot(grid[1:4, 0]))
    aside.text(
        0.5, 0.5, "bars: $p_\\theta(k\\,|\\,\\cdot)$, from one\nnetwork $f_\\theta$ that all\ncomponents share",
        ha="center", va="center", color=MUTED, fontsize=9,
    )  # fmt: skip
    return fig


def _gauge(ax: Axes, value: float, color: str) -> None:
    """A probability as the filled part of a bar, with its value."""
    _bare(ax)
    ax.add_patch(Rectangle((0.02, 0.25), 0.96, 0.5, facecolor="#EEF1F4"))
    ax.add_patch(Rectangle((0.02, 0.25), 0.96 * value, 0.5, facecolor=color))
    inside = value > 0.6
    ax.text(
        0.06 if inside else 0.94, 0.49, f"{value:.2f}",
        ha="left" if inside else "right", va="center", color=PAPER if inside else INK, fontsize=8.5,
    )  # fmt: skip


def figure_3(
    x: Tensor, select: LearnedPhase, taus: Sequence[float] = (5.0, 1.0, 0.1), count: int = 60, seed: int = 0
) -> Figure:
    """Figure 3: the components of ``x`` ``(1, 3, H, W)`` through ``f_theta``, and Gumbel-softmax."""
    steps = f_theta(select, polyphase(x)[0])
    channel = int(steps.conv1.var((0, 2, 3)).argmax())
    signed, through = steps.conv1[:, channel], steps.conv2.mean(1)
    logits, probabilities = steps.logits - steps.logits.mean(), steps.logits.softmax(0)
    best = int(probabilities.argmax())

    fig = plt.figure(figsize=(10, 8.2))
    halves = fig.add_gridspec(2, 1, height_ratios=(3.2, 1), hspace=0.08)
    grid = halves[0].subgridspec(
        5, 6, height_ratios=(0.16, 1, 1, 1, 1), width_ratios=(1, 1, 1, 1, 1.35, 1.35), wspace=0.12
    )
    shared = _bare(fig.add_subplot(grid[0, 1:5]))
    shared.plot((0, 0, 1, 1), (0, 0.35, 0.35, 0), color=MUTED, linewidth=1)
    shared.text(0.5, 0.5, r"$f_\theta$: the same weights for every component", ha="center", color=MUTED)

    limit = float(signed.abs().max())
    middle, spread = float(through.mean()), float((through - through.mean()).abs().max())
    maps = (
        (signed, "PuOr", Normalize(-limit, limit)),
        (steps.relu[:, channel], "cividis", Normalize(0, limit)),
        (through, "PuOr", Normalize(middle - spread, middle + spread)),
    )
    titles = (
        f"$3\\times3$ convolution\n(channel {channel + 1} of {steps.conv1.shape[1]})",
        "ReLU",
        "$3\\times3$ convolution\n(mean of channels)",
    )
    for k, component in enumerate(steps.component):
        axes = [fig.add_subplot(grid[1 + k, column]) for column in range(4)]
        show(axes[0], component, PHASES[k], 4 if k == best else 2)
        axes[0].set_ylabel(f"$k={k}$", rotation=0, labelpad=16, va="center")
        for ax, (values, cmap, norm), title in zip(axes[1:], maps, titles, strict=True):
            show_map(ax, values[k], cmap, norm)
            if k == 0:
                ax.set_title(title, fontsize=9)
        if k == 0:
            axes[0].set_title(r"$\mathrm{Poly}(x)_k$", fontsize=9)
        for start, end in pairwise(axes):
            _connect(fig, start, (1, 0.5), end, (0, 0.5), arrowstyle="-|>", mutation_scale=9, color=MUTED)
    logit_axes, probability_axes = (fig.add_subplot(grid[1:, column]) for column in (4, 5))
    _bars(logit_axes, logits, best, "+.2f")
    logit_axes.set_title("mean over space: logit\n(less the mean of the four)", fontsize=9)
    _bars(probability_axes, probabilities, best, ".2f")
    probability_axes.set_title(r"softmax: $p_\theta(k\,|\,x)$", fontsize=9)

    strips = halves[1].subgridspec(1, len(taus), wspace=0.05)
    for column, tau in enumerate(taus):
        ax = fig.add_subplot(strips[column])
        z = samples(select, x, tau, count, seed)
        base = torch.zeros(count, dtype=z.dtype)
        for k in range(4):
            ax.bar(range(count), z[:, k].tolist(), bottom=base.tolist(), width=1, color=PHASES[k], linewidth=0.3)
            base = base + z[:, k]
        ax.set(xlim=(-0.5, count - 0.5), ylim=(0, 1), xticks=[])
        ax.set_title(rf"$\tau = {tau:g}$: largest weight {float(z.amax(1).mean()):.2f} on average", fontsize=9)
        ax.set_xlabel(f"{count} samples of Gumbel-softmax")
        if column == 0:
            ax.set_ylabel("weights $z_k$ (Eq. 17)")
        else:
            ax.set_yticklabels([])
    return fig


def _bars(ax: Axes, values: Tensor, best: int, form: str) -> None:
    """One bar for each phase, from the top down, with its value; the largest in bold."""
    ax.barh(range(len(values)), values.tolist(), color=PHASES, height=0.42)
    for k, value in enumerate(values.tolist()):
        text = f"{value:{form}}".replace("-", "\N{MINUS SIGN}")
        weight = "bold" if k == best else "normal"
        ax.annotate(text, (max(value, 0), k), (4, 0), textcoords="offset points", va="center", weight=weight)
    ax.set(ylim=(len(values) - 0.5, -0.5), yticks=[], xticks=[])
    ax.spines["left"].set_position("zero")
    ax.spines["bottom"].set_visible(False)
    ax.margins(x=0.3)


def hero(index: int = 47, shift: Sequence[int] = (0, 1), corner: tuple[int, int] = (15, 11), size: int = 12) -> Figure:
    """The idea in one picture: what striding and what LPS keep of a picture and of its shifted copy.

    The close-up is the ``size`` x ``size`` window at ``corner`` of the picture and its place in the copy.
    """
    x = picture(index)
    images = (x, circular_shift(x, shift))
    methods = (
        ("Baseline", "Stride 2: other pixels are kept", compare(Downsample(), x, shift)),
        ("LPS", "LPS: the same pixels are kept", compare(Downsample(fitted_selection()), x, shift)),
    )
    fig = plt.figure(figsize=(10, 4.7))
    grid = fig.add_gridspec(2, 7, width_ratios=(1, 0.12, 1, 1, 0.12, 1, 1))
    for row, image in enumerate(images):
        ax = fig.add_subplot(grid[row, 0])
        show(ax, image)
        top, left = (c + d * row for c, d in zip(corner, shift, strict=True))
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=INK, linewidth=1.4))
        if row == 0:
            ax.set_title("a picture")
        else:
            ax.set_xlabel(f"shifted by {_size_of_shift(shift)}", color=INK)
        for column, (method, _, comparison) in zip((2, 5), methods, strict=True):
            kept = kept_pixels(image, comparison.phases[row])[..., top : top + size, left : left + size]
            close_up, output = (fig.add_subplot(grid[row, column + c]) for c in range(2))
            show(close_up, kept, COLORS[method], 1.6)
            show(output, (comparison.y, comparison.y_hat)[row], COLORS[method], 2.6)
            if row == 1:
                close_up.set_xlabel("what is kept", color=INK)
                output.set_xlabel("the result", color=INK)
    for column, (method, text, _) in zip((2, 5), methods, strict=True):
        head = _bare(fig.add_subplot(grid[0, column : column + 2]))
        head.set_title(text, color=COLORS[method], weight="bold", fontsize=11)
    return fig


def main() -> None:
    """Draw ``book/_static/hero.svg``."""
    style()
    target = ROOT / "book" / "_static" / "hero.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    hero().savefig(target, metadata={"Date": None})
    print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
