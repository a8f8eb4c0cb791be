"""Put a sampling layer behind every stride of a planned network, and one choice behind all that share it."""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, cast

from torch import fx, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..exact.ties import Origin
from ..sampling import Downsample, Sampling, Upsample
from .grids import Step, resolve, shown
from .layers import Align, Convolution, Entry, Pointwise, Spaced, Unalign, Varying, beyond, reaches
from .plan import Plan
from .report import Stride
from .rules import ACTIVATIONS
from .trace import kind_of
from .writes import name_of, refuse

LAYERS = tuple(getattr(activation, name) for name in activation.__all__ if name not in ("MultiheadAttention",))


class Rewriter:
    """Inserts the layers of ``sampling``, from a stride, into the graph of ``plan``, ``before`` convolutions or not.

    ``strides`` and ``raised`` are what it did: each stride with its layer, and the upsampling layers that became LPUs
    with those whose selections they follow.
    """

    def __init__(self, plan: Plan, sampling: Callable[..., Sampling], before: bool) -> None:
        self.plan, self.sampling, self.before = plan, sampling, before
        self.order = {node: i for i, node in enumerate(plan.graph.nodes)}
        self.images = next(node for node in self.order if node.op == "placeholder")
        self.depth: dict[fx.Node, int] = {}
        self.upstream: dict[fx.Node, int] = {}
        for node, i in self.order.items():
            self.depth[node] = 1 + max((self.depth[source] for source in node.all_input_nodes), default=0)
            self.upstream[node] = 1 << i
            for source in node.all_input_nodes:
                self.upstream[node] |= self.upstream[source]
        self.above = {step: plan.meet(step.node) or () for step in plan.steps}
        self.selections: dict[Step, fx.Node] = {}
        self.names: dict[Step, str] = {}
        self.strides: list[Stride] = []
        self.raised: dict[str, tuple[str, ...]] = {}

    def run(self, entry: Entry) -> None:
        """Sampling layers, LPUs, ``entry`` for the images, and an order in which each call finds its inputs."""
        classes: defaultdict[Step, list[Step]] = defaultdict(list)
        for step in self.plan.steps:
            for root in step.roots():
                classes[root].append(step)
        leads: defaultdict[Step, list[Step]] = defaultdict(list)
        for root, members in classes.items():
            alone = [step for step in members if len(step.roots()) == 1]
            leads[self._leader(alone or members)].append(root)
        found = {step: self._sample(step, roots) for step, roots in leads.items()}
        found |= {step: self._sample(step, ()) for step in self.plan.steps if step not in leads}
        self.strides = [found[step] for step in self.plan.steps]
        for node, steps in self.plan.raised.items():
            roots = [root for step in steps for root in reversed(step.roots())]
            self.raised[name_of(node)] = tuple(self.names[root] for root in resolve(steps) if not root.finer)
            self._raise(node, roots, f"{name_of(node)}_back")
        free = next(name for n in count() if not hasattr(self.plan.network, name := f"entry{'_' * n}"))
        self._behind_all(self.images, free, entry)
        self._sort()

    def _leader(self, members: list[Step]) -> Step:
        """The step that chooses for all: behind none of the others, and at the end of the longest branch."""

        def behind(step: Step, other: Step) -> bool:
            return step is not other and bool(self.upstream[step.node] >> self.order[other.node] & 1)

        first = [step for step in members if not any(behind(step, other) for other in members)]
        return max(first, key=lambda step: self.depth[step.node if self._in_front(step) else self._behind(step)])

    def _in_front(self, step: Step) -> bool:
        """Is a map sampled before this layer, not behind it?"""
        single = self.before and len(step.roots()) == 1
        return step.aligned or (single and isinstance(self._layer(step), Convolution))

    def _layer(self, step: Step) -> nn.Module | None:
        """What computes the map that strides, as it was replaced."""
        return self.plan.network.get_submodule(str(step.node.target)) if step.node.op == "call_module" else None

    def _pointwise(self, step: Step) -> bool:
        conv = self.plan.module(step.node)
        narrow = isinstance(conv, _ConvNd) and max(conv.kernel_size) == 1
        return narrow and not any(cast(Convolution, self._layer(step)).border.before)

    def _behind(self, step: Step) -> fx.Node:
        """Where a stride goes: behind the norm and the activation of its convolution, else behind the layer itself.

        A norm that takes statistics of its map, as group norm does, takes them of what is kept.
        """
        reader = _only_reader(step.node) if isinstance(self.plan.module(step.node), _ConvNd) else None
        if reader is not None and self._is_norm(reader) and not self._activates(reader):
            reader = _only_reader(reader)
        return step.node if reader is None or not self._activates(reader) else reader

    def _is_norm(self, node: fx.Node) -> bool:
        norm = self.plan.module(node)
        return isinstance(norm, _NormBase) and norm.running_mean is not None

    def _activates(self, node: fx.Node) -> bool:
        """Is this an activation, or a norm with one inside?"""
        module = self.plan.module(node)
        if module is None:
            return kind_of(node) in ACTIVATIONS
        parts = module.modules() if self._is_norm(node) else [module]
        return any(isinstance(part, (*LAYERS, Pointwise)) for part in parts)

    def _sample(self, step: Step, chooses: Sequence[Step]) -> Stride:
        """Filter, then choose, for all that share one of the steps ``chooses``, or keep what its leaders kept.

        A follower that is a 1x1 convolution comes behind that, where it is cheaper.
        """
        in_front = self._in_front(step) or (not chooses and self._pointwise(step))
        if step.aligned and len(step.roots()) > 1:
            refuse(step.node, "its phases are those of several strides")
        node = step.node.all_input_nodes[0] if in_front else self._behind(step)
        channels, module = node.meta["value"].shape[1], self.plan.module(step.node)
        readers = [step.node] if in_front else list(node.users)
        sources = [source for source in step.node.all_input_nodes if source.op != "get_attr"]
        first = isinstance(module, _ConvNd) and all(source is self.images for source in sources)
        filtered = not (step.smooth or (chooses and first))
        kept, paths = node, list[str]()
        for root in step.roots():
            stride = [2 if w else s for w, s in zip(root.windows or (0,) * len(root.stride), root.stride, strict=True)]
            sampling = self.sampling(stride=shown(stride), grouped=getattr(self._layer(step), "groups", 1) > 1)
            if root in chooses:
                layer, given = sampling.layer(channels, antialias=filtered), {"origin": self._origin(step, root)}
            else:
                layer = sampling.shortcut(channels) if filtered else Downsample(None, None, shown(stride))
                given = {"selection": self.selections[root]}
            filtered = False
            path = f"{name_of(step.node)}_sampling"
            if any(name == path for name, _ in self.plan.network.named_modules()):
                path = f"{path}_{step.node.name}"
            layer = self._aligning(step, layer).to(node.meta["value"].dtype)
            call = self._call(root, path, layer, kept, after=kept, **given)
            with self.plan.graph.inserting_after(call):
                chosen = self.plan.graph.call_function(operator.getitem, (call, 1))
                kept = self.plan.graph.call_function(operator.getitem, (call, 0))
            kept.meta["value"] = node.meta["value"]
            paths.append(path)
            if root in chooses:
                self.selections[root], self.names[root] = chosen, path
        for reader in readers:
            reader.replace_input_with(node, kept)
        kind = type(module).__name__ if module is not None else str(getattr(step.node.target, "__name__", "stride"))
        follows = tuple(self.names[root] for root in step.roots() if root not in chooses)
        return Stride(name_of(step.node), kind, shown(step.stride), channels, paths[0], follows)

    def _aligning(self, step: Step, layer: Downsample) -> Downsample:
        """In front of windows the map keeps its size, and they stride; a 1x1 convolution reads the samples alone."""
        if step.aligned:
            return Align(layer, self.plan.padding)
        if not self._in_front(step) or self._pointwise(step):
            return layer
        step.node.kwargs = {**step.node.kwargs, "stride": step.stride, "padded": True}
        conv = cast(Convolution, self._layer(step))
        weight = step.node.args[1].meta["value"] if conv.weight is None else conv.weight  # type: ignore[union-attr]
        before, reach = conv.border.before, reaches(weight.shape[2:], conv.dilation)
        return Align(layer, self.plan.padding, before, beyond(before, reach, step.stride))

    def _origin(self, step: Step, root: Step) -> fx.Node:
        """Where the map that a stride samples comes from: the images, or the choice above it."""
        roots = (*resolve(self.above[step]), *step.roots()[: step.roots().index(root)])
        chosen = self.selections[roots[-1]] if roots else self.images
        function, *names = (getattr, "origin") if roots else (Origin,)
        with self.plan.graph.inserting_after(chosen):
            return self.plan.graph.call_function(cast(Any, function), (chosen, *names))

    def _raise(self, node: fx.Node, roots: Sequence[Step], path: str) -> None:
        """Put the features back, step by step, in front of the kernel that spreads them, or behind a shuffle."""
        if node in self.plan.shuffled:
            chosen = [self.selections[root] for root in roots if not root.finer]
            if chosen:
                self._behind_all(node, path, Unalign([shown(root.stride) for root in roots]), *chosen)
            return
        for i, root in enumerate(roots):
            stride = shown([int(max(s, 1 / s)) for s in root.stride])
            layer, chosen = (Spaced(stride), []) if root.finer else (Upsample(None, stride), [self.selections[root]])
            raised = self._call(root, f"{path}_{i}", layer, node.args[0], *chosen, before=node)
            node.args = (raised, *node.args[1:])

    def _call(self, root: Step, path: str, layer: nn.Module, *args: Any, **settings: Any) -> fx.Node:
        """Call a layer with the stride of a step, at each size."""
        if root.now is not None:
            layer, settings["now"] = Varying(layer, "stride"), root.now
        return self.plan.call(path, layer, *args, **settings)

    def _behind_all(self, node: fx.Node, path: str, layer: nn.Module, *others: fx.Node) -> None:
        """Let ``layer`` read ``node``, and all that read it read the layer."""
        call = self.plan.call(path, layer, node, *others, after=node)
        node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)

    def _sort(self) -> None:
        """Nodes in the order in which they are now, but each behind all that it reads."""
        order: dict[fx.Node, None] = {}
        waiting: set[fx.Node] = set()
        stack = list(reversed(self.plan.graph.nodes))
        while stack:
            node = stack[-1]
            missing = [source for source in node.all_input_nodes if source not in order]
            if missing and node in waiting:
                refuse(node, "it needs a selection that depends on its own output")
            if missing:
                waiting.add(node)
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if node not in order:
                if order:
                    next(reversed(order)).append(node)
                order[node] = None


def _only_reader(node: fx.Node) -> fx.Node | None:
    reader = next(iter(node.users), None)
    return reader if len(node.users) == 1 and reader is not None and len(reader.all_input_nodes) == 1 else None


def write_in_place(network: fx.GraphModule, layers: Iterable[Any]) -> None:
    """Let activations write in place again, as they did, where nothing else reads what is made in front of them."""
    called = {node: network.get_submodule(str(node.target)) for node in network.graph.nodes if node.op == "call_module"}
    sources = defaultdict[nn.Module, list[Any]](list)
    for node, module in called.items():
        sources[module.activation if isinstance(module, Pointwise) else module].append(node.args[0])
    for layer in layers:
        layer.inplace = all(
            len(source.users) == 1
            and (isinstance(called.get(source), _NormBase | Convolution) or source.target is operator.add)
            for source in sources[layer]
        )
