"""What each layer and function does to space, and what takes its place.

A rule gets a call that reads at least one map and returns where its output stands: on the grid of its input, a step
further, a step back, or nowhere (``None``), once positions are gone. Whatever has no rule has to keep the map's size.
"""

from collections.abc import Sequence
from functools import partial
from math import inf, prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from .borders import Border, Pad
from .grids import Grid, Map, Step, total
from .layers import (
    AVG_POOL,
    MAX_POOL,
    SUMS,
    AcrossChannels,
    Convolution,
    Elementwise,
    Every,
    GroupNorm,
    Interpolation,
    Linear,
    Pointwise,
    Pooling,
    Shift,
    SpatialMean,
    SpatialNorm,
    Spread,
    TransposedConvolution,
)
from .plan import Plan, Raised, Rule, arguments
from .report import ConvertError
from .trace import called as _called
from .trace import known, rounds_by_place
from .values import tensors

REMEDY = 'convert(..., head="pool") replaces it by global pooling and sums the weights over the positions'


def _input(plan: Plan, node: fx.Node) -> tuple[Tensor, Map]:
    source, place = next(plan.maps(node))
    if source is not node.args[0]:
        plan.refuse(node, "a map is expected as its first argument")
    return source.meta["value"], place


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))


# windows


def _window(
    plan: Plan, node: fx.Node, stride: tuple[int, ...], pad: Pad, smooth: bool
) -> tuple[tuple[int, ...], tuple[Pad, ...], Map]:
    """Where windows begin, all paddings in front of them, and where the output of a windowed call stands."""
    x, place = _input(plan, node)
    if place.axes != tuple(range(2, x.dim())):
        plan.refuse(node, f"its input has its positions on the axes {place.axes}, not last")
    if len(set(stride)) > 1:
        plan.refuse(node, f"its strides {stride} differ along the axes, and a polyphase split has one")
    pads = (*plan.lead.get(node, ()), pad)
    before = tuple(sum(each) for each in zip(*(pad.before for pad in pads), strict=True))
    if place.grid is None or stride[0] == 1:
        return before, pads, place
    return before, pads, Map((*place.grid, _step(plan, node, stride[0], smooth)), place.axes)


def _step(plan: Plan, node: fx.Node, stride: int, smooth: bool) -> Step:
    step = Step(node, stride, smooth)
    plan.steps.append(step)
    return step


def convolution(plan: Plan, node: fx.Node) -> Map | None:
    conv = cast(nn.Conv2d, plan.module(node))
    _, place = _input(plan, node)
    dims = len(conv.kernel_size)
    if place.axes != tuple(range(2, 2 + dims)):
        plan.refuse(node, f"a convolution over {dims} axes reads a map whose positions are on the axes {place.axes}")
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    pad = _padded(conv.padding, conv.kernel_size, conv.dilation)._replace(mode=mode)
    before, pads, out = _window(plan, node, conv.stride, pad, smooth=False)
    if max(conv.kernel_size) > 1:
        plan.padded.append(plan.name(node))
    plan.swap(node, Convolution(conv, before, conv.dilation, conv.groups, plan.padding, Border(pads)))
    return out


def _padded(padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> Pad:
    """What the ``padding`` of a convolution puts around its map."""
    if padding == "same":
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return Pad(tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach))
    amounts = _each(0 if isinstance(padding, str) else padding, len(kernel))
    return Pad(amounts, amounts)


def functional_convolution(plan: Plan, node: fx.Node) -> Map | None:
    """A convolution whose weights are computed, or fixed as those of a blur are."""
    x, _ = _input(plan, node)
    dims = x.dim() - 2
    given = arguments(node, "weight", "bias", "stride", "padding", "dilation", "groups")
    kernel, dilation = given["weight"].shape[2:], _each(given.get("dilation", 1), dims)
    x_node, *operands = _operands(node, 1, "weight", "bias")
    weight = cast(fx.Node, operands[0])
    blurs = weight.op == "get_attr" and not isinstance(given["weight"], nn.Parameter)
    pad = _padded(given.get("padding", 0), kernel, dilation)
    before, pads, out = _window(plan, node, _each(given.get("stride", 1), dims), pad, smooth=blurs)
    plan.padded.append(plan.name(node))
    plan.swap(node, Convolution(None, before, dilation, given.get("groups", 1), plan.padding, Border(pads)))
    node.args = (x_node, *operands)
    return out


