"""Conversion rules: the effect of each torch layer on the sampling grid, and its replacement.

A rule gets a call that reads at least one map and returns where its output stands: on the grid of its input, a step
further, a step back, or nowhere (``None``), once positions are gone. Whatever has no rule has to keep the map's size.
A layer and the function that does the same share a rule.
"""

import inspect
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
    SUMS,
    AcrossChannels,
    Convolution,
    Every,
    GroupNorm,
    Interpolation,
    Linear,
    Pooling,
    Shift,
    SpatialMean,
    SpatialNorm,
    Spread,
    TransposedConvolution,
)
from .plan import Call, Plan, Rule, axes_in
from .pointwise import Elementwise, Pointwise
from .report import ConvertError
from .trace import called, kind_of, known, rounds_by_place
from .values import tensors

REMEDY = 'convert(..., head="pool") replaces it by global pooling and sums the weights over the positions'


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))


# windows


def _window(call: Call, stride: tuple[int, ...], pad: Pad, smooth: bool) -> tuple[tuple[Pad, ...], Map]:
    """All paddings in front of windows, and where the output of a call that has them stands."""
    axes = tuple(range(2, 2 + len(stride)))
    if call.place.axes != axes or call.x.dim() != 2 + len(axes):
        call.refuse(f"its input has its positions on the axes {call.place.axes}; its windows span the axes {axes}")
    if len(set(stride)) > 1:
        call.refuse(f"its strides {stride} differ along the axes, and a polyphase split has one")
    return (*call.plan.lead.get(call.node, ()), pad), call.step(call.place, stride[0], smooth)


def convolution(call: Call) -> Map | None:
    """That of a layer, or one whose weights are computed, or fixed as those of a blur are."""
    given, weight, operands = call.given, call.given["weight"], call.operands("weight", "bias")
    kernel, dims = weight.shape[2:], weight.dim() - 2
    dilation = _each(given.get("dilation", 1), dims)
    blurs = bool(operands) and operands[0].op == "get_attr" and not isinstance(weight, nn.Parameter)
    if given.get("padding") == "same":
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        before, after = tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)
    else:
        valid = isinstance(given.get("padding", 0), str)
        before = after = _each(0 if valid else given.get("padding", 0), dims)
    mode = given.get("padding_mode", "zeros")
    pad = Pad(before, after, "constant" if mode == "zeros" else mode)
    pads, out = _window(call, _each(given.get("stride", 1), dims), pad, blurs)
    if max(kernel) > 1:
        call.plan.padded.append(call.name)
    settings = dilation, given.get("groups", 1), call.plan.padding
    call.swap(Convolution(call.layer, *settings, Border(pads)), *operands)
    return out


def pooling(call: Call) -> Map | None:
    given, dims, largest = call.given, call.x.dim() - 2, call.kind == "maxpool"
    kernel, before = _each(given["kernel_size"], dims), _each(given["padding"], dims)
    if given.get("return_indices"):
        call.refuse("it hands out the positions of its maxima")
    if given.get("divisor_override") is not None:
        call.refuse("it divides by another number than that of its window's positions (divisor_override)")
    if not largest and kernel == call.x.shape[2:] and not any(before) and call.node not in call.plan.lead:
        call.plan.notes.append(f"{call.name} spans the map of the example: it became global pooling")
        return _global_mean(call, tuple(range(2, call.x.dim())), keepdim=True)
    dilation, stride = _each(given.get("dilation", 1), dims), _each(given["stride"], dims)
    beyond = -inf if largest else 0.0  # never the largest
    pad = Pad(before, before, value=beyond, counts=given.get("count_include_pad", True))
    pads, out = _window(call, stride, pad, smooth=not largest)
    call.plan.padded.append(call.name)
    border = Border(pads, beyond, stride[0] if given["ceil_mode"] else 0)
    call.swap(Pooling(largest, kernel, dilation, call.plan.padding, border))
    return out


PAD_MODES = {"reflectionpad": "reflect", "replicationpad": "replicate", "circularpad": "circular"}


