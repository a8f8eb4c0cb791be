"""The proof by running: a converted network and circular shifts of random images."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..diagnose import Size
from ..polyphase import Stride, components, steps
from ..verify import verify
from ..watch import tensors
from .grids import Map, Step, space
from .layers import Spaced
from .plan import Plan
from .report import ConvertError
from .writes import refuse

COARSE = 64
"""Above this stride images to check with are as few multiples of it as can be: each takes gigabytes."""
CONSTANT = 0.1
"""Below this part of the mean variance of a map's channels, one is nearly constant."""


class _FirstPhase(fx.Interpreter):
    """A planned network that keeps phase 0 everywhere, on images of a size."""

    def __init__(self, plan: Plan, size: Size) -> None:
        super().__init__(_copied(plan.network, lambda x: x.to("meta")), garbage_collect_values=False, graph=plan.graph)
        self.plan, self.size, self.extra_traceback = plan, size, False
        self.steps = {step.node: step for step in plan.steps if not step.aligned}

    def stride(self, step: Step) -> Sequence[int]:
        return step.stride if step.now is None else cast(Sequence[int], self.env[step.now])

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        for step in self.plan.raised[n] if n in self.plan.raised and n not in self.plan.shuffled else ():
            args = (Spaced([int(max(s, 1 / s)) for s in self.stride(step)])(args[0]), *args[1:])
        return args, kwargs

    def run_node(self, n: fx.Node) -> Any:
        try:
            out = super().run_node(n)
        except Exception as error:
            refuse(n, f"on larger images, in a larger batch, it fails: {error}".partition("\n")[0])
        if n in self.steps:
            out = components(out, self.stride(self.steps[n]))[0]
        place = self.plan.places.get(n)
        if place is not None and place.grid is not None:
            expected = space(place.grid, self.size)
            for along, size in zip(place.axes, tensors(out)[0].shape, strict=True):
                if along and size != prod(expected[axis] for axis in along):
                    held = f"its code holds a size, {size} where images have {self.size}"
                    refuse(n, f"{held}, and there is no proof at another")
        # constants of the code lie elsewhere
        return fx.node.map_aggregate(out, lambda value: value.to("meta") if isinstance(value, Tensor) else value)


def require_any_size(plan: Plan, example: Tensor) -> None:
    """Raise :class:`ConvertError` at the first call that knows the size of ``example``, or the number of images."""
    count, channels, *size = example.shape
    sizes = [(2 + axis) * n for axis, n in enumerate(size)]
    larger = tuple(n + -n % s for n, s in zip(sizes, plan.stride, strict=True))
    with torch.no_grad():
        _FirstPhase(plan, larger).run(example.new_empty(count + 1, channels, *larger, device="meta"))


class Trial(NamedTuple):
    """How an image and shifted copies of it run: one by one or in a batch, on how many threads.

    ``given`` are the weights of the network, and not those that :func:`drawn` makes of untrained ones.
    """

    size: Size
    kind: Literal["noise", "photograph", "sparse", "flat"]
    alone: bool
    shifts: int
    layout: Literal["torch", "numpy", "channels last"]
    given: bool
    threads: int


