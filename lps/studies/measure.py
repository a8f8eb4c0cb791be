"""What is measured of a trained network: the labels that it keeps under shifts of each size, and its choices, beside
those of the largest norm and beside what rounding could turn.

:mod:`lps.studies.trained` records it.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..exact.ties import Origin
from ..filters import LowPass
from ..metrics import Count, Predict
from ..polyphase import Stride, phases, polyphase, steps
from ..resnet import Shortcut
from ..sampling import Downsample
from ..selection import LearnedPhase, MaxNorm, Selection, choose
from ..watch import Choice, watch

DIRECTIONS = {"diagonal": (1, 1), "rows": (1, 0), "columns": (0, 1)}
"""Circular shifts of a size go along both axes, or along one of them."""

RATES = ("within", "turned", "turned_exact")
"""What is counted of the choices of a layer, by the names of :class:`Margin`."""

SIZES = ("lead", "rounding", "moved")
"""What has a histogram in each layer, by the names of :class:`Margin`."""

LOW, HIGH, BINS = -12, 1, 52
"""Histograms of relative sizes: powers of ten at the ends, four bins to each; what lies outside is in the end bins."""


def labels_kept(predict: Predict, batches: Iterable[Tensor]) -> dict[str, list[Count]]:
    """How many images keep their label under a circular shift, by direction and by size from 0 to half an image.

    Half an image is as far as a circular shift goes. ``batches`` are images ``(N, C, H, W)``.
    """
    counts: dict[str, list[Count]] = {}
    for images in batches:
        labels = predict(images)
        for name, (row, column) in DIRECTIONS.items():
            sizes = range(images.shape[-1] // 2 + 1)
            moved = (images.roll((d * row, d * column), (2, 3)) for d in sizes)
            found = [Count.of(predict(x) == labels) for x in moved]
            before = counts.get(name, [Count()] * len(found))
            counts[name] = [a + b for a, b in zip(before, found, strict=True)]
    return counts


# Choices -------------------------------------------------------------------------------------------------------


def max_norm(seen: Tensor) -> Tensor:
    """The phase ``(N,)`` of the component with the largest l2 norm, of maps ``(N, C, *space)``."""
    return cast(Tensor, MaxNorm().eval()(seen).phase)


def max_norm_counts(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Count]:
    """How often a network keeps the component with the largest l2 norm, by layer, over all images."""
    counts: dict[str, Count] = {}

    def note(choice: Choice) -> None:
        same = Count.of(cast(Tensor, choice.phase) == max_norm(choice.seen))
        counts[choice.layer] = counts.get(choice.layer, Count()) + same

    with torch.inference_mode(), watch(network, note):
        for images in batches:
            network(images)
    return counts


def with_max_norm(network: nn.Module) -> nn.Module:
    """A copy of a trained network in which APS chooses wherever LPD did; every other weight stays."""
    changed = deepcopy(network)
    for layer in changed.modules():
        if isinstance(layer, Downsample) and isinstance(layer.select, LearnedPhase):
            layer.select = MaxNorm(layer.stride)
    return changed.eval()


class RandomPhase(nn.Module):
    """Keep any component, whatever the image: the control of :func:`with_max_norm`."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, origin: Origin | None = None) -> Selection:
        scores = torch.rand(len(x), phases(self.stride, x.dim() - 2), device=x.device)
        return choose(scores, x, self.stride, origin)


def with_random_phase(network: nn.Module) -> nn.Module:
    """A copy of a trained network in which the phase is drawn from torch's global generator wherever one was chosen;
    shortcuts still take the phase of their block."""
    changed = deepcopy(network)
    for layer in changed.modules():
        if isinstance(layer, Downsample) and layer.select is not None:
            layer.select = RandomPhase(layer.stride)
    return changed.eval()


def with_lone_shortcuts(network: nn.Module) -> nn.Module:
    """A copy of a trained network in which each shortcut keeps the component with its own largest norm, where it took
    the phase of its block."""
    changed = deepcopy(network)
    for block in changed.modules():
        if isinstance(block, Shortcut) and block.downsample is not None:
            block.downsample.select = MaxNorm(block.downsample.stride)
            block.downsample.register_forward_pre_hook(lambda layer, given: given[:1])
    return changed.eval()