def padding(call: Call) -> Map | None:
    """Take a padding out; the windows that read it begin earlier instead, and wrap."""
    given, dims = call.given, call.x.dim()
    amounts = list(given["pad" if call.layer is None else "padding"])
    amounts += [0] * (2 * dims - len(amounts))
    before, after = amounts[-2::-2], amounts[-1::-2]
    if not any(before[axis] or after[axis] for axis in call.place.axes):
        return keep(call)
    if min(amounts) < 0 or any(before[:2]) or any(after[:2]):
        call.refuse("it crops the map, or pads positions and channels at once")
    mode = PAD_MODES.get(call.kind, given.get("mode", "constant"))
    for user in call.node.users:
        if Call(call.plan, user).kind not in ("conv", "maxpool", "avgpool"):
            call.refuse("it pads a map for something else than a convolution or a pooling")
        call.plan.lead[user] = (Pad(tuple(before[2:]), tuple(after[2:]), mode, given.get("value") or 0.0),)
    call.plan.padded.append(call.name)
    call.pass_by()
    return None


# upsampling


def upsampling(call: Call) -> Map | None:
    sizes, finer, given = tuple(call.x.shape[2:]), tuple(call.node.meta["value"].shape[2:]), call.given
    mode, aligned = given.get("mode", "nearest"), given.get("align_corners")
    factors = {m / n for n, m in zip(sizes, finer, strict=True)}
    factor = int(max(factors))
    if factors != {factor} or call.place.grid is None:
        call.refuse(f"it resizes {sizes} to {finer}; a whole factor along all axes is expected")
    if factor == 1:
        call.pass_by()
        return None
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear"):
        call.refuse(f"the interpolation {mode!r} has no kernel here: nearest and (bi)linear have")
    if aligned:
        call.plan.notes.append(f"{call.name}: align_corners is given up, since its grid depends on the size")
    out = _back(call, factor)
    call.swap(Interpolation(factor, not mode.startswith("nearest"), call.plan.padding))
    if aligned:
        call.plan.otherwise[call.name] = nn.Sequential(Every(factor), nn.Upsample(None, factor, mode, True))
    return out


def spreading(call: Call) -> Map | None:
    """A value without positions is given to each of them."""
    value = call.node.meta["value"]
    if call.kind == "interpolate":
        call.swap(Spread(), *call.operands("size"))
    return Map(None, tuple(range(2, value.dim()))) if value.dim() > 2 and prod(value.shape[2:]) > 1 else None


def transposed_convolution(call: Call) -> Map | None:
    given, weight, dims = call.given, call.given["weight"], call.x.dim() - 2
    stride, dilation = (_each(given.get(name, 1), dims) for name in ("stride", "dilation"))
    if len(set(stride)) > 1 or call.place.grid is None:
        call.refuse(f"its strides {stride} differ, or it reads no map of the images")
    reach = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
    before = tuple(r - p for r, p in zip(reach, _each(given.get("padding", 0), dims), strict=True))
    grows = [n - stride[0] * m for m, n in zip(call.x.shape[2:], call.node.meta["value"].shape[2:], strict=True)]
    border = Border((Pad(before, tuple(g + r - b for g, r, b in zip(grows, reach, before, strict=True))),))
    out = _back(call, stride[0])
    call.plan.padded.append(call.name)
    settings = dilation, given.get("groups", 1), call.plan.padding
    call.swap(TransposedConvolution(call.layer, *settings, border), *call.operands("weight", "bias"))
    return out


def _back(call: Call, factor: int) -> Map:
    """The map before the last steps, whose product is ``factor``."""
    grid = cast(Grid, call.place.grid)
    kept, undone = list(grid), list[Step]()
    while total(undone) < factor and kept:
        undone.append(kept.pop())
    if total(undone) != factor:
        strides = ", ".join(str(step.stride) for step in grid) or "none"
        call.refuse(f"an upsampling by {factor} undoes no stride of the network; those before it are {strides}")
    call.plan.raised.append((call.node, tuple(undone)))
    return Map(tuple(kept), call.place.axes)


# positions that go


def _global_mean(call: Call, dims: Sequence[int], keepdim: bool) -> Map | None:
    call.plan.pooled.append(call.name)
    call.swap(SpatialMean(dims, keepdim))
    return None


