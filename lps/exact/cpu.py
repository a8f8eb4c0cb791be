"""A CPU's convolutions: where they would round by position, and a circular one that suits the caches.

A CPU cuts a sum into vectors, tiles and threads, and works off what is left over in another order. The constants below
were found by trying every size on a few processors; :func:`tried` tries the sizes of a network on the one that runs.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..polyphase import known

POSITIONS = 12
"""Below so many positions, a matrix product on a CPU in float32 adds up the last of them in another order."""

LANES = 16
"""The threads of a CPU share the positions of a single image, and a row's tail beyond a multiple of 16 positions uses
another kernel and rounds differently."""

OUTPUTS = 4
"""A 1x1 convolution with fewer outputs rounds by position on a CPU."""

BLOCK = 8
"""Where channels of a group come in blocks of so many, all positions are computed alike in float32."""

PIECE = 1 << 19
"""Samples of a map that stay in a CPU's cache from one step to the next, and need no fresh memory."""

LARGE = 1 << 21
"""Samples of an image's products above which the images of a batch take turns in the same memory."""

MOST = 48
"""So many positions more are tried at most: twice what the products of an AVX2 processor take at a time."""

DOUBT = 64
"""Sums in another order may be the same by chance: so many are compared at least."""

VECTORS = 256
"""A multiple of what torch's loops over single samples take at a time, in any precision."""

SHARE = 1 << 15
"""A thread gets as many samples of a tensor at least; more only where each thread has as many."""


def runs(x: Tensor) -> bool:
    """Does a CPU run this step now, and is it not recorded for sizes to come?"""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def exports() -> bool:
    """Does torch.export take the network apart now, but for ONNX?"""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.5 cannot tell
    return bool(exporting()) and not torch.onnx.is_in_onnx_export()


