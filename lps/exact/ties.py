"""Hard selection when scores tie: a choice that travels with the content of the image.

Two phases can hold the same content, or content of equal score. ``argmax`` then takes the first, which no shift
respects. Here every position gets a fingerprint of the whole image as seen from it, and the phase that holds the
smallest one wins. Fingerprints are equal where the image, seen from two positions, is the same: only an image that
equals a shifted copy of itself leaves a tie, and then so does every map that was computed from it. Tied components are
copies of each other, and ``lag`` says by how much they are moved, so that LPU can put features back into all of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ..polyphase import Stride, keep, merge, mix, phase_view, place, polyphase, steps
from .convolution import depthwise, pad
from .fused import place_filtered

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_GOLDEN, _FIRST, _SECOND = (value - (1 << 64) if value >> 63 else value for value in _MIX)


def _scramble(h: Tensor) -> Tensor:
    """A bijection of int64 in which each bit of the result depends on all bits of ``h``, in the memory of ``h``."""
    shifted = h >> 30
    for factor, bits in ((_FIRST, 27), (_SECOND, 31)):
        h.bitwise_xor_(shifted).mul_(factor)
        torch.bitwise_right_shift(h, bits, out=shifted)
    return h.bitwise_xor_(shifted)


def fingerprints(x: Tensor) -> Tensor:
    """Hash, at each position, of the map ``x`` ``(N, C, *space)`` as seen from there: ``(N, *space)`` int64.

    A circular shift of ``x`` shifts the fingerprints alike. Windows double until they span each axis.
    """
    channel = _scramble(torch.arange(1, x.shape[1] + 1, device=x.device) * _GOLDEN)
    bits = x.to(torch.float64, copy=True).add_(0.0).view(torch.int64)  # adding zero makes one of the two zeros
    h = _scramble(bits.add_(channel.view(-1, *(1,) * (x.dim() - 2)))).sum(1)
    for axis in range(1, h.dim()):
        reach = 1
        while reach < h.shape[axis]:
            h = _scramble(_scramble(h.roll(-reach, axis)).add_(h.mul_(_GOLDEN)))
            reach *= 2
    return h


class Seen(NamedTuple):
    """The fingerprints ``(N, *space)`` of those images that are ``known`` ``(N,)``."""

    known: Tensor
    prints: Tensor

    @classmethod
    def nothing(cls, image: Tensor) -> Self:
        """Of no image yet."""
        shape = image.shape[0], *image.shape[2:]
        known = torch.zeros(shape[0], dtype=torch.bool, device=image.device)
        return cls(known, torch.empty(shape, dtype=torch.int64, device=image.device))

    def of(self, image: Tensor, asked: Tensor) -> Self:
        """With those of the images that are ``asked`` for."""
        new = asked & ~self.known
        if not new.any():
            return self
        prints = self.prints.clone()
        prints[new] = fingerprints(image[new])
        return type(self)(self.known | new, prints)


class Origin(NamedTuple):
    """Where the positions of a map come from: an image, and the phases that were kept on the way down from it.

    >>> images = torch.randn(2, 3, 16, 16)
    >>> y, selection = lps.Downsample(lps.MaxNorm())(images, origin=lps.Origin(images))
    >>> selection.origin.strides, selection.origin.space
    ((2,), (8, 8))

    ``image`` ``(N, C, *space)``, and of each step its ``phases`` ``(N,)`` and its stride; ``seen`` holds what ties on
    the way down have made known.
    """

    image: Tensor
    phases: tuple[Tensor, ...] = ()
    strides: tuple[Stride, ...] = ()
    seen: "Seen | None" = None

    @property
    def space(self) -> tuple[int, ...]:
        """Size of the map whose positions these are."""
        space = tuple(self.image.shape[2:])
        for stride in self.strides:
            space = tuple(size // s for size, s in zip(space, steps(stride, len(space)), strict=True))
        return space

    def below(self, phase: Tensor, stride: Stride, seen: Seen | None = None) -> Self:
        """The origin of the component that ``phase`` ``(N,)`` keeps."""
        return type(self)(self.image, (*self.phases, phase), (*self.strides, stride), seen)


def choose_phase(scores: Tensor, origin: Origin, stride: Stride) -> tuple[Tensor, Tensor, Tensor | None, Seen | None]:
    """``k* = argmax_k scores_k`` (Eq. 7) of the phases of a map with this origin; see :func:`choose`.

    With what is known of its images then. An ONNX graph takes the first of equal scores, and has no ``lag``.
    """
    if torch.onnx.is_in_onnx_export():
        phase = scores.argmax(1)
        return F.one_hot(phase, scores.shape[1]).to(scores.dtype), phase, None, None
    image, dims = origin.image.detach(), origin.image.dim() - 2
    above = [s for each in origin.strides for s in steps(each, dims)]
    settings = scores.detach(), image, origin.phases, above, steps(stride, dims)
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(image) is not Tensor or image.is_meta:
        return *choose(*settings), None
    return _choose(*settings, origin.seen)


@torch.library.custom_op("lps::choose", mutates_args=())
def choose(
    scores: Tensor, image: Tensor, kept: Sequence[Tensor], above: Sequence[int], stride: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """``k* = argmax_k scores_k`` (Eq. 7) of the phases of a map, ties broken by the content of the image.

    The map's positions are those of ``image`` ``(N, C, *space)`` that the phases ``kept`` ``(N,)`` leave, of the
    strides ``above``, one after the other and each along all axes; only a tie makes anybody look at them. Returns ``z``
    ``(N, P)``, one-hot or equal over the phases that stay
    tied; ``k*`` ``(N,)`` int64; and ``lag`` ``(N, P, dims)`` int64, the circular shift that carries the component of
    ``k*`` onto each tied one. Raises ``ValueError`` where a score is NaN.
    """
    return _choose(scores, image, kept, above, stride, None)[:3]


def _choose(
    scores: Tensor,
    image: Tensor,
    kept: Sequence[Tensor],
    above: Sequence[int],
    stride: Sequence[int],
    seen: Seen | None,
) -> tuple[Tensor, Tensor, Tensor, Seen | None]:
    dims = image.dim() - 2
    best = scores == scores.amax(1, keepdim=True)
    lag = torch.zeros(*scores.shape, dims, dtype=torch.int64, device=scores.device)
    unclear = best.sum(1) != 1
    if unclear.any():
        if scores.isnan().any():
            raise ValueError(
                f"NaN among the scores of the phases of a map of images {tuple(image.shape)}: its values are not finite"
            )
        seen = (seen or Seen.nothing(image)).of(image, unclear)
        prints = seen.prints[unclear][:, None]
        for i, phase in enumerate(kept):
            prints = keep(prints, phase[unclear], above[i * dims : (i + 1) * dims])
        space = [size // s for size, s in zip(prints.shape[2:], stride, strict=True)]
        smallest, where = phase_view(prints, stride).flatten(1 + dims).flatten(1, dims).min(2)
        smallest = smallest.masked_fill(~best[unclear], torch.iinfo(torch.int64).max)
        tied = smallest == smallest.amin(1, keepdim=True)
        anchor = torch.stack(torch.unravel_index(where, space), -1)
        first = anchor[torch.arange(len(anchor)), tied.int().argmax(1)]
        best[unclear] = tied
        lag[unclear] = (anchor - first[:, None]) * tied[..., None]
    z = best.to(scores.dtype) / best.sum(1, keepdim=True)
    return z, best.int().argmax(1), lag, seen


@choose.register_fake
def _(
    scores: Tensor, image: Tensor, kept: Sequence[Tensor], above: Sequence[int], stride: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    count, phases = scores.shape
    return (
        torch.empty_like(scores),
        scores.new_empty(count, dtype=torch.int64),
        scores.new_empty(count, phases, image.dim() - 2, dtype=torch.int64),
    )


def _tied(z: Tensor) -> list[int]:
    """Samples in which several phases are filled, possibly with moved copies of each other."""
    return (z.count_nonzero(1) > 1).nonzero().flatten().tolist()


def put_back_phases(y: Tensor, z: Tensor, lag: Tensor | None, kernel: Tensor | None, stride: Stride) -> Tensor:
    """Eqs. (24) and (25), and where a ``kernel`` is given the filter behind them; see :func:`put_back`.

    Without a ``lag`` no phases are tied, and ``z`` may be a mixture.
    """
    if lag is not None:
        return put_back(y, z, lag, kernel, steps(stride, y.dim() - 2))
    return place(y, z, stride) if kernel is None else place_filtered(y, kernel, z, stride)


@torch.library.custom_op("lps::put_back", mutates_args=())
def put_back(y: Tensor, z: Tensor, lag: Tensor, kernel: Tensor | None, stride: Sequence[int]) -> Tensor:
    """Eq. (25) for hard selections: ``Poly(u)_k = z_k y``, with ``y`` moved by ``lag_k`` where phases are tied.

    ``y`` ``(N, C, *space)``, ``z`` ``(N, P)`` and ``lag`` ``(N, P, dims)`` to ``u`` ``(N, C, *(s * space))``, or with a
    symmetric ``kernel`` ``(1, 1, *size)`` to ``kernel * u`` on a circle.
    """
    with torch.autocast(y.device.type, enabled=False):
        u = place(y, z, stride) if kernel is None else place_filtered(y, kernel, z, stride)
        axes = tuple(range(1, y.dim() - 1))
        for n in _tied(z):
            copies = [w * y[n].roll(by, axes) for w, by in zip(z[n].to(y.dtype), lag[n].tolist(), strict=True)]
            u[n] = _circular(merge(torch.stack(copies)[None], stride), kernel)[0]
    return u


@torch.library.custom_op("lps::put_back_transposed", mutates_args=())
def put_back_transposed(u: Tensor, z: Tensor, lag: Tensor, kernel: Tensor | None, stride: Sequence[int]) -> Tensor:
    """Transpose of :func:`put_back` in ``y``, its gradient: ``(N, C, *(s * space))`` to ``(N, C, *space)``."""
    with torch.autocast(u.device.type, enabled=False):
        y = mix(_circular(u, kernel, transposed=True), z, stride)
        axes = tuple(range(1, u.dim() - 1))
        for n in _tied(z):
            parts = polyphase(_circular(u[n : n + 1], kernel, transposed=True), stride)[0]
            copies = zip(z[n].to(u.dtype), parts, -lag[n], strict=True)
            y[n] = torch.stack([w * part.roll(by.tolist(), axes) for w, part, by in copies]).sum(0)
    return y


def _circular(u: Tensor, kernel: Tensor | None, transposed: bool = False) -> Tensor:
    """``kernel * u`` on a circle, each channel by itself; an even size reaches further to the right, or transposed."""
    if kernel is None:
        return u
    shorter, longer = (kernel.shape[-1] - 1) // 2, kernel.shape[-1] // 2
    return depthwise(pad(u, *((longer, shorter) if transposed else (shorter, longer)), "circular"), kernel)


@put_back.register_fake
def _(y: Tensor, z: Tensor, lag: Tensor, kernel: Tensor | None, stride: Sequence[int]) -> Tensor:
    return y.new_empty(*y.shape[:2], *(size * s for size, s in zip(y.shape[2:], stride, strict=True)))


@put_back_transposed.register_fake
def _(u: Tensor, z: Tensor, lag: Tensor, kernel: Tensor | None, stride: Sequence[int]) -> Tensor:
    return u.new_empty(*u.shape[:2], *(size // s for size, s in zip(u.shape[2:], stride, strict=True)))


def _keep_selection(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, Sequence[int]], output: Tensor
) -> None:
    _, z, lag, kernel, ctx.stride = inputs
    ctx.save_for_backward(z, lag, kernel)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    return put_back_transposed(gradient, *ctx.saved_tensors, ctx.stride), None, None, None, None


put_back.register_autograd(_gradient, setup_context=_keep_selection)