def adaptive_pooling(call: Call) -> Map | None:
    largest, dims = call.kind == "adaptivemaxpool", call.x.dim() - 2
    size = _each(call.given["output_size"], dims)
    if size == (1,) * dims:
        return None if largest else _global_mean(call, call.place.axes, keepdim=True)
    if largest or not call.plan.pool_head:
        call.refuse(f"it pools to {size} windows whose borders stay where they are under a shift; {REMEDY}")
    call.swap(nn.Identity())
    call.plan.otherwise[call.name] = cast(nn.Module, call.layer)
    return call.place


def reduction(call: Call) -> Map | None:
    given, place = call.given, call.place
    dims = given.get("dim")
    dims = tuple(d % call.x.dim() for d in ([dims] if isinstance(dims, int) else dims or range(call.x.dim())))
    keepdim = bool(given.get("keepdim", False))
    over = set(dims) & set(place.axes)
    if not over:
        if call.kind in SUMS:
            call.swap(AcrossChannels(call.kind, dims, keepdim))
        return Map(place.grid, place.axes if keepdim else tuple(a - sum(d < a for d in dims) for a in place.axes))
    if over != set(place.axes) or 0 in dims:
        call.refuse(f"it reduces over the axes {dims}; over positions, all of them or none")
    if call.kind == "mean":
        _global_mean(call, dims, keepdim)
    elif call.kind == "norm" and given.get("p", 2) == 2:
        call.plan.pooled.append(call.name)
        call.swap(SpatialNorm(dims, keepdim))
    elif call.kind not in ("amax", "amin"):
        call.refuse("a sum over positions whose rounding depends on their order; mean, norm and amax do not")
    return None


def softmax(call: Call) -> Map | None:
    place = call.plan.places[call.source]
    dim = -3 if isinstance(call.layer, nn.Softmax2d) else call.given.get("dim")
    if dim is None or (place and dim % call.x.dim() in place.axes):
        call.refuse("over positions it weighs them against each other; over channels it has to name their axis")
    method = {"logsoftmax": "log_softmax"}.get(call.kind, call.kind)
    call.swap(AcrossChannels(method, (dim % call.x.dim(),), keepdim=True))
    return place


def view(call: Call) -> Map | None:
    """Follow the axes through a change of shape by the strides of an unpacked tensor."""
    if not isinstance(call.node.meta["value"], Tensor):  # a number that belongs to a map
        return None
    probe = torch.empty(call.x.shape, device="meta")
    args, kwargs = known((call.node.args[1:], call.node.kwargs))
    if call.layer is not None:
        found = call.layer(probe)
    elif call.node.op == "call_method":
        found = getattr(probe, str(call.node.target))(*args, **kwargs)
    else:
        found = cast(Any, call.node.target)(probe, *args, **kwargs)
    axes = axes_in(found, probe, call.place)
    return _flatten(call) if axes is None else Map(call.place.grid, axes)


def _flatten(call: Call) -> Map | None:
    """Pool the map before its positions turn into features, where that is the same or was asked for."""
    plan, node, x, axes = call.plan, call.node, call.x, call.place.axes
    space = prod(x.shape[axis] for axis in axes)
    head = _linear_behind(plan, node)
    if axes != tuple(range(2, x.dim())) or (space > 1 and (head is None or not plan.pool_head)):
        made = f"features; {REMEDY}"
        if node.meta["value"].dim() > 2:
            made = "tokens, and what mixes those is no convolution"
        elif head is None:
            made = "features that no linear layer reads alone, be it through dropout and activations"
        call.refuse(f"it turns the {'x'.join(str(x.shape[axis]) for axis in axes)} positions of a map into {made}")
    path = plan.install(f"{call.name}_pool", SpatialMean(axes, keepdim=True))
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


def _linear_behind(plan: Plan, node: fx.Node) -> Any:
    """The call of the linear layer that alone reads the flattened features of ``node``, be it through layers that leave
    each of them where it is."""
    features = node.meta["value"].shape[-1]
    while len(node.users) == 1 and node.meta["value"].dim() == 2:
        node = next(iter(node.users))
        call = Call(plan, node)
        if isinstance(call.layer, nn.Linear):
            return call if call.layer.in_features == features else None
        if call.kind not in ELEMENTWISE and not isinstance(call.layer, Pointwise):
            return None
    return None


