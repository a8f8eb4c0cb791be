"""Writes in place become values of their own, and what is read later is what was written, through views too.

Each node of a traced graph has a value on the meta device. Values that share their storage are views of one another, so
it is known whose memory a write changes, and which of the values read afterwards have to be made anew.
"""

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from ..watch import tensors
from .report import ConvertError

OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name.rstrip('_')}"): getattr(operator, name)
    for name in "add and_ floordiv lshift matmul mod mul or_ pow rshift sub truediv xor".split()
}
"""Assignments such as ``+=``, and what they assign."""

ALIASES = {
    "arctanh": "atanh", "arctan2": "atan2", "expit": "sigmoid", "gammainc": "igamma", "gammaincc": "igammac",
    "subtract": "sub",
}  # fmt: skip


def known(arguments: Any) -> Any:
    """Arguments with each node replaced by its value."""
    return fx.node.map_arg(arguments, lambda node: node.meta["value"])


View = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A method of a tensor, or of a tuple of them, with its arguments."""


def write_into(x: Tensor, value: Any, views: Sequence[View]) -> Tensor:
    """``x`` with ``value`` in the place of a view of it, which ``views`` lead to."""
    x = x.clone(memory_format=torch.contiguous_format)
    part: Any = x
    for name, args, kwargs in views[:-1]:
        part = getattr(part, name)(*args, **kwargs)
    name, args, kwargs = views[-1]
    if name == "__getitem__" and isinstance(part, Tensor):
        part[args[0]] = value
    else:
        getattr(part, name)(*args, **kwargs)[...] = value
    return x


def name_of(node: fx.Node) -> str:
    """Path of the module that a node calls, or of the one whose code makes the call, with the operation."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    inside = f"{stack[-1][0]}." if stack and stack[-1][0] else ""
    return f"{inside}{node.name}"


def refuse(node: fx.Node, reason: str) -> NoReturn:
    raise ConvertError(name_of(node), reason)


def called(node: fx.Node) -> str:
    """Name of the function or method that a node calls, one of several that it has."""
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", node.target))
    name = name.removeprefix("special_")
    return ALIASES.get(name, name)


def watched(node: fx.Node, run: Callable[[fx.Node], Any]) -> Any:
    """The value of ``node`` by ``run``; ``node.meta["written"]`` is the argument that this changes in place."""
    sources = [(source, t) for source in node.all_input_nodes for t in tensors(source.meta["value"])]
    before = [(t._version, t.shape, t.stride(), t.storage_offset()) for _, t in sources]
    value = run(node)
    changed = []
    for (source, t), (version, shape, stride, offset) in zip(sources, before, strict=True):
        if t.shape != shape or t.stride() != stride:
            holders = [other for other in node.graph.nodes if other.meta.get("value") is t]
            node.meta["reshapes"] = holders, t.detach().as_strided(shape, stride, offset)
            changed.append((source, t))
        elif t._version != version:
            changed.append((source, t))
    if changed:
        first = node.kwargs.get("out", node.args[0] if node.args else None)
        node.meta["written"] = next((source for source, t in changed if t is value or source is first), changed[0][0])
    return value


def without_writes(graph: fx.Graph, network: nn.Module) -> list[Any]:
    """Take all writes out of a traced ``graph``, and return the layers that must not work in place any longer.

    Raises :class:`ConvertError` for a write that cannot be followed.
    """
    writes = _Writes(graph, network)
    writes.run()
    return writes.quiet


