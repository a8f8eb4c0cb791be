"""Conversion rules: the effect of each torch layer on the sampling grid, and its replacement.

A rule gets a call that reads at least one map and returns where its output stands: on the grid of its input, a step
further, a step back, or nowhere (``None``), once positions are gone. Whatever has no rule has to keep the map's size.
A layer and the function that does the same share a rule.
"""

import inspect
import operator
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import inf, prod
from string import ascii_letters
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from ..watch import tensors
from . import layers
from .grids import Axes, Grid, Map, Step, as_images, resolve, shown, total
from .layers import ORDERLESS, SUMS, Border, Elementwise, Pad, Pointwise
from .plan import Call, Memory, Plan, Rule, follow, makes_object, unpacked
from .report import ConvertError
from .trace import MANY, kind_of, rounds_by_place
from .writes import called, known, refuse

REMEDY = 'convert(..., head="pool") replaces it by global pooling and sums the weights over the positions'


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))


# windows


def _require_maps(call: Call, dims: int) -> None:
    """Refuse a call that looks at positions as they lie in ``(N, C, *space)`` where its input has them elsewhere."""
    if call.place.axes != as_images(dims):
        given = f"its input {tuple(call.x.shape)} has not the axes of the images, each by itself"
        call.refuse(f"it looks at windows, and {given}")


def _window(
    call: Call, reach: set[int], stride: tuple[int, ...], pad: Pad, smooth: bool, ceil: bool = False
) -> tuple[Border, Map]:
    """All that windows see in front of a map, and where the output of a call that has them stands."""
    border = Border((*call.plan.lead.get(call.node, ()), pad), pad.value, stride if ceil else ())
    if reach == set(stride) == {1} and not any((*pad.before, *pad.after)) and not call.place.axes[1]:
        return border, call.place
    _require_maps(call, len(stride))
    return border, call.step(call.place, stride, smooth)


def convolution(call: Call) -> Map | None:
    """That of a layer, or one whose weights are computed, or fixed as those of a blur are."""
    given, weight, operands = call.given, call.given["weight"], call.operands("weight", "bias")
    kernel, dims = weight.shape[2:], weight.dim() - 2
    dilation, padding = _each(given.get("dilation", 1), dims), given.get("padding", 0)
    blurs = bool(operands) and operands[0].op == "get_attr" and not isinstance(weight, nn.Parameter)
    if padding == "same":
        reach = layers.reaches(kernel, dilation)
        before, after = tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)
    else:
        before = after = _each(0 if padding == "valid" else padding, dims)
    mode, groups = given.get("padding_mode", "zeros"), given.get("groups", 1)
    pad = Pad(before, after, "constant" if mode == "zeros" else mode)
    border, out = _window(call, {*kernel}, _each(given.get("stride", 1), dims), pad, blurs)
    if max(kernel) > 1:
        call.plan.padded.append(call.name)
    individual = isinstance(next(iter(call.operands("groups")), None), fx.Node)
    if individual:
        groups, out = groups // MANY, _apart(call, out)
    call.swap(layers.Convolution(call.layer, dilation, groups, call.plan.padding, border, individual), *operands)
    return out


def _apart(call: Call, out: Map) -> Map:
    """Take images apart that stand side by side as channels, each with groups of its own, and put them together again
    behind the call."""
    plan, node, (one, channels) = call.plan, call.node, call.x.shape[:2]
    if one > 1 or channels % MANY or call.given["groups"] % MANY:
        call.refuse("its number of groups depends on that of the images, which are not all of its channels")
    call.feed("call_function", layers.apart, call.place, channels // MANY)
    with plan.graph.inserting_after(node):
        joined = plan.graph.call_function(layers.together, (node,))
    node.replace_all_uses_with(joined, delete_user_cb=lambda user: user is not joined)
    joined.meta["value"], plan.places[joined] = node.meta["value"], out
    node.meta["value"] = layers.apart(node.meta["value"], node.meta["value"].shape[1] // MANY)
    return out


def pooling(call: Call) -> Map | None:
    given, dims, largest = call.given, call.x.dim() - 2, call.kind == "maxpool"
    kernel, before = _each(given["kernel_size"], dims), _each(given["padding"], dims)
    if given.get("return_indices"):
        call.refuse("it hands out the positions of its maxima")
    if given.get("divisor_override") is not None:
        call.refuse("it divides by another number than that of its window's positions (divisor_override)")
    dilation = _each(given.get("dilation", 1), dims)
    stride = _each(given.get("stride") or given["kernel_size"], dims)
    whole = [axis for axis, size in enumerate(kernel, 2) if size == call.x.shape[axis] > 1]
    apart = {(size, step) for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), 2) if axis not in whole}
    if whole and apart <= {(1, 1)} and not any(before) and call.node not in call.plan.lead:
        if call.layer is not None:
            call.plan.notes.append(f"{call.name} spans the map of the example: it became global pooling")
        return _reduce(call, "amax" if largest else "mean", whole, keepdim=True)
    beyond = -inf if largest else 0.0  # never the largest
    pad = Pad(before, before, value=beyond, counts=given.get("count_include_pad", True))
    border, out = _window(call, {*kernel}, stride, pad, not largest, given["ceil_mode"])
    call.plan.padded.append(call.name)
    call.swap(layers.Pooling(largest, kernel, dilation, call.plan.padding, border))
    return out


WINDOWS = ("conv", "maxpool", "avgpool")
PAD_MODES = {"reflectionpad": "reflect", "replicationpad": "replicate", "circularpad": "circular"}