def item(call: Call) -> Map | None:
    """An element of several outputs, channels of a map, or every ``s``-th of its positions."""
    place, x = call.place, call.x
    if not isinstance(x, Tensor):
        return place
    probe, index = torch.empty(x.shape, device="meta"), known(call.node.args[1])
    axes = axes_in(probe[index], probe, place)
    if axes is not None:
        return Map(place.grid, axes)
    slices = list(index) if isinstance(index, tuple) else [index]
    at = slices.index(Ellipsis) if Ellipsis in slices else len(slices)
    slices[at : at + 1] = [slice(None)] * (x.dim() - len(slices) + (Ellipsis in slices))
    if not all(isinstance(part, slice) for part in slices) or place.axes != tuple(range(2, x.dim())):
        call.refuse("it takes positions out of a map")
    sizes = x.shape[2:]
    ranges = [range(*part.indices(size)) for part, size in zip(slices[2:], sizes, strict=True)]
    whole = all(len(r) == size // r.step and r.start < r.step for r, size in zip(ranges, sizes, strict=True))
    if len({r.step for r in ranges}) > 1 or not whole or place.grid is None:
        call.refuse("it crops a map")
    path = call.plan.install(f"{call.name}_start", Shift([r.start for r in ranges]))
    shifted = call.feed("call_module", path, place)
    call.node.args = (shifted, (*slices[:2], *(slice(None),) * len(ranges)))
    return call.step(place, ranges[0].step, smooth=False)


# what keeps the map

ACTIVATIONS = {"relu", "relu6", "gelu", "hardswish", "leakyrelu", "elu", "selu", "hardsigmoid", "tanh"}
ELEMENTWISE = ACTIVATIONS | {"identity", "dropout", "alphadropout", "featurealphadropout"}
POINTWISE = {"add", "sub", "mul", "truediv", "div", "maximum", "minimum", "where", "cat", "concat", "stack"}


def keep(call: Call) -> Map | None:
    """Everything else: each map keeps its size, and maps that meet share their grid."""
    plan, node = call.plan, call.node
    outputs = tensors(node.meta["value"])
    if not outputs:
        return None
    source, place = max(plan.maps(node), key=lambda pair: tensors(pair[0].meta["value"])[0].dim())
    x = tensors(source.meta["value"])[0]
    extra = outputs[0].dim() - x.dim() if call.kind == "stack" else 0
    for out in outputs:
        if out.dim() != x.dim() + extra or any(out.shape[axis + extra] != x.shape[axis] for axis in place.axes):
            before, after = tuple(x.shape[1:]), tuple(out.shape[1:])
            call.refuse(f"it turns a map {before} into {after}, which no rule explains")
    for _, where in plan.maps(node):
        if where.axes != place.axes:
            call.refuse(f"maps with their positions on the axes {where.axes} and {place.axes} meet")
    if call.kind in POINTWISE:
        for other in node.all_input_nodes:
            if plan.places[other] is None and isinstance(other.meta["value"], Tensor):
                _require_no_position(call, other, [axis - x.dim() for axis in place.axes])
    return Map(plan.meet(node), tuple(axis + extra for axis in place.axes))


def constant(call: Call) -> Map | None:
    """A constant of the type of a map, and of its size or without positions."""
    made, x, place = call.node.meta["value"], call.x, call.place
    fits = made.dim() == x.dim() and all(made.shape[axis] == x.shape[axis] for axis in place.axes)
    return place if fits else None


def written(call: Call) -> Map | None:
    """Channels of a map that are written to, at all positions."""
    probe: Any = torch.empty(call.x.shape, device="meta")
    part, (value, views) = probe, call.node.args[1:]
    if tensors([list(args) for _, args, _ in known(views)]):
        call.refuse("it writes to positions that another tensor picks")
    for name, args, kwargs in known(views):
        part = getattr(part, name)(*args, **kwargs)
    found = axes_in(part, probe, call.place)
    if found is None or part.untyped_storage()._cdata != probe.untyped_storage()._cdata:
        call.refuse("it writes to some positions of a map and not to others")
    back = [axis - part.dim() for axis in found]
    if isinstance(value, fx.Node) and isinstance(value.meta["value"], Tensor):
        where = call.plan.places[value]
        if where is None:
            _require_no_position(call, value, back)
        elif [axis - value.meta["value"].dim() for axis in where.axes] != back:
            call.refuse("it writes a map to other axes than those of its positions")
    return Map(call.plan.meet(call.node), call.place.axes)


def _require_no_position(call: Call, other: fx.Node, back: Sequence[int]) -> None:
    """Refuse a tensor with several values along the axes ``back``, counted from the last."""
    fixed = other.meta["value"]
    if any(fixed.dim() >= -axis and fixed.shape[axis] > 1 for axis in back):
        call.refuse(f"it meets {other.name}, which has values of its own at each position")


def _over_channels(call: Call, axes: int) -> None:
    """Refuse a layer over the last ``axes`` where they are positions."""
    if any(axis >= call.x.dim() - axes for axis in call.place.axes):
        call.refuse("it mixes positions with weights of their own")


def linear(call: Call) -> Map | None:
    _over_channels(call, 1)
    _row_by_row(call)
    return call.place


def _row_by_row(call: Call) -> None:
    call.swap(Linear(call.layer), *call.operands("weight", "bias"))


def layer_norm(call: Call) -> Map | None:
    _over_channels(call, len(call.given["normalized_shape"]))
    place = keep(call)
    if call.kind == "rmsnorm":  # a sum over channels, which have to lie one behind the other for that
        call.feed("call_method", "contiguous", place)
    return place


def norm_over_space(call: Call) -> Map | None:
    """Group or instance norm; one with statistics of its own treats each position by itself."""
    given = call.given
    fixed = given.get("running_mean") is not None if call.layer else not given.get("use_input_stats", True)
    if not fixed:
        call.plan.pooled.append(call.name)
        norm = GroupNorm(call.layer, given.get("num_groups", call.x.shape[1]), given.get("eps", 1e-5))
        call.swap(norm, *call.operands("weight", "bias"))
    return call.place


def refused(call: Call, reason: str) -> Map | None:
    call.refuse(reason)


MIXES = "it mixes positions by their content or place, and equal bits cannot be promised"
SHUFFLES = "it trades positions for channels, phase by phase"
ROUNDS = "on a CPU its rounding depends on where in memory a position lies"

_CONV = "weight bias stride padding"
_RULES: tuple[tuple[str, Rule, str], ...] = (
    ("conv", convolution, f"{_CONV} dilation groups"),
    ("convtranspose", transposed_convolution, f"{_CONV} output_padding groups dilation"),
    ("maxpool", pooling, "kernel_size stride padding dilation ceil_mode return_indices"),
    ("avgpool", pooling, ""),
    ("adaptiveavgpool adaptivemaxpool", adaptive_pooling, ""),
    ("pad", padding, "pad mode value"),
    ("zeropad constantpad reflectionpad replicationpad circularpad", padding, ""),
    ("upsample upsamplingnearest upsamplingbilinear interpolate", upsampling, "size scale_factor mode align_corners"),
    ("groupnorm", norm_over_space, "num_groups weight bias eps"),
    ("instancenorm", norm_over_space, "running_mean running_var weight bias use_input_stats momentum eps"),
    ("layernorm rmsnorm", layer_norm, "normalized_shape"),
    ("linear", linear, "weight bias"),
    ("softmax logsoftmax softmin", softmax, "dim"),
    (" ".join((*SUMS, "amax amin prod")), reduction, "dim keepdim"),
    ("norm", reduction, "p dim keepdim"),
    ("var std", reduction, "dim unbiased keepdim"),
    ("flatten unflatten reshape view permute transpose movedim swapaxes squeeze unsqueeze getattr", view, ""),
    ("getitem", item, ""),
    ("writeinto", written, ""),
    ("newempty newfull newones newzeros", constant, ""),
    ("matmul bmm einsum scaleddotproductattention multiheadattentionforward", partial(refused, reason=MIXES), ""),
    ("multiheadattention transformerencoder transformerencoderlayer", partial(refused, reason=MIXES), ""),
    ("pixelshuffle pixelunshuffle unfold fold", partial(refused, reason=SHUFFLES), ""),
    ("atan2 ldexp igamma igammac floatpower cosinesimilarity renorm", partial(refused, reason=ROUNDS), ""),
)
RULES = {kind: (rule, names) for kinds, rule, names in _RULES for kind in kinds.split()}
"""By kind of a layer or function: its rule, and the names of a function's arguments after the first."""

LAYERS: dict[str, type[nn.Module]] = {
    layer.__name__.lower(): layer
    for layer in (
        *(getattr(nn, f"{kind}Pool{d}d") for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for d in (1, 2, 3)),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        *Pointwise.EXACT,
    )
}
"""Functions that do what a layer does, with the same arguments; a call of one becomes a call of that layer."""

SPREADING = ("interpolate", "expand", "expandas")


def call_of(plan: Plan, node: fx.Node) -> tuple[Call, Rule]:
    """A call, and its rule."""
    layer = plan.module(node)
    rule, names = RULES.get(kind_of(node if layer is None else layer), (keep, ""))
    return Call(plan, node, names), rule


def _as_layer(plan: Plan, node: fx.Node) -> None:
    layer = LAYERS.get(called(node).replace("_", ""))
    if layer is None:
        value = node.meta["value"]
        if isinstance(value, Tensor) and value.is_floating_point() and rounds_by_place(node):
            node.op, node.target = "call_module", plan.install(plan.path(node), Elementwise(called(node)))
        return
    _, names = RULES.get(kind_of(node), (keep, ""))
    given = Call(plan, node, names or " ".join(inspect.signature(layer).parameters)).given
    if issubclass(layer, _DropoutNd):
        module = _dropout(plan, node, layer)
    else:
        module = layer(**{name: value for name, value in given.items() if name != "inplace"})
    path = plan.install(plan.path(node), _rounding_alike(module) or module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, node.args[:1], {}


def _dropout(plan: Plan, node: fx.Node, layer: type[nn.Module]) -> nn.Module:
    """The layer for a function of dropout that the mode of the network turns on and off."""
    given = Call(plan, node, "p training").given
    p, on = given.get("p", 0.5), given.get("training", given.get("train"))
    never = issubclass(layer, nn.AlphaDropout | nn.FeatureAlphaDropout)  # unless it is asked to
    if p and (on or (on is None and not never)):
        plan.refuse(node, "its dropout is on in evaluation too, so outputs are random: give it training=self.training")
    return nn.Identity() if on is None else cast(Any, layer)(p)


def refuse_hooks(network: nn.Module) -> None:
    """What was attached to a layer, and not to its class, is lost where another takes its place."""
    for path, module in network.named_modules():
        if path and kind_of(module) not in RULES and not _rounding_alike(module):
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
        value = node.meta.get("value")
        if node.op == "placeholder":
            plan.places[node] = Map((), tuple(range(2, value.dim()))) if isinstance(value, Tensor) else None
            continue
        plan.places[node] = None
        reads_maps = node.op != "output" and any(plan.maps(node))
        call, rule = call_of(plan, node)
        if reads_maps and call.layer is not None and nn.utils.parametrize.is_parametrized(call.layer):
            call.refuse("its weights are parametrized: remove the parametrization first")
        if reads_maps:
            plan.places[node] = rule(call)
        elif call.kind in SPREADING:
            plan.places[node] = spreading(call)
    from_images = set[fx.Node]()
    for node in list(plan.graph.nodes):
        if node.op == "placeholder" or not from_images.isdisjoint(node.all_input_nodes):
            from_images.add(node)
            if not any(plan.maps(node)):
                _each_row_alike(plan, node, from_images)


def _each_row_alike(plan: Plan, node: fx.Node, from_images: set[fx.Node]) -> None:
    """What mixes the features of each image, ``(N, C)`` or ``(N, ..., C)``, once positions are gone."""
    value = node.meta.get("value")
    if not isinstance(value, Tensor) or not node.args or not isinstance(node.args[0], fx.Node):
        return
    call, rule = call_of(plan, node)
    if rule is softmax and value.dim() > 2:
        softmax(call)
    elif rule is linear and value.dim() == 2:
        _row_by_row(call)
    elif value.dim() == 2 and call.kind in ("matmul", "mm") and node.args[0] in from_images:
        weight = cast(fx.Node, node.args[1])
        if weight not in from_images:
            with plan.graph.inserting_before(node):
                rows = plan.graph.call_method("t", (weight,))
            rows.meta["value"], plan.places[rows] = weight.meta["value"].t(), None
            call.swap(Linear(None), rows)