def untrained(network: nn.Module) -> nn.Module:
    """A copy with new weights, drawn from torch's global generator, and without statistics of batches."""
    changed = deepcopy(network)
    for layer in changed.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    return changed.eval()


def components(network: nn.Module, image: Tensor, channels: int = 8) -> tuple[Tensor, int, int]:
    """Figure 4 of one image ``(1, C, H, W)``: components ``(P, channels, H, W)`` that the last layer chooses from, the
    phase that it keeps, and the phase with the largest norm."""
    with torch.inference_mode(), watch(network) as choices:
        network(image)
    seen = choices[-1].seen
    return polyphase(seen)[0, :, :channels], int(cast(Tensor, choices[-1].phase)), int(max_norm(seen))


# Margins -------------------------------------------------------------------------------------------------------


class Margin(NamedTuple):
    """The scores of a layer that selects, relative to the largest of them in size, each ``(N,)`` float64.

    ``lead`` is that of the best phase over the second. ``rounding`` is by how much plain float32 sums miss the exact
    ones, and ``moved`` by how much they change when the layer's map is moved by one stride, which leaves each phase in
    its place: the largest difference over the phases. ``turned`` and ``turned_exact`` tell where that move changes
    the choice, made by plain and by exact sums.
    """

    lead: Tensor
    rounding: Tensor
    moved: Tensor
    turned: Tensor
    turned_exact: Tensor

    @property
    def within(self) -> Tensor:
        """Where the lead is no larger than what rounding could take from the first score and give to the second."""
        return self.lead <= 2 * torch.maximum(self.rounding, self.moved)


def margin(select: LearnedPhase | MaxNorm, x: Tensor, blur: LowPass | None = None) -> Margin:
    """The margin of the choices among the phases of ``x`` ``(N, C, *space)``, or of ``blur(x)``."""

    def scores(maps: Tensor, exact: bool) -> Tensor:
        """Inexact ones as training computes them, in float32 sums whose order is that of the memory."""
        select.train(not exact)
        try:
            found = select.logits(maps, blur) if isinstance(select, LearnedPhase) else select.forward(maps).scores
            return found.double()
        finally:
            select.eval()

    moved = x.roll(steps(select.stride, x.dim() - 2), tuple(range(2, x.dim())))
    exact, exact_moved, plain, plain_moved = (scores(maps, e) for e in (True, False) for maps in (x, moved))
    scale = exact.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    first, second = exact.topk(2).values.unbind(1)
    return Margin(
        (first - second) / scale,
        (plain - exact).abs().amax(1) / scale,
        (plain_moved - plain).abs().amax(1) / scale,
        plain_moved.argmax(1) != plain.argmax(1),
        exact_moved.argmax(1) != exact.argmax(1),
    )


def margins(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Margin]:
    """The margins of all choices that a network makes on images ``(N, C, H, W)``, by layer, on the CPU."""
    found: dict[str, list[Margin]] = {}

    def note(choice: Choice) -> None:
        of = margin(cast(LearnedPhase | MaxNorm, choice.module), choice.x, cast(LowPass | None, choice.blur))
        found.setdefault(choice.layer, []).append(of)

    with torch.inference_mode(), watch(network, note):
        for images in batches:
            network(images)
    return {
        name: Margin(*(torch.cat(parts).cpu() for parts in zip(*several, strict=True)))
        for name, several in found.items()
    }


def histogram(values: Tensor) -> list[int]:
    """Counts of relative sizes by their power of ten, in ``BINS`` bins from ``LOW`` to ``HIGH``."""
    powers = values.clamp(10.0**LOW, 10.0**HIGH).log10()
    return torch.histc(powers, BINS, LOW, HIGH).long().tolist()


def summary(found: Mapping[str, Margin]) -> tuple[dict[str, Count], list[dict[str, Any]]]:
    """Of the margins of a network: counts for each layer, and a histogram of each kind of size."""
    counts = {
        f"{kind}, layer {i}": Count.of(getattr(margin, kind))
        for kind in RATES
        for i, margin in enumerate(found.values(), 1)
    }
    layers = [
        {"name": name, **{kind: histogram(getattr(margin, kind)) for kind in SIZES}} for name, margin in found.items()
    ]
    return counts, layers
