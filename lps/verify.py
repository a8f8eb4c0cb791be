"""Is a network exactly equivariant to circular shifts, and if it is not, which layer breaks it, and why?

Nothing is assumed of the network. Every shifted image goes through all of it, in one batch with the image itself, and
some alone. The map of a shifted image has to be a shifted copy of the map of the image; by how much it is shifted is
read off the two maps, so it need not be known which phases were selected on the way.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from math import isqrt
from time import perf_counter
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .metrics import Count, shift_each
from .polyphase import keep
from .selection import Selection

Cause = Literal["stride", "padding", "odd size", "upsampling", "flatten", "selection", "precision"]

EXPLANATIONS: dict[Cause, str] = {
    "stride": "it subsamples without a selection",
    "padding": "it treats the border, or some other position, apart",
    "odd size": "its stride does not divide the size of its map",
    "upsampling": "it does not put features back where they were taken from",
    "flatten": "it turns positions into features",
    "selection": "the phase it selects does not move with the shift",
    "precision": "it is equivariant but for its rounding, which depends on the shift",
}
"""What each cause says of the layer it is found at."""

REAL = 1e-9
"""Largest difference, relative to the largest sample, that counts as rounding in float64."""

WITNESSES = 8
"""Shifts of the worst image with which the layers are judged."""

ALONE = 32
"""Shifts for which images run alone: so many of a single image, and one at least of each of many."""

Size = tuple[int, ...]

Batch = tuple[Tensor, Tensor]
"""Indices ``(G,)`` of images, and the shifts ``(S, 2)`` that each of them gets."""


@dataclass(frozen=True)
class Choices:
    """The selections of one layer: how many of ``cases`` were flipped, and how many had tied scores.

    A selection is flipped where its phase did not move as the shift does and the phase that it took holds other
    content. ``margin`` is the smallest lead of the best score, relative to the largest score of the same map.
    """

    cases: int
    flipped: int
    ties: int
    margin: float

    def __add__(self, other: "Choices") -> "Choices":
        return Choices(
            self.cases + other.cases,
            self.flipped + other.flipped,
            self.ties + other.ties,
            min(self.margin, other.margin),
        )


@dataclass(frozen=True)
class Break:
    """The first layer whose inputs are shifted copies and whose output is not.

    ``layer`` is its name in the model, empty for the model itself, and ``kind`` its class. ``before`` and ``after`` are
    the sizes of its largest maps, empty for vectors. ``difference`` is what is left between its outputs, relative to
    their largest sample; a flipped selection counts as 1.
    """

    layer: str
    kind: str
    cause: Cause
    before: Size
    after: Size
    difference: float

    def __str__(self) -> str:
        sizes = " to ".join("x".join(map(str, size)) or "a vector" for size in (self.before, self.after))
        where = f"{self.layer} ({self.kind}" if self.layer else f"the model ({self.kind}, between its layers"
        return f"{self.cause}, in {where}, {sizes}): {EXPLANATIONS[self.cause]}"


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found in ``images * shifts`` cases.

    ``labels`` counts equal labels: of images for a classifier, of pixels moved back for a segmenter. ``difference`` is
    the largest absolute difference of an output, ``max |f(x) - f(T x)|``, moved back for a segmenter. ``worst`` is the
    image and the shift where it was found, ``None`` for an exact network, and ``alone`` whether that image was not in
    a batch. ``choices`` is what each layer that selects
    chose, by its name. ``broken`` is the layer to blame: ``None`` for an exact network, and where it is no single one.
    """

    model: str
    dtype: str
    size: Size
    images: int
    shifts: int
    labels: Count
    difference: float
    worst: tuple[int, tuple[int, ...]] | None
    choices: Mapping[str, Choices]
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
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
    if images.isnan().any():
        raise ValueError("the images hold NaN")
    if (images == images[:, :, :1, :1]).all():
        raise ValueError(
            f"no shift changes images that are constant, and all {len(images)} are, which proves nothing: give others"
        )
    if batch_size < 2:
        raise ValueError(
            f"a batch holds an image and a shifted one at least: expected a size above 1, got {batch_size}"
        )
    moves = _shifts(shifts, tuple(images.shape[2:]), seed)
    images = images.to(next(model.parameters(), images).device)
    began = perf_counter()
    found = _Findings()
    broken = None
    with _evaluation(model):
        with _watching(model, found.watch):
            for index, chunk in progress(_batches(len(images), moves, batch_size)):
                found.compare(model, images[index], index, chunk)
            for i in range(len(images)):
                some = torch.randperm(len(moves), generator=torch.Generator().manual_seed(seed + i))
                found.compare_alone(model, images[i : i + 1], i, moves[some[: max(1, ALONE // len(images))]])
        if found.worst is not None:
            case, shift = found.worst
            witnesses = torch.cat([torch.tensor([shift]), moves[: WITNESSES - 1]])
            flipped = {name for name, choices in found.choices.items() if choices.flipped}
            broken = _first_break(model, images[case : case + 1], witnesses, flipped, found.alone)
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


def _orbit(images: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(G, C, H, W)`` and all their shifted copies, ``((1 + S) * G, C, H, W)``, with the axes in memory as in
    the images, and by how much each is moved, ``(1 + S, G, 2)``."""
    moves = torch.cat([torch.zeros(1, 2, dtype=torch.int64), shifts])[:, None].expand(-1, len(images), -1)
    moves = moves.to(images.device)
    batch = shift_each(images.repeat(len(moves), 1, 1, 1), moves.flatten(0, 1))
    order = [0, *sorted((1, 2, 3), key=images.stride, reverse=True)]
    return batch.permute(order).contiguous().permute([order.index(axis) for axis in range(4)]), moves


def _copies(image: Tensor, shifts: Tensor) -> tuple[list[Tensor], Tensor]:
    """An image ``(1, C, H, W)`` as it is and shifted as ``torch.roll`` does it, and by how much, ``(1 + S, 1, 2)``."""
    moves = torch.cat([torch.zeros(1, 2, dtype=torch.int64), shifts])[:, None]
    return [image, *(image.roll(shift, (2, 3)) for shift in shifts.tolist())], moves.to(image.device)


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


@contextmanager
def _watching(model: nn.Module, hook: Callable[[str, nn.Module, Any, Any, Any], Any]) -> Iterator[None]:
    """Call ``hook`` with the name, module, arguments and output of every call of a module, in the order in which they
    end; what it returns but ``None`` takes the place of the output."""
    handles = [
        module.register_forward_hook(partial(hook, name), with_kwargs=True) for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Findings:
    """What has been found so far."""

    def __init__(self) -> None:
        self.labels = Count()
        self.difference = 0.0
        self.worst: tuple[int, tuple[int, ...]] | None = None
        self.alone = False
        self.choices: dict[str, Choices] = {}
        self.dtype = torch.get_default_dtype()
        self._copies, self._batch = 1, 1
        self._flipped: list[Tensor] = []
        self._worst = 0.0

    def compare(self, model: nn.Module, images: Tensor, index: Tensor, shifts: Tensor) -> None:
        """Run the images ``(G, C, H, W)``, of these indices, together with their copies shifted by ``(S, 2)``."""
        batch, moves = _orbit(images, shifts)
        self._copies, self._batch, self._flipped = len(moves), len(batch), []
        y, differences = self._difference(_output(model, batch), moves)
        labels = y.argmax(2)
        self.labels += Count.of(labels[1:] == labels[:1])
        # a flipped selection without a consequence comes after every difference
        tiny = torch.finfo(torch.float64).tiny
        self._rank(torch.stack([differences, *(tiny * f.double() for f in self._flipped)]).amax(0), index, shifts)

    def compare_alone(self, model: nn.Module, image: Tensor, index: int, shifts: Tensor) -> None:
        """Run an image ``(1, C, H, W)``, and each copy of it that is shifted by one of ``(S, 2)``."""
        copies, moves = _copies(image, shifts)
        self._batch = 0
        _, differences = self._difference(torch.cat([_output(model, x) for x in copies]), moves)
        self._rank(differences, torch.tensor([index]), shifts, alone=True)

    def _difference(self, y: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs moved back, ``(1 + S, G, ...)``, and how far those of shifted images are off, ``(S, G)``."""
        if y.dim() == 4:
            y = shift_each(y, -moves.flatten(0, 1))
        self.dtype = y.dtype
        y = y.unflatten(0, moves.shape[:2])
        differences = _differences(y[1:], y[:1])
        self.difference = max(self.difference, float(differences.max()))
        return y, differences

    def _rank(self, rank: Tensor, index: Tensor, shifts: Tensor, alone: bool = False) -> None:
        if rank.max() > self._worst:
            self._worst, self.alone = float(rank.max()), alone
            shift, image = divmod(int(rank.argmax()), len(index))
            self.worst = int(index[image]), tuple(shifts[shift].tolist())

    def watch(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Count the selections of a layer in a batch."""
        if not isinstance(output, Selection) or output.phase is None or len(output.phase) != self._batch:
            return
        flipped = _flipped([*args, *kwargs.values()][0], output, self._copies)[0].unflatten(0, (self._copies, -1))[1:]
        best, next_best = output.scores.unflatten(0, (self._copies, -1))[1:].topk(2, 2).values.unbind(2)
        largest = output.scores.abs().amax(1).unflatten(0, (self._copies, -1))[1:]
        margins = ((best - next_best) / largest).nan_to_num(0.0)
        ties = int((best == next_best).sum())
        choices = Choices(flipped.numel(), int(flipped.sum()), ties, float(margins.min()))
        self.choices[name] = self.choices[name] + choices if name in self.choices else choices
        self._flipped.append(flipped)


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


def _differences(y: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute difference of each output, ``(S, N, ...)`` to ``(S, N)`` float64; equal infinities differ by
    nothing."""
    apart = (y.double() - reference.double()).abs()
    return torch.where(y == reference, 0.0, apart).flatten(2).amax(2)


def displacement(maps: Tensor, offset: Tensor | None = None, stride: int = 1) -> Tensor:
    """By how much maps are shifted against the first of them, ``(S, N, C, H, W)`` to ``(S, N, 2)`` int64.

    The peak of the circular cross-correlation: of maps that are not shifted copies, the shift that fits best. With
    ``offset`` ``(S, N, 2)`` only shifts that equal it modulo ``stride`` are looked at.
    """
    mixture = torch.arange(1, maps.shape[2] + 1, dtype=torch.float64, device=maps.device).sqrt()
    plane = torch.einsum("sncij,c->snij", maps.double(), mixture)  # the last bits of almost constant maps count
    spectrum = torch.fft.rfft2(plane - plane.mean((2, 3), keepdim=True))
    correlation = torch.fft.irfft2(spectrum * spectrum[:1].conj(), s=plane.shape[2:])
    if offset is not None:
        for axis, size in enumerate(correlation.shape[2:]):
            line = torch.arange(size, device=maps.device).view(-1, *(1,) * (1 - axis))
            other = (line - offset[..., axis, None, None]) % stride != 0
            correlation = correlation.masked_fill(other, -torch.inf)
    peak = correlation.flatten(2).argmax(2)
    return torch.stack([peak // plane.shape[3], peak % plane.shape[3]], 2)


def _remainder(maps: Tensor, shift: Tensor) -> Tensor:
    """What is left between maps ``(S, N, C, H, W)``, moved back by ``shift`` ``(S, N, 2)``, and the first of them."""
    back = shift_each(maps.flatten(0, 1), -shift.flatten(0, 1)).unflatten(0, maps.shape[:2])
    return _differences(back, back[:1])


def _flipped(x: Tensor, selection: Selection, copies: int) -> tuple[Tensor, Tensor]:
    """Whether the phases of maps ``(copies * N, C, H, W)`` fail to move as the maps do, and those due, both
    ``(copies * N,)``.

    Lemma 1: the content of phase ``k`` is found at phase ``(k + d) mod s`` of a map that is shifted by ``d``.
    """
    phase, stride = cast(Tensor, selection.phase), isqrt(selection.z.shape[1])
    maps = x.unflatten(0, (copies, -1))
    digits = torch.stack([phase // stride, phase % stride], 1).unflatten(0, (copies, -1))
    due = ((digits[:1] + displacement(maps)) % stride).flatten(0, 1)
    due = due[:, 0] * stride + due[:, 1]
    flipped = phase != due
    if flipped.any():
        # on an almost constant map the peak says little: does some shift by which the choice did move fit exactly?
        moved = displacement(maps, digits - digits[:1], stride)
        flipped &= (_remainder(maps, moved) > 0).flatten(0, 1)
    if flipped.any():
        # phases that hold shifted copies of each other cannot be told apart, and need not be
        kept, wanted = (keep(x[flipped], k[flipped], stride) for k in (phase, due))
        pair = torch.stack([wanted, kept])
        flipped[flipped.clone()] = _remainder(pair, displacement(pair))[1] > 0
    return flipped, due


def _first_break(model: nn.Module, image: Tensor, shifts: Tensor, flipped: set[str], alone: bool) -> Break | None:
    """The layer to blame for what shifts ``(S, 2)`` do to an image ``(1, C, H, W)``, in a batch or ``alone``.

    It is looked for in float64, where only the architecture can be at fault, and then among the bits of the run.
    Float64 rounds too: a selection that it flips and the run did not, a tie, is set right. ``flipped`` names the
    layers whose selections the run did flip.
    """
    batch, moves = _orbit(image, shifts)
    with torch.autocast(batch.device.type, enabled=False):
        real = batch.double() if batch.is_floating_point() else batch
        try:
            broken = _search(deepcopy(model).double(), [real], moves, flipped, REAL)
        except RuntimeError:  # the network casts its maps to a type of its own
            broken = None
    return broken or _search(model, *(_copies(image, shifts[:2]) if alone else ([batch], moves)), flipped)


def _search(
    model: nn.Module, runs: Sequence[Tensor], moves: Tensor, flipped: set[str], tolerance: float = 0.0
) -> Break | None:
    """The first call of a module that turns shifted copies into something else; inner modules end first.

    ``runs`` are one batch, or copies that run one by one. Without a ``tolerance`` copies have to be equal, and rounding
    is the only cause.
    """
    found: list[Break] = []
    padded: dict[int, tuple[Tensor, Size]] = {}
    size, count = tuple(runs[0].shape[2:]), moves[..., 0].numel()
    sound: Size = size
    gap: tuple[Size, Size] | None = None
    tiny = torch.finfo(torch.float64).tiny

    def remainder(x: Tensor) -> float:
        if id(x) in padded:
            return 0.0
        maps = (x if x.dim() == 4 else x[..., None, None]).unflatten(0, moves.shape[:2])
        # only a map of another size than the images may be moved by something else than they are
        left = _remainder(maps, moves if x.shape[2:] == size else displacement(maps))
        return float(left.max() / maps.abs().amax().double().clamp_min(tiny))

    def judge(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Selection | None:
        nonlocal sound, gap
        before, after = ([x for x in _maps(value) if len(x) == count] for value in ([args, kwargs], output))
        if found or not before:
            return None
        space = max(padded[id(x)][1] if id(x) in padded else tuple(x.shape[2:]) for x in before)
        kept = max((tuple(x.shape[2:]) for x in after), default=())
        if max(map(remainder, before)) > tolerance:
            gap = gap or (sound, space)
        elif isinstance(output, Selection):
            if output.phase is not None and (wrong := _flipped(before[0], output, len(moves)))[0].any():
                if tolerance and name not in flipped:
                    return _set_right(output, *wrong)
                cause: Cause = "selection" if tolerance else "precision"
                found.append(Break(name, type(module).__name__, cause, space, space, 1.0))
        elif kept > space and any(m % n for n, m in zip(space, kept, strict=False)):
            # only padded: as good as the map before, and judged by what the next layer makes of it
            padded.update({id(x): (x, space) for x in after})
        elif (left := max(map(remainder, after), default=0.0)) > tolerance:
            if gap is not None:  # all inner modules are sound: what breaks it stands between two of them
                space, kept = gap
            cause = _cause(space, kept) if tolerance else "precision"
            found.append(Break(name, type(module).__name__, cause, space, kept, left))
        else:
            sound, gap = kept, None
        return None

    if len(runs) == 1:
        with _watching(model, judge):
            model(runs[0])
        return found[0] if found else None
    calls: list[list[tuple[Any, ...]]] = [[] for _ in runs]
    for x, made in zip(runs, calls, strict=True):
        with _watching(model, lambda *call, made=made: made.append(call)):
            model(x)
    joined: dict[tuple[int, ...], Tensor] = {}
    for same in zip(*calls, strict=False):
        name, module, *_ = same[0]
        judge(name, module, *(_join(values, joined) for values in list(zip(*same, strict=True))[2:]))
    return found[0] if found else None


def _join(values: Sequence[Any], joined: dict[tuple[int, ...], Tensor]) -> Any:
    """Nested arguments or outputs of runs one by one, as those of one batch; the same ones are ``joined`` once."""
    first = values[0]
    if isinstance(first, Tensor) and first.dim():
        key = tuple(map(id, values))
        if key not in joined:
            joined[key] = torch.cat(list(values))
        return joined[key]
    if isinstance(first, tuple | list):
        parts = [_join(part, joined) for part in zip(*values, strict=True)]
        return type(first)(*parts) if isinstance(first, Selection) else parts
    return {key: _join([v[key] for v in values], joined) for key in first} if isinstance(first, Mapping) else first


def _set_right(selection: Selection, flipped: Tensor, due: Tensor) -> Selection:
    z = torch.where(flipped[:, None], F.one_hot(due, selection.z.shape[1]).to(selection.z.dtype), selection.z)
    return selection._replace(z=z, phase=torch.where(flipped, due, cast(Tensor, selection.phase)))


def _maps(value: Any) -> Iterator[Tensor]:
    """Maps ``(N, C, H, W)`` and vectors ``(N, C)`` in nested arguments or outputs, without those of a selection."""
    if isinstance(value, Tensor) and value.dim() in (2, 4):
        yield value
    elif isinstance(value, tuple | list) and not isinstance(value, Selection):
        for part in value:
            yield from _maps(part)
    elif isinstance(value, Mapping):
        yield from _maps(list(value.values()))


def _cause(before: Size, after: Size) -> Cause:
    """Why what makes maps of one size from maps of another breaks over the reals."""
    if before and not after:
        return "flatten"
    if after > before:
        return "padding" if any(m % n for n, m in zip(before, after, strict=False)) else "upsampling"
    strides = [round(n / m) for n, m in zip(before, after, strict=True)]
    if any(n % stride for n, stride in zip(before, strides, strict=True)):
        return "odd size"
    return "stride" if max(strides, default=1) > 1 else "padding"