def _trials(stride: Stride, dims: int, example: Size | None) -> Iterator[Trial]:
    """Each kind of image, two sizes and that of ``example``, alone and in a batch, on one thread and on many.

    The maps of one size fill the vectors of a CPU as long as they can, those of the other leave a rest: at the end of a
    row, and of a map, a CPU may take another way through a layer, which rounds otherwise.
    """
    each = steps(stride, dims)
    first, rows, more = (1, 2, 1) if max(each) > COARSE else (2, 3 if max(each) > 8 else 5, 2)
    full = tuple((first + (axis > 0)) * s * max(1, 16 // s) for axis, s in enumerate(each))
    rest = tuple((rows + more * (axis > 0)) * s for axis, s in enumerate(each))
    size = rest if example is None else tuple(n + -n % s for n, s in zip(example, each, strict=True))
    now, one = torch.get_num_threads(), 1
    every = max(now, int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or os.cpu_count() or 1))
    yield Trial(full, "noise", False, 4, "torch", given=False, threads=now)
    yield Trial(rest, "photograph", False, 2, "channels last", given=True, threads=one)
    yield Trial(rest, "sparse", True, 1, "numpy", given=False, threads=one)
    yield Trial(full, "flat", True, 1, "channels last", given=True, threads=now)
    yield Trial(size, "noise", True, 1, "torch", given=False, threads=every)


def _image(trial: Trial, channels: int, generator: torch.Generator) -> Tensor:
    """An image of its kind, ``(1, channels, *space)``."""
    x = torch.randn(1, channels, *trial.size, generator=generator)
    if trial.kind == "sparse":
        x *= torch.rand(x.shape, generator=generator) < 0.02
    elif trial.kind == "flat":
        corner: Any = (..., *(slice(n // 2 + 1) for n in trial.size))
        x[:] = 0.5
        x[corner] = 1.0
    elif trial.kind == "photograph":
        for axis, reach in product(range(2, x.dim()), (1, 2, 4, 8)):
            x = x + x.roll(reach, axis)
        x = (255 * (x - x.amin()) / (x.amax() - x.amin())).round() / 255
    return x


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """``x`` with its channels last in memory, as a picture is; one image that was made so lies as no batch does."""
    if layout == "torch":
        return x.contiguous()
    if layout == "numpy" and len(x) == 1:
        return x[0].movedim(0, -1).contiguous().movedim(-1, 0)[None]
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def require_invariance(
    network: nn.Module,
    channels: int,
    stride: Stride,
    dims: int,
    places: Sequence[Map | None],
    example: Size | None = None,
) -> tuple[tuple[Size, ...], int]:
    """Sizes of images and number of circular shifts for which all outputs of ``network`` are equal.

    Outputs that are no maps by ``places`` have to be equal, bit for bit, those of the size of the images to move with
    them, and smaller ones to move by some shift. The size of ``example``, where there is one, is tried as well. Raises
    :class:`ConvertError` that names the first layer that breaks the guarantee.
    """
    generator = torch.Generator().manual_seed(0)
    trials, threads = list(_trials(stride, dims, example)), torch.get_num_threads()
    double = any(p.dtype == torch.float64 for p in network.parameters())
    given = _copied(network, lambda x: x.cpu().float() if double and x.is_floating_point() else x.cpu())
    size = trials[0].size
    try:
        untrained = drawn(network, torch.randn(1, channels, *size, generator=generator))
        for trial in trials:
            size = trial.size
            torch.set_num_threads(trial.threads)
            _require_invariance(given if trial.given else untrained, trial, channels, places, generator)
    except ConvertError:
        raise
    except Exception as error:
        reason = f"what it became fails on random images {size}: {error}".partition("\n")[0]
        raise ConvertError("the network", reason) from error
    finally:
        torch.set_num_threads(threads)
    return tuple(dict.fromkeys(trial.size for trial in trials)), sum(trial.shifts for trial in trials)


def _require_invariance(
    network: nn.Module, trial: Trial, channels: int, places: Sequence[Map | None], generator: torch.Generator
) -> None:
    image = _image(trial, channels, generator)
    image = image.to(next((p.dtype for p in network.parameters()), image.dtype))
    axes = tuple(range(2, image.dim()))
    shifts = [[int(torch.randint(n, (), generator=generator)) for n in trial.size] for _ in range(trial.shifts)]
    copies = [_laid_out(image, trial.layout)]
    copies += [copies[0].roll(shift, axes) for shift in shifts]
    runs = copies if trial.alone else [_laid_out(torch.cat(copies), trial.layout)]
    with torch.inference_mode():
        outputs = [torch.cat(parts) for parts in zip(*(tensors(network(run)) for run in runs), strict=True)]
    for y, place in zip(outputs, places, strict=True):
        if not y.isfinite().all():
            raise ConvertError("the network", "its outputs on random images are not finite, so nothing can be checked")
        for shift, moved in zip(shifts, y[1:], strict=True):
            if not _moves(y[0], moved, place, shift, trial.size):
                raise _blame(network, copies[0], shift)


def _copied(network: nn.Module, made: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy for evaluation with weights and buffers ``made`` of those of ``network``, or the same."""
    with torch.no_grad():
        parts: dict[int, Tensor] = {
            id(p): nn.Parameter(made(p).detach(), requires_grad=False) for p in network.parameters()
        }
        parts |= {id(b): made(b) for b in network.buffers()}
    return copy.deepcopy(network, parts).eval()


def drawn(network: nn.Module, images: Tensor, signs: bool = False) -> nn.Module:
    """A copy on the CPU in the type of ``images`` in which no untrained weight hides a branch, for evaluation.

    Weights that are all alike, as those of a zero-initialised branch, are drawn, with both ``signs`` or above zero, and
    batch norms that have seen nothing get the statistics of ``images``, in which no channel is nearly constant: dozens
    of norms that make up for that, one behind the other, would let other images grow beyond all numbers.
    """
    generator = torch.Generator().manual_seed(0)

    def made(x: Tensor) -> Tensor:
        if isinstance(x, nn.Parameter) and _alike(x) and (x.numel() > 1 or not x.any()):
            value = 0.5 + torch.rand(x.shape, generator=generator)
            if signs:
                value *= 1 - 2 * torch.randint(2, x.shape, generator=generator)
            return value.to(images.dtype)
        x = x.cpu().to(images.dtype) if x.is_floating_point() else x.cpu()
        return x if isinstance(x, nn.Parameter) else x.clone()

    network = _copied(network, made)
    norms = [norm for norm in network.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
    unseen = [norm for norm in norms if _alike(cast(Tensor, norm.running_mean))]
    with torch.no_grad():
        for norm in unseen:
            norm.train().momentum = 1.0
        network(torch.cat([images, images.flip(-1)]))
        for norm in unseen:
            variance = cast(Tensor, norm.running_var)
            variance.clamp_(min=CONSTANT * variance.mean())
    return network.eval()


def _alike(values: Tensor) -> bool:
    flat = values.flatten()
    return all(bool((part == flat[:1]).all()) for part in (flat[:100], flat))


def _moves(y: Tensor, moved: Tensor, place: Map | None, shift: list[int], size: Size) -> bool:
    """Is ``moved`` what the output ``y`` at ``place`` is, or becomes by a ``shift`` of the images?"""
    if torch.equal(y, moved):
        return True
    if place is None or place.grid is None:
        return False
    samples = space(place.grid, size)
    strides = [Fraction(n, m) for n, m in zip(size, samples, strict=True)]
    for axis, along in reversed(list(enumerate(place.axes[1:]))):
        if len(along) > 1:
            y, moved = (part.unflatten(axis, [samples[a] for a in along]) for part in (y, moved))
    images = [axis for along in place.axes[1:] for axis in along or (None,)]
    axes = [i for i, axis in enumerate(images) if axis is not None]
    # a map of another size moves by as much as its phases say: some whole number of samples, mostly none or one more
    known = [int(by // s) for by, s in zip(shift, strides, strict=True)]
    more = [(0,) * len(known)] if max(strides) <= 1 else sorted(product(*map(range, samples)), key=max)
    every = ([by + n for by, n in zip(known, further, strict=True)] for further in more)
    return any(torch.equal(y.roll([by[cast(int, images[i])] for i in axes], axes), moved) for by in every)


def _blame(network: nn.Module, image: Tensor, shift: list[int]) -> ConvertError:
    """Names the layer that breaks the guarantee, where it is one."""
    where = f"under the circular shift {tuple(shift)} of images {tuple(image.shape[2:])}"
    try:
        report = verify(network, image, shifts=[shift])
    except ValueError:
        return ConvertError("the network", f"outputs differ {where}")
    found, broken = f"outputs differ by {report.difference:.2g} {where}", report.broken
    return ConvertError((broken and broken.layer) or "the network", f"{found}: {broken}" if broken else found)
