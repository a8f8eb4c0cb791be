"""The proof by running that a converted network is the function it was, but for its phases, filters and borders.

The original as it was handed in, and the converted network that keeps phase 0 everywhere, filters nothing and sees the
borders of the original, run on the same images in float64. Where they differ, so does some layer, and it is named.
"""

import copy
import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, product, zip_longest
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..polyphase import components
from ..sampling import Downsample
from ..selection import Selection
from .check import Size, drawn
from .layers import Align, Bordered, Entry, Interpolation
from .report import ConvertError
from .values import tensors
from .writes import name_of

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference relative to the largest sample; float32 where code of the network insists on it."""

BATCHES = (3, 1)
"""Numbers of images; code may treat one apart."""


class _First(nn.Module):
    """What a layer of the original that strides keeps, as a sampling layer says it; in front of one, all of it."""

    def __init__(self, layer: Downsample) -> None:
        super().__init__()
        self.stride, self.strides = layer.stride, not isinstance(layer, Align)

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor, Selection]:
        z = x.new_zeros(x.shape[0], self.stride ** (x.dim() - 2))
        z[:, 0] = 1
        kept = components(x, self.stride)[0] if self.strides else x
        return kept, Selection(z, z, z.argmax(1))


def require_sameness(
    model: nn.Module, converted: fx.GraphModule, otherwise: Mapping[str, nn.Module], example: Tensor, stride: int
) -> tuple[Size, list[str]]:
    """Size of images on which ``converted`` is the function that ``model`` is, and what there is to note.

    ``otherwise`` are, by their path, layers of the original for those that announce to be another function. Where the
    code takes small images they are tried first. Raises :class:`ConvertError` that names the first layer that differs.
    """
    unit = stride * max(1, 8 // stride)
    example_size: Size = tuple(example.shape[2:])
    sizes = dict.fromkeys(((2 * unit, *(3 * unit,) * (len(example_size) - 1)), example_size))
    found: ConvertError | None = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        plain = _plain(converted, otherwise)
        for size in sizes:
            images = _images(example.shape[1], size)
            original = _original(model, images)
            if original is None:
                continue
            differs = _compare(*original, plain, images)
            if differs is None:
                words = "x".join(map(str, size))
                note = f"the code depends on the size: on others than {words} it may be another function"
                return size, [] if found is None else [note]
            found = found or differs
    raise found or ConvertError("the network", f"it fails on random images {example_size}: nothing can be compared")


def _images(channels: int, size: Size) -> tuple[Tensor, ...]:
    """Batches of several signs, so that none of them hides what is done at the border of a map."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(BATCHES), channels, *size, generator=generator, dtype=torch.float64)
    images[1], images[2] = -images[1].abs(), images[2].abs()
    return images.split(BATCHES)


def _plain(converted: fx.GraphModule, otherwise: Mapping[str, nn.Module]) -> fx.GraphModule:
    """A copy that keeps phase 0, filters nothing and has the borders and sizes of the original."""
    plain = copy.deepcopy(converted).cpu().eval()
    for path, module in list(plain.named_modules(remove_duplicate=False)):
        if isinstance(module, Downsample):
            plain.set_submodule(path, _First(module))
        elif isinstance(module, Entry):
            plain.set_submodule(path, nn.Identity())
        elif isinstance(module, Interpolation | Bordered):
            module.padding = "zeros"
            if isinstance(module, Bordered):
                module.border = replace(module.border, exact=True)
    for path, module in otherwise.items():
        plain.set_submodule(path, copy.deepcopy(module))
    return plain


def _original(model: nn.Module, images: Sequence[Tensor]) -> tuple[nn.Module, list[list[Tensor] | None]] | None:
    """A copy of ``model`` and its outputs for each batch, in the first type that it runs in, or ``None``."""
    for dtype, signs in product(TOLERANCES, (True, False)):
        try:
            network = drawn(model, images[0][:1].to(dtype), signs)
        except Exception:
            continue
        outputs = [_outputs(network, batch.to(dtype)) for batch in images]
        if any(outputs) and all(y.isfinite().all() for each in outputs for y in each or ()):
            return network, outputs
    return None


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor] | None:
    try:
        return tensors(network(images.clone()))
    except Exception:
        return None


def _compare(
    original: nn.Module, expected: list[list[Tensor] | None], plain: fx.GraphModule, images: Sequence[Tensor]
) -> ConvertError | None:
    """What there is to say of the first layer that differs."""
    dtype = next(y.dtype for each in expected for y in each or ())
    _share(original, plain, dtype)
    for batch, outputs in zip(images, expected, strict=True):
        if outputs is None:
            continue
        watch = _Watch(plain)
        try:
            found = tensors(watch.run(batch.to(dtype)))
        except Exception as error:
            where = f"on {len(batch)} images {tuple(batch.shape[2:])}"
            return ConvertError(watch.at(), f"what it became fails {where} ({type(error).__name__}: {error})")
        pairs = zip_longest(found, outputs)
        if any(_gap(y, original_y) > TOLERANCES[dtype] for y, original_y in pairs):
            return _blame(original, plain, batch.to(dtype), TOLERANCES[dtype])
    return None


