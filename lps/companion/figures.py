"""The paper's Figures 1, 2 and 3 drawn from real layers on a real picture, and the visual language of every figure.

``python -m lps.companion.figures`` draws the landing page's picture, ``book/_static/hero.svg``.
"""

import sys
from typing import Any, Literal

import matplotlib as mpl

COLORS = {"Baseline": "#5F6368", "LPF": "#E69F00", "DDAC": "#CC79A7", "APS": "#0072B2", "LPS": "#D55E00"}
"""One colour for each method, the same in every figure and table (Okabe and Ito's palette)."""

PHASES = ("#332288", "#44AA99", "#C9A227", "#AA4499")
"""One colour for each phase 0 to 3 of a 2-D map with stride 2 (after Tol's muted palette)."""

INK, MUTED, RULE, PAPER = "#1F2328", "#57606A", "#D0D7DE", "#FFFFFF"
"""Text, secondary text, lines and the opaque background, so that a figure reads the same on light and dark pages."""

RC: dict[str, Any] = {
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
    "axes.prop_cycle": mpl.cycler(color=[COLORS[name] for name in ("LPS", "APS", "LPF", "DDAC", "Baseline")]),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "image.interpolation": "nearest",
    "image.cmap": "cividis",
    "svg.fonttype": "path",
    "svg.hashsalt": "lps",
}


def style(formats: Literal["svg", "png"] = "svg") -> None:
    """Set matplotlib to the companion's visual language; in a notebook also the format in which figures are shown.

    ``svg`` stays sharp at every width; take ``png`` where a figure holds many thousand marks.
    """
    mpl.rcParams.update(RC)
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        options: dict[str, Any] = {"metadata": {"Date": None}} if formats == "svg" else {"dpi": 160}
        set_matplotlib_formats(formats, **options)
