"""Draw the pictures of the written pages, ``book/_static/*.svg``: ``python book/pictures.py``.

They come from the layers, the drawn pictures and the rows of this library wherever they show more than an idea.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle, Wedge
from torch import Tensor

from lps import Downsample, LowPass, MaxNorm, circular_shift, polyphase
from lps.experiments.fit import EpochOrder
from lps.metrics import ORIGINAL_CIFAR, PAPER_SHIFTS
from lps.paths import ROOT
from lps.polyphase import offsets
from lps.report import figures
from lps.report.paper import paper_table

TARGET = ROOT / "book" / "_static"
WIDTH = 4.7  # inches: a phone shows all of it, and the letters can be read
EVEN, ODD, WASH = figures.PHASES[0], figures.PHASES[2], "#EEF3F7"
STRIDED, BY_CONTENT = figures.COLORS["Baseline"], figures.COLORS["LPS"]


# The landing page -----------------------------------------------------------------------------------------


def hero() -> Figure:
    """A picture and its shifted copy, and of a window that moves along the pixels that striding and LPS keep."""
    (top, left), size = (15, 11), 12  # of the window
    x = figures.picture()
    methods = {
        "stride 2 keeps": ("Baseline", Downsample()),
        "LPS keeps": ("LPS", Downsample(figures.fitted_selection()).eval()),
    }
    fig, axes = plt.subplots(2, 3, figsize=(WIDTH, 3.4))
    for moved, (whole, *close_ups) in enumerate(axes):
        image = circular_shift(x, (0, moved))
        figures.show(whole, image)
        edges = left + moved - 0.5, top - 0.5
        whole.add_patch(Rectangle(edges, size, size, fill=False, edgecolor=figures.INK, linewidth=1.4))
        whole.set_ylabel("shifted by one" if moved else "a picture", color=figures.INK)
        for ax, (words, (method, layer)) in zip(close_ups, methods.items(), strict=True):
            _, chosen = layer(image)
            down, across = offsets(2, 2)[0 if chosen is None else int(chosen.phase)]
            kept = image + 0.86 * (0.5 - image)  # faded to white
            kept[..., down::2, across::2] = image[..., down::2, across::2]
            window = kept[..., top : top + size, left + moved : left + moved + size]
            figures.show(ax, window, figures.COLORS[method], 2.2)
            if not moved:
                ax.set_title(words, color=figures.COLORS[method], weight="bold")
    return fig


# What diagrams are made of --------------------------------------------------------------------------------


def canvas(height: float) -> tuple[Figure, Axes]:
    """A sheet whose unit is the inch, from the lower left corner."""
    fig, ax = plt.subplots(figsize=(WIDTH, height))
    ax.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return fig, ax


def box(ax: Axes, x: float, y: float, width: float, height: float, words: str) -> None:
    """A box around its words; those behind a line break are smaller."""
    shape = "round,pad=0,rounding_size=0.06"
    ax.add_patch(FancyBboxPatch((x, y), width, height, shape, facecolor=WASH, edgecolor=figures.INK, linewidth=1.2))
    head, _, more = words.partition("\n")
    middle = x + width / 2, y + height / 2
    ax.text(middle[0], middle[1] + (0.12 if more else 0), head, ha="center", va="center", weight="bold")
    ax.text(middle[0], middle[1] - 0.12, more, ha="center", va="center", color=figures.MUTED, fontsize=8.5)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": figures.MUTED, "shrinkA": 1, "shrinkB": 1})


def chain(first: str, second: str, third: str, below: str = "") -> Figure:
    """Boxes from left to right, each of which leads to the next, and a line of words below."""
    fig, ax = canvas(1.0 if below else 0.75)
    gap, bottom = 0.26, 0.35 if below else 0.1
    width = (WIDTH - gap * 2 - 0.04) / 3
    for n, words in enumerate((first, second, third)):
        left = 0.02 + n * (width + gap)
        box(ax, left, bottom, width, 0.55, words)
        if n:
            arrow(ax, (left - gap, bottom + 0.275), (left, bottom + 0.275))
    ax.text(WIDTH / 2, 0.12, below, ha="center", va="center", color=figures.MUTED)
    return fig


def gallery(panels: Mapping[str, Tensor], height: float) -> tuple[Figure, Any]:
    """Pictures side by side, each below its title."""
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH, height))
    for ax, (words, image) in zip(axes, panels.items(), strict=True):
        figures.show(ax, image)
        ax.set_title(words)
    return fig, axes


# Page by page ---------------------------------------------------------------------------------------------


def experiments() -> Figure:
    """The rows of Table 1: how a component is chosen, and which filter goes before."""
    rows = [(row["method"].removesuffix(" (Ours)"), row["antialias"]) for row in paper_table("table1")]
    methods, filters = (list(dict.fromkeys(row[n] for row in rows)) for n in (0, 1))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.9))
    for method, antialias in rows:
        kept = method in ("APS", "LPS")
        color = figures.COLORS[method]
        place = filters.index(antialias), -sorted(methods, key=list(figures.COLORS).index).index(method)
        ax.plot(*place, "o", markersize=11, markerfacecolor=color if kept else "white", markeredgecolor=color, mew=2)
    order = sorted(methods, key=list(figures.COLORS).index)
    ax.set(xticks=range(len(filters)), yticks=[-n for n in range(len(order))], xlim=(-0.5, len(filters) - 0.5))
    ax.set_xticklabels(["no filter" if name == "-" else name for name in filters])
    ax.set_yticklabels(order)
    ax.tick_params(length=0)
    ax.margins(y=0.15)
    for side in ax.spines.values():
        side.set_visible(False)
    return fig


def convert() -> Figure:
    """Where a convolution is computed, and what is kept of it."""
    kept = {
        "the original:\nstride 2": (0, 0),
        "behind: all computed,\nthen chosen": (1, 0),
        "before: chosen,\nthen computed": (1, 0),
    }
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.1))
    for ax, (words, (row, column)) in zip(axes, kept.items(), strict=True):
        color = STRIDED if words.startswith("the") else BY_CONTENT
        rest = "#F6D8C2" if words.startswith("behind") else WASH
        for i, j in product(range(8), repeat=2):
            fill = color if (i % 2, j % 2) == (row, column) else rest
            ax.add_patch(Rectangle((j, 7 - i), 1, 1, facecolor=fill, edgecolor="white", linewidth=0.8))
        ax.set(xlim=(0, 8), ylim=(0, 8), aspect="equal")
        ax.set_axis_off()
        ax.set_title(words, fontsize=9, color=color)
    return fig


def questions() -> Figure:
    """On a circle of odd size, two samples of one phase meet."""
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.1))
    for ax, size, words in zip(
        axes, (8, 7), ("8 samples: phases alternate", "7 samples: phase 0 meets itself"), strict=True
    ):
        turn = 360 / size
        for n in range(size):
            start = 90 - (n + 1) * turn
            ax.add_patch(
                Wedge((0, 0), 1, start, start + turn, width=0.42, facecolor=(EVEN, ODD)[n % 2], edgecolor="white")
            )
            angle = torch.deg2rad(torch.tensor(start + turn / 2))
            place = 0.79 * torch.cos(angle), 0.79 * torch.sin(angle)
            ax.text(*map(float, place), str(n), ha="center", va="center", color="white" if n % 2 == 0 else figures.INK)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", title=words)
        ax.set_axis_off()
    return fig


def status() -> Figure:
    """How the ledger comes to a verdict."""
    fig, ax = canvas(2.2)
    steps = {
        "Was it measured?": "no:  not run, not checkable",
        "A theorem, or a count?": "yes:  holds, or fails",
        "At the paper's scale?": "yes:  holds, holds+, or fails",
    }
    for n, (question, answer) in enumerate(steps.items()):
        y = 1.72 - 0.62 * n
        box(ax, 0.02, y, 1.75, 0.36, question)
        arrow(ax, (1.77, y + 0.18), (2.15, y + 0.18))
        ax.text(2.22, y + 0.18, answer, va="center")
        arrow(ax, (0.9, y), (0.9, y - 0.26))
        ax.text(1.0, y - 0.14, ("yes", "no", "no")[n], va="center", color=figures.MUTED)
    ax.text(0.9, 0.1, "direction only, or undecided", va="center", ha="left", color=figures.INK)
    return fig


def data() -> Figure:
    """A drawn picture as JPEG would keep it: brightness of each pixel, colour of blocks."""
    x = figures.picture()[0, :, 8:24, 4:20] + 0.5
    brightness = torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype), x)
    colour = x - brightness
    shared = torch.nn.functional.avg_pool2d(colour, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    panels = {"a picture": x - 0.5, "its brightness": brightness.expand(3, -1, -1) - 0.5, "its colour, shared": shared}
    fig, axes = gallery(panels, 1.8)
    for n in range(0, 17, 2):
        axes[2].axhline(n - 0.5, color="white", linewidth=0.7)
        axes[2].axvline(n - 0.5, color="white", linewidth=0.7)
    return fig


def scale() -> Figure:
    """How the images of one batch are dealt out."""
    size = 8
    (order,) = EpochOrder(size, size, 0, lambda: 0)
    shades = plt.get_cmap("cividis")(torch.linspace(0.1, 0.9, size).numpy())
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 1.95))
    for ax, devices in zip(axes, (1, 2, 4), strict=True):
        for rank in range(devices):
            (share,) = EpochOrder(size, size, 0, lambda: 0, rank, devices)
            for n, image in enumerate(share):
                at = order.index(image)
                ax.add_patch(Rectangle((rank, -n), 0.9, 0.9, facecolor=shades[at], edgecolor="none"))
                ax.text(
                    rank + 0.45, 0.45 - n, at + 1, ha="center", va="center", color="white" if at < 5 else figures.INK
                )
        ax.set(xlim=(-0.1, 4), ylim=(1 - size, 1), title="one device" if devices == 1 else f"{devices} devices")
        ax.set_axis_off()
    return fig


def original_checkpoints() -> Figure:
    """Two windows of one image, and what both show."""
    fig, ax = canvas(2.0)
    unit = 1.7 / 256
    whole = Rectangle((0.1, 0.15), 256 * unit, 256 * unit, facecolor=WASH, edgecolor=figures.MUTED)
    ax.add_patch(whole)
    for (down, across), color in (((4, 6), STRIDED), ((28, 25), BY_CONTENT)):
        corner = 0.1 + across * unit, 0.15 + (256 - 224 - down) * unit
        ax.add_patch(Rectangle(corner, 224 * unit, 224 * unit, fill=False, edgecolor=color, linewidth=2))
    for y, color, words in (
        (1.62, figures.MUTED, "the image, 256 x 256"),
        (1.22, STRIDED, "a window, 224 x 224"),
        (0.82, BY_CONTENT, "another one"),
    ):
        ax.text(2.1, y, words, color=color, weight="bold", va="center")
    ax.text(2.1, 0.42, "S-Cons.: is the label the same?", va="center")
    return fig


def new_row() -> Figure:
    """The components of a picture with their norms; the rules keep the largest and the smallest."""
    x = figures.picture()
    norms, parts = MaxNorm().eval()(x).scores[0], polyphase(x)[0]
    marks = {int(norms.argmax()): ("APS", "largest"), int(norms.argmin()): ("LPS", "smallest")}
    fig, axes = plt.subplots(1, 4, figsize=(WIDTH, 1.75))
    for k, ax in enumerate(axes):
        method, words = marks.get(k, ("Baseline", ""))
        figures.show(ax, parts[k], figures.COLORS[method], 3.0 if words else 0.8)
        ax.set_title(f"phase {k}\nnorm {float(norms[k]):.3f}", fontsize=9)
        ax.set_xlabel(words, color=figures.COLORS[method], weight="bold")
    return fig


def deviations() -> Figure:
    """A low-pass filter before the samples are dropped, and after."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    x = (torch.cos(((row - 8) ** 2 + (column - 8) ** 2) / 34) / 2).expand(1, 3, -1, -1)
    tri, keep = LowPass(3, 5), Downsample()
    panels = {"fine rings": x, "filter, then keep": keep(tri(x))[0], "keep, then filter": tri(keep(x)[0])}
    return gallery(panels, 1.8)[0]


