"""A network as a graph of calls, with the value of each call on an example image."""

import copy
import inspect
import operator
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, fx, nn
from torch.nn.modules import conv, pooling
from torch.nn.modules.batchnorm import _NormBase

from .layers import SUMS, Elementwise, Pointwise
from .report import ConvertError

WINDOWS = (conv._ConvNd, pooling._MaxPoolNd, pooling._AvgPoolNd)
"""Layers that look at windows of a map."""

IN_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}

ALIASES = {
    "arctanh": "atanh", "arctan2": "atan2", "expit": "sigmoid", "gammainc": "igamma", "gammaincc": "igammac",
    "subtract": "sub",
}  # fmt: skip

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

    @property
    def _value(self) -> Any:
        return self.node.meta["value"]

    def __len__(self) -> int:
        return len(self._value)

    def __index__(self) -> int:
        return operator.index(self._value)

    def __int__(self) -> int:
        return int(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __ceil__(self) -> int:
        return -int(-self._value // 1)


class _Proxy(_Known, fx.Proxy):
    def __getattr__(self, name: str) -> "_Attribute":
        return _Attribute(self, name)


class _Attribute(_Known, fx.proxy.Attribute):
    pass


class _Tracer(fx.Tracer):
    """Follow a network on a meta tensor, so that every branch its code takes is the one of this image size."""

    proxy_buffer_attributes = True

    def __init__(self, *inputs: Any) -> None:
        super().__init__()
        self._inputs, self._running = iter(inputs), False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name):
            return True
        # what a layer does in training would be lost in a graph
        return _reads_mode(m) and not _computes(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        if kind != "output":
            self._running = True
            node.meta["value"] = self._run(node)
            self._running = False
        return node

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = known((node.args, node.kwargs))
        match node.op:
            case "placeholder":
                return next(self._inputs)
            case "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            case "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return self.root.get_submodule(str(node.target))(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(obj.node.meta["value"])

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        return iter([cast(Any, obj)[i] for i in range(len(obj.node.meta["value"]))])


def _reads_mode(module: nn.Module) -> bool:
    return "training" in type(module).forward.__code__.co_names


def _computes(module: nn.Module) -> bool:
    """Is there something in ``module`` that another layer takes the place of?"""
    if any(isinstance(part, (*WINDOWS, nn.Linear)) for part in module.modules()):
        return True
    if isinstance(module, _NormBase):  # it trains
        return False
    try:
        calls = fx.Tracer().trace(copy.deepcopy(module).eval()).nodes
    except Exception:  # then it stays whole, and is left to the check
        return False
    calls = [call for call in calls if call.op in ("call_function", "call_method")]
    return any(called(call) in REPLACED or rounds_by_place(call) for call in calls)


def called(node: fx.Node) -> str:
    """Name of the function or method that a node calls."""
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", node.target))
    name = name.removeprefix("special_")
    return ALIASES.get(name, name)


def rounds_by_place(node: fx.Node) -> bool:
    """Does it depend on where in memory a sample lies how this function of single samples rounds?"""
    if called(node) in ("add", "sub", "rsub"):
        return "alpha" in node.kwargs
    exponent = dict(zip(("base", "exponent"), node.args, strict=False)).get("exponent", node.kwargs.get("exponent"))
    even = called(node) == "pow" and isinstance(exponent, int | float) and exponent in EVEN_POWERS
    return called(node) in Elementwise.EXACT and not even


def followed_in_evaluation(network: nn.Module, graph: fx.Graph) -> list[str]:
    """Classes in ``network`` whose own code asks whether it is training, and is taken apart all the same."""
    found = set()
    for node in graph.nodes:
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            part = network.get_submodule(path)
            own = not type(part).__module__.startswith("torch.nn")
            if own and path != (node.target if node.op == "call_module" else None) and _reads_mode(part):
                found.add(type(part).__name__)
    return sorted(found)


def known(arguments: Any) -> Any:
    """Arguments with each node replaced by its value."""
    return fx.node.map_arg(arguments, lambda node: node.meta["value"])


def trace(network: nn.Module, example: Tensor) -> fx.Graph:
    """Graph of ``network`` in evaluation mode; ``node.meta["value"]`` is a meta tensor or a plain value.

    Raises :class:`ConvertError` where the code cannot be followed.
    """
    plain = copy.deepcopy(network).to("meta").eval()
    others = list(inspect.signature(type(plain).forward).parameters.values())[2:]
    defaults = {
        other.name: other.default for other in others if other.kind in (other.POSITIONAL_OR_KEYWORD, other.KEYWORD_ONLY)
    }
    needed = [name for name, default in defaults.items() if default is inspect.Parameter.empty]
    if needed:
        raise ConvertError("the network", f"besides images it reads {', '.join(needed)}: wrap it in one that does not")
    tracer = _Tracer(example.to("meta"), *defaults.values())
    try:
        graph = tracer.trace(plain, concrete_args=defaults or None)
    except Exception as error:
        module = next(reversed(tracer.module_stack), "the model") if hasattr(tracer, "module_stack") else "the model"
        raise ConvertError(
            module,
            f"its code cannot be followed on images {tuple(example.shape)} ({type(error).__name__}: {error}); "
            "if such images do not fit, pass some that do as `example`",
        ) from error
    for name in tracer.tensor_attrs.values():
        if hasattr(plain, name) and not hasattr(network, name):  # made by the code itself
            setattr(network, name, getattr(plain, name))
    for node in graph.nodes:
        if node.op != "placeholder" and not node.args and "input" in node.kwargs:
            given = dict(node.kwargs)
            node.args, node.kwargs = (given.pop("input"),), given
    for node in list(graph.nodes)[1 : 1 + len(defaults)]:
        _erase(graph, node)
    _without_mutation(graph, network)
    plain_graph = fx.Graph()  # knows nothing of this tracer, so that the network can be pickled
    plain_graph.output(plain_graph.graph_copy(graph, {}))
    return plain_graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Take out an input of the network that keeps its default, and the checks that it does."""
    for reader in list(node.users):
        _erase(graph, reader)
    graph.erase_node(node)


def _without_mutation(graph: fx.Graph, network: nn.Module) -> None:
    """In-place operations become plain ones, and later readers of what they change read their results."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            cast(nn.ReLU, module).inplace = False
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        in_place = False
        if node.op == "call_function" and node.target in IN_PLACE:
            node.target, in_place = IN_PLACE[node.target], True
        elif node.op == "call_method" and node.target.endswith("_") and hasattr(Tensor, node.target[:-1]):
            node.target, in_place = node.target[:-1], True
        elif node.kwargs.get("inplace"):
            node.kwargs, in_place = {**node.kwargs, "inplace": False}, True
        if in_place:
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node]: order[user] > at)