def _operands(node: fx.Node, first: int, *names: str) -> list[Any]:
    """The input of a functional layer and its weights, by their names or by their places from ``first`` on."""
    given = dict(zip(names, node.args[first:], strict=False)) | node.kwargs
    return [node.args[0], *(given.get(name) for name in names)]


def pooling(plan: Plan, node: fx.Node, largest: bool) -> Map | None:
    pool = cast(nn.MaxPool2d, plan.module(node))
    x, _ = _input(plan, node)
    dims = x.dim() - 2
    kernel, before = _each(pool.kernel_size, dims), _each(pool.padding, dims)
    if largest and pool.return_indices:
        plan.refuse(node, "it hands out the positions of its maxima")
    if getattr(pool, "divisor_override", None) is not None:
        plan.refuse(node, "it divides by another number than that of its window's positions (divisor_override)")
    if not largest and kernel == x.shape[2:] and before == (0,) * dims and node not in plan.lead:
        plan.notes.append(f"{plan.name(node)} spans the map of the example: it became global pooling")
        _global_mean(plan, node, tuple(range(2, x.dim())), keepdim=True)
        return None
    dilation, stride = _each(pool.dilation if largest else 1, dims), _each(pool.stride, dims)
    beyond = -inf if largest else 0.0  # never the largest
    pad = Pad(before, before, value=beyond, counts=getattr(pool, "count_include_pad", True))
    before, pads, out = _window(plan, node, stride, pad, smooth=not largest)
    plan.padded.append(plan.name(node))
    border = Border(pads, beyond, stride[0] if pool.ceil_mode else 0)
    plan.swap(node, Pooling(largest, kernel, before, dilation, plan.padding, border))
    return out


def padding(plan: Plan, node: fx.Node) -> Map | None:
    """Take a padding out; the windows that read it begin earlier instead, and wrap."""
    x, place = _input(plan, node)
    pad = cast(Any, plan.module(node))
    given = arguments(node, "pad", "mode", "value") if pad is None else _pad_of(pad)
    amounts = list(given["pad"])
    amounts += [0] * (2 * x.dim() - len(amounts))
    before = [amounts[2 * (x.dim() - 1 - axis)] for axis in range(x.dim())]
    after = [amounts[2 * (x.dim() - 1 - axis) + 1] for axis in range(x.dim())]
    if not any(before[axis] or after[axis] for axis in place.axes):
        return keep(plan, node)
    if min(before + after) < 0 or any(before[:2]) or any(after[:2]):
        plan.refuse(node, "it crops the map, or pads positions and channels at once")
    for user in node.users:
        module = plan.module(user)
        windows = rule_of(plan, user) in WINDOW_RULES if module is not None else user.target in FUNCTIONAL_CONVOLUTIONS
        if not windows:
            plan.refuse(node, "it pads a map for something else than a convolution or a pooling")
        value = given.get("value") or 0.0
        plan.lead[user] = (Pad(tuple(before[2:]), tuple(after[2:]), given.get("mode", "constant"), value),)
    plan.padded.append(plan.name(node))
    node.replace_all_uses_with(cast(fx.Node, node.args[0]))
    return None


def _pad_of(module: Any) -> dict[str, Any]:
    """What a padding layer hands to ``F.pad``."""
    kind = type(module).__name__.removesuffix("Pad1d").removesuffix("Pad2d").removesuffix("Pad3d")
    modes = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    return {"pad": module.padding, "mode": modes.get(kind, "constant"), "value": getattr(module, "value", 0.0)}


# upsampling


