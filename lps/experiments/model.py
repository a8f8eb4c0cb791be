"""From a configuration to a network: the one place where a name becomes a class."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..exact.ties import Origin
from ..filters import AdaptiveLowPass, LowPass
from ..resnet import OutputStride, ResNet
from ..sampling import Sampling
from ..selection import LearnedPhase, MaxNorm, Selection
from .config import Model, Own

Factory = Callable[[int], nn.Module]


def antialias(config: Model) -> Factory | None:
    """The filter of Sec. 5.1 by its name in the tables."""
    filters: dict[str, Factory] = {
        "rect-2": partial(LowPass, size=2, padding=config.padding),
        "tri-3": partial(LowPass, size=3, padding=config.padding),
        "bin-5": partial(LowPass, size=5, padding=config.padding),
        "adapt-3": partial(AdaptiveLowPass, size=3, groups=config.groups, padding=config.padding),
    }
    return filters.get(config.antialias)


class ConvexPhase(LearnedPhase):
    """LPD trained without noise: ``z`` is the softmax of the logits at temperature ``tau``. An ablation."""

    def forward(self, x: Tensor, blur: LowPass | None = None, origin: Origin | None = None) -> Selection:
        if not self.training:
            return super().forward(x, blur, origin)
        logits = self.logits(x, blur)
        return Selection(logits, (logits / self.tau).softmax(1))


def selection(config: Model) -> Factory | None:
    """The selection rule; methods without one keep phase 0 (Eq. 4)."""
    learned = {"gumbel": LearnedPhase, "convex": ConvexPhase}[config.choice]
    rules: dict[str, Factory] = {
        "aps": lambda channels: MaxNorm(),
        "lps": lambda channels: learned(channels, max(1, channels // config.hidden_divisor), padding=config.padding),
    }
    return rules.get(config.method)


def sampling(config: Model, own: Own | None = None) -> Sampling | None:
    """``None`` for the baseline, whose convolutions are strided."""
    if config.method == "own":
        if own is None or own.sampling is None:
            raise ValueError("a record holds the source of a sampling of your own: hand it to lps.experiments.train")
        return own.sampling
    if config.method == "baseline":
        return None
    return Sampling(selection(config), antialias(config), select_from=config.select_from)


def build_model(config: Model, classes: int, output_stride: OutputStride = 32, own: Own | None = None) -> ResNet:
    """A freshly initialised network; draws from torch's global generator."""
    return ResNet(
        config.depth,
        classes=classes,
        sampling=sampling(config, own),
        stem=config.stem,
        width=config.width,
        padding=config.padding,
        output_stride=output_stride,
    )
