"""What is to be done to a network: filled in by the rules, one call of its graph after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NoReturn, cast

from torch import Tensor, fx, nn

from ..exact.convolution import Padding
from ..watch import tensors
from .grids import Axes, Grid, Map, Step, meet, resolve, unit
from .layers import Pad, Varying
from .trace import kind_of
from .writes import known, name_of, refuse


@dataclass
class Plan:
    """The graph of a network, where each of its tensors stands, and what was found on the way.

    ``places`` holds the :class:`Map` of each node that is a map, ``raised`` the upsampling calls and the steps that
    they undo, the last of them first, ``shuffled`` those that put phases back by themselves, ``lead`` the padding in
    front of a layer whose call was taken out, ``wanted`` grids that sizes have to fit too, ``originals`` the layers
    that were replaced, ``in_place`` those that wrote in place, and ``otherwise`` what takes, in the comparison with the
    original, the place of a layer that is announced to be another function.
    """

    network: nn.Module
    graph: fx.Graph
    padding: Padding
    pool_head: bool
    dims: int = 0
    places: dict[fx.Node, Map | None] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    raised: dict[fx.Node, Grid] = field(default_factory=dict)
    shuffled: set[fx.Node] = field(default_factory=set)
    lead: dict[fx.Node, tuple[Pad, ...]] = field(default_factory=dict)
    wanted: list[Grid] = field(default_factory=list)
    padded: list[str] = field(default_factory=list)
    pooled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    originals: dict[str, nn.Module] = field(default_factory=dict)
    otherwise: dict[str, nn.Module] = field(default_factory=dict)
    in_place: list[Any] = field(default_factory=list)

    def path(self, node: fx.Node) -> str:
        """Where to put a layer for a call: at the path of what it calls, or at one that is free."""
        owner, dot, name = name_of(node).rpartition(".")
        while node.op != "call_module" and hasattr(self.network.get_submodule(owner), name):
            name += "_"
        return f"{owner}{dot}{name}"

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module of the original that ``node`` calls."""
        if node.op != "call_module":
            return None
        return self.originals.get(str(node.target)) or self.network.get_submodule(str(node.target))

    def maps(self, node: fx.Node) -> Iterator[tuple[fx.Node, Map]]:
        """The maps that a call reads."""
        for source in node.all_input_nodes:
            place = self.places[source]
            if place is not None:
                yield source, place

    @property
    def stride(self) -> tuple[int, ...]:
        """What sizes have to be multiples of, along each axis of the images."""
        grids = {place.grid for place in self.places.values() if place and place.grid}
        return unit((*grids, *self.wanted), self.dims)

    def outputs(self, node: fx.Node) -> list[Map | None]:
        """Where each tensor in the arguments of ``node`` stands, be it in objects that the network makes of them."""
        parts, places = list[fx.Node](), list[Map | None]()
        fx.node.map_arg((node.args, node.kwargs), parts.append)
        for part in parts:
            count = len(tensors(part.meta["value"]))
            places += self.outputs(part) if makes_object(part) else [self.places[part]] * count
        return places

    def meet(self, node: fx.Node, sources: Sequence[fx.Node] = ()) -> Grid | None:
        """The one grid of all maps that a call reads, or of those of ``sources``."""
        grid: Grid | None = None
        for source, place in self.maps(node):
            if place.grid is not None and (not sources or source in sources):
                try:
                    grid = place.grid if grid is None else meet(grid, place.grid)
                except ValueError as error:
                    refuse(node, f"{error}, which no shared selection can bring together")
        return None if grid is None else resolve(grid)

    def install(self, path: str, module: nn.Module) -> str:
        """Put ``module`` at ``path`` and set it to the mode of the network."""
        self.network.set_submodule(path, module.train(self.network.training))
        return path

    def call(
        self, path: str, module: nn.Module, *args: Any, after: Any = None, before: Any = None, **settings: Any
    ) -> fx.Node:
        """Install ``module``, and call it behind one node or in front of another."""
        self.install(path, module)
        with self.graph.inserting_after(after) if after else self.graph.inserting_before(before):
            return self.graph.call_module(path, args, settings)


NAMES = {"axis": "dim", "keepdims": "keepdim"}
"""Names that torch takes from numpy."""


