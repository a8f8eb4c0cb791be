"""From a configuration to a network."""

from torch import Tensor

from ..resnet import OutputStride, ResNet
from ..sampling import Sampling
from ..selection import LearnedPhase
from .config import Model, Own


class ConvexPhase(LearnedPhase):
    """LPD trained without noise: ``z`` is the softmax of the logits at temperature ``tau``. An ablation."""

    def sample(self, logits: Tensor) -> Tensor:
        return (logits / self.tau).softmax(1)


def sampling(config: Model, own: Own | None = None) -> Sampling | None:
    """``None`` for the baseline, whose convolutions are strided."""
    if config.method == "own":
        if own is None or own.sampling is None:
            raise ValueError("a record holds the source of a sampling of your own: hand it to lps.experiments.train")
        return own.sampling
    return Sampling.named(
        config.method,
        config.antialias,
        hidden_divisor=config.hidden_divisor,
        learned=ConvexPhase if config.choice == "convex" else LearnedPhase,
        groups=config.groups,
        padding=config.padding,
        select_from=config.select_from,
    )


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
