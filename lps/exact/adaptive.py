"""Filters whose taps differ from position to position: their logits, their softmax and their sum."""

from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from ..polyphase import Stride, steps
from .convolution import CONVOLVE, convolve_alike
from .cpu import by_pieces, images_of_a_piece, once


def convolve_strided(x: Tensor, weight: Tensor, stride: Stride, exact: bool) -> Tensor:
    """A strided convolution of a padded map ``x`` ``(N, C, *space)``; where ``exact``, each position rounds alike."""
    each = steps(stride, x.dim() - 2)
    if not exact:
        return CONVOLVE[x.dim() - 2](x, weight, stride=each).contiguous()
    space = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], weight.shape[2:], each, strict=True)]
    return convolve_alike(x, weight, None, space, each, (1,) * len(space)).contiguous()


def softmax_of_channels(x: Tensor, exact: bool) -> Tensor:
    """A softmax over the channels of ``(N, C, *space)``; over the channels as they lie in memory its rounding depends
    on the position."""
    return x.movedim(1, -1).softmax(-1).movedim(-1, 1) if exact else x.softmax(1)


def weigh_windows(x: Tensor, taps: Tensor, stride: Stride) -> Tensor:
    """``y[n] = sum_t taps_t[n] x[stride n + t]`` of a padded map ``(N, G, C, *padded)`` with ``taps``
    ``(N, G, T, *space)``: ``(N, G, C, *space)``."""
    return cast(Tensor, _Adapt.apply(x, taps, stride))


def _windows(x: Tensor, taps: Tensor, stride: Stride) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of ``taps`` ``(N, G, T, *space)`` with the part of the padded ``x`` ``(N, G, C, *padded)`` it weighs."""
    dims = x.dim() - 3
    size = round(taps.shape[2] ** (1 / dims))
    for tap, offset in zip(taps.unsqueeze(3).unbind(2), product(range(size), repeat=dims), strict=True):
        window = x
        for axis, (start, s) in enumerate(zip(offset, steps(stride, dims), strict=True), 3):
            length = s * (taps.shape[axis] - 1) + 1
            window = window.narrow(axis, start, length)[(slice(None),) * axis + (slice(None, None, s),)]
        yield tap, window


class _Adapt(torch.autograd.Function):
    """``y[n] = sum_t taps_t[n] x[stride n + t]``, with a gradient in two passes over the map for each tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, stride: Stride) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.stride = stride

        def weigh(x: Tensor, taps: Tensor) -> Tensor:
            (tap, window), *others = _windows(x, taps, stride)
            y = tap * window
            for tap, window in others:
                y += tap * window
            return y

        return by_pieces(weigh, x, taps)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, taps = ctx.saved_tensors
        dx, dtaps = torch.zeros_like(x), torch.empty_like(taps)
        pieces = (t.split(images_of_a_piece(x)) for t in (x, taps, dx, dtaps, gradient))
        for x, taps, into_x, into_taps, dy in zip(*pieces, strict=True):
            pairs = zip(_windows(x, taps, ctx.stride), _windows(into_x, into_taps, ctx.stride), strict=True)
            for (tap, window), (dtap, dwindow) in pairs:
                dwindow += dy * tap
                dtap.copy_((dy * window).sum(2, keepdim=True))
        return dx, dtaps, None