class _Writes:
    """``now`` is, for each node, the time at which what stands for it was up to date, and that; ``written`` the time of
    the last write to each storage, and ``base`` the node that holds all of it."""

    def __init__(self, graph: fx.Graph, network: nn.Module) -> None:
        self.graph, self.network = graph, network
        for node in reversed(graph.nodes):
            holders, old = node.meta.get("reshapes", ((), None))
            for holder in holders:
                holder.meta["value"] = old
        self.time = 0
        self.written: dict[int, int] = {}
        self.base: dict[int, fx.Node] = {}
        self.torn: set[int] = set()
        self.now: dict[fx.Node, tuple[int, fx.Node]] = {}
        self.given: dict[fx.Node, tuple[Any, Any]] = {}
        self.views: dict[fx.Node, list[fx.Node]] = {}
        self.whole: dict[fx.Node, fx.Node] = {}
        self.plain: set[fx.Node] = set()
        self.quiet: list[Any] = []

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self.given[node] = node.args, node.kwargs
            node.args, node.kwargs = self._given_now(node, node)
            if self._changes_nothing(node):
                self.graph.erase_node(node)
                continue
            target = self._target(node)
            self.views[node] = self._viewed(node)
            self.now[node] = self.time, node
            if target is not None:
                self.whole[node] = target
                self._write(node, target)
            elif not self.views[node] and isinstance(node.meta.get("value"), Tensor):
                (storage,) = _storages(node)
                held = self.base.setdefault(storage, node)
                if held is not node and not _alike(held, node):
                    self.torn.add(storage)
            if target is None and node.target in OPERATORS:  # of numbers
                node.target = OPERATORS[cast(Callable[..., Any], node.target)]

    def _changes_nothing(self, node: fx.Node) -> bool:
        """Does it assign what is there, as the end of ``x[index] += y`` does?"""
        if node.target is not operator.setitem:
            return False
        x, index, value = known(self.given[node][0])
        mine = isinstance(value, Tensor) and x.untyped_storage()._cdata == value.untyped_storage()._cdata
        return mine and _geometry(x[index]) == _geometry(value)

    def _target(self, node: fx.Node) -> fx.Node | None:
        """The argument that a node writes to, or would in training as dropout does."""
        target = cast(fx.Node | None, node.meta.get("written"))
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            if getattr(module, "inplace", False) and (target is not None or isinstance(module, _DropoutNd)):
                self.quiet.append(module)
                self.plain.add(node)
                return cast(fx.Node, self.given[node][0][0])
        elif node.op == "call_function" and (node.kwargs.get("inplace") or any(arg is True for arg in node.args)):
            try:
                bound = inspect.signature(cast(Callable[..., Any], node.target)).bind(*node.args, **node.kwargs)
            except (TypeError, ValueError):  # a builtin says nothing of its arguments
                return target
            if bound.arguments.get("inplace") is True:
                bound.arguments["inplace"] = False
                node.args, node.kwargs = bound.args, bound.kwargs
                self.plain.add(node)
                return cast(fx.Node, self.given[node][0][0])
        return target

    def _viewed(self, node: fx.Node) -> list[fx.Node]:
        """The arguments whose memory the value of a node is in."""
        args, _ = self.given[node]
        found: dict[fx.Node, None] = {}
        fx.node.map_arg(self.given[node], lambda source: found.setdefault(source))
        if node.target is operator.getitem and isinstance(args[0], fx.Node):
            if not (isinstance(args[0].meta["value"], Tensor) or self.views[args[0]]):
                return []  # one of several values, each with memory of its own
        mine = _storages(node)
        return [source for source in found if mine & _storages(source)]

    def _given_now(self, node: fx.Node, reader: fx.Node) -> Any:
        """The arguments of ``node``, as they are when ``reader`` runs."""
        return fx.node.map_arg(self.given[node], lambda source: self._current(source, reader))

    def _current(self, node: fx.Node, reader: fx.Node) -> fx.Node:
        """What stands for ``node`` now: itself, what was written to it, or the same view of what was."""
        time, twin = self.now[node]
        storages = _storages(node)
        if all(self.written.get(storage, 0) <= time for storage in storages):
            return twin
        if node in self.whole:
            twin = self._current(self.whole[node], reader)
        elif not self.views[node]:
            if not isinstance(node.meta["value"], Tensor):
                refuse(reader, "it reads several values at once of which one was written to in place")
            twin = self.base[storages.pop()]
        else:
            with self.graph.inserting_before(reader):
                twin = self.graph.node_copy(node, lambda source: source)
            twin.args, twin.kwargs = self._given_now(node, twin)
        self.now[node] = self.time, twin
        return twin

    def _write(self, node: fx.Node, target: fx.Node) -> None:
        """Let ``node`` compute what it would have written to ``target``, and hold it for later readers."""
        if not isinstance(target.meta["value"], Tensor):
            refuse(node, "it changes several tensors in place")
        before = self._current(target, node)
        root, views = self._way(target, node)
        (storage,) = _storages(target)
        held = self.base[storage]
        others = [other for other in self.views if other is not node and storage in _storages(other)]
        reshapes = node.meta.get("reshapes") and not all(_alike(other, target) for other in others)
        if storage in self.torn or reshapes:
            refuse(node, "it writes in place to memory that others see in another shape")
        self._plainly(node, target, before)
        self.time += 1
        self.written[storage] = self.time
        self.base[storage] = node
        if views:
            with self.graph.inserting_after(node):
                self.base[storage] = self.graph.call_function(write_into, (held, node, tuple(views)))
            self.base[storage].meta = {**node.meta, "value": root.meta["value"]}
        self.now[target] = self.now[node] = self.time, node

    def _way(self, node: fx.Node, reader: fx.Node) -> tuple[fx.Node, list[View]]:
        """The node that holds all of the memory that ``node`` views, and how it does."""
        views: list[View] = []
        while node in self.whole or self.views[node]:
            if node in self.whole:
                node = self.whole[node]
                continue
            source, *others = self.views[node]
            if not (isinstance(node.meta["value"], Tensor) and _alike(source, node)):
                if others or not self.given[node][0] or self.given[node][0][0] is not source:
                    refuse(reader, f"it writes in place through {node.name}, which views its input some way")
                views.insert(0, self._view(node, reader))
            node = source
        return node, views

    def _view(self, node: fx.Node, reader: fx.Node) -> View:
        (_, *args), kwargs = self._given_now(node, reader)
        name = "__getitem__" if node.target is operator.getitem else called(node)
        module = self.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is nn.Flatten:
            return "flatten", (module.start_dim, module.end_dim), {}
        if type(module) is nn.Unflatten:
            return "unflatten", (module.dim, module.unflattened_size), {}
        if module is not None or not hasattr(Tensor, name):
            refuse(reader, f"it writes in place through {node.name}, which views its input some way")
        return name, tuple(args), kwargs

    def _plainly(self, node: fx.Node, target: fx.Node, before: fx.Node) -> None:
        """The same call without the write: by the name that it has then, else on a copy."""
        if node.target is operator.setitem:
            _, index, value = node.args
            _, mask, filled = known(node.args)
            node.meta["value"] = target.meta["value"]
            one = not isinstance(filled, Tensor) or not filled.dim()
            if one and isinstance(mask, Tensor) and mask.shape == before.meta["value"].shape:
                node.target, node.args = torch.masked_fill, (before, index, value)
            else:
                node.target, node.args = write_into, (before, value, (("__getitem__", (index,), {}),))
        elif node not in self.plain:
            if not (node.meta.get("reshapes") or _alike(node, target)):
                refuse(node, "it changes its input in place and returns something else")
            if not self._renamed(node):
                with self.graph.inserting_before(node):
                    copied = self.graph.call_method("clone", (before,))
                copied.meta = {**node.meta, "value": before.meta["value"]}
                node.replace_input_with(before, copied)

    def _renamed(self, node: fx.Node) -> bool:
        """Give a call the name under which it does not write, where its result is of the same type and size."""
        kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
        args, settings = known((node.args, kwargs))
        name, method = called(node), node.op == "call_method"
        plain, short = OPERATORS.get(cast(Any, node.target)), name.removesuffix("_")
        if "out" in node.kwargs:
            plain = cast(Any, node.target)
        elif short != name and node.op != "call_module":
            plain = getattr(Tensor if method else torch, short, None if method else getattr(F, short, None))
        try:
            found, value = cast(Any, plain)(*args, **settings), node.meta["value"]
        except Exception:  # it has no such name, or is another function under it
            return False
        if (found.dtype, found.shape) != (value.dtype, value.shape):
            return False
        node.target, node.kwargs = short if method else cast(Any, plain), kwargs
        return True


def _storages(node: fx.Node) -> set[int]:
    return {t.untyped_storage()._cdata for t in tensors(node.meta.get("value"))}


def _alike(node: fx.Node, other: fx.Node) -> bool:
    """Do two nodes see their memory in the same shape?"""
    a, b = node.meta["value"], other.meta["value"]
    return isinstance(a, Tensor) and isinstance(b, Tensor) and _geometry(a) == _geometry(b)


def _geometry(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.storage_offset()