def original_code() -> Figure:
    """Shifts that each protocol draws."""
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.3), sharex=True, sharey=True)
    protocols = {"the paper": (PAPER_SHIFTS, "LPS"), "its code": (ORIGINAL_CIFAR, "APS")}
    for ax, (words, (protocol, method)) in zip(axes, protocols.items(), strict=True):
        generator = torch.Generator().manual_seed(0)
        drawn = torch.cat([protocol.draw(1, generator) for _ in range(300)])
        ax.plot(drawn[:, 1], drawn[:, 0], ".", color=figures.COLORS[method], markersize=4)
        ax.set(title=words, xlabel="columns", aspect="equal", xticks=(0, 16, 32), yticks=(0, 16, 32))
    axes[0].set_ylabel("rows")
    return fig


def notation() -> Figure:
    """A signal, its components and what is kept: samples in squares with their numbers, even and odd in two colours."""
    fig, ax = canvas(2.35)
    size, chosen = 8, 1
    put_back = [n if n % 2 == chosen else None for n in range(size)]
    signals: Sequence[tuple[str, Iterable[int | None]]] = (
        ("$x$", range(size)),
        ("$T\\,x$", [(n + 1) % size for n in range(size)]),
        ("Poly$(x)_0$", range(0, size, 2)),
        ("Poly$(x)_1$", range(1, size, 2)),
        (f"LPD$(x)$, $k^\\star={chosen}$", range(chosen, size, 2)),
        ("LPU of it", put_back),
    )
    for line, (words, numbers) in enumerate(signals):
        y = 2.0 - 0.38 * line
        ax.text(1.28, y + 0.15, words, ha="right", va="center")
        for n, number in enumerate(numbers):
            x = 1.4 + 0.4 * n
            color = "white" if number is None else (EVEN, ODD)[number % 2]
            ax.add_patch(Rectangle((x, y), 0.36, 0.3, facecolor=color, edgecolor=figures.MUTED, linewidth=0.6))
            shown = "" if number is None else str(number)
            ink = figures.INK if number is None or number % 2 else "white"
            ax.text(x + 0.18, y + 0.15, shown, ha="center", va="center_baseline", color=ink)
    return fig


