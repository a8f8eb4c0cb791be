"""Is a network exactly equivariant to circular shifts?

Nothing is assumed of the network. Every shifted image goes through all of it, in one batch with the image itself, and
some alone. Where an output differs, :mod:`lps.diagnose` finds the layer to blame.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .diagnose import Break, Size, apart, first_break, flips, orbit, rolled
from .metrics import Count, shift_each
from .watch import Choice, watch

WITNESSES = 8
"""Shifts of the worst image with which the layers are judged."""

ALONE = 32
"""Shifts for which images run alone: so many of a single image, and one at least of each of many."""

Batch = tuple[Tensor, Tensor]
"""Indices ``(G,)`` of images, and the shifts ``(S, 2)`` that each of them gets."""


@dataclass(frozen=True)
class Tally:
    """The selections of one layer: how many of ``cases`` were flipped, and how many had tied scores.

    A selection is flipped where its phase did not move as the shift does and the phase that it took holds other
    content. ``margin`` is the smallest lead of the best score, relative to the largest score of the same map.
    """

    cases: int
    flipped: int
    ties: int
    margin: float

    def __add__(self, other: "Tally") -> "Tally":
        counts = (self.cases + other.cases, self.flipped + other.flipped, self.ties + other.ties)
        return Tally(*counts, min(self.margin, other.margin))


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found in ``images * shifts`` cases.

    ``labels`` counts equal labels: of images for a classifier, of pixels moved back for a segmenter. ``difference`` is
    the largest absolute difference of an output, ``max |f(x) - f(T x)|``, moved back for a segmenter. ``worst`` is the
    image and the shift where it was found, ``None`` for an exact network, and ``alone`` whether that image was not in
    a batch. ``choices`` counts what each layer that selects chose, by its name. ``broken`` is the layer to blame:
    ``None`` for an exact network, and where it is no single one.
    """

    model: str
    dtype: str
    size: Size
    images: int
    shifts: int
    labels: Count
    difference: float
    worst: tuple[int, tuple[int, ...]] | None
    choices: Mapping[str, Tally]
    broken: Break | None
    seconds: float
    alone: bool = False

    @property
    def exact(self) -> bool:
        """Outputs equal bit for bit in every case, and no selection flipped."""
        return self.worst is None

    @property
    def blame(self) -> str:
        """Which layer breaks an inexact network, and why, in words."""
        return str(self.broken or "no single layer")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"exact": self.exact, **asdict(self)}

    def __str__(self) -> str:
        alone = ", alone" if self.alone else ""
        place = "" if self.worst is None else f"  (image {self.worst[0]}, shift {self.worst[1]}{alone})"
        lines = [
            f"{self.model}, {self.dtype}: {self.images:,} images of {'x'.join(map(str, self.size))}, "
            f"{self.shifts:,} circular shifts of each, {self.seconds:.0f} s",
            f"equal labels         {self.labels.agree:,} of {self.labels.total:,}",
            f"max |f(x) - f(T x)|  {self.difference:.3g}{place}",
        ]
        if self.choices:
            width = max(map(len, self.choices))
            lines.append(f"{'selections':<{width}} {'cases':>10} {'flipped':>10} {'ties':>10} {'margin':>10}")
        for name, c in self.choices.items():
            lines.append(f"{name:<{width}} {c.cases:>10,} {c.flipped:>10,} {c.ties:>10,} {c.margin:>10.1e}")
        lines.append("exact" if self.exact else f"not exact; first broken by {self.blame}")
        return "\n".join(lines)