def upsampling(plan: Plan, node: fx.Node) -> Map | None:
    x, place = _input(plan, node)
    up = plan.module(node)
    given = arguments(node, "size", "scale_factor", "mode", "align_corners") if up is None else vars(up)
    mode = given.get("mode", "nearest")
    factors = {m / n for n, m in zip(x.shape[2:], node.meta["value"].shape[2:], strict=True)}
    factor = factors.pop()
    if factors or factor % 1 or place.grid is None:
        plan.refuse(node, f"it resizes {tuple(x.shape[2:])} to {tuple(node.meta['value'].shape[2:])}")
    if factor == 1:
        node.replace_all_uses_with(cast(fx.Node, node.args[0]))
        return None
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear"):
        plan.refuse(node, f"the interpolation {mode!r} has no kernel here: nearest and (bi)linear have")
    if given.get("align_corners"):
        plan.notes.append(f"{plan.name(node)}: align_corners is given up, since its grid depends on the size")
    grid = _back(plan, node, place.grid, int(factor))
    plan.swap(node, Interpolation(int(factor), not mode.startswith("nearest"), plan.padding))
    if given.get("align_corners"):
        plan.otherwise[plan.name(node)] = nn.Sequential(Every(int(factor)), nn.Upsample(None, factor, mode, True))
    return Map(grid, place.axes)


def spreading(plan: Plan, node: fx.Node) -> Map | None:
    """A value without positions is given to each of them."""
    value = node.meta["value"]
    axes = tuple(range(2, value.dim()))
    if _called(node) == "interpolate":
        operands = _operands(node, 1, "size")
        plan.swap(node, Spread())
        node.args = tuple(operands)
    return Map(None, axes) if axes and prod(value.shape[2:]) > 1 else None


def transposed_convolution(plan: Plan, node: fx.Node) -> Map | None:
    conv = cast(nn.ConvTranspose2d, plan.module(node))
    x, place = _input(plan, node)
    stride = set(conv.stride)
    if len(stride) > 1 or place.grid is None:
        plan.refuse(node, f"its strides {conv.stride} differ, or it reads no map of the images")
    factor = stride.pop()
    sizes = zip(x.shape[2:], node.meta["value"].shape[2:], strict=True)
    grid = _back(plan, node, place.grid, factor)
    plan.padded.append(plan.name(node))
    plan.swap(node, TransposedConvolution(conv, plan.padding, [after - factor * size for size, after in sizes]))
    return Map(grid, place.axes)


def _back(plan: Plan, node: fx.Node, grid: Grid, factor: int) -> Grid:
    """The grid before the last steps, whose product is ``factor``."""
    kept, undone = list(grid), list[Step]()
    while total(tuple(undone)) < factor and kept:
        undone.append(kept.pop())
    if total(tuple(undone)) != factor:
        strides = ", ".join(str(step.stride) for step in grid) or "none"
        plan.refuse(node, f"an upsampling by {factor} undoes no stride of the network; those before it are {strides}")
    plan.raised.append(Raised(node, tuple(undone)))
    return tuple(kept)


# positions that go


def _global_mean(plan: Plan, node: fx.Node, dims: Sequence[int], keepdim: bool) -> None:
    plan.pooled.append(plan.name(node))
    plan.swap(node, SpatialMean(dims, keepdim))


def adaptive_pooling(plan: Plan, node: fx.Node, largest: bool) -> Map | None:
    pool = cast(nn.AdaptiveAvgPool2d, plan.module(node))
    x, place = _input(plan, node)
    dims = x.dim() - 2
    size = _each(cast(Any, pool.output_size), dims)
    if size == (1,) * dims:
        if not largest:
            _global_mean(plan, node, place.axes, keepdim=True)
        return None
    if plan.pool_head and not largest:
        plan.swap(node, nn.Identity())
        plan.otherwise[plan.name(node)] = pool
        return place
    plan.refuse(node, f"it pools to {size} windows whose borders stay where they are under a shift; {REMEDY}")


