"""What a trained network does under shifts of each size, and how far its choices are from a tie.

Both are measurements of a network on images; :mod:`lps.studies.trained` records them.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..metrics import Count, Predict
from ..selection import LearnedPhase, MaxNorm, Selection

DIRECTIONS = {"diagonal": (1, 1), "rows": (1, 0), "columns": (0, 1)}
"""Circular shifts of a size go along both axes, or along one of them."""

RATES = ("within", "turned", "turned_exact")
"""What is counted of the choices of a layer, by the names of :class:`Margin`."""

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


def plain_scores(select: LearnedPhase | MaxNorm, *seen: Any) -> Tensor:
    """Scores ``(N, P)`` as training computes them, in float32 sums whose order is that of the memory."""
    select.train()
    try:
        return select.logits(*seen) if isinstance(select, LearnedPhase) else select.forward(*seen).scores
    finally:
        select.eval()


def margin(select: LearnedPhase | MaxNorm, x: Tensor, *blur: Any) -> Margin:
    """The margin of the choices among the phases of ``x`` ``(N, C, *space)``, or of ``blur(x)``."""
    moved = x.roll((select.stride,) * (x.dim() - 2), tuple(range(2, x.dim())))
    exact, exact_moved = (select.forward(maps, *blur).scores.double() for maps in (x, moved))
    plain, plain_moved = (plain_scores(select, maps, *blur).double() for maps in (x, moved))
    scale = exact.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    first, second = exact.topk(2).values.unbind(1)
    return Margin(
        (first - second) / scale,
        (plain - exact).abs().amax(1) / scale,
        (plain_moved - plain).abs().amax(1) / scale,
        plain_moved.argmax(1) != plain.argmax(1),
        exact_moved.argmax(1) != exact.argmax(1),
    )


@contextmanager
def _measured(network: nn.Module) -> Iterator[dict[str, list[Margin]]]:
    """Fill a dictionary with the margins of each layer that selects while batches go through the network."""
    found: dict[str, list[Margin]] = {}

    def note(name: str) -> Any:
        def hook(select: LearnedPhase | MaxNorm, seen: tuple[Any, ...], output: Selection) -> None:
            found.setdefault(name, []).append(margin(select, *seen))

        return hook

    layers = {name: m for name, m in network.named_modules() if isinstance(m, LearnedPhase | MaxNorm)}
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def margins(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Margin]:
    """The margins of all choices that a network makes on images ``(N, C, H, W)``, by layer, on the CPU."""
    with torch.inference_mode(), _measured(network) as found:
        for images in batches:
            network(images)
    return {
        name: Margin(*(torch.cat(parts).cpu() for parts in zip(*margins, strict=True)))
        for name, margins in found.items()
    }


def histogram(values: Tensor) -> list[int]:
    """Counts of relative sizes by their power of ten, in ``BINS`` bins from ``LOW`` to ``HIGH``."""
    powers = values.clamp(10.0**LOW, 10.0**HIGH).log10()
    return torch.histc(powers, BINS, LOW, HIGH).long().tolist()


def summary(found: Mapping[str, Margin]) -> tuple[dict[str, Count], list[dict[str, Any]]]:
    """Of the margins of a network: counts for each layer and over all, and a histogram of each kind of size."""
    counts = {
        f"{kind}, layer {i}": Count.of(getattr(margin, kind))
        for kind in RATES
        for i, margin in enumerate(found.values(), 1)
    }
    layers = [
        {"name": name, **{kind: histogram(getattr(margin, kind)) for kind in ("lead", "rounding", "moved")}}
        for name, margin in found.items()
    ]
    return counts, layers
