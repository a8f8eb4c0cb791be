"""Draw the picture of the landing page, ``book/_static/hero.svg``: ``python book/hero.py``.

What striding and what LPS keep of a picture and of its shifted copy, with a close-up of one window.
"""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lps import Downsample, circular_shift
from lps.paths import ROOT
from lps.polyphase import offsets
from lps.report import figures

TARGET = ROOT / "book" / "_static" / "hero.svg"
CORNER, SIZE = (15, 11), 12  # of the window


def hero() -> Figure:
    x = figures.picture()
    images = {"a picture": (x, 0), "shifted by 1 column": (circular_shift(x, (0, 1)), 1)}
    methods = {
        "Baseline": ("Stride 2: other pixels are kept", Downsample()),
        "LPS": ("LPS: the same pixels are kept", Downsample(figures.fitted_selection()).eval()),
    }
    fig = plt.figure(figsize=(10, 4.7))
    grid = fig.add_gridspec(2, 7, width_ratios=(1, 0.12, 1, 1, 0.12, 1, 1))
    for row, (words, (image, moved)) in enumerate(images.items()):
        top, left = CORNER[0], CORNER[1] + moved
        whole = fig.add_subplot(grid[row, 0])
        figures.show(whole, image)
        window = plt.Rectangle((left - 0.5, top - 0.5), SIZE, SIZE, fill=False, edgecolor=figures.INK, linewidth=1.4)
        whole.add_patch(window)
        label(whole, words, row)
        for column, (method, (_, layer)) in zip((2, 5), methods.items(), strict=True):
            y, chosen = layer(image)
            down, across = offsets(2, 2)[0 if chosen is None else int(chosen.phase)]
            kept = image + 0.86 * (0.5 - image)  # faded to white
            kept[..., down::2, across::2] = image[..., down::2, across::2]
            close_up, output = (fig.add_subplot(grid[row, column + c]) for c in range(2))
            figures.show(close_up, kept[..., top : top + SIZE, left : left + SIZE], figures.COLORS[method], 1.6)
            figures.show(output, y, figures.COLORS[method], 2.6)
            if row == 1:
                label(close_up, "what is kept", row)
                label(output, "the result", row)
    for column, (method, (words, _)) in zip((2, 5), methods.items(), strict=True):
        head = fig.add_subplot(grid[0, column : column + 2])
        head.set_axis_off()
        head.set_title(words, color=figures.COLORS[method], weight="bold", fontsize=11)
    return fig


def label(ax: plt.Axes, words: str, row: int) -> None:
    """Above the first row, below the second."""
    (ax.set_xlabel if row else ax.set_title)(words, color=figures.INK)


if __name__ == "__main__":
    figures.style()
    hero().savefig(TARGET, metadata={"Date": None})
    print(TARGET.relative_to(ROOT))