def reduction(plan: Plan, node: fx.Node) -> Map | None:
    x, place = _input(plan, node)
    names = ("p", "dim", "keepdim") if _called(node) == "norm" else ("dim", "keepdim")
    given = arguments(node, *names)
    dims = given.get("dim")
    dims = tuple(d % x.dim() for d in ([dims] if isinstance(dims, int) else dims or range(x.dim())))
    keepdim = bool(given.get("keepdim", False))
    over = set(dims) & set(place.axes)
    if not over:
        if _called(node) in SUMS:
            plan.swap(node, AcrossChannels(_called(node), dims, keepdim))
        return Map(place.grid, place.axes if keepdim else tuple(a - sum(d < a for d in dims) for a in place.axes))
    if over != set(place.axes) or 0 in dims:
        plan.refuse(node, f"it reduces over the axes {dims}; over positions, all of them or none")
    if _called(node) == "mean":
        _global_mean(plan, node, dims, keepdim)
    elif _called(node) == "norm" and given.get("p", 2) == 2:
        plan.pooled.append(plan.name(node))
        plan.swap(node, SpatialNorm(dims, keepdim))
    elif _called(node) not in ("amax", "amin"):
        plan.refuse(node, "a sum over positions whose rounding depends on their order; mean, norm and amax do not")
    return None


def softmax(plan: Plan, node: fx.Node, method: str) -> Map | None:
    source = cast(fx.Node, node.args[0])
    x, place, module = source.meta["value"], plan.places[source], plan.module(node)
    dim = -3 if isinstance(module, nn.Softmax2d) else (vars(module) if module else arguments(node, "dim")).get("dim")
    if dim is None or (place and dim % x.dim() in place.axes):
        plan.refuse(node, "over positions it weighs them against each other; over channels it has to name their axis")
    plan.swap(node, AcrossChannels(method, (dim % x.dim(),), keepdim=True))
    return place


def view(plan: Plan, node: fx.Node) -> Map | None:
    """Follow the axes through a change of shape by the strides of an unpacked tensor."""
    x, place = _input(plan, node)
    probe = torch.empty(x.shape, device="meta")
    out = _run(plan, node, probe)
    wanted = [(x.shape[axis], probe.stride(axis)) for axis in place.axes]
    found = list(zip(out.shape, out.stride(), strict=True))
    if all(found.count(axis) == 1 for axis in wanted):
        return Map(place.grid, tuple(found.index(axis) for axis in wanted))
    _flatten(plan, node, x, place)
    return None


def attribute(plan: Plan, node: fx.Node) -> Map | None:
    """A number that belongs to a map, or another view of it."""
    return view(plan, node) if isinstance(node.meta["value"], Tensor) else None


def _run(plan: Plan, node: fx.Node, x: Tensor) -> Tensor:
    """The call of ``node`` on other values."""
    args, kwargs = known((node.args[1:], node.kwargs))
    module = plan.module(node)
    if module is not None:
        return cast(Tensor, module(x))
    if node.op == "call_method":
        return cast(Tensor, getattr(x, str(node.target))(*args, **kwargs))
    return cast(Tensor, node.target(x, *args, **kwargs))  # type: ignore[operator]


def _flatten(plan: Plan, node: fx.Node, x: Tensor, place: Map) -> None:
    """Pool the map before its positions turn into features, where that is the same or was asked for."""
    space = prod(x.shape[axis] for axis in place.axes)
    head = _linear_behind(plan, node)
    if place.axes != tuple(range(2, x.dim())) or (space > 1 and (head is None or not plan.pool_head)):
        sizes = "x".join(str(x.shape[axis]) for axis in place.axes)
        made = f"features; {REMEDY}"
        if node.meta["value"].dim() > 2:
            made = "tokens, and what mixes those is no convolution"
        elif head is None:
            made = "features that no linear layer reads alone, be it through dropout and activations"
        plan.refuse(node, f"it turns the {sizes} positions of a map into {made}")
    if space > 1 and head is not None:
        linear = cast(nn.Linear, plan.module(head))
        weight = linear.weight.detach().unflatten(1, (x.shape[1], -1))
        plan.notes.append(f"{plan.name(head)}: weights summed over {weight.shape[2]} positions, behind global pooling")
        linear.weight = nn.Parameter(weight.sum(2), linear.weight.requires_grad)
        linear.in_features = x.shape[1]
    path = f"{plan.name(node)}_pool"
    if space > 1:
        plan.otherwise[path] = nn.Identity()
    plan.install(path, SpatialMean(place.axes, keepdim=True))
    plan.pooled.append(path)
    with plan.graph.inserting_before(node):
        pooled = plan.graph.call_module(path, (node.args[0],))
    plan.places[pooled] = None
    node.replace_input_with(cast(fx.Node, node.args[0]), pooled)
    if space > 1:  # its own code may name the number of features
        node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (pooled, 1), {}