def api() -> Figure:
    """How the parts of a sampling layer belong together."""
    fig, ax = canvas(1.6)
    top, middle = 1.0, 1.25
    box(ax, 0.5, top, 1.05, 0.5, "LowPass\nfilters")
    box(ax, 1.95, top, 1.05, 0.5, "polyphase\nsplits")
    box(ax, 3.4, top, 0.8, 0.5, "one\nis kept")
    box(ax, 1.75, 0.1, 1.45, 0.5, "LearnedPhase\nor MaxNorm, chooses")
    ax.text(0.1, middle, "$x$", va="center")
    ax.text(4.55, middle, "$y$", va="center")
    for start, end in ((0.24, 0.5), (1.55, 1.95), (3.0, 3.4), (4.2, 4.5)):
        arrow(ax, (start, middle), (end, middle))
    arrow(ax, (2.47, top), (2.47, 0.6))
    arrow(ax, (3.2, 0.35), (3.8, top))
    ax.text(3.65, 0.55, "Selection", va="center", color=figures.MUTED)
    ax.text(0.1, 0.35, "Downsample", va="center", weight="bold")
    return fig


DRAWN = (
    *(hero, experiments, convert, questions, status, data, scale),
    *(original_checkpoints, new_row, deviations, original_code, notation, api),
)
CHAINS: dict[str, tuple[str, ...]] = {
    "reproduce": (
        *("lps, notebooks\nand a profile", "executed\nby make reproduce", "ledger, book\nby make book"),
        "What has not changed does not run again.",
    ),
    "records": ("a number\non a page", "its record\nsettings, data, seed", "the command\nthat repeats it"),
    "map": ("Eq. (7)\nin the paper", "Claim 1\na page of this book", "sampling.py\na line of the code"),
}
PICTURES: dict[str, Callable[[], Figure]] = {
    **{draw.__name__.replace("_", "-"): draw for draw in DRAWN},
    **{name: partial(chain, *words) for name, words in CHAINS.items()},
}
"""By the page that each stands on; the landing page's is ``hero``."""


if __name__ == "__main__":
    figures.style()
    for name, draw in PICTURES.items():
        draw().savefig(TARGET / f"{name}.svg", metadata={"Date": None})
    print(f"{len(PICTURES)} pictures in {TARGET.relative_to(ROOT)}")
