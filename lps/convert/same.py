"""The proof by running that a converted network is the function it was, but for its phases, filters and borders.

The original as it was handed in, and the converted network that keeps phase 0 everywhere, filters nothing and sees the
borders of the original, run on the same images in float64, also where their code asks for float32. Where they differ,
so does some layer, and it is named.
"""

import copy
import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, product, zip_longest
from math import inf, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..polyphase import Stride, components, phases, steps
from ..sampling import Downsample
from ..selection import Selection
from ..watch import tensors
from .check import COARSE, Size, drawn
from .layers import Align, Bordered, Entry
from .report import ConvertError, in_words
from .writes import name_of

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference relative to the largest sample; float32 where code of the network insists on it."""

CANCELLED = 1e-2
"""Below this part of the largest sample before, a map may be what sums left that cancelled."""

BATCHES = (2, 1)
"""Numbers of images; code may treat one apart."""


class _InFull(TorchDispatchMode):
    """Code that asks for a shorter float gets float64, whose rounding hides nothing and is no difference."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        short = isinstance(kwargs and kwargs.get("dtype"), torch.dtype) and kwargs["dtype"].is_floating_point
        return func(*args, **({**kwargs, "dtype": torch.float64} if short else kwargs or {}))


class _First(nn.Module):
    """What a layer of the original that strides keeps, as a sampling layer says it; in front of one, all of it."""

    def __init__(self, layer: Downsample) -> None:
        super().__init__()
        self.stride, self.strides = layer.stride, not isinstance(layer, Align)

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor, Selection]:
        z = x.new_zeros(x.shape[0], phases(self.stride, x.dim() - 2))
        z[:, 0] = 1
        kept = components(x, self.stride)[0] if self.strides else x
        return kept, Selection(z, z, z.argmax(1))