def _linear_behind(plan: Plan, node: fx.Node) -> fx.Node | None:
    """The linear layer that alone reads the flattened features of ``node``, be it through layers that leave each of
    them where it is."""
    features = node.meta["value"].shape[-1]
    while len(node.users) == 1 and node.meta["value"].dim() == 2:
        node = next(iter(node.users))
        module = plan.module(node)
        if isinstance(module, nn.Linear):
            return node if module.in_features == features else None
        if not isinstance(module, ELEMENTWISE) and _called(node) not in ACTIVATION_NAMES:
            return None
    return None


def item(plan: Plan, node: fx.Node) -> Map | None:
    """An element of several outputs, channels of a map, or every ``s``-th of its positions."""
    source = cast(fx.Node, node.args[0])
    place, x, index = plan.places[source], source.meta["value"], node.args[1]
    assert place is not None
    if not isinstance(x, Tensor):
        return place
    probe = torch.empty(x.shape, device="meta")
    known_index = known(index)
    out = probe[known_index]
    found = list(zip(out.shape, out.stride(), strict=True))
    wanted = [(x.shape[axis], probe.stride(axis)) for axis in place.axes]
    if all(found.count(axis) == 1 for axis in wanted):
        return Map(place.grid, tuple(found.index(axis) for axis in wanted))
    slices = list(known_index) if isinstance(known_index, tuple) else [known_index]
    if Ellipsis in slices:
        at = slices.index(Ellipsis)
        slices[at : at + 1] = [slice(None)] * (x.dim() - len(slices) + 1)
    slices += [slice(None)] * (x.dim() - len(slices))
    taken = [slices[axis] for axis in place.axes]
    if not all(isinstance(part, slice) for part in slices) or place.axes != tuple(range(2, x.dim())):
        plan.refuse(node, "it takes positions out of a map")
    ranges = [range(*part.indices(size)) for part, size in zip(taken, x.shape[2:], strict=True)]
    strides = {r.step for r in ranges}
    whole = all(len(r) == size // r.step and r.start < r.step for r, size in zip(ranges, x.shape[2:], strict=True))
    if len(strides) > 1 or not whole or place.grid is None:
        plan.refuse(node, "it crops a map")
    path = f"{plan.name(node)}_start"
    plan.install(path, Shift([r.start for r in ranges]))
    with plan.graph.inserting_before(node):
        shifted = plan.graph.call_module(path, (source,))
    plan.places[shifted] = place
    node.args = (shifted, (*slices[:2], *(slice(None),) * len(ranges)))
    return Map((*place.grid, _step(plan, node, strides.pop(), smooth=False)), place.axes)


# what keeps the map

ELEMENTWISE = (
    nn.Identity, _DropoutNd, Pointwise, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Tanh, nn.Hardswish
)  # fmt: skip
ACTIVATION_NAMES = {"relu", "relu6", "gelu", "hardswish", "leaky_relu", "elu", "selu", "hardsigmoid", "tanh"}
POINTWISE = {"add", "sub", "mul", "truediv", "div", "maximum", "minimum", "where", "cat", "concat", "stack"}


def keep(plan: Plan, node: fx.Node) -> Map | None:
    """Everything else: each map keeps its size, and maps that meet share their grid."""
    value = node.meta["value"]
    outputs = tensors(value)
    if not outputs:
        return None
    source, place = max(plan.maps(node), key=lambda pair: tensors(pair[0].meta["value"])[0].dim())
    x = tensors(source.meta["value"])[0]
    extra = outputs[0].dim() - x.dim() if _called(node) == "stack" else 0
    sizes = [x.shape[axis] for axis in place.axes]
    for out in outputs:
        if out.dim() != x.dim() + extra or [out.shape[axis + extra] for axis in place.axes] != sizes:
            before, after = tuple(x.shape[1:]), tuple(out.shape[1:])
            plan.refuse(node, f"it turns a map {before} into {after}, which no rule explains")
    for _, where in plan.maps(node):
        if where.axes != place.axes:
            plan.refuse(node, f"maps with their positions on the axes {where.axes} and {place.axes} meet")
    if _called(node) in POINTWISE:
        for other in node.all_input_nodes:
            if plan.places[other] is None and isinstance(other.meta["value"], Tensor):
                _require_no_position(plan, node, other, [axis - x.dim() for axis in place.axes])
    return Map(plan.meet(node), tuple(axis + extra for axis in place.axes))


def constant(plan: Plan, node: fx.Node) -> Map | None:
    """A constant of the type of a map, and of its size or without positions."""
    x, place = _input(plan, node)
    made = node.meta["value"]
    fits = made.dim() == x.dim() and all(made.shape[axis] == x.shape[axis] for axis in place.axes)
    return place if fits else None


def written(plan: Plan, node: fx.Node) -> Map | None:
    """Channels of a map that are written to, at all positions."""
    x, place = _input(plan, node)
    part: Any = torch.empty(x.shape, device="meta")
    storage = part.untyped_storage()._cdata
    wanted = [(x.shape[axis], part.stride(axis)) for axis in place.axes]
    views = known(node.args[2])
    if tensors([list(args) for _, args, _ in views]):
        plan.refuse(node, "it writes to positions that another tensor picks")
    for name, args, kwargs in views:
        part = getattr(part, name)(*args, **kwargs)
    found = list(zip(part.shape, part.stride(), strict=True))
    if part.untyped_storage()._cdata != storage or any(found.count(axis) != 1 for axis in wanted):
        plan.refuse(node, "it writes to some positions of a map and not to others")
    back = [found.index(axis) - part.dim() for axis in wanted]
    value = node.args[1]
    if isinstance(value, fx.Node) and isinstance(value.meta["value"], Tensor):
        fixed, where = value.meta["value"], plan.places[value]
        if where is not None and [axis - fixed.dim() for axis in where.axes] != back:
            plan.refuse(node, "it writes a map to other axes than those of its positions")
        if where is None:
            _require_no_position(plan, node, value, back)
    return Map(plan.meet(node), place.axes)


def _require_no_position(plan: Plan, node: fx.Node, other: fx.Node, back: Sequence[int]) -> None:
    """Refuse a tensor with several values along the axes ``back``, counted from the last."""
    fixed = other.meta["value"]
    if any(fixed.dim() >= -axis and fixed.shape[axis] > 1 for axis in back):
        plan.refuse(node, f"it meets {other.name}, which has values of its own at each position")


def channels_only(plan: Plan, node: fx.Node, axes: int) -> Map | None:
    """A layer over the last axes, which must not be positions."""
    x, place = _input(plan, node)
    if any(axis >= x.dim() - axes for axis in place.axes):
        plan.refuse(node, "it mixes positions with weights of their own")
    return keep(plan, node)


def linear(plan: Plan, node: fx.Node) -> Map | None:
    x, place = _input(plan, node)
    if x.dim() - 1 in place.axes:
        plan.refuse(node, "it mixes positions with weights of their own")
    _row_by_row(plan, node)
    return place


def _row_by_row(plan: Plan, node: fx.Node) -> None:
    module = plan.module(node)
    operands = [node.args[0]] if module is not None else _operands(node, 1, "weight", "bias")
    plan.swap(node, Linear(module))
    node.args = tuple(operands)


def layer_norm(plan: Plan, node: fx.Node) -> Map | None:
    norm = plan.module(node)
    given = arguments(node, "normalized_shape") if norm is None else vars(norm)
    return channels_only(plan, node, len(given["normalized_shape"]))


def rms_norm(plan: Plan, node: fx.Node) -> Map | None:
    """A sum over channels, which have to lie one behind the other for that."""
    place = layer_norm(plan, node)
    source = cast(fx.Node, node.args[0])
    with plan.graph.inserting_before(node):
        rows = plan.graph.call_method("contiguous", (source,))
    rows.meta["value"], plan.places[rows] = source.meta["value"], place
    node.replace_input_with(source, rows)
    return place


def norm_over_space(plan: Plan, node: fx.Node) -> Map | None:
    norm = cast(nn.GroupNorm, plan.module(node))
    _, place = _input(plan, node)
    if getattr(norm, "running_mean", None) is None:
        groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else cast(nn.InstanceNorm2d, norm).num_features
        plan.pooled.append(plan.name(node))
        plan.swap(node, GroupNorm(norm, groups, norm.eps))
    return place


def functional_group_norm(plan: Plan, node: fx.Node) -> Map | None:
    _, place = _input(plan, node)
    given = arguments(node, "num_groups", "weight", "bias", "eps")
    operands = _operands(node, 2, "weight", "bias")
    plan.pooled.append(plan.name(node))
    plan.swap(node, GroupNorm(None, given["num_groups"], given.get("eps", 1e-5)))
    node.args = tuple(operands)
    return place


def refused(plan: Plan, node: fx.Node, reason: str) -> Map | None:
    plan.refuse(node, reason)


mixes = partial(refused, reason="it mixes positions by their content or place, and equal bits cannot be promised")
shuffles = partial(refused, reason="it trades positions for channels, phase by phase")
rounds = partial(refused, reason="on a CPU its rounding depends on where in memory a position lies")

MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed_convolution),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), partial(pooling, largest=True)),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), partial(pooling, largest=False)),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), partial(adaptive_pooling, largest=False)
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), partial(adaptive_pooling, largest=True)
    ),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), upsampling),
    **dict.fromkeys((nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), norm_over_space),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle), shuffles),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), view),
    **dict.fromkeys(
        (
            getattr(nn, f"{kind}Pad{dims}d")
            for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
            for dims in (1, 2, 3)
        ),
        padding,
    ),
    **dict.fromkeys((nn.Softmax, nn.Softmax2d), partial(softmax, method="softmax")),
    nn.LogSoftmax: partial(softmax, method="log_softmax"),
    nn.Softmin: partial(softmax, method="softmin"),
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.CosineSimilarity: rounds,
    nn.Linear: linear,
    **dict.fromkeys((nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer), mixes),
}