class Call:
    """A call as a rule sees it; ``names`` are those of a function's arguments after the first."""

    def __init__(self, plan: Plan, node: fx.Node, names: str = "") -> None:
        self.plan, self.node, self.names = plan, node, names.split()
        self.layer = plan.module(node)
        self.kind = kind_of(node if self.layer is None else self.layer)
        self.source = cast(fx.Node, node.args[0] if node.args else None)

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def x(self) -> Any:
        """The value that the call reads first."""
        return self.source.meta["value"]

    @cached_property
    def place(self) -> Map:
        place = self.plan.places.get(self.source)
        return self.refuse("a map is expected as its first argument") if place is None else place

    @cached_property
    def given(self) -> dict[str, Any]:
        """The settings of a layer, or the arguments of a function that were given, by name."""
        if self.layer is not None:
            return {**self.layer._parameters, **self.layer._buffers, **vars(self.layer)}
        return cast(dict[str, Any], known(self._arguments()))

    def operands(self, *names: str) -> tuple[Any, ...]:
        """The nodes of a function's weights; a layer has its own."""
        return () if self.layer is not None else tuple(self._arguments().get(name) for name in names)

    def _arguments(self) -> dict[str, Any]:
        named = {NAMES.get(name, name): value for name, value in self.node.kwargs.items()}
        return {**dict(zip(self.names, self.node.args[1:], strict=False)), **named}

    def refuse(self, reason: str) -> NoReturn:
        refuse(self.node, reason)

    def swap(self, module: nn.Module, *operands: Any) -> None:
        """Let the node call ``module``, at the path of what it called; a module called twice is converted once."""
        plan, node, path = self.plan, self.node, self.plan.path(self.node)
        if path not in plan.originals:
            plan.originals[path] = plan.module(node) or module
            plan.install(path, module)
        elif _settings(plan.network.get_submodule(path)) != _settings(module):
            path = plan.install(f"{path}_{node.name}", module)
        node.op, node.target = "call_module", path
        node.args, node.kwargs = (node.args[0], *operands), {}

    def step(
        self, place: Map, stride: Sequence[int], smooth: bool, aligned: bool = False, windows: tuple[int, ...] = ()
    ) -> Map:
        """The map that the call leaves of one at ``place`` with a ``stride``, or with a fixed number of ``windows``."""
        if place.grid is None or (set(stride) == {1} and not windows):
            return place
        if any(step.finer for step in place.grid):
            self.refuse("it samples a map that is finer than the images")
        step = Step(self.node, tuple(stride), smooth, aligned, windows=windows)
        self.plan.steps.append(step)
        return Map((*place.grid, step), place.axes)

    def vary(self, layer: nn.Module, name: str, rate: Callable[..., Any], *of: Any) -> fx.Node:
        """Let the node call a ``layer`` whose setting of this name is, for each size, what ``rate`` makes of others."""
        with self.plan.graph.inserting_before(self.node):
            now = self.plan.graph.call_function(rate, of)
        now.meta["value"], self.plan.places[now] = rate(*known(of)), None
        self.swap(Varying(layer, name))
        self.node.kwargs = {"now": now}
        return now

    def over_positions(self, dims: Sequence[int]) -> bool:
        """Do some of ``dims`` of the first argument run along the images?"""
        place = self.plan.places[self.source]
        return place is not None and not set(dims).isdisjoint(place.positions)

    def feed(self, op: str, target: Any, place: Map | None, *others: Any) -> fx.Node:
        """Let another call in between this one and its input; ``place`` is where what it gives stands."""
        with self.plan.graph.inserting_before(self.node):
            fed = self.plan.graph.create_node(op, target, (self.source, *others))
        fed.meta["value"] = target(self.x, *others) if op == "call_function" else self.x
        self.plan.places[fed] = place
        self.node.replace_input_with(self.source, fed)
        return fed

    def pass_by(self) -> None:
        """Take the call out: what reads it reads its input."""
        self.node.replace_all_uses_with(self.source)


def _settings(module: nn.Module) -> tuple[str, Any]:
    return repr(module), getattr(module, "border", None)


Rule = Callable[[Call], Map | None]


def makes_object(node: fx.Node) -> bool:
    """Does a node put values into an object, as a data class of outputs?"""
    return node.op == "call_function" and isinstance(node.target, type) and not isinstance(node.meta["value"], Tensor)


Memory = list[tuple[int, int, tuple[int, ...]]]
"""Of each axis of a tensor its size, its step in memory and what it runs along."""


def unpacked(shape: Sequence[int], axes: Axes) -> Memory:
    """The layout of a tensor that lies in memory as its shape says."""
    return [(n, prod(shape[axis + 1 :]), along) for axis, (n, along) in enumerate(zip(shape, axes, strict=True))]


def follow(view: Tensor, whole: Memory) -> Axes | None:
    """What the axes of a ``view`` of a ``whole`` run along.

    ``None`` where the view has not all positions, or mixes them with something else. A row of positions is cut into the
    axes that it was made of, whose sizes :func:`~lps.convert.check.require_any_size` compares.
    """
    left: dict[int, tuple[int, tuple[int, ...]]] = {}
    found = list(zip(view.shape, view.stride(), strict=True))
    for size, step, along in whole:
        inside = sorted({(s, n) for n, s in found if step <= s and s * n <= step * size and n > 1}, reverse=True)
        if along and size == 1:
            return None
        share = len(along) // max(len(inside), 1)
        if share and len(inside) > 1 and share * len(inside) == len(along) and prod(n for _, n in inside) == size:
            left |= {s: (n, along[i * share : (i + 1) * share]) for i, (s, n) in enumerate(inside)}
        elif along:
            left[step] = size, along
    runs = [(step, step * size) for step, (size, _) in left.items()]
    result = []
    for size, step in found:
        along, end = (), step
        while end < size * step and end in left:
            length, these = left.pop(end)
            along, end = these + along, end * length
        crosses = end != size * step if along else any(step < last and first < size * step for first, last in runs)
        if crosses and size > 1:
            return None
        result.append(along)
    return None if left else tuple(result)