def verify(
    model: nn.Module,
    images: Tensor,
    *,
    shifts: Literal["all"] | int | Sequence[Sequence[int]] = "all",
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[Sequence[Batch]], Iterable[Batch]] = iter,
) -> Report:
    """Compare the outputs of ``model`` for ``images`` ``(N, C, H, W)`` with those for circular shifts of them.

    >>> images = torch.randn(1, 3, 16, 16)
    >>> exact = lps.ResNet(18, classes=10, sampling=lps.Sampling.named("aps"), stem="cifar", width=8)
    >>> lps.verify(exact, images, shifts=8).exact
    True
    >>> report = lps.verify(lps.ResNet(18, classes=10, stem="cifar", width=8), images, shifts=8)
    >>> report.exact, report.broken.layer, report.broken.cause
    (False, 'stages.1.0.conv1', 'stride')

    ``model`` is any classifier, with outputs ``(N, classes)``, or segmenter, ``(N, classes, H, W)``, also under the
    key ``"out"`` as in torchvision. It runs in evaluation mode on the device of its parameters and gets its modes
    back; an autocast around the call applies. ``shifts`` are all ``H * W``, or as many distinct ones drawn from
    ``seed``, or pairs of rows and columns. An image and its shifts share a batch of at most ``batch_size``, laid out in
    memory as ``images`` are, so that both sides of a comparison are computed alike. Some of the shifts, drawn from
    ``seed``, are tried once more with each image alone, as it is, and then as ``torch.roll`` returns it. ``progress``
    wraps the list of batches, as ``tqdm`` does.

    Raises ``ValueError`` for images or outputs of other shapes, for NaN, for shifts that do not exist, and for
    images none of which a shift changes.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {model!r}; a function of images can be its forward")
    if not isinstance(images, Tensor) or images.dim() != 4 or 0 in images.shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"expected images (N, C, H, W), got {got}")
    if images.isnan().any():
        raise ValueError("the images hold NaN")
    if (images == images[:, :, :1, :1]).all():
        raise ValueError(
            f"no shift changes images that are constant, and all {len(images)} are, which proves nothing: give others"
        )
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (an image and one shift of it), got {batch_size}")
    moves = _shifts(shifts, tuple(images.shape[2:]), seed)
    images = images.to(next(model.parameters(), images).device)
    began = perf_counter()
    found = _Findings()
    broken = None
    with _evaluation(model):
        for index, chunk in progress(_batches(len(images), moves, batch_size)):
            found.compare(model, images[index], index, chunk)
        for i in range(len(images)):
            some = torch.randperm(len(moves), generator=torch.Generator().manual_seed(seed + i))
            found.compare_alone(model, images[i : i + 1], i, moves[some[: max(1, ALONE // len(images))]])
        if found.worst is not None:
            case, shift = found.worst
            witnesses = torch.cat([torch.tensor([shift]), moves[: WITNESSES - 1]])
            flipped = {name for name, choices in found.choices.items() if choices.flipped}
            broken = first_break(model, images[case : case + 1], witnesses, flipped, found.alone)
    return Report(
        type(model).__name__,
        str(found.dtype).removeprefix("torch."),
        tuple(images.shape[2:]),
        len(images),
        len(moves),
        found.labels,
        found.difference,
        found.worst,
        found.choices,
        broken,
        perf_counter() - began,
        found.alone,
    )


def _shifts(shifts: Literal["all"] | int | Sequence[Sequence[int]], size: Size, seed: int) -> Tensor:
    """``(S, 2)`` int64. A sample leaves out the shift by nothing."""
    every = torch.cartesian_prod(*map(torch.arange, size))
    if shifts == "all":
        return every
    if isinstance(shifts, int):
        if not 0 < shifts < len(every):
            raise ValueError(f"images of {size} have {len(every) - 1} shifts to draw from, {shifts} were asked for")
        return every[1:][torch.randperm(len(every) - 1, generator=torch.Generator().manual_seed(seed))[:shifts]]
    if not len(shifts) or any(isinstance(shift, int) or len(shift) != 2 for shift in shifts):
        raise ValueError(f"shifts are 'all', a number, or pairs of rows and columns, got {shifts!r}")
    moves = torch.tensor([list(shift) for shift in shifts])
    if not (moves % torch.tensor(size)).any():
        raise ValueError(f"none of the shifts {shifts!r} moves images of {size}")
    return moves


def _batches(count: int, shifts: Tensor, size: int) -> list[Batch]:
    chunks = shifts.split(size - 1)
    return [(index, chunk) for chunk in chunks for index in torch.arange(count).split(max(1, size // (len(chunk) + 1)))]


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():  # what the network keeps for itself may be needed in training
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Findings:
    """What has been found so far."""

    def __init__(self) -> None:
        self.labels = Count()
        self.difference = 0.0
        self.worst: tuple[int, tuple[int, ...]] | None = None
        self.alone = False
        self.choices: dict[str, Tally] = {}
        self.dtype = torch.get_default_dtype()
        self._worst = 0.0

    def compare(self, model: nn.Module, images: Tensor, index: Tensor, shifts: Tensor) -> None:
        """Run the images ``(G, C, H, W)``, of these indices, together with their copies shifted by ``(S, 2)``."""
        batch, moves = orbit(images, shifts)
        flipped: list[Tensor] = []

        def note(choice: Choice) -> None:
            if choice.phase is not None and len(choice.phase) == len(batch):
                flipped.append(self._count(choice, len(moves)))

        with watch(model, note):
            outputs = _output(model, batch)
        y, differences = self._difference(outputs, moves)
        labels = y.argmax(2)
        self.labels += Count.of(labels[1:] == labels[:1])
        # a flipped selection without a consequence comes after every difference
        tiny = torch.finfo(torch.float64).tiny
        self._rank(torch.stack([differences, *(tiny * each.double() for each in flipped)]).amax(0), index, shifts)

    def compare_alone(self, model: nn.Module, image: Tensor, index: int, shifts: Tensor) -> None:
        """Run an image ``(1, C, H, W)``, and each copy of it that is shifted by one of ``(S, 2)``."""
        copies, moves = rolled(image, shifts)
        _, differences = self._difference(torch.cat([_output(model, x) for x in copies]), moves)
        self._rank(differences, torch.tensor([index]), shifts, alone=True)

    def _difference(self, y: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs moved back, ``(1 + S, G, ...)``, and how far those of shifted images are off, ``(S, G)``."""
        if y.dim() == 4:
            y = shift_each(y, -moves.flatten(0, 1))
        self.dtype = y.dtype
        y = y.unflatten(0, moves.shape[:2])
        differences = apart(y[1:], y[:1])
        self.difference = max(self.difference, float(differences.max()))
        return y, differences

    def _rank(self, rank: Tensor, index: Tensor, shifts: Tensor, alone: bool = False) -> None:
        if rank.max() > self._worst:
            self._worst, self.alone = float(rank.max()), alone
            shift, image = divmod(int(rank.argmax()), len(index))
            self.worst = int(index[image]), tuple(shifts[shift].tolist())

    def _count(self, choice: Choice, copies: int) -> Tensor:
        """Add a batch of selections to their layer, and say which of those of shifted images are flipped."""
        flipped = flips(choice.x, choice.selection, copies)[0].unflatten(0, (copies, -1))[1:]
        scores = choice.scores.unflatten(0, (copies, -1))[1:]
        best, second = scores.topk(2, 2).values.unbind(2)
        margins = ((best - second) / scores.abs().amax(2)).nan_to_num(0.0)
        found = Tally(flipped.numel(), int(flipped.sum()), int((best == second).sum()), float(margins.min()))
        before = self.choices.get(choice.layer)
        self.choices[choice.layer] = found if before is None else before + found
        return flipped


def _output(model: nn.Module, batch: Tensor) -> Tensor:
    y = model(batch)
    y = y.get("out") if isinstance(y, Mapping) else y
    shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
    if not isinstance(y, Tensor) or len(y) != len(batch) or (y.dim() != 2 and y.shape[2:] != batch.shape[2:]):
        raise ValueError(
            f"expected logits (N, classes) or (N, classes, H, W) for images {tuple(batch.shape)}, got {shape}"
        )
    if y.isnan().any():
        raise ValueError("the model's output holds NaN")
    return y
