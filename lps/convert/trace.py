"""A network as a graph of calls, with the value of each call on an example image."""

import builtins
import copy
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import cached_property, partial, partialmethod
from importlib import import_module
from itertools import zip_longest
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import conv, pooling
from torch.nn.modules.batchnorm import _NormBase

from .layers import SUMS, Elementwise, Pointwise
from .models import stop_at_long_sequences
from .report import ConvertError, in_words
from .writes import OPERATORS, called, known, refuse, watched, without_writes

WINDOWS = (conv._ConvNd, pooling._MaxPoolNd, pooling._AvgPoolNd)
"""Layers that look at windows of a map."""

MANY, FEW = 211, 2
"""Images to follow the code with: a prime, so that it shows in each number that is made from it; and for comparison."""

SIZED = (torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros)
FACTORIES = (*SIZED, torch.arange, torch.eye, torch.full, torch.linspace, torch.logspace)
"""Functions that make tensors of sizes that may be those of a map; ``SIZED`` take them one by one too."""

REPLACED = {
    *SUMS, "softmax", "log_softmax", "softmin", "linear", "matmul", "conv1d", "conv2d", "conv3d",
    *(layer.__name__.lower() for layer in Pointwise.EXACT),
}  # fmt: skip
"""Functions that another layer takes the place of."""

EVEN_POWERS = [0.5, 1, 2, 3, -1, -2]
"""Those that a CPU computes by exactly rounded operations."""


