"""The proof by running: a converted network and circular shifts of random images."""

import copy
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..verify import verify
from .plan import Plan
from .report import ConvertError
from .values import tensors

SHIFTS = 6
"""An odd number of images, so that they lie differently in memory."""

Size = tuple[int, ...]


class _EveryPosition(fx.Interpreter):
    """A planned network before it samples: each of its maps has the size of the images."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(copy.deepcopy(plan.network).to("meta").eval(), graph=plan.graph)
        self.plan = plan
        self.size: Size = ()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.size = tuple(args[0].shape[2:])
        return super().run(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        try:
            out = super().run_node(n)
        except Exception as error:
            self.plan.refuse(n, f"on images twice as large, in a larger batch, it fails: {error}".partition("\n")[0])
        place = self.plan.places.get(n)
        found = tuple(tensors(out)[0].shape[axis] for axis in place.axes) if place else self.size
        if found != self.size:
            self.plan.refuse(
                n, f"its code holds a size, {found} where images have {self.size}, and there is no proof at another"
            )
        return out


def require_any_size(plan: Plan, example: Tensor) -> None:
    """Raise :class:`ConvertError` at the first call that knows the size of ``example``, or the number of images."""
    count, channels, *size = example.shape
    with torch.no_grad():
        _EveryPosition(plan).run(example.new_empty(count + 1, channels, *(2 * n for n in size), device="meta"))


def _sizes(stride: int, dims: int) -> tuple[Size, Size]:
    """Two sizes: one whose maps fill the vectors of a CPU as long as they can, and one whose maps leave a rest.

    At the end of a row, and of a map, a CPU may take another way through a layer, which rounds otherwise.
    """
    full, rows = stride * max(1, 16 // stride), 3 if stride > 8 else 5
    return (2 * full, *(3 * full,) * (dims - 1)), (rows * stride, *((rows + 2) * stride,) * (dims - 1))


def require_invariance(network: nn.Module, channels: int, stride: int, dims: int) -> tuple[tuple[Size, ...], int]:
    """Sizes of images and number of circular shifts for which all outputs of ``network`` are equal.

    Vectors have to be equal, bit for bit; maps of the size of the images to move with them, and smaller ones to move by
    some shift. Untrained weights are :func:`drawn` for this. Raises :class:`ConvertError` that names the first layer
    that breaks the guarantee.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = _sizes(stride, dims)
    images = [torch.randn(1, channels, *size, generator=generator) for size in sizes]
    network = drawn(network, images[0])
    for image in images:
        _require_invariance(network, image, generator)
    return sizes, SHIFTS


def _require_invariance(network: nn.Module, image: Tensor, generator: torch.Generator) -> None:
    size = tuple(image.shape[2:])
    shifts = [[int(torch.randint(n, (), generator=generator)) for n in size] for _ in range(SHIFTS)]
    axes = tuple(range(2, image.dim()))
    batch = torch.cat([image, *(image.roll(shift, axes) for shift in shifts)])
    with torch.inference_mode():
        outputs = tensors(network(batch))
    for y in outputs:
        if not y.isfinite().all():
            raise ConvertError("the network", "its outputs on random images are not finite, so nothing can be checked")
        for shift, moved in zip(shifts, y[1:], strict=True):
            if not _moves(y[0], moved, shift, size):
                raise ConvertError(*_blame(network, image, shift))


def drawn(network: nn.Module, images: Tensor, signs: bool = False) -> nn.Module:
    """A copy on the CPU in the type of ``images`` in which no untrained weight hides a branch, for evaluation.

    Weights that are all alike, as those of a zero-initialised branch, are drawn, with both ``signs`` or above zero, and
    batch norms that have seen nothing get the statistics of ``images``.
    """
    network = copy.deepcopy(network).cpu().to(images.dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            if _alike(p) and (p.numel() > 1 or not p.any()):
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
                if signs:
                    p.mul_(1 - 2 * torch.randint(2, p.shape, generator=generator))
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        fresh = [norm for norm in norms if norm.running_mean is not None and _alike(norm.running_mean)]
        momenta = [norm.momentum for norm in fresh]
        for norm in fresh:
            norm.train()
            norm.momentum = 1.0
        network(torch.cat([images, images.flip(-1)]))
        for norm, momentum in zip(fresh, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    return network


def _alike(values: Tensor) -> bool:
    flat = values.flatten()
    return all(bool((part == flat[0]).all()) for part in (flat[:100], flat))


def _moves(y: Tensor, moved: Tensor, shift: list[int], size: tuple[int, ...]) -> bool:
    if torch.equal(y, moved):
        return True
    space = tuple(y.shape[1:])
    axes = tuple(range(1, y.dim()))
    if space == size:
        return torch.equal(y.roll(shift, axes), moved)
    # a map of another size moves by as much as its phases say: some whole number of samples
    return bool(space) and any(torch.equal(y.roll(by, axes), moved) for by in product(*map(range, space)))


def _blame(network: nn.Module, image: Tensor, shift: list[int]) -> tuple[str, str]:
    """Which layer to name, and why."""
    where = f"under the circular shift {tuple(shift)} of images {tuple(image.shape[2:])}"
    try:
        report = verify(network, image, shifts=[shift])
    except ValueError:
        return "the network", f"outputs differ {where}"
    found, broken = f"outputs differ by {report.difference:.2g} {where}", report.broken
    return ("the network", found) if broken is None else (broken.layer or "the network", f"{found}: {broken}")
