"""What is to be done to a network: filled in by the rules, one call of its graph after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import fx, nn

from ..exact.convolution import Padding
from .borders import Pad
from .grids import Grid, Map, Step, meet, resolve
from .report import ConvertError
from .trace import known
from .writes import name_of


@dataclass
class Raised:
    """An upsampling call that undoes ``steps``, the last of them first."""

    node: fx.Node
    steps: Grid


@dataclass
class Plan:
    """The graph of a network, where each of its tensors stands, and what was found on the way.

    ``places`` holds the :class:`Map` of each node that is a map, ``lead`` the padding in front of a layer whose call
    was taken out, ``originals`` the layers that were replaced, and ``otherwise`` what takes, in the comparison with the
    original, the place of a layer that is announced to be another function.
    """

    network: nn.Module
    graph: fx.Graph
    padding: Padding
    pool_head: bool
    places: dict[fx.Node, Map | None] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    raised: list[Raised] = field(default_factory=list)
    lead: dict[fx.Node, tuple[Pad, ...]] = field(default_factory=dict)
    padded: list[str] = field(default_factory=list)
    pooled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    originals: dict[str, nn.Module] = field(default_factory=dict)
    otherwise: dict[str, nn.Module] = field(default_factory=dict)

    def name(self, node: fx.Node) -> str:
        return name_of(node)

    def path(self, node: fx.Node) -> str:
        """Where to put a layer for a call: at the path of what it calls, or at one that is free."""
        owner, dot, name = self.name(node).rpartition(".")
        while node.op != "call_module" and hasattr(self.network.get_submodule(owner), name):
            name += "_"
        return f"{owner}{dot}{name}"

    def refuse(self, node: fx.Node, reason: str) -> NoReturn:
        raise ConvertError(self.name(node), reason)

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

    def meet(self, node: fx.Node) -> Grid | None:
        """The one grid of all maps that a call reads."""
        grid: Grid | None = None
        for _, place in self.maps(node):
            if place.grid is not None:
                try:
                    grid = place.grid if grid is None else meet(grid, place.grid)
                except ValueError as error:
                    self.refuse(node, f"{error}, which no shared selection can bring together")
        return None if grid is None else resolve(grid)

    def swap(self, node: fx.Node, module: nn.Module) -> None:
        """Let ``node`` call ``module``, at the path of what it called; a module called twice is converted once."""
        path = self.path(node)
        if path not in self.originals:
            self.originals[path] = self.module(node) or module
            self.install(path, module)
        elif _settings(self.network.get_submodule(path)) != _settings(module):
            path = self.install(f"{path}_{node.name}", module)
        node.op, node.target = "call_module", path
        node.args, node.kwargs = (node.args[0],), {}

    def install(self, path: str, module: nn.Module) -> str:
        """Put ``module`` at ``path`` and set it to the mode of the network."""
        self.network.set_submodule(path, module.train(self.network.training))
        return path


def _settings(module: nn.Module) -> tuple[str, Any]:
    return repr(module), getattr(module, "border", None)


def arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """Known arguments of a call after its first, by name."""
    args, kwargs = known((node.args, node.kwargs))
    return {**dict(zip(names, args[1:], strict=False)), **kwargs}


Rule = Callable[[Plan, fx.Node], Map | None]