def padding(call: Call) -> Map | None:
    """Take a padding out where windows read it, which begin earlier instead, and wrap; else move the map by it."""
    given, dims = call.given, call.x.dim()
    amounts = list(given["pad" if call.layer is None else "padding"])
    amounts += [0] * (2 * dims - len(amounts))
    before, after = amounts[-2::-2], amounts[-1::-2]
    if not any(amounts):  # at this size; it may depend on that
        call.pass_by()
        return None
    if not any(before[axis] or after[axis] for axis in call.place.positions):
        return keep(call)
    if any(before[:2]) or any(after[:2]) or call.place.axes != as_images(dims - 2):
        call.refuse("it pads positions and something else at once")
    mode = PAD_MODES.get(call.kind, given.get("mode", "constant"))
    pad = Pad(tuple(before[2:]), tuple(after[2:]), mode, given.get("value") or 0.0)
    call.plan.padded.append(call.name)
    if min(amounts) < 0 or any(Call(call.plan, user).kind not in WINDOWS for user in call.node.users):
        call.swap(layers.Shift(pad))
        return call.place
    for user in call.node.users:
        call.plan.lead[user] = (pad,)
    call.pass_by()
    return None


# upsampling


INTERPOLATIONS = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear")


def upsampling(call: Call) -> Map | None:
    _require_maps(call, call.x.dim() - 2)
    sizes, finer, given = tuple(call.x.shape[2:]), tuple(call.node.meta["value"].shape[2:]), call.given
    mode, aligned = given.get("mode", "nearest"), given.get("align_corners")
    pairs = list(zip(sizes, finer, strict=True))
    if sizes != finer and all(n % m == 0 for n, m in pairs) and not aligned:
        return _shrinking(call, mode, tuple(n // m for n, m in pairs))
    if any(m % n for n, m in pairs) or call.place.grid is None:
        call.refuse(f"it resizes {sizes} to {finer}; a whole factor along each axis is expected")
    if sizes == finer:
        call.pass_by()
        return None
    if mode not in INTERPOLATIONS:
        call.refuse(f"the interpolation {mode!r} has no kernel here: nearest and (bi)linear have")
    factor = tuple(m // n for n, m in pairs)
    (size,) = call.operands("size") or (None,)
    out = _back(call, factor, size=size)
    kernel = layers.Interpolation(factor, not mode.startswith("nearest"), call.plan.padding)
    plain: nn.Module = layers.Aligned(factor, mode)
    if any(step.windows for step in call.plan.raised[call.node]):
        call.vary(kernel, "factor", layers.factors, call.source, size)
        plain = layers.Varying(plain, "factor")
    else:
        call.swap(kernel)
    if aligned:
        call.plan.notes.append(f"{call.name}: align_corners is given up, since its grid depends on the size")
        call.plan.otherwise[call.name] = plain
    return out


def _shrinking(call: Call, mode: str, stride: tuple[int, ...]) -> Map:
    """An interpolation at a stride: of the samples about the middle of each window, or of all of them."""
    if mode not in (*INTERPOLATIONS, "area") or call.given.get("antialias"):
        call.refuse(f"the interpolation {mode!r} to a coarser map has no kernel here")
    nearest = mode.startswith("nearest")
    kernel = stride if mode == "area" else tuple(1 if nearest or s % 2 else 2 for s in stride)
    middle = {"nearest": (0,) * len(stride), "nearest-exact": tuple(s // 2 for s in stride)}
    first = middle.get(mode, tuple((s - k) // 2 for s, k in zip(stride, kernel, strict=True)))
    border = layers.ahead([-n for n in first])
    call.swap(layers.Pooling(False, kernel, (1,) * len(stride), call.plan.padding, border))
    return call.step(call.place, stride, smooth=not nearest)


def spreading(call: Call) -> Map | None:
    """A value without positions is given to each of them."""
    node, value = call.node, call.node.meta["value"]
    if call.kind == "interpolate":
        node.target, node.args, node.kwargs = layers.spread, (call.source, *call.operands("size")), {}
    given, images = call.x.shape[max(call.x.dim() - call.plan.dims, 0) :], as_images(call.plan.dims)
    groups = value.dim() - len(images)  # of channels, which may have an axis of their own
    spread = groups >= 0 and prod(value.shape[2 + groups :]) > 1 == prod(given)
    return Map(None, ((),) * groups + images) if spread else None


def transposed_convolution(call: Call) -> Map | None:
    given, weight, dims = call.given, call.given["weight"], call.x.dim() - 2
    _require_maps(call, dims)
    stride, dilation, padding = (
        _each(given.get(name, usual), dims) for name, usual in (("stride", 1), ("dilation", 1), ("padding", 0))
    )
    if call.place.grid is None:
        call.refuse("it reads no map of the images")
    reach = layers.reaches(weight.shape[2:], dilation)
    before = tuple(r - p for r, p in zip(reach, padding, strict=True))
    grown = zip(stride, call.x.shape[2:], call.node.meta["value"].shape[2:], padding, strict=True)
    border = Border((Pad(before, tuple(n - s * m + p for s, m, n, p in grown)),))
    out = _back(call, stride)
    call.plan.padded.append(call.name)
    settings = dilation, given.get("groups", 1), call.plan.padding
    call.swap(layers.TransposedConvolution(call.layer, *settings, border), *call.operands("weight", "bias"))
    return out


def _back(call: Call, factor: Sequence[int], shuffled: bool = False, size: Any = None) -> Map:
    """The map before the last steps, whose product is ``factor``; where they are too few, one finer than the images.

    Windows whose size follows that of the images need a ``size`` that does.
    """
    grid, need, undone = list(resolve(cast(Grid, call.place.grid))), tuple(factor), list[Step]()
    while set(need) != {1} and grid and not grid[-1].finer:
        last = grid.pop()
        if all(n % s == 0 for n, s in zip(need, last.stride, strict=True)):
            need = tuple(n // s for n, s in zip(need, last.stride, strict=True))
        elif all(s % n == 0 for n, s in zip(need, last.stride, strict=True)) and not last.aligned | any(last.windows):
            first, last = last.cut(need)
            grid, need = [*grid, first], (1,) * len(need)
        else:
            strides = ", ".join(str(shown(step.stride)) for step in (*grid, last))
            call.refuse(
                f"an upsampling by {shown(factor)} undoes no stride of the network; those before it are {strides}"
            )
        undone.append(last)
    follows = [isinstance(n, fx.Node) for n in (size if isinstance(size, tuple | list) else _each((size,), len(need)))]
    if any(n and not moves for step in undone for n, moves in zip(step.windows, follows, strict=False)):
        call.refuse("it enlarges by a fixed factor, or to a fixed size, what was pooled to a fixed number of windows")
    if set(need) != {1}:
        if undone and (shuffled or any(step.windows for step in undone)):
            call.refuse("it undoes a stride and makes the map finer than the images, at once")
        finer = tuple(cast(int, Fraction(1, n)) for n in need)
        undone.append(Step(call.node, finer, smooth=True))
        grid = [Step(call.node, total((*grid, undone[-1]), len(need)), smooth=True)]
    call.plan.raised[call.node] = tuple(undone)
    if shuffled:
        call.plan.shuffled.add(call.node)
    return Map(tuple(grid), call.place.axes)


def shuffle(call: Call) -> Map | None:
    """Phases become channels; or channels phases, which go back among the positions."""
    _require_maps(call, 2)
    if call.kind == "pixelunshuffle":
        return call.step(call.place, (call.given["downscale_factor"],) * 2, smooth=True, aligned=True)
    return _back(call, (call.given["upscale_factor"],) * 2, shuffled=True)


def _shuffled(call: Call, found: Tensor, layout: Memory) -> Map | None:
    """A view that does that by hand; ``None`` for another."""
    images, cuts, joins = as_images(call.plan.dims), [1] * call.plan.dims, [1] * call.plan.dims
    sizes = {step: size for size, step in zip(found.shape, found.stride(), strict=True) if size > 1}
    whole: Memory = []
    for size, step, along in layout:
        fine = next((n for n, s, these in layout if not these and s * n == step and sizes.get(s) == n * size), 1)
        cut = sizes.get(step, 1)
        if len(along) == 1 and size % cut == 0 and sizes.get(step * cut) == size // cut and cut < size:
            cuts[along[0]] = cut
            whole += [(size // cut, step * cut, along), (cut, step, ())]
        elif len(along) == 1 and fine > 1:
            joins[along[0]] = fine
            whole.append((size * fine, step // fine, along))
        else:
            whole.append((size, step, along))
    whole = [run for run in whole if run[2] or not any(s <= run[1] < s * n for n, s, along in whole if along)]
    axes = follow(found, whole)
    if axes is None or (max(cuts) == 1 and axes != images) or call.place.grid is None:
        return None
    if max(cuts) > 1:
        _require_maps(call, call.plan.dims)
        return Map(call.step(call.place, cuts, smooth=True, aligned=True).grid, axes)
    return Map(_back(call, joins, shuffled=True).grid, axes)


# positions that go


def _without(place: Map, dims: Iterable[int], keepdim: bool) -> Map | None:
    """What is left of a map behind a reduction over ``dims``."""
    axes = tuple(() if d in dims else along for d, along in enumerate(place.axes) if keepdim or d not in dims)
    return Map(place.grid, axes) if any(axes) else None


def _reduce(call: Call, method: str, dims: Sequence[int], keepdim: bool, **settings: Any) -> Map | None:
    _put_reduction(call, method, dims, keepdim, **settings)
    return _without(call.place, dims, keepdim)


def _put_reduction(call: Call, method: str, dims: Sequence[int], keepdim: bool, **settings: Any) -> None:
    positions = call.over_positions(dims)
    if positions:
        call.plan.pooled.append(call.name)
    call.swap(layers.Reduction(method, tuple(dims), keepdim, positions, settings))


def adaptive_pooling(call: Call) -> Map | None:
    """Of all positions; to windows of one size; or in front of a linear head, which it is replaced with."""
    plan, node, largest, dims = call.plan, call.node, call.kind == "adaptivemaxpool", call.x.dim() - 2
    if call.given.get("return_indices"):
        call.refuse("it hands out the positions of its maxima")
    size = _each(call.given["output_size"], dims)
    (asked,) = call.operands("output_size") or (size,)
    asked = _each(asked, dims) if isinstance(asked, int | tuple | list) else (asked,) * dims
    open_ended = {axis for axis, n in enumerate(asked, 2) if n is None or isinstance(n, fx.Node)}
    kept = {axis for axis in open_ended if size[axis - 2] in (None, call.x.shape[axis])}
    ones = [axis for axis, n in enumerate(size, 2) if n == 1 and axis not in kept]
    if len(ones) + len(kept) == dims:
        if ones:
            return _reduce(call, "amax" if largest else "mean", ones, keepdim=True)
        call.pass_by()
        return None
    counts = tuple(node.meta["value"].shape[2:])
    windows = tuple(0 if axis in open_ended else n for axis, n in enumerate(counts, 2))
    if any(windows) and _linear_behind(plan, node):
        if largest or not plan.pool_head:
            reason = f"it pools to {counts} windows whose borders stay where they are under a shift"
            call.refuse(reason if largest else f"{reason}; {REMEDY}")
        call.swap(nn.Identity())
        plan.otherwise[call.name] = getattr(nn, f"AdaptiveAvgPool{dims}d")(size)
        return call.place
    if call.place.grid is None:
        call.refuse("it reads no map of the images")
    if ones:
        call.refuse(f"it pools to {counts} windows, and along one axis to a single one, for which there is no rule")
    _require_maps(call, dims)
    sizes, grid = tuple(call.x.shape[2:]), call.place.grid
    stride = tuple(m // n for m, n in zip(sizes, counts, strict=True))
    fixed = [step.windows for step in grid if step.windows]
    windows = tuple(0 if any(each[axis] for each in fixed) else n for axis, n in enumerate(windows))
    windows = windows if any(windows) else ()
    if any(m % n for m, n in zip(sizes, counts, strict=True)):
        plan.wanted.append((*grid, Step(node, stride, smooth=True, windows=windows)))
        call.refuse(f"it pools a map {sizes} to {counts} windows of several sizes: pass an `example` that they divide")
    pool = layers.Pooling(largest, stride, (1,) * dims, plan.padding, layers.ahead((0,) * dims))
    plan.padded.append(call.name)
    place = call.step(call.place, stride, smooth=not largest, windows=windows)
    if windows:
        plan.steps[-1].now = call.vary(pool, "kernel", layers.sizes_of_windows, call.source, windows, stride)
        plan.notes.append(f"{call.name}: {counts} windows, whose size follows that of the images")
    else:
        call.swap(pool)
    return place


def reduction(call: Call) -> Map | None:
    given, place, value = call.given, call.place, call.node.meta["value"]
    dims, kind = given.get("dim"), call.kind.removeprefix("linalgvector").removeprefix("linalg")
    if isinstance(dims, Tensor):  # the larger of two maps
        return keep(call)
    dims = tuple(d % call.x.dim() for d in ([dims] if isinstance(dims, int) else dims or range(call.x.dim())))
    keepdim = bool(given.get("keepdim", False))
    settings: dict[str, Any] = {}
    if kind in ("var", "std"):
        settings["correction"] = given.get("correction", int(given.get("unbiased", True)))
    elif kind == "norm":
        p = given.get("p")
        settings["p"] = 2 if p in (None, "fro") else p
        if call.kind == "linalgnorm" and len(dims) == 2 and p not in (None, "fro"):
            call.refuse("it is the norm of a matrix")
    positions = call.over_positions(dims)
    if positions and 0 in dims:
        call.refuse(f"it reduces over the axes {dims}, and so over the images")
    if kind in (ORDERLESS if positions else (*SUMS, "var", "std", "norm", "prod")):
        return _reduce(call, kind, dims, keepdim, **settings)
    if positions and kind not in UNROUNDED:
        call.refuse("a result over positions that depends on their order, or rounds by it")
    for reader in call.node.users if positions and not isinstance(value, Tensor) else ():
        if not (Call(call.plan, reader).kind in ("getitem", "getattr") and reader.args[1] in (0, "values")):
            call.refuse("it hands out the positions of its maxima")
    return _without(place, dims, keepdim)


def softmax(call: Call) -> Map | None:
    dim = -3 if isinstance(call.layer, nn.Softmax2d) else call.given.get("dim")
    if dim is None:
        call.refuse("it has to name its axis")
    method = {"logsoftmax": "log_softmax"}.get(call.kind, call.kind)
    _put_reduction(call, method, (dim % call.x.dim(),), keepdim=True)
    return call.plan.places[call.source]


def normalize(call: Call) -> Map | None:
    given = call.given
    dims, settings = (given.get("dim", 1) % call.x.dim(),), {"p": given.get("p", 2), "eps": given.get("eps", 1e-12)}
    call.swap(layers.Reduction("normalize", dims, keepdim=True, positions=True, settings=settings))
    return call.place


def contraction(call: Call) -> Map | None:
    """A product of two tensors, with a sum over channels or over positions."""
    plan, node = call.plan, call.node
    equation, *operands = node.args if call.kind == "einsum" else (None, *node.args)
    if operands and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not 1 <= len(operands) <= 2 or not all(isinstance(operand, fx.Node) for operand in operands):
        call.refuse("a product of two tensors is expected")
    nodes = cast(list[fx.Node], operands)
    shapes = [operand.meta["value"].shape for operand in nodes]
    dims = [len(shape) for shape in shapes]
    if equation is None:  # a product of matrices; a vector on the left has no rows, one on the right no columns
        rows, columns = "x" * (dims[0] > 1), "z" * (dims[-1] > 1)
        equation = f"...{rows}y,...y{columns}->...{rows}{columns}"
    equation = _spelled_out(str(equation), dims)
    terms, out = equation.split("->")
    along: dict[str, tuple[int, ...]] = {}
    for operand, term in zip(nodes, terms.split(","), strict=True):
        if len(set(term)) < len(term):
            call.refuse("it takes a diagonal")
        for letter, these in zip(term, _axes_of(plan, operand), strict=True):
            if these and along.get(letter) not in (None, (), these):
                call.refuse("it pairs positions along axes of the images that differ")
            along[letter] = these or along.get(letter, ())
    axes = tuple(along[letter] for letter in out)
    for operand, term in zip(nodes, terms.split(","), strict=True):
        _require_no_position(call, operand, tuple(along[letter] for letter in term))
    if any(along[letter] for letter in along if letter not in out):
        plan.pooled.append(call.name)
    grid = plan.meet(node)
    node.args = tuple(nodes)
    call.swap(layers.Contraction(equation), *nodes[1:])
    return Map(grid, axes) if any(axes) else None


def attention(call: Call) -> Map | None:
    """Of all positions to all: by their content alone, in any order."""
    given, plan = call.given, call.plan
    if given.get("attn_mask") is not None or given.get("is_causal") or given.get("enable_gqa"):
        call.refuse("it attends under a mask or in groups of heads, and only to all positions alike is it equivariant")
    key, value = cast(list[fx.Node], call.operands("key", "value"))
    q, k, v = (_axes_of(plan, node) for node in (call.source, key, value))
    if len({len(q), len(k), len(v)}) > 1 or q[:-2] != k[:-2] or k[:-1] != v[:-1] or q[-1] != k[-1]:
        call.refuse("it pairs positions along axes of the images that differ")
    plan.meet(call.node, (key, value))  # queries may be those of a finer map
    grid, axes = plan.meet(call.node, (call.source,)), (*q[:-1], v[-1])
    plan.pooled.append(call.name)
    call.swap(layers.Attention(given.get("scale"), given.get("dropout_p", 0.0)), key, value)
    return Map(grid, axes) if any(axes) else None


def _spelled_out(equation: str, dims: Sequence[int]) -> str:
    """An equation of ``einsum`` with its output, and with letters for its dots."""
    terms, arrow, out = equation.replace(" ", "").partition("->")
    counts = [n - len(term.replace("...", "")) for n, term in zip(dims, terms.split(","), strict=True)]
    dots = "".join(letter for letter in ascii_letters if letter not in equation)[: max(counts)]
    if not arrow:
        out = "..." * ("..." in terms) + "".join(sorted(x for x in {*terms} - {*",."} if terms.count(x) == 1))
    named = [term.replace("...", dots[len(dots) - n :]) for n, term in zip(counts, terms.split(","), strict=True)]
    return f"{','.join(named)}->{out.replace('...', dots)}"


def _axes_of(plan: Plan, node: fx.Node) -> Axes:
    place = plan.places[node]
    return ((),) * node.meta["value"].dim() if place is None else place.axes


def view(call: Call) -> Map | None:
    """Follow the axes through a change of shape, or an index, by the strides of an unpacked tensor."""
    if not isinstance(call.x, Tensor):  # one of several outputs
        return call.plan.places[call.source]
    if not tensors(call.node.meta["value"]):  # a number that belongs to a map
        return None
    if call.kind in SPREADING and call.plan.places[call.source] is None:
        return spreading(call)
    probe = torch.empty(call.x.shape, device="meta")
    args, kwargs = known((call.node.args[1:], call.node.kwargs))
    if call.layer is not None:
        found = call.layer(probe)
    elif call.node.op == "call_method":
        found = getattr(probe, str(call.node.target))(*args, **kwargs)
    else:
        found = cast(Any, call.node.target)(probe, *args, **kwargs)
    if call.node.target == "view" and not isinstance(args[0], torch.dtype):  # what is kept of a map has gaps
        call.node.target = "reshape"
    layout = unpacked(call.x.shape, call.place.axes)
    axes, *others = {follow(part, layout) for part in tensors(found)}
    if axes is None or others:
        if call.kind == "getitem":
            return _strided(call)
        return (isinstance(found, Tensor) and _shuffled(call, found, layout)) or _flatten(call)
    if call.kind in SPREADING and len(axes) == 2 + call.plan.dims:  # constant along what it is spread over
        images = as_images(call.plan.dims)
        axes = tuple(images[i] if found.stride(i) == 0 else along for i, along in enumerate(axes))
    return Map(call.place.grid, axes)


def _flatten(call: Call) -> Map | None:
    """Pool the map before its positions turn into features, where that is the same or was asked for."""
    plan, node, x, axes = call.plan, call.node, call.x, call.place.positions
    space = prod(x.shape[axis] for axis in axes)
    head = _linear_behind(plan, node)
    standard = call.place.axes == as_images(x.dim() - 2)
    if not standard or (tensors(node.meta["value"])[0].dim() > 2 and space > 1):
        _require_order(call)
        call.refuse(f"it cuts the positions of a map {tuple(x.shape[1:])} into pieces, or takes some of them")
    if space > 1 and (head is None or not plan.pool_head):
        made = f"features; {REMEDY}"
        if head is None:
            made = "features that no linear layer reads alone, be it through dropout and activations"
        call.refuse(f"it turns the {'x'.join(str(x.shape[axis]) for axis in axes)} positions of a map into {made}")
    path = plan.install(f"{call.name}_pool", layers.Reduction("mean", axes, keepdim=True, positions=True))
    plan.pooled.append(path)
    pooled = call.feed("call_module", path, None)
    if space > 1 and head is not None:
        linear = head.layer
        weight = linear.weight.detach().unflatten(1, (x.shape[1], -1))
        plan.notes.append(f"{head.name}: weights summed over {weight.shape[2]} positions, behind global pooling")
        linear.weight = nn.Parameter(weight.sum(2), linear.weight.requires_grad)
        linear.in_features = x.shape[1]
        plan.otherwise[path] = nn.Identity()
        # its own code may name the number of features
        node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (pooled, 1), {}
    return None


def _require_order(call: Call) -> None:
    """Refuse a tensor with its channels last that is read as one that has them first."""
    x, given, value = call.x, call.place.axes, call.node.meta["value"]
    if isinstance(value, Tensor) and value.numel() == x.numel() and not given[-1]:
        shape, axes = (x.shape[0], x.shape[-1], *x.shape[1:-1]), (given[0], given[-1], *given[1:-1])
        if follow(torch.empty(shape, device="meta").view(value.shape), unpacked(shape, axes)):
            those = f"{tuple(x.shape[1:])}, positions first, as a map {tuple(value.shape[1:])}, channels first"
            call.refuse(f"it reads {those}, without a transpose, and so mixes positions with channels")


def _linear_behind(plan: Plan, node: fx.Node) -> Any:
    """The call of the linear layer that alone reads what ``node`` gives, flattened, be it through layers that leave
    each feature where it is."""
    features = node.meta["value"].shape[1:].numel()
    flat = node.meta["value"].dim() == 2
    while len(readers := [reader for reader in node.users if flat or tensors(reader.meta["value"])]) == 1:
        (node,) = readers
        call, value = Call(plan, node), node.meta["value"]
        if flat and isinstance(call.layer, nn.Linear):
            return call if call.layer.in_features == features else None
        keeps = call.kind in ELEMENTWISE or isinstance(call.layer, Pointwise)
        flattens = not flat and isinstance(value, Tensor) and value.shape[1:] == (features,)
        if not (keeps or flattens or (call.kind == "contiguous" and not flat)):
            return None
        flat = flat or flattens
    return None


def _strided(call: Call) -> Map | None:
    """Every ``s``-th position of a map, or its middle."""
    place, x = call.place, call.x

    def parts(index: Any) -> list[Any]:
        """An index for each axis."""
        found = list(index) if isinstance(index, tuple) else [index]
        at = found.index(Ellipsis) if Ellipsis in found else len(found)
        found[at : at + 1] = [slice(None)] * (x.dim() - len(found) + (Ellipsis in found))
        return found

    slices = parts(known(call.node.args[1]))
    if not all(isinstance(part, slice) for part in slices) or place.axes != as_images(x.dim() - 2):
        call.refuse("it takes positions out of a map")
    sizes = x.shape[2:]
    ranges = [range(*part.indices(size)) for part, size in zip(slices[2:], sizes, strict=True)]
    if min(r.step for r in ranges) < 1 or place.grid is None:
        call.refuse("it takes positions out of a map")
    if any(isinstance(part.stop, int) and part.stop > 0 for part in parts(call.node.args[1])[2:]):
        call.refuse("it crops a map to a size that its code holds")
    pad = Pad(tuple(-r.start for r in ranges), tuple(r.stop - size for r, size in zip(ranges, sizes, strict=True)))
    path = call.plan.install(f"{call.name}_start", layers.Shift(pad))
    call.node.args = (call.feed("call_module", path, place), (*slices[:2], *(slice(None),) * len(ranges)))
    return call.step(place, [r.step for r in ranges], smooth=False)


# what keeps the map

ACTIVATIONS = {"relu", "relu6", "gelu", "hardswish", "leakyrelu", "elu", "selu", "hardsigmoid", "tanh"}
ELEMENTWISE = ACTIVATIONS | {"identity", "dropout", "alphadropout", "featurealphadropout"}
POINTWISE = set("add sub mul truediv div max maximum min minimum where cat concat concatenate stack".split())
PER_CHANNEL = {"batchnorm", "syncbatchnorm", "prelu"}
UNROUNDED = {"amin", "max", "min", "any", "all", "median", "quantile", "countnonzero"}
"""Reductions over positions whose result depends neither on their order nor on how it rounds."""


def keep(call: Call) -> Map | None:
    """Everything else: each map keeps its size, and maps that meet share their grid and their axes."""
    plan, node = call.plan, call.node
    outputs = tensors(node.meta["value"])
    if not outputs:
        return None
    shape = outputs[0].shape
    new = call.given.get("dim", 0) % len(shape) if call.kind == "stack" else None
    axes: list[tuple[int, ...]] = [()] * len(shape)
    for source, place in plan.maps(node):
        x = tensors(source.meta["value"])[0]
        runs = list(zip(place.axes, x.shape, strict=True))
        if new is not None:
            runs.insert(new, ((), 1))
        first = len(shape) - len(runs)
        fits = first >= 0 and all(
            out.dim() == len(shape) and out.shape[axis] == size
            for out in outputs
            for axis, (along, size) in enumerate(runs, first)
            if along
        )
        if not fits:
            before, after = tuple(x.shape[1:]), tuple(shape[1:])
            joins = call.kind in ("cat", "concat", "concatenate")
            call.refuse(
                f"it puts tokens of its own among the positions of a map {before}"
                if joins
                else f"it turns a map {before} into {after}, which no rule explains"
            )
        for axis, (along, _) in enumerate(runs, first):
            if along and axes[axis] not in ((), along):
                call.refuse("maps with their positions on different axes meet")
            axes[axis] = along or axes[axis]
    if call.kind in POINTWISE:
        for other in node.all_input_nodes:
            if isinstance(other.meta["value"], Tensor):
                _require_no_position(call, other, axes if new is None else [*axes[:new], *axes[new + 1 :]])
    if call.kind in PER_CHANNEL and axes[1] and call.given["weight"] is not None and call.given["weight"].numel() > 1:
        call.refuse("it has weights of its own at each position")
    return Map(plan.meet(node), tuple(axes))


def constant(call: Call) -> Map | None:
    """A constant of the type of a map, and of its size or without positions."""
    made, x, place = call.node.meta["value"], call.x, call.place
    fits = made.dim() == x.dim() and all(made.shape[axis] == x.shape[axis] for axis in place.positions)
    return place if fits else None


def written(call: Call) -> Map | None:
    """Channels of a map that are written to, at all positions."""
    probe: Any = torch.empty(call.x.shape, device="meta")
    part, (value, views) = probe, call.node.args[1:]
    if tensors([list(args) for _, args, _ in known(views)]):
        call.refuse("it writes to positions that another tensor picks")
    for name, args, kwargs in known(views):
        part = getattr(part, name)(*args, **kwargs)
    found = follow(part, unpacked(call.x.shape, call.place.axes))
    if found is None or part.untyped_storage()._cdata != probe.untyped_storage()._cdata:
        call.refuse("it writes to some positions of a map and not to others")
    if isinstance(value, fx.Node) and isinstance(value.meta["value"], Tensor):
        _require_no_position(call, value, found)
    return Map(call.plan.meet(call.node), call.place.axes)


def _require_no_position(call: Call, other: fx.Node, axes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a tensor that meets one that runs along ``axes``, counted from the last, and has values there that do not
    move with the images."""
    sizes = reversed(list(zip(_axes_of(call.plan, other), other.meta["value"].shape, strict=True)))
    for along, (these, size) in zip(reversed(axes), sizes, strict=False):
        if along != these and size > 1 and other.meta["value"].numel():
            call.refuse(f"it meets {other.name}, which has values of its own at each position")


def _over_channels(call: Call, axes: int) -> None:
    """Refuse a layer over the last ``axes`` where they are positions."""
    if call.over_positions(range(call.x.dim() - axes, call.x.dim())):
        call.refuse("it mixes positions with weights of their own")


def linear(call: Call) -> Map | None:
    _over_channels(call, 1)
    call.swap(layers.Linear(call.layer), *call.operands("weight", "bias"))
    return call.plan.places[call.source]


def convolution_of_features(call: Call) -> None:
    """A 1x1 convolution where positions are gone, as in squeeze-and-excite, is a linear layer."""
    given, dims = call.given, call.x.dim() - 2
    one = {*call.x.shape[2:], *call.node.meta["value"].shape[2:], *given["weight"].shape[2:]} == {1}
    if one and given.get("groups", 1) == 1:
        settings = (1,) * dims, 1, call.plan.padding, layers.ahead((0,) * dims)
        call.swap(layers.Convolution(call.layer, *settings), *call.operands("weight", "bias"))


def layer_norm(call: Call) -> Map | None:
    _over_channels(call, len(call.given["normalized_shape"]))
    place = keep(call)
    if call.kind == "rmsnorm":  # a sum over channels, which have to lie one behind the other for that
        call.feed("call_method", "contiguous", place)
    return place


def norm_over_space(call: Call) -> Map | None:
    """Group or instance norm; one with statistics of its own treats each position by itself."""
    given = call.given
    if call.place.axes[1]:
        call.refuse("it has weights of its own at each position")
    fixed = given.get("running_mean") is not None if call.layer else not given.get("use_input_stats", True)
    if not fixed:
        call.plan.pooled.append(call.name)
        norm = layers.GroupNorm(call.layer, given.get("num_groups", call.x.shape[1]), given.get("eps", 1e-5))
        call.swap(norm, *call.operands("weight", "bias"))
    return call.place


MIXES = "it attends with biases or widths of its own, for which there is no rule"
SHUFFLES = "it trades positions for channels, phase by phase"
ROUNDS = "on a CPU its rounding depends on where in memory a position lies"

_CONV = "weight bias stride padding"
_RULES: tuple[tuple[str, Rule | str, str], ...] = (
    ("conv", convolution, f"{_CONV} dilation groups"),
    ("convtranspose", transposed_convolution, f"{_CONV} output_padding groups dilation"),
    ("maxpool", pooling, "kernel_size stride padding dilation ceil_mode return_indices"),
    ("avgpool", pooling, ""),
    ("adaptiveavgpool adaptivemaxpool", adaptive_pooling, "output_size return_indices"),
    ("pad", padding, "pad mode value"),
    ("zeropad constantpad reflectionpad replicationpad circularpad", padding, ""),
    (
        "upsample upsamplingnearest upsamplingbilinear interpolate",
        upsampling,
        "size scale_factor mode align_corners recompute_scale_factor antialias",
    ),
    ("groupnorm", norm_over_space, "num_groups weight bias eps"),
    ("instancenorm", norm_over_space, "running_mean running_var weight bias use_input_stats momentum eps"),
    ("layernorm rmsnorm", layer_norm, "normalized_shape"),
    ("linear", linear, "weight bias"),
    ("softmax logsoftmax softmin", softmax, "dim"),
    (" ".join((*SUMS, "amax amin max min any all median countnonzero argmax argmin prod")), reduction, "dim keepdim"),
    ("quantile", reduction, "q dim keepdim"),
    ("norm linalgnorm linalgvectornorm", reduction, "p dim keepdim"),
    ("var std", reduction, "dim unbiased keepdim"),
    ("normalize", normalize, "p dim eps"),
    (
        "flatten unflatten reshape view viewas permute transpose movedim moveaxis swapaxes swapdims squeeze unsqueeze",
        view,
        "",
    ),
    ("getitem getattr expand expandas select narrow unbind chunk split tensorsplit", view, ""),
    ("writeinto", written, ""),
    ("newempty newfull newones newzeros", constant, ""),
    ("matmul bmm mm einsum", contraction, ""),
    ("scaleddotproductattention", attention, "key value attn_mask dropout_p is_causal scale enable_gqa"),
    ("multiheadattention multiheadattentionforward", MIXES, ""),
    ("pixelshuffle", shuffle, "upscale_factor"),
    ("pixelunshuffle", shuffle, "downscale_factor"),
    ("unfold fold", SHUFFLES, ""),
    ("atan2 ldexp igamma igammac floatpower cosinesimilarity renorm", ROUNDS, ""),
)
RULES = {kind: (rule, names) for kinds, rule, names in _RULES for kind in kinds.split()}
"""By kind of a layer or function: its rule, or why it has none, and the names of a function's arguments after the
first."""

LAYERS: dict[str, type[nn.Module]] = {
    layer.__name__.lower(): layer
    for layer in (
        *(getattr(nn, f"{kind}Pool{d}d") for kind in ("Max", "Avg") for d in (1, 2, 3)),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        *Pointwise.EXACT,
    )
}
"""Functions that do what a layer does, with the same arguments; a call of one becomes a call of that layer."""

SPREADING = ("interpolate", "expand", "expandas")
"""What gives a value without positions to each of them."""


def _as_layer(plan: Plan, node: fx.Node) -> None:
    """Let a function be the layer that does the same, and one of dropout the layer that a network turns on and off."""
    layer, value = LAYERS.get(called(node).replace("_", "")), node.meta["value"]
    if layer is None:
        if isinstance(value, Tensor) and value.is_floating_point() and rounds_by_place(node):
            node.op, node.target = "call_module", plan.install(plan.path(node), Elementwise(called(node)))
        return
    if issubclass(layer, _DropoutNd):
        given = Call(plan, node, "p training").given
        p, on = given.get("p", 0.5), given.get("training", given.get("train"))
        never = issubclass(layer, nn.AlphaDropout | nn.FeatureAlphaDropout)  # unless it is asked to
        if p and (on or (on is None and not never)):
            refuse(node, "its dropout is on in evaluation too, so outputs are random: give it training=self.training")
        module = nn.Identity() if on is None else cast(Any, layer)(p)
    else:
        _, names = RULES.get(kind_of(node), (keep, ""))
        given = Call(plan, node, names or " ".join(inspect.signature(layer).parameters)).given
        module = layer(**{name: value for name, value in given.items() if name != "inplace"})
    path = plan.install(plan.path(node), _rounding_alike(module) or module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, node.args[:1], {}


def refuse_hooks(network: nn.Module) -> None:
    """What was attached to a layer, and not to its class, is lost where another takes its place; what was attached to a
    weight, where that is copied."""
    for path, module in network.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
                raise ConvertError(
                    path or "the network", f"its {name} has hooks, which a copy loses: remove them first"
                )
        found = None
        attached = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, name) for name in attached):
            found = "hooks, as spectral_norm and weight_norm of torch.nn.utils register", "them: remove them first"
        elif "forward" in vars(module):
            found = "a forward of its own, which its class does not know", "it: define it in a class"
        if found and (not path or kind_of(module) in RULES or _rounding_alike(module)):
            reason = f"it has {found[0]}, and what takes its place would not run {found[1]}"
            raise ConvertError(path or "the network", reason)


def round_alike(network: nn.Module) -> None:
    """Activations whose rounding depends on where a sample lies in memory are replaced, inside other layers too."""
    for path, module in list(network.named_modules(remove_duplicate=False)):
        replacement = _rounding_alike(module)
        if replacement is not None:
            network.set_submodule(path, replacement.train(module.training))


def _rounding_alike(module: nn.Module) -> Pointwise | None:
    return Pointwise(module) if type(module) in Pointwise.EXACT else None


def apply_rules(plan: Plan) -> None:
    """Walk through the graph, follow the maps and put converted layers in the place of those that need it."""
    for node in plan.graph.nodes:
        if node.target is getattr and isinstance(node.args[0].meta["value"], tuple) and tensors(node.meta["value"]):
            parts = node.args[0].meta["value"]  # one of several by its name, which no copy of them knows
            index = next(i for i, part in enumerate(parts) if part is node.meta["value"])
            node.target, node.args = operator.getitem, (node.args[0], index)
        if node.op in ("call_function", "call_method"):
            _as_layer(plan, node)
    from_images = set[fx.Node]()
    for node in list(plan.graph.nodes):
        plan.places[node] = None
        if node.op == "placeholder":
            plan.dims = node.meta["value"].dim() - 2
            plan.places[node] = Map((), as_images(plan.dims))
        if node.op == "placeholder" or not from_images.isdisjoint(node.all_input_nodes):
            from_images.add(node)
        if node.op in ("placeholder", "output") or makes_object(node):
            continue
        rule, names = RULES.get(kind_of(plan.module(node) or node), (keep, ""))
        call = Call(plan, node, names)
        if any(plan.maps(node)):
            if call.layer is not None and nn.utils.parametrize.is_parametrized(call.layer):
                call.refuse("its weights are parametrized: remove the parametrization first")
            plan.places[node] = call.refuse(rule) if isinstance(rule, str) else rule(call)
        elif call.kind in SPREADING:
            plan.places[node] = spreading(call)
        elif node in from_images and isinstance(call.source, fx.Node):
            if rule in (linear, contraction) or (rule is softmax and call.x.dim() > 2):
                cast(Rule, rule)(call)  # it mixes the features of each image, once positions are gone
            elif rule is convolution:
                convolution_of_features(call)