def in_full(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution in groups of a map with a kernel, which a CPU computes in float32 where they are in half precision.

    There its convolutions in groups take two to four times as long, backwards most of all.
    """

    @wraps(function)
    def run(x: Tensor, kernel: Tensor, *settings: Any) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
            return function(x, kernel, *settings)
        with torch.autocast("cpu", enabled=False):
            return function(x.float(), kernel.float(), *settings).to(x.dtype)

    return run


def images_of_a_piece(x: Tensor) -> int:
    """How many of ``x`` ``(N, ...)`` a CPU takes at a time; elsewhere all."""
    return x.shape[0] if not runs(x) or x.numel() <= PIECE else max(1, PIECE // x[0].numel())


def by_pieces(function: Callable[..., Tensor], x: Tensor, *beside: Tensor) -> Tensor:
    """``function`` of tensors ``(N, ...)``, each of a batch by itself: on a CPU a few of ``x`` at a time.

    What it makes on the way then stays in the cache, and in memory that a process has already: of large blocks each
    page is fetched anew.
    """
    if not runs(x) or x.numel() <= PIECE or x.shape[0] == 1:
        return function(x, *beside)
    count = images_of_a_piece(x)
    return torch.cat([function(*parts) for parts in zip(*(t.split(count) for t in (x, *beside)), strict=True)])


def by_vectors(function: Callable[[Tensor], Tensor], x: Tensor, equal_shares: bool = False) -> Tensor:
    """A ``function`` of single samples in which each is part of a whole vector: any rest would round otherwise.

    Every thread gets whole vectors. With ``equal_shares`` all have work from half a :data:`SHARE` on, as in GELU.
    """
    if not runs(x):
        return function(x)
    count, threads = x.numel(), torch.get_num_threads()
    alone = count <= SHARE // 2 if equal_shares else count // SHARE < threads
    even = 0 if equal_shares else count - count % SHARE
    body = even if alone else count - count % (VECTORS * threads)
    if body == count and x.is_contiguous():
        return function(x)
    flat, whole = x.flatten(), count - (count - body) % VECTORS
    results = [function(flat[a:b]) for a, b in ((0, body), (body, whole)) if b > a]
    if whole < count:
        results.append(function(F.pad(flat[whole:], (0, VECTORS - (count - whole))))[: count - whole])
    return torch.cat(results).view(x.shape)


def one_dnn() -> bool:
    """Does oneDNN compute a CPU's convolutions? A batch in groups rounds by position without it."""
    return torch.compiler.is_compiling() or bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


def lacking(count: int, space: Sequence[int], stride: int = 1) -> int:
    """Positions that a result of ``count`` maps of size ``space`` has to have more on the right, at the least, so that
    a CPU rounds the last ones like the rest.

    Where an exported network leaves its sizes open nothing is added, as it depends on them.
    """
    if not known(space):
        return 0
    if count == 1 or not one_dnn():
        return -space[-1] % LANES
    lone = stride > 1 and space[-1] == 1  # a column that is left of a stride reads what no one wrote, in bfloat16
    return POSITIONS if lone or torch.Size(space).numel() < POSITIONS else 0


_TRIED: dict[Hashable, int] = {}


def tried(compute: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, weight: Tensor, least: int, *about: Any) -> int:
    """How many more positions ``compute`` has to have so that all of them, in every map of ``x``, round alike.

    Makers of processors and of their libraries cut sums in other ways. So it is tried, once for sizes, strides and
    settings (``about``): where a map is the same everywhere, its result has to be. At least ``least``, which is also
    the answer where nothing helps. ``compute`` gets such a map, weights, and the number; its results are
    ``(N, O, *space)``.
    """
    if not runs(x) or not known(x.shape):
        return least
    layout = (x.shape, x.stride(), x.dtype, weight.shape, weight.stride(), weight.dtype)
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    key = *layout, *about, least, torch.get_num_threads(), one_dnn(), autocast
    if key not in _TRIED:
        draw = torch.Generator().manual_seed(0)
        same, weights = (torch.empty_like(t, requires_grad=False) for t in (x, weight))

        def alike(missing: int) -> bool:
            compared = 0
            while compared < DOUBT:
                same.copy_(torch.randn(1, x.shape[1], *(1,) * (x.dim() - 2), generator=draw))
                weights.copy_(torch.randn(weight.shape, generator=draw))
                y = compute(same, weights, missing)
                if not (y == y[(slice(1), slice(None), *(slice(1),) * (y.dim() - 2))]).all():
                    return False
                compared += y.shape[1]
            return True

        with torch.no_grad():
            _TRIED[key] = next(filter(alike, range(least, least + MOST)), least)
    return _TRIED[key]


def in_one_layout(images: Tensor) -> Tensor:
    """``images`` ``(N, C, H, W)`` as torch lays them out: as numpy does, they would go another way through a CPU's
    convolution than a shifted copy."""
    return images.contiguous() if images.device.type == "cpu" else images


def evened(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weights and bias with channels of zeros added where a CPU would round some positions otherwise than the
    rest, or some images of a batch. A depthwise convolution is free of it."""
    few = groups == 1 and weight.shape[0] < OUTPUTS and weight[0, 0].numel() == 1
    if x.device.type != "cpu" or not (few or (groups > 1 and weight.shape[:2] != (groups, 1))):
        return x, weight, bias
    inputs, outputs = (0, 0), (0, OUTPUTS - weight.shape[0])
    if groups > 1:
        inputs, outputs = ((0, -size % BLOCK) for size in (weight.shape[1], weight.shape[0] // groups))
    untouched = (0, 0) * (x.dim() - 2)
    weight = F.pad(weight.unflatten(0, (groups, -1)), (*untouched, *inputs, *outputs)).flatten(0, 1)
    bias = None if bias is None else F.pad(bias.unflatten(0, (groups, -1)), outputs).flatten()
    if any(inputs):
        x = F.pad(x.unflatten(1, (groups, -1)), (*untouched, *inputs)).flatten(1, 2)
    return x, weight, bias


def _sum_of_taps(taps: Sequence[Tensor], dilation: int, axis: int) -> Tensor:
    """Add to the middle one of three results, in place, what the other two say of its neighbours along ``axis``."""
    before, here, after = taps
    if exports():  # its graph refuses writes to one of several views, where there are gradients
        return here + before.roll(dilation, axis) + after.roll(-dilation, axis)
    size = here.shape[axis]
    for part, shift in ((before, dilation % size), (after, -dilation % size)):
        here.narrow(axis, shift, size - shift).add_(part.narrow(axis, 0, size - shift))
        here.narrow(axis, 0, shift).add_(part.narrow(axis, size - shift, shift))
    return here


def _moved_copies(x: Tensor, shifts: Sequence[int], axis: int) -> Tensor:
    """Circular shifts of ``x`` ``(N, ...)`` along an axis counted from the end, side by side: ``(N, shifts, ...)``."""
    copies, size = x.new_empty(x.shape[0], len(shifts), *x.shape[1:]), x.shape[axis]
    for copy, shift in zip(copies.unbind(1), shifts, strict=True):
        copy.narrow(axis, shift % size, size - shift % size).copy_(x.narrow(axis, 0, size - shift % size))
        copy.narrow(axis, 0, shift % size).copy_(x.narrow(axis, size - shift % size, shift % size))
    return copies


def _products(flat: Tensor, rows: Tensor, missing: int) -> Tensor:
    return torch.bmm(rows.expand(flat.shape[0], -1, -1), F.pad(flat, (0, missing)))[..., : flat.shape[-1]]


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For a ``backward`` that hands nothing on to a second derivative, which would be wrong without a word."""

    @wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError("this layer has no second derivative: take its gradient without create_graph")
        return backward(ctx, *gradients)

    return checked


class ConvolveCircular(torch.autograd.Function):
    """A matrix product for all taps, whose results are then moved and added: no padded map is made.

    Rows come first, as whole blocks of memory move there; what is then left to move along rows is a third.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        count, channels, *_ = x.shape
        space, taps = x.shape[2:], weight.movedim((0, 1), (-2, -1))
        rows = taps.reshape(1, -1, channels)
        large = runs(x) and rows.shape[1] * space.numel() > LARGE
        results = x.new_empty(count, len(weight), *space)
        products = None
        for images, result in zip(x.split(1), results.split(1), strict=True) if large else [(x, results)]:
            flat = images.flatten(2)
            if missing := tried(_products, flat, rows, lacking(flat.shape[0], [space.numel()])):
                flat = F.pad(flat, (0, missing))
            products = torch.bmm(rows.expand(flat.shape[0], -1, -1), flat, out=products)  # `@` may copy all of it
            y = products[..., : space.numel()].unflatten(1, taps.shape[:-1]).unflatten(-1, space)
            for axis, step in enumerate(dilation, -len(space)):
                y = _sum_of_taps(y.unbind(1), step, axis)
            result.copy_(y)
        return results

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (dy,) = gradients
        x, weight = ctx.saved_tensors
        count, channels, *space = x.shape
        taps = weight.movedim((0, 1), (-2, -1))
        for axis, step in reversed(list(enumerate(ctx.dilation, -len(space)))):
            dy = _moved_copies(dy, (-step, 0, step), axis)
        dy, flat = dy.view(count, -1, x[0, 0].numel()), x.flatten(2)
        dx = torch.bmm(taps.reshape(-1, channels).t().expand(count, -1, -1), dy).view_as(x)
        if flat.shape[2] < channels:  # the products of each image would take more memory than their factors
            dweight = dy.transpose(0, 1).flatten(1) @ flat.transpose(0, 1).flatten(1).t()
        else:
            dweight = torch.bmm(dy, flat.transpose(1, 2)).sum(0)
        return dx, dweight.view_as(taps).movedim((-2, -1), (0, 1)), None
