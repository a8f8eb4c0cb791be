"""The look of every figure, the picture and the fitted layer that several pages draw, and what a reader can turn."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.rcsetup import cycler
from torch import Tensor
from torch.nn import functional as F

from ..data.drawn import draw
from ..polyphase import polyphase
from ..selection import LearnedPhase, MaxNorm

COLORS = {"Baseline": "#5F6368", "LPF": "#E69F00", "DDAC": "#CC79A7", "APS": "#0072B2", "LPS": "#D55E00"}
"""One colour for each method, the same in every figure and table (Okabe and Ito's palette)."""

PHASES = ("#332288", "#44AA99", "#C9A227", "#AA4499")
"""One colour for each phase 0 to 3 of a 2-D map with stride 2 (after Tol's muted palette)."""

STYLE = mpl.rc_params_from_file(Path(__file__).with_suffix(".mplstyle"), use_default_template=False)
INK, MUTED, RULE = (STYLE[name] for name in ("text.color", "axes.edgecolor", "grid.color"))
"""Text, secondary text, and lines."""


def style() -> None:
    """Set matplotlib to the companion's look; a notebook shows figures as SVG, and keeps a PDF to take away."""
    order = ("LPS", "APS", "LPF", "DDAC", "Baseline")
    mpl.rcParams.update(STYLE)
    mpl.rcParams["axes.prop_cycle"] = cycler(color=[COLORS[name] for name in order])
    if "ipykernel" in sys.modules:
        from IPython.core.getipython import get_ipython
        from IPython.core.pylabtools import print_figure
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
        whole = partial(print_figure, fmt="pdf", base64=True, metadata={"CreationDate": None})
        shell: Any = get_ipython()
        shell.display_formatter.formatters["application/pdf"].for_type(Figure, whole)


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        select = LearnedPhase(3, hidden)
    weights = list(select.parameters())
    for x, phase in zip(images.split(batch), phases.split(batch), strict=True):
        logits = select.component_logit(polyphase(x).flatten(0, 1)).unflatten(0, (batch, -1))
        gradients = torch.autograd.grad(F.cross_entropy(logits, phase), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(0.05 * gradient.sign())
    return select.double().eval().requires_grad_(False)


def show(ax: Axes, values: Tensor, frame: str = RULE, width: float = 1.0, **options: Any) -> AxesImage:
    """Show a picture ``(1, 3, H, W)`` or ``(3, H, W)``, -0.5 to 0.5, or a map of numbers ``(H, W)``, in a frame."""
    if values.dim() > 2:
        values = (values.reshape(values.shape[-3:]) + 0.5).clamp(0, 1).permute(1, 2, 0)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=frame, linewidth=width)
    return ax.imshow(values.numpy(), **options)


def live(name: str, data: Any) -> Any:
    """The data and the scripts of ``book/_static/<name>.js``, which fills the element ``lps-<name>`` of the page."""
    from IPython.display import HTML

    scripts = "".join(f'<script defer src="../_static/{script}.js"></script>' for script in ("widgets", name))
    return HTML(f'<script type="application/json" id="lps-{name}-data">{json.dumps(data)}</script>\n{scripts}')