LAYERS: dict[str, type[nn.Module]] = {
    **{f"max_pool{d}d": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d - 1] for d in MAX_POOL},
    **{f"avg_pool{d}d": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[d - 1] for d in AVG_POOL},
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
    "local_response_norm": nn.LocalResponseNorm,
    **{layer.__name__.lower(): layer for layer in Pointwise.EXACT},
}
"""Functions that do what a layer does, with the same arguments; a call of one becomes a call of that layer."""

FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), functional_convolution),
    **dict.fromkeys((*SUMS, "amax", "amin", "norm", "var", "std", "prod"), reduction),
    **dict.fromkeys(("flatten", "reshape", "view", "permute", "transpose", "movedim", "swapaxes"), view),
    **dict.fromkeys(("unflatten", "squeeze", "unsqueeze"), view),
    **dict.fromkeys(("matmul", "bmm", "einsum", "scaled_dot_product_attention", "multi_head_attention_forward"), mixes),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "unfold", "fold", "instance_norm"), shuffles),
    **dict.fromkeys(("size", "dim"), lambda plan, node: None),
    "getattr": attribute,
    **{name: partial(softmax, method=name) for name in ("softmax", "log_softmax", "softmin")},
    **dict.fromkeys(("new_empty", "new_full", "new_ones", "new_zeros"), constant),
    **dict.fromkeys(("atan2", "ldexp", "igamma", "igammac", "float_power", "cosine_similarity", "renorm"), rounds),
    "pad": padding,
    "interpolate": upsampling,
    "getitem": item,
    "write_into": written,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": functional_group_norm,
    "linear": linear,
}