def _share(original: nn.Module, plain: nn.Module, dtype: torch.dtype) -> None:
    """Let ``plain`` have the weights of ``original``, and what else it has in the same type."""
    theirs, ours = (
        dict(chain(m.named_parameters(remove_duplicate=False), m.named_buffers(remove_duplicate=False)))
        for m in (original, plain)
    )
    shared = {id(t): theirs[name] for name, t in ours.items() if name in theirs}
    for module in plain.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:
            for name, t in store.items():
                if t is not None:
                    store[name] = shared.get(id(t), t.to(dtype) if t.is_floating_point() else t)


def _gap(y: Tensor | None, expected: Tensor | None) -> float:
    """Largest difference, relative to the largest sample."""
    if y is None or expected is None or y.shape != expected.shape:
        return inf
    if not y.numel():
        return 0.0
    difference, largest = (float(t.double().abs().max()) for t in (y.double() - expected.double(), expected))
    return difference / largest if difference else 0.0


class _Watch(fx.Interpreter):
    """Runs a graph, and remembers the call that it is at and what each module was given and gave."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.node: fx.Node | None = None
        self.calls: list[tuple[fx.Node, Tensor | None, Tensor | None]] = []

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        value = super().run_node(n)
        if n.op == "call_module":
            given = self.env[n.args[0]] if isinstance(n.args[0], fx.Node) else None
            self.calls.append((n, _first(given), _first(value)))
        return value

    def at(self) -> str:
        return "the network" if self.node is None else name_of(self.node)


def _first(value: Any) -> Tensor | None:
    return next(iter(tensors(value)), None)


def _blame(original: nn.Module, plain: fx.GraphModule, images: Tensor, tolerance: float) -> ConvertError:
    """The first layer that is given what it is in the original and gives something else."""
    watch = _Watch(plain)
    watch.run(images)
    given: defaultdict[str, list[Tensor | None]] = defaultdict(list)
    gave: defaultdict[str, list[Tensor | None]] = defaultdict(list)

    def keep(at: defaultdict[str, list[Tensor | None]], path: str, value: Any) -> None:
        found = _first(value)
        at[path].append(None if found is None else found.clone())  # before the next layer changes it in place

    paths = dict(original.named_modules())
    for path, module in paths.items():
        module.register_forward_pre_hook(lambda _, args, path=path: keep(given, path, args))
        module.register_forward_hook(lambda _, args, output, path=path: keep(gave, path, output))
    original(images.clone())

    def differs(layer: str, what: str, gap: float) -> ConvertError:
        how = f"by {gap:.2g} of its largest sample" if gap < inf else "in its size"
        reason = f"{what} differs from the original's {how}, with phase 0 everywhere, no filter and its own borders"
        return ConvertError(layer, f"{reason}, for {len(images)} images {tuple(images.shape[2:])}")

    for node, x, y in watch.calls:
        path = str(node.target)
        if not gave[path]:
            continue
        gap = _gap_where_kept(x, given[path].pop(0))
        if gap > tolerance:
            source = node.args[0]
            while isinstance(source, fx.Node) and source.target is operator.getitem:
                source = source.args[0]
            if isinstance(source, fx.Node) and source.op != "placeholder" and str(source.target) not in paths:
                return differs(name_of(source), "its output", gap)
            return differs(path, "what it reads", gap)
        gap = _gap_where_kept(y, gave[path].pop(0))
        if gap > tolerance:
            return differs(path, "its output", gap)
    expected = tensors(original(images.clone()))
    pairs = zip_longest(tensors(_Watch(plain).run(images)), expected)
    outputs = next(node for node in plain.graph.nodes if node.op == "output").all_input_nodes
    layer = name_of(outputs[0]) if len(outputs) == 1 else "the network"
    return differs(layer, "its output", max(_gap(*pair) for pair in pairs))


def _gap_where_kept(y: Tensor | None, expected: Tensor | None) -> float:
    """Likewise, at the samples that the original has where a stride comes later."""
    if y is not None and expected is not None and y.dim() == expected.dim() > 2:
        steps = [-(-size // max(theirs, 1)) for size, theirs in zip(y.shape[2:], expected.shape[2:], strict=True)]
        y = y[(..., *(slice(None, None, max(step, 1)) for step in steps))]  # type: ignore[index]
    return _gap(y, expected)
