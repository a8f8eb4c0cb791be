"""Which layer breaks the equivariance of a network, and why.

A layer is to blame where its inputs are shifted copies of each other and its outputs are not. By how much the maps are
shifted is read off the maps, so it need not be known which phases were selected on the way.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact.ties import Origin
from .metrics import shift_each
from .polyphase import Stride, keep, offset_of, steps
from .selection import Selection
from .watch import calls, tensors

Size = tuple[int, ...]

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


def orbit(images: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(G, C, H, W)`` and all their shifted copies, ``((1 + S) * G, C, H, W)``, with the axes in memory as in
    the images, and by how much each is moved, ``(1 + S, G, 2)``."""
    moves = _moves(images, shifts).expand(-1, len(images), -1)
    batch = shift_each(images.repeat(len(moves), 1, 1, 1), moves.flatten(0, 1))
    order = [0, *sorted((1, 2, 3), key=images.stride, reverse=True)]
    return batch.permute(order).contiguous().permute([order.index(axis) for axis in range(4)]), moves


def rolled(image: Tensor, shifts: Tensor) -> tuple[list[Tensor], Tensor]:
    """An image ``(1, C, H, W)`` as it is and shifted as ``torch.roll`` does it, and by how much, ``(1 + S, 1, 2)``."""
    return [image, *(image.roll(shift, (2, 3)) for shift in shifts.tolist())], _moves(image, shifts)


def _moves(images: Tensor, shifts: Tensor) -> Tensor:
    return torch.cat([shifts.new_zeros(1, 2), shifts])[:, None].to(images.device)


def apart(y: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute difference of each output, ``(S, N, ...)`` to ``(S, N)`` float64; equal infinities differ by
    nothing."""
    difference = (y.double() - reference.double()).abs()
    return torch.where(y == reference, 0.0, difference).flatten(2).amax(2)


def displacement(maps: Tensor, offset: Tensor | None = None, stride: Stride = 1) -> Tensor:
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
            other = (line - offset[..., axis, None, None]) % steps(stride, 2)[axis] != 0
            correlation = correlation.masked_fill(other, -torch.inf)
    peak = correlation.flatten(2).argmax(2)
    return torch.stack([peak // plane.shape[3], peak % plane.shape[3]], 2)


def residue(maps: Tensor, shift: Tensor) -> Tensor:
    """What is left between maps ``(S, N, C, H, W)``, moved back by ``shift`` ``(S, N, 2)``, and the first of them."""
    back = shift_each(maps.flatten(0, 1), -shift.flatten(0, 1)).unflatten(0, maps.shape[:2])
    return apart(back, back[:1])


def flips(x: Tensor, selection: Selection, copies: int) -> tuple[Tensor, Tensor]:
    """Whether the phases of maps ``(copies * N, C, H, W)`` fail to move as the maps do, and those due, both
    ``(copies * N,)``.

    Lemma 1: the content of phase ``k`` is found at phase ``(k + d) mod s`` of a map that is shifted by ``d``.
    """
    phase, origin = cast(Tensor, selection.phase), selection.origin
    stride = steps(isqrt(selection.z.shape[1]) if origin is None else origin.strides[-1], 2)
    maps = x.unflatten(0, (copies, -1))
    digits = torch.stack(offset_of(phase, stride, 2), 1).unflatten(0, (copies, -1))
    due = ((digits[:1] + displacement(maps)) % torch.tensor(stride, device=x.device)).flatten(0, 1)
    due = due[:, 0] * stride[1] + due[:, 1]
    flipped = phase != due
    if flipped.any():
        # on an almost constant map the peak says little: does some shift by which the choice did move fit exactly?
        moved = displacement(maps, digits - digits[:1], stride)
        flipped &= (residue(maps, moved) > 0).flatten(0, 1)
    if flipped.any():
        # phases that hold shifted copies of each other cannot be told apart, and need not be
        kept, wanted = (keep(x[flipped], k[flipped], stride) for k in (phase, due))
        pair = torch.stack([wanted, kept])
        flipped[flipped.clone()] = residue(pair, displacement(pair))[1] > 0
    return flipped, due


def first_break(model: nn.Module, image: Tensor, shifts: Tensor, flipped: set[str], alone: bool) -> Break | None:
    """The layer to blame for what shifts ``(S, 2)`` do to an image ``(1, C, H, W)``, in a batch or ``alone``.

    It is looked for in float64, where only the architecture can be at fault, and then among the bits of the run.
    Float64 rounds too: a selection that it flips and the run did not, a tie, is set right. ``flipped`` names the
    layers whose selections the run did flip.
    """
    batch, moves = orbit(image, shifts)
    with torch.autocast(batch.device.type, enabled=False):
        real = batch.double() if batch.is_floating_point() else batch
        try:
            broken = _search(deepcopy(model).double(), [real], moves, flipped, REAL)
        except RuntimeError:  # the network casts its maps to a type of its own
            broken = None
    return broken or _search(model, *(rolled(image, shifts[:2]) if alone else ([batch], moves)), flipped)


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
        left = residue(maps, moves if x.shape[2:] == size else displacement(maps))
        return float(left.max() / maps.abs().amax().double().clamp_min(tiny))

    def judge(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Selection | None:
        nonlocal sound, gap
        before, after = (  # maps (N, C, H, W) and vectors (N, C)
            [x for x in tensors(value, apart=Selection) if x.dim() in (2, 4) and len(x) == count]
            for value in ([args, kwargs], output)
        )
        if found or not before:
            return None
        space = max(padded[id(x)][1] if id(x) in padded else tuple(x.shape[2:]) for x in before)
        kept = max((tuple(x.shape[2:]) for x in after), default=())
        if max(map(remainder, before)) > tolerance:
            gap = gap or (sound, space)
        elif isinstance(output, Selection):
            if output.phase is not None and (wrong := flips(before[0], output, len(moves)))[0].any():
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
        with calls(model, judge):
            model(runs[0])
        return found[0] if found else None
    each: list[list[tuple[Any, ...]]] = [[] for _ in runs]
    for x, made in zip(runs, each, strict=True):
        with calls(model, lambda *call, made=made: made.append(call)):
            model(x)
    joined: dict[tuple[int, ...], Tensor] = {}
    for same in zip(*each, strict=False):
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
        return type(first)(*parts) if isinstance(first, Selection | Origin) else parts
    return {key: _join([v[key] for v in values], joined) for key in first} if isinstance(first, Mapping) else first


def _set_right(selection: Selection, flipped: Tensor, due: Tensor) -> Selection:
    z = torch.where(flipped[:, None], F.one_hot(due, selection.z.shape[1]).to(selection.z.dtype), selection.z)
    return selection._replace(z=z, phase=torch.where(flipped, due, cast(Tensor, selection.phase)))


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