SPREADING = ("interpolate", "expand", "expand_as")
WINDOW_RULES = (convolution, MODULES[nn.MaxPool2d], MODULES[nn.AvgPool2d])
FUNCTIONAL_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}


def rule_of(plan: Plan, node: fx.Node) -> Rule:
    """The rule for a call; a function with a layer of its own becomes that layer."""
    module = plan.module(node)
    if module is not None:
        if nn.utils.parametrize.is_parametrized(module):
            plan.refuse(node, "its weights are parametrized: remove the parametrization first")
        return MODULES.get(type(module), keep)
    return FUNCTIONS.get(_called(node), keep)


def _as_layer(plan: Plan, node: fx.Node) -> None:
    layer = LAYERS.get(_called(node))
    if layer is None:
        value = node.meta["value"]
        if isinstance(value, Tensor) and value.is_floating_point() and rounds_by_place(node):
            node.op, node.target = "call_module", plan.install(plan.path(node), Elementwise(_called(node)))
        return
    args, kwargs = known((node.args[1:], node.kwargs))
    if issubclass(layer, _DropoutNd):
        module = _dropout(plan, node, layer)
    else:
        module = layer(*args, **{name: value for name, value in kwargs.items() if name != "inplace"})
    path = plan.install(plan.path(node), _rounding_alike(module) or module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, node.args[:1], {}


def _dropout(plan: Plan, node: fx.Node, layer: type[nn.Module]) -> nn.Module:
    """The layer for a function of dropout that the mode of the network turns on and off."""
    given = arguments(node, "p", "training")
    p, on = given.get("p", 0.5), given.get("training", given.get("train"))
    never = issubclass(layer, nn.AlphaDropout | nn.FeatureAlphaDropout)  # unless it is asked to
    if p and (on or (on is None and not never)):
        plan.refuse(node, "its dropout is on in evaluation too, so outputs are random: give it training=self.training")
    return nn.Identity() if on is None else cast(Any, layer)(p)


def refuse_hooks(network: nn.Module) -> None:
    """What was attached to a layer, and not to its class, is lost where another takes its place."""
    for path, module in network.named_modules():
        if path and type(module) not in MODULES and not _rounding_alike(module):
            continue
        if module._forward_hooks or module._forward_pre_hooks:
            raise ConvertError(
                path or "the network",
                "it has hooks, as spectral_norm and weight_norm of torch.nn.utils register, and what takes its place "
                "would not run them: remove them first",
            )
        if "forward" in vars(module):
            raise ConvertError(
                path or "the network",
                "it has a forward of its own, which its class does not know and what takes its place would not run: "
                "define it in a class",
            )


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
        if node.op in ("call_function", "call_method"):
            _as_layer(plan, node)
    for node in list(plan.graph.nodes):
        if node.op == "placeholder":
            value = node.meta["value"]
            plan.places[node] = Map((), tuple(range(2, value.dim()))) if isinstance(value, Tensor) else None
        elif node.op == "output" or next(plan.maps(node), None) is None:
            plan.places[node] = spreading(plan, node) if _called(node) in SPREADING else None
        else:
            plan.places[node] = rule_of(plan, node)(plan, node)
    from_images = set[fx.Node]()
    for node in list(plan.graph.nodes):
        if node.op == "placeholder" or not from_images.isdisjoint(node.all_input_nodes):
            from_images.add(node)
            if next(plan.maps(node), None) is None:
                _each_row_alike(plan, node, from_images)


def _each_row_alike(plan: Plan, node: fx.Node, from_images: set[fx.Node]) -> None:
    """What mixes the features of each image, ``(N, C)`` or ``(N, ..., C)``, once positions are gone."""
    layer, value, name = plan.module(node), node.meta.get("value"), _called(node)
    if not isinstance(value, Tensor) or not node.args or not isinstance(node.args[0], fx.Node):
        return
    rule = MODULES.get(type(layer)) if layer else FUNCTIONS.get(name)
    if isinstance(rule, partial) and rule.func is softmax and value.dim() > 2:
        rule(plan, node)
    elif value.dim() == 2 and rule is linear:
        _row_by_row(plan, node)
    elif value.dim() == 2 and name in ("matmul", "mm") and node.args[0] in from_images:
        weight = cast(fx.Node, node.args[1])
        if weight not in from_images:
            with plan.graph.inserting_before(node):
                rows = plan.graph.call_method("t", (weight,))
            rows.meta["value"], plan.places[rows] = weight.meta["value"].t(), None
            plan.swap(node, Linear(None))
            node.args = (node.args[0], rows)