class _Known:
    """What plain Python asks of a proxy is answered from its value."""

    node: fx.Node
    tracer: Any

    @property
    def _value(self) -> Any:
        return self.node.meta["value"]

    def __getattr__(self, name: str) -> "_Attribute":
        if name in ("node", "tracer", "root", "attr", "_node") or not hasattr(self._value, name):
            raise AttributeError(f"{name!r} is no attribute here")
        return _Attribute(cast(fx.Proxy, self), name)

    def assigned(self, assign: Callable[..., Any], *others: Any) -> Any:
        return self.tracer.create_proxy("call_function", assign, (self, *others), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.assigned(operator.setitem, index, value)


def _number(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def number(self: _Known) -> Any:
        value = convert(self._value)
        self.tracer.counts |= value > 0 and value % MANY == 0
        return value

    return number


for _convert in (len, operator.index, int, float, math.ceil):
    setattr(_Known, f"__{_convert.__name__}__", _number(_convert))
for _assign in OPERATORS:
    setattr(_Known, f"__{_assign.__name__}__", partialmethod(_Known.assigned, _assign))


class _Proxy(_Known, fx.Proxy):
    pass


class _Attribute(_Known, fx.proxy.Attribute):
    @property
    def _value(self) -> Any:
        return getattr(cast(_Known, self.root)._value, self.attr)


class _Tracer(fx.Tracer):
    """Follow a network on a meta tensor, so that every branch its code takes is the one of this image size.

    ``counts`` tells whether the code counted the images. ``made`` are constants that it made, ``in_place`` layers that
    wrote in place, ``in_evaluation`` classes whose code asks whether it is training and is followed all the same, and
    ``autocasts`` tells whether the code switched autocast.
    """

    proxy_buffer_attributes = True

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._images, self._running, self.counts = images, False, False
        self._constants: dict[str, Tensor] = {}
        self.made: dict[str, Tensor] = {}
        self.in_place: list[Any] = []
        self.in_evaluation: set[str] = set()
        self.autocasts = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in (nn.TransformerEncoder, nn.TransformerEncoderLayer):  # for the attention inside
            return False
        if super().is_leaf_module(m, module_qualified_name):
            return True
        if _reads_mode(m) and not _computes(m):  # what it does in training would be lost in a graph
            return True
        self.note_mode(m)
        return False

    def note_mode(self, followed: nn.Module) -> None:
        if _reads_mode(followed) and not type(followed).__module__.startswith("torch.nn"):
            self.in_evaluation.add(type(followed).__name__)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Mapping) and is_dataclass(type(a)):  # a dictionary of outputs by name, whose class is kept
            return self.create_node("call_function", type(a), (), {name: self.create_arg(a[name]) for name in a})
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        learns = kind in ("placeholder", "get_attr", "output") or torch.is_grad_enabled() or args[0] == "detach"
        if kind != "output":
            self._running = True
            with torch.no_grad():
                node.meta["value"] = watched(node, self._run)
            self._running = False
        return (
            node
            if learns or not _floating(node.meta["value"])
            else self.create_node("call_method", "detach", (node,), {})
        )

    @cached_property
    def _interpreter(self) -> fx.Interpreter:
        return fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = known((node.args, node.kwargs))
        if node.op == "placeholder":
            return self._images
        if node.target in FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        value = getattr(self._interpreter, node.op)(node.target, args, kwargs)
        if node.op == "get_attr" and isinstance(value, Tensor) and value.device.type != "meta":
            value = self._constants.setdefault(str(node.target), value.to("meta"))  # the code made it itself
        return value

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if self._running or issubclass(type(attr_val), fx.Proxy):
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(obj.node.meta["value"])

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        size = len(obj.node.meta["value"])
        if size == MANY:
            raise ConvertError(self.inside(), "it goes through the images of a batch one by one")
        return iter([cast(Any, obj)[i] for i in range(size)])

    def inside(self) -> str:
        """The module whose code is being followed."""
        return next(reversed(self.module_stack), "the model") if hasattr(self, "module_stack") else "the model"


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _hands_back_the_same(function: Any, given: Sequence[Any]) -> bool:
    """Is the backward of an autograd function that of the calls in its forward? They are what a graph keeps."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        value = value._value if issubclass(type(value), _Known) else value
        if not _floating(value):
            return value
        shape = [FEW if size == MANY else size for size in value.shape]
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def gradients(run: Callable[..., Any]) -> tuple[Tensor, ...]:
        outputs = run(*inputs)
        outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y.is_floating_point()]
        total = sum((y * (1 + y.detach().abs())).sum() for y in outputs)
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    inputs = [drawn(value) for value in given]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    context: Any = torch.autograd.function.FunctionCtx()
    context.needs_input_grad = [True] * len(inputs)
    apart = function.setup_context is not torch.autograd.Function.setup_context
    with torch.enable_grad():
        try:
            own = gradients(function.apply)
            kept = gradients(function.forward if apart else partial(function.forward, context))
        except Exception:  # then it is not known
            return False
    return all(torch.allclose(a, b) for a, b in zip(own, kept, strict=True))


def _reads_mode(module: nn.Module) -> bool:
    return "training" in type(module).forward.__code__.co_names


def _computes(module: nn.Module) -> bool:
    """Is there something in ``module`` that another layer takes the place of?"""
    if any(isinstance(part, (*WINDOWS, nn.Linear)) for part in module.modules()):
        return True
    if isinstance(module, _NormBase):  # it trains
        return False
    try:
        nodes = fx.Tracer().trace(copy.deepcopy(module).eval()).nodes
    except Exception:  # then it stays whole, and is left to the check
        return False
    calls = [call for call in nodes if call.op in ("call_function", "call_method")]
    return any(called(call) in REPLACED or rounds_by_place(call) for call in calls)


def kind_of(call: fx.Node | nn.Module) -> str:
    """Kind of a layer of torch or of a function, ``"conv"`` of Conv2d and conv2d; none of a module of other origin."""
    if isinstance(call, fx.Node):
        name = called(call)
    else:
        name = type(call).__name__ if type(call) is getattr(nn, type(call).__name__, None) else ""
    return re.sub(r"[123]d$", "", name.replace("_", "")).lower()


def rounds_by_place(node: fx.Node) -> bool:
    """Does it depend on where in memory a sample lies how this function of single samples rounds?"""
    if called(node) in ("add", "sub", "rsub"):
        return "alpha" in node.kwargs
    exponent = dict(zip(("base", "exponent"), node.args, strict=False)).get("exponent", node.kwargs.get("exponent"))
    even = called(node) == "pow" and isinstance(exponent, int | float) and exponent in EVEN_POWERS
    return called(node) in Elementwise.EXACT and not even


def trace(network: nn.Module, example: Tensor) -> tuple[fx.Graph, list[nn.Module], list[str]]:
    """Graph of ``network`` in evaluation, layers that wrote in place and no longer do, and what there is to note.

    ``node.meta["value"]`` is a meta tensor or a plain value, that of a batch of :data:`MANY` images like ``example``.
    Raises :class:`ConvertError` where the code cannot be followed.
    """
    images = torch.empty(MANY, *example.shape[1:], dtype=example.dtype, device="meta")
    try:
        found = _followed(network, images)
        if found.counts:
            _with_any_batch(found, _followed(network, images[:FEW]))
    except ConvertError as error:
        if error.__cause__ is None:
            raise
        _followed(network, example.to("meta"))
        raise ConvertError(error.layer, f"it can be followed on {len(example)} images, but not on any number") from None
    for module in found.in_place:
        module.inplace = False
    for name, value in found.made.items():
        setattr(network, name, value)
    plain_graph = fx.Graph()  # knows nothing of this tracer, so that the network can be pickled
    plain_graph.output(plain_graph.graph_copy(found.graph, {}))
    training = "asks whether it is training: it was followed in evaluation, and of the rest only dropout is kept"
    notes = [f"{name} {training}" for name in sorted(found.in_evaluation)]
    notes += ["its code switches autocast, and the converted network does not"] * found.autocasts
    return plain_graph, found.in_place, notes


@contextmanager
def _answering(tracer: _Tracer) -> Iterator[None]:
    """``isinstance``, and ``torch.is_tensor`` by it, are answered for a proxy from its value, sizes may be proxies,
    what is made a tensor is one already, and an autograd function is followed where nothing of it is lost.

    In Python alone: torch's own code would take a proxy that says to be a tensor for the memory of one.
    """
    plain = builtins.isinstance
    import_module("torch._dynamo")  # meta tensors do that, and it keeps the functions that it finds

    def answer(value: Any, kinds: Any) -> bool:
        return plain(value, kinds) or (issubclass(type(value), _Known) and plain(value._value, kinds))

    def sized(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *size, **settings: make(*((size,) if len(size) > 1 else size), **settings)

    def kept(make: Callable[..., Tensor], data: Any, **settings: Any) -> Any:
        if not (issubclass(type(data), _Known) and plain(data._value, Tensor)):
            return make(data, **settings)
        data = data.clone() if settings.pop("copy", False) else data
        given = {name: value for name, value in settings.items() if name in ("dtype", "device") and value is not None}
        return data.to(**given) if given else data

    apply = inspect.getattr_static(torch.autograd.Function, "apply")

    def followed(function: Any, *given: Any) -> Any:
        if any(issubclass(type(value), _Known) for value in given) and not _hands_back_the_same(function, given):
            reason = f"its code calls the autograd function {function.__name__}, whose backward would be lost"
            raise ConvertError(tracer.inside(), reason)
        return apply.__get__(None, function)(*given)

    enter = torch.autocast.__enter__

    def noted(autocast: torch.autocast) -> Any:
        tracer.autocasts = True
        return enter(autocast)

    with ExitStack() as stack:
        stack.enter_context(patch.object(builtins, "isinstance", answer))
        stack.enter_context(patch.object(torch.autocast, "__enter__", noted))
        stack.enter_context(patch.object(torch.autograd.Function, "apply", classmethod(followed)))
        for make in SIZED:
            stack.enter_context(patch.object(torch, make.__name__, sized(make)))
        for tensor_of in (torch.as_tensor, torch.asarray):
            stack.enter_context(patch.object(torch, tensor_of.__name__, partial(kept, tensor_of)))
        yield


def _followed(network: nn.Module, images: Tensor) -> _Tracer:
    plain = _reading_images_alone(copy.deepcopy(network).to("meta").eval())
    stop_at_long_sequences(plain)
    tracer = _Tracer(images)
    tracer.note_mode(network)
    try:
        with torch.enable_grad(), _answering(tracer):
            graph = tracer.trace(plain)
    except ConvertError:
        raise
    except Exception as error:
        reason = f"its code cannot be followed on images {tuple(images.shape)} ({in_words(error)}); "
        if "on meta tensors" in str(error):
            reason += "it asks for values, and there are sizes alone"
        else:
            reason += "if such images do not fit, pass some that do as `example`"
        raise ConvertError(tracer.inside(), reason) from error
    for name in tracer.tensor_attrs.values():
        if hasattr(plain, name) and not hasattr(network, name):
            tracer.made[name] = getattr(plain, name)
    for node in graph.nodes:
        if node.op != "placeholder" and not node.args and "input" in node.kwargs:
            given = dict(node.kwargs)
            node.args, node.kwargs = (given.pop("input"),), given
    tracer.in_place = without_writes(graph, network)
    return tracer


def _reading_images_alone(network: nn.Module) -> nn.Module:
    """``network`` with a forward of images alone, so that all else keeps its default."""
    original = type(network)
    others = list(inspect.signature(original.forward).parameters.values())[2:]
    needed = [p.name for p in others if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if needed:
        raise ConvertError("the network", f"besides images it reads {', '.join(needed)}: wrap it in one that does not")

    def forward(self: Any, images: Tensor) -> Any:
        return original.forward(self, images)

    network.__class__ = type(original.__name__, (original,), {"forward": forward})
    return network


def _with_any_batch(many: _Tracer, few: _Tracer) -> None:
    """Let the numbers and constants that the code made from the number of its images follow it."""
    graph, nodes, others = many.graph, list(many.graph.nodes), list(few.graph.nodes)
    for node, other in zip_longest(nodes, others):
        if node is None or other is None or (node.op, node.target) != (other.op, other.target):
            refuse(node or other, "its code takes another course for another number of images")
    with graph.inserting_after(nodes[0]):
        number = graph.call_method("size", (nodes[0], 0))
    number.meta["value"] = MANY

    def follow(value: Any, other: Any, reader: fx.Node) -> Any:
        if isinstance(value, fx.Node) or (type(value) is type(other) and value == other):
            return value
        slope, rest = 0.0, 1
        if type(value) is type(other) is int:
            slope, rest = divmod(value - other, MANY - FEW)
        elif type(value) is type(other) is float:
            slope, rest = value / MANY, int(value * FEW != other * MANY)
        if rest:
            refuse(reader, "its code makes a number from that of the images, but not in proportion")
        result, constant = number, other - slope * FEW
        for operation, by, idle in ((operator.mul, slope, 1), (operator.add, constant, 0)):
            if by != idle:
                with graph.inserting_before(reader):
                    result = graph.call_function(operation, (result, by))
                result.meta["value"] = value
        return result

    for node, other in zip(nodes, others, strict=True):
        leaves: list[Any] = []
        fx.node.map_aggregate((other.args, other.kwargs), leaves.append)
        those = iter(leaves)
        given = fx.node.map_aggregate((node.args, node.kwargs), lambda value: follow(value, next(those), node))  # noqa: B023
        node.args, node.kwargs = cast(Any, given)
        rows, fewer = many.made.get(str(node.target)), few.made.get(str(node.target))
        if node.op != "get_attr" or rows is None or fewer is None or torch.equal(rows, fewer):
            continue
        one, sizes, reader = rows, [-1] * rows.dim(), node.next
        for axis, (size, smaller) in enumerate(zip(rows.shape, fewer.shape, strict=False)):
            if size != smaller:
                one, sizes[axis] = one.narrow(axis, 0, 1), follow(size, smaller, reader)
        if one.dim() != fewer.dim() or not (
            torch.equal(one.expand_as(rows), rows) and torch.equal(one.expand_as(fewer), fewer)
        ):
            refuse(node, "its code makes a constant whose values depend on the number of images")
        with graph.inserting_before(reader):
            spread = graph.call_method("expand", (node, *sizes))
        spread.meta = dict(node.meta)
        node.replace_all_uses_with(spread, delete_user_cb=lambda user: user is not spread)  # noqa: B023
        many.made[str(node.target)] = one.clone()
    if not number.users:
        graph.erase_node(number)
