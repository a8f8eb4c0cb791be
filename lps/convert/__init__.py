"""Any convolutional network with a sampling layer in the place of each stride.

The network is traced (:mod:`torch.fx`), each of its maps is followed from the images on, and every stride becomes a
convolution or pooling at all positions and a :class:`~lps.sampling.Downsample` behind it. Branches that meet share one
selection. Upsampling that undoes a stride becomes a :class:`~lps.sampling.Upsample` with the selection of that stride.

In the order of their work: ``models`` takes wrappers off and finds images, ``trace`` follows its code, and
``writes`` takes writes in place out of its graph. ``rules`` say call by call where a tensor stands, on one of the
``grids``, and fill in a ``plan`` with exact ``layers``; ``rewrite`` puts the sampling layers in. ``same`` and ``check``
prove by running that the result is the function it was, and invariant.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn

from ..exact.convolution import Conv2d, Padding
from ..filters import AntiAlias
from ..sampling import Downsample, Sampling, Source
from .check import require_any_size, require_invariance
from .grids import shown
from .layers import Entry, OpenPhase
from .models import images_for, opened, unwrapped
from .plan import Plan
from .report import Conversion, ConvertError, Stride, in_words
from .rewrite import Rewriter, write_in_place
from .rules import apply_rules, refuse_hooks, round_alike
from .same import require_sameness
from .trace import trace

__all__ = ["Conversion", "ConvertError", "Stride", "conversion_report", "convert"]

Method = Literal["lps", "aps"]
Placement = Literal["behind", "before"]
Head = Literal["keep", "pool"]

TAKEN = {*dir(fx.GraphModule), "_graph", "meta"} - {*dir(nn.Module)}
"""Names of attributes that a converted network has, and a layer cannot."""


def convert(
    model: nn.Module,
    method: Method = "lps",
    antialias: AntiAlias = "tri-3",
    *,
    placement: Placement = "behind",
    padding: Padding = "circular",
    hidden_divisor: int | None = None,
    select_from: Source = "filtered",
    head: Head = "keep",
    example: Tensor | None = None,
) -> fx.GraphModule:
    """A copy of ``model`` whose every stride is a sampling layer, exactly invariant to circular shifts in evaluation.

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(),
    ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10),
    ... )
    >>> network, images = lps.convert(model, "aps").eval(), torch.randn(2, 3, 32, 32)
    >>> network(images).shape, torch.equal(network(lps.circular_shift(images, (1, 2))), network(images))
    (torch.Size([2, 10]), True)

    ``model`` reads images ``(N, C, *space)`` with one, two or three spatial axes. Its weights are kept under their
    names. With ``method="lps"`` each choice has a small network of its own, which wants training, with
    ``channels / hidden_divisor`` hidden channels, two at least: by default an eighth, and a 64th where a convolution in
    groups strides, whose maps are wide and whose weights are few. ``"aps"`` has no parameters and needs none.
    ``antialias`` filters each map before it is sampled, but for averages, blurs and the convolution that reads the
    images, and ``select_from`` says whether the choice sees the filtered map. ``placement="behind"`` samples behind a
    convolution, its norm and its activation, as the original code does, and so convolves at every position.
    ``"before"`` filters the map that a convolution reads and shifts it by the chosen phase, and the convolution strides
    as it did. ``head="pool"`` puts global pooling in front of a head that reads flattened maps. ``example`` are
    images to follow the network's code with; by default they are 224 samples wide, or of a size and channels that fit.
    Wrappers such as ``DataParallel`` are taken off. With a ``padding`` other than ``"circular"`` the network is
    converted alike, but no invariance is guaranteed; with ``"zeros"`` each layer sees the border that it had.

    The result takes sizes that its total stride divides and says so of others. :func:`conversion_report` tells what was
    done. Raises :class:`ConvertError`, with the layer and the reason, for a network that cannot be converted with a
    proof, where outputs for shifted images turn out to differ, and where the result would not be the function that
    ``model`` is if it kept phase 0 everywhere, filtered nothing and had the borders of ``model``.
    """
    for name, value, choices in (
        ("method", method, Method),
        ("antialias", antialias, AntiAlias),
        ("placement", placement, Placement),
        ("padding", padding, Padding),
        ("head", head, Head),
    ):
        if value not in get_args(choices):
            raise ValueError(f"no {name} {value!r}: there are {', '.join(get_args(choices))}")
    if not isinstance(example, Tensor | None):
        raise ValueError(f"example is {example!r}; expected images, as torch.zeros(1, 3, 224, 224)")

    model = unwrapped(model)
    divisors = (8, 64) if hidden_divisor is None else (hidden_divisor, hidden_divisor)

    def sampling(stride: Any = 1, grouped: bool = False, dims: int = 2) -> Sampling:
        settings: dict[str, Any] = {"hidden_divisor": divisors[grouped], "padding": padding, "select_from": select_from}
        return cast(
            Sampling, Sampling.named(method, antialias, stride=stride, dims=dims, learned=OpenPhase, **settings)
        )

    sampling()
    try:
        return _converted(model, sampling, (method, antialias, placement, padding), head, example)
    except ConvertError:
        raise
    except Exception as error:
        raise ConvertError("the network", f"it fails in a way that no rule foresees ({in_words(error)})") from error


def _converted(
    model: nn.Module,
    sampling: Callable[..., Sampling],
    settings: tuple[Method, AntiAlias, Placement, Padding],
    head: Head,
    example: Tensor | None,
) -> fx.GraphModule:
    if any(isinstance(module, Downsample) for module in model.modules()):
        raise ConvertError("the network", "it samples by polyphase components already")
    if any(isinstance(module, Conv2d) for module in model.modules()):
        raise ConvertError("the network", "it is built of this library's layers: build it with a `sampling`")
    refuse_hooks(model)
    if taken := [name for name, _ in model.named_children() if name in TAKEN]:
        raise ConvertError(taken[0], "a converted network has an attribute of this name: rename the layer")
    *_, placement, padding = settings
    given = None if example is None else tuple(example.shape[2:])
    plan, example = _planned(model, padding, head == "pool", example)
    places = plan.outputs(next(iter(reversed(plan.graph.nodes))))
    before = {id(parameter) for parameter in plan.network.parameters()}
    channels, dims, stride = example.shape[1], example.dim() - 2, shown(plan.stride)
    entry = Entry(stride, channels, dims)
    rewriter = Rewriter(plan, partial(sampling, dims=dims), placement == "before")
    rewriter.run(entry)
    converted = fx.GraphModule(plan.network, plan.graph, type(model).__name__)
    converted.graph.eliminate_dead_code()
    converted.delete_all_unused_submodules()
    converted.recompile()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    parameters = dict(converted.train(model.training).to(device).named_parameters())
    _take_modes(converted, model)
    unused = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in parameters}
    size, notes = require_sameness(model, converted, plan.otherwise, example, stride)
    write_in_place(converted, plan.in_place)
    dropped = [f"{part} is left out: evaluation does not use all of it" for part in sorted(unused)]
    circular = padding == "circular"
    checked = require_invariance(converted, channels, stride, dims, places, given) if circular else None
    new = {name: tuple(p.shape) for name, p in parameters.items() if id(p) not in before}
    strides, raised, notes = rewriter.strides, rewriter.raised, [*plan.notes, *dropped, *notes]
    entry.report = Conversion(
        type(model).__name__, *settings, stride, strides, raised, plan.padded, plan.pooled, new, notes, checked, size
    )
    return converted


def conversion_report(network: nn.Module) -> Conversion:
    """What :func:`convert` did to ``network``, one of its results, or to a part of it.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> [stride.layer for stride in lps.conversion_report(lps.convert(model, "aps")).strides]
    ['0']

    Raises ``ValueError`` for a network that is none of its results.
    """
    for module in network.modules():
        if isinstance(module, Entry) and module.report is not None:
            return module.report
    raise ValueError(f"{type(network).__name__} is no result of lps.convert")


def _planned(model: nn.Module, padding: Padding, pool_head: bool, example: Tensor | None) -> tuple[Plan, Tensor]:
    """What is to be done to a copy of ``model``, and the images with which its code was followed.

    Where none were given and the first do not fit, others are tried: of a size that the strides found so far divide, or
    of the next size where nothing was found.
    """
    images = images_for(model) if example is None else example
    while True:
        plan = Plan(opened(copy.deepcopy(model)), fx.Graph(), padding, pool_head)
        try:
            _fill(plan, images)
            return plan, images
        except ConvertError as error:
            others = images
            if example is None and plan.places:
                sizes = [n + -n % s for n, s in zip(images.shape[2:], plan.stride, strict=True)]
                others = images.new_empty(*images.shape[:2], *sizes)
            elif example is None:
                others = images_for(model, again=True)
            if others.shape == images.shape:
                raise (error if plan.places else _with_part(error, model, padding, pool_head)) from error.__cause__
            images = others


def _take_modes(converted: nn.Module, model: nn.Module) -> None:
    """A norm that was frozen by its mode stays so, and a dropout that was left on."""
    modes = {path: module.training for path, module in model.named_modules(remove_duplicate=False)}
    for path, module in converted.named_modules(remove_duplicate=False):
        module.training = modes.get(path, module.training)


def _fill(plan: Plan, images: Tensor) -> None:
    plan.graph, plan.in_place, notes = trace(plan.network, images)
    plan.notes += notes
    round_alike(plan.network)
    apply_rules(plan)
    require_any_size(plan, images)


def _with_part(error: ConvertError, model: nn.Module, padding: Padding, pool_head: bool) -> ConvertError:
    """``error`` of a model whose code cannot be followed, as that of a detector, and which large part of it can."""
    parts = sorted(model.named_children(), key=lambda part: -sum(p.numel() for p in part[1].parameters()))
    for name, part in parts[:2]:
        try:
            _fill(Plan(copy.deepcopy(part), fx.Graph(), padding, pool_head), images_for(part))
        except Exception:
            continue
        return ConvertError(error.layer, f"{error.reason}; its part `{name}` can be converted by itself")
    return error