def require_sameness(
    model: nn.Module, converted: fx.GraphModule, otherwise: Mapping[str, nn.Module], example: Tensor, stride: Stride
) -> tuple[Size, list[str]]:
    """Size of images on which ``converted`` is the function that ``model`` is, and what there is to note.

    ``otherwise`` are, by their path, layers of the original for those that announce to be another function. Where the
    code takes small images they are tried first. Raises :class:`ConvertError` that names the first layer that differs.
    """
    example_size: Size = tuple(example.shape[2:])
    units = [s * max(1, 8 // s) for s in steps(stride, len(example_size))]
    first = 1 if max(units) > COARSE else 2
    small: list[Size] = [tuple((k + (axis > 0)) * n for axis, n in enumerate(units)) for k in (first, first + 1)]
    sizes = [*(size for size in small if prod(size) < prod(example_size)), example_size]
    found: tuple[float, ConvertError] | None = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        paths = {str(node.target) for node in converted.graph.nodes if node.op == "call_module"}
        again = tries = list(product(TOLERANCES, sizes))
        for dtype, size in tries:
            if (dtype, size) not in again:
                continue
            images = [batch.to(dtype) for batch in _images(example.shape[1], size)]
            with _InFull() if dtype == torch.float64 else nullcontext():
                original, runs = _original(model, images, paths)
                if original is None:
                    continue
                differs = _compare(runs, _plain(converted, otherwise, original, dtype), TOLERANCES[dtype])
            if differs is None:
                kind = f"{str(dtype).removeprefix('torch.')} images of {'x'.join(map(str, size))}"
                note = f"the code asks what it is given: on others than {kind} it may be another function"
                return size, [] if found is None else [note]
            if found is None:  # it may be that the code asks for the size or the type
                found = differs
                again = [
                    (dtype, example_size),
                    *((other, size) for other, least in TOLERANCES.items() if differs[0] > least),
                ]
    if found is not None:
        raise found[1]
    reason = f"on random images {example_size} it fails or is not finite, so nothing can be compared"
    raise ConvertError("the network", reason)


def _images(channels: int, size: Size) -> tuple[Tensor, ...]:
    """Batches of several signs, so that none of them hides what is done at the border of a map."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(BATCHES), channels, *size, generator=generator, dtype=torch.float64)
    images[1], images[2] = -images[1].abs(), images[2].abs()
    return images.split(BATCHES)


def _plain(
    converted: fx.GraphModule, otherwise: Mapping[str, nn.Module], original: nn.Module, dtype: torch.dtype
) -> fx.GraphModule:
    """A copy with the weights of the original that keeps phase 0, filters nothing and has its borders and sizes."""
    theirs, ours = (
        dict(chain(m.named_parameters(remove_duplicate=False), m.named_buffers(remove_duplicate=False)))
        for m in (original, converted)
    )
    parts = {id(t): t.to("cpu", dtype if t.is_floating_point() else t.dtype) for t in ours.values()}
    parts |= {id(t): theirs[name] for name, t in ours.items() if name in theirs}
    plain = copy.deepcopy(converted, parts).eval()
    for path, module in list(plain.named_modules(remove_duplicate=False)):
        if isinstance(module, Downsample):
            plain.set_submodule(path, _First(module))
        elif isinstance(module, Entry):
            plain.set_submodule(path, nn.Identity())
        elif isinstance(module, Bordered):
            module.padding, module.border = "zeros", replace(module.border, exact=True)
    for path, module in otherwise.items():
        plain.set_submodule(path, copy.deepcopy(module))
    return plain


class _Run(NamedTuple):
    """The outputs of the original for a batch of images, and what its modules were given and gave, call by call."""

    images: Tensor
    outputs: list[Tensor]
    calls: Mapping[str, list[tuple[Tensor | None, Tensor | None]]]


def _original(model: nn.Module, images: Sequence[Tensor], paths: Set[str]) -> tuple[nn.Module | None, list[_Run]]:
    """A copy of ``model`` in the type of the images and its runs; ``None`` where it does not take them."""
    for signs in (True, False):
        try:
            network = drawn(model, images[0][:1], signs)
        except Exception:
            break
        runs = [run for batch in images if (run := _run(network, batch, paths))]
        if runs and all(y.isfinite().all() for run in runs for y in run.outputs):
            return network, runs
    return None, []


def _run(network: nn.Module, images: Tensor, paths: Set[str]) -> _Run | None:
    calls = defaultdict[str, list[Any]](list)
    given: list[Tensor | None] = []  # to the modules that are running
    handles = []

    def copied(value: Any) -> Tensor | None:
        return next((found.clone() for found in tensors(value)), None)  # the next layer may change it in place

    for path, module in network.named_modules():
        if path in paths:

            def after(_: nn.Module, args: Any, output: Any, path: str = path) -> None:
                calls[path].append((given.pop(), copied(output)))

            handles.append(module.register_forward_pre_hook(lambda _, args: given.append(copied(args))))
            handles.append(module.register_forward_hook(after))
    try:
        return _Run(images, tensors(network(images.clone())), calls)
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()


def _compare(runs: Sequence[_Run], plain: fx.GraphModule, tolerance: float) -> tuple[float, ConvertError] | None:
    """How much the first layer that differs does, and what there is to say of it.

    Layers are compared too, so that a difference does not fade on its way through a network that damps its signal.
    """
    for run in runs:
        watch = _Watch(plain)
        try:
            found = tensors(watch.run(run.images))
        except Exception as error:
            layer = "the network" if watch.node is None else name_of(watch.node)
            where = f"on {len(run.images)} images {tuple(run.images.shape[2:])}"
            return inf, ConvertError(layer, f"what it became fails {where} ({in_words(error)})")
        outputs = [_gap(y, expected, watch.largest) for y, expected in zip_longest(found, run.outputs)]
        if any(gap > tolerance for gap in chain(outputs, watch.beside(run))):
            blamed = _blame(watch, run, max(outputs, default=0.0), tolerance)
            if blamed is not None:
                return blamed
    return None


def _largest(x: Tensor | None) -> float:
    return 0.0 if x is None or not x.numel() else float(x.abs().max())


def _gap(y: Tensor | None, expected: Tensor | None, largest: float) -> float:
    """Largest difference, relative to the largest sample of what is expected.

    Where sums cancel, what is left is rounding of the ``largest`` sample before.
    """
    if y is None or expected is None or y.shape != expected.shape:
        return inf
    difference = _largest(y.double() - expected.double())
    return difference / max(_largest(expected), CANCELLED * largest) if difference else 0.0


def _gap_where_kept(y: Tensor | None, expected: Tensor | None, largest: float) -> float:
    """Likewise, at the samples that the original has where a stride comes later."""
    if y is None or expected is None or y.dim() != expected.dim() or y.dim() < 3:
        return _gap(y, expected, largest)
    parts = (components(y, step)[0] for step in range(1, 1 + max(y.shape[2:])))
    return min((_gap(part, expected, largest) for part in parts if part.shape == expected.shape), default=inf)


class _Watch(fx.Interpreter):
    """Runs a graph, and remembers the call that it is at and what each module was given and gave."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.network, self.extra_traceback = network, False
        self.node: fx.Node | None = None
        self.largest = 0.0
        self.calls: list[tuple[fx.Node, Tensor | None, Tensor | None, float]] = []

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        value = super().run_node(n)
        if n.op == "call_module":
            given = self.env[n.args[0]] if isinstance(n.args[0], fx.Node) else None
            self.calls.append((n, _first(given), _first(value), self.largest))
            self.largest = max(self.largest, _largest(_first(value)))
        return value

    def beside(self, run: _Run) -> Iterator[float]:
        """How far what modules gave is from what those of the original that are called once did."""
        for node, _, y, largest in self.calls:
            (_, theirs), *others = run.calls.get(str(node.target), [(None, None)])
            if y is not None and theirs is not None and y.shape == theirs.shape and not others:
                yield _gap(y, theirs, largest)


def _first(value: Any) -> Tensor | None:
    return next(iter(tensors(value)), None)


def _blame(watch: _Watch, run: _Run, outputs: float, tolerance: float) -> tuple[float, ConvertError] | None:
    """The first layer that is given what it is in the original and gives something else, up to rounding of either."""

    def differs(layer: str, what: str, gap: float) -> tuple[float, ConvertError]:
        how = f"by {gap:.2g} of its largest sample" if gap < inf else "in its size"
        reason = f"{what} differs from the original's {how}, with phase 0 everywhere, no filter and its own borders"
        return gap, ConvertError(layer, f"{reason}, for {len(run.images)} images {tuple(run.images.shape[2:])}")

    def module(node: fx.Node) -> nn.Module | None:
        return plain.get_submodule(str(node.target)) if node.op == "call_module" else None

    plain, calls = watch.network, run.calls
    for node, x, y, largest in watch.calls:
        path, layer = str(node.target), module(node)
        theirs = calls.get(path, ())
        gaps = ((_gap_where_kept(y, gave, largest), _gap_where_kept(x, given, largest)) for given, gave in theirs)
        gap, read = min(gaps, default=(0.0, 0.0))
        if gap <= tolerance:
            continue
        if read <= tolerance or (read == inf and isinstance(layer, Bordered) and len(layer.border.pads) > 1):
            return differs(path, "its output", gap)
        source = node.args[0]
        while isinstance(source, fx.Node) and (source.target is operator.getitem or isinstance(module(source), _First)):
            source = source.args[0]
        if isinstance(source, fx.Node) and source.op != "placeholder" and str(source.target) not in calls:
            return differs(name_of(source), "its output", read)
        return differs(path, "what it reads", read)
    sources = next(node for node in plain.graph.nodes if node.op == "output").all_input_nodes
    layer_of = name_of(sources[0]) if len(sources) == 1 and str(sources[0].target) not in calls else "the network"
    return differs(layer_of, "its output", outputs) if outputs > tolerance else None
