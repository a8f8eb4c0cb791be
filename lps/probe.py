"""Finds a convolution backend of this machine with which a network is exactly equivariant.

The guarantees rest on convolutions that treat all positions alike. Those of :mod:`lps.exact.convolution` do with oneDNN
on a CPU; the Winograd and FFT algorithms that cuDNN may choose work on tiles and do not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .verify import Report, verify


@dataclass(frozen=True)
class Backend:
    """A choice of convolution algorithms; PyTorch makes it within the context ``flags()``."""

    name: str
    flags: Callable[[], AbstractContextManager[Any]]


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    mkldnn = cast(Any, torch.backends.mkldnn)
    before, mkldnn.enabled = mkldnn.enabled, enabled
    try:
        # without either, a convolution is one matrix product; NNPACK works on tiles
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        mkldnn.enabled = before


def _cudnn(**flags: bool) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: torch.backends.cudnn.flags(benchmark=False, deterministic=True, **flags)


BACKENDS: dict[str, tuple[Backend, ...]] = {
    "cpu": (
        Backend("oneDNN", lambda: _onednn(True)),
        Backend("PyTorch's own", lambda: _onednn(False)),
    ),
    "cuda": (
        Backend("cuDNN, deterministic, TF32", _cudnn(enabled=True, allow_tf32=True)),
        Backend("PyTorch's own", _cudnn(enabled=False, allow_tf32=False)),
        Backend("cuDNN, deterministic", _cudnn(enabled=True, allow_tf32=False)),
    ),
}
"""By type of device, in the order in which they are tried.

An H200 was exact with the first and the second for every network tried, in float32 and bfloat16, and with the third for
a few; the third is faster than the second, and will do where nothing is to be exact.
"""


@dataclass(frozen=True)
class Probe:
    """What :func:`probe` found: the backends tried, each with its report, the last of them exact if any is."""

    device: str
    tried: tuple[tuple[Backend, Report], ...]

    @property
    def backend(self) -> Backend | None:
        """The first exact backend; ``None`` where there is none, and exactness is not to be had."""
        backend, report = self.tried[-1]
        return backend if report.exact else None

    def __str__(self) -> str:
        lines = [
            f"{backend.name}: " + ("exact" if report.exact else f"not exact; first broken by {report.blame}")
            for backend, report in self.tried
        ]
        verdict = "no exact convolutions" if self.backend is None else f"exact with {self.backend.name}"
        return "\n".join([*lines, f"{self.device}: {verdict}"])


def probe(
    model: nn.Module,
    images: Tensor,
    *,
    shifts: int | Sequence[Sequence[int]] = 16,
    batch_size: int = 32,
) -> Probe:
    """Verify ``model`` with one backend after the other, on its device, until one is exact for all ``images``.

    >>> network = lps.ResNet(18, classes=10, sampling=lps.Sampling.named("aps"), stem="cifar", width=8)
    >>> found = lps.probe(network, torch.randn(1, 3, 16, 16), shifts=4)
    >>> found.backend is None or found.backend.name in ("oneDNN", "PyTorch's own")
    True

    Images ``(N, C, H, W)`` should have the size, and batches the size, that are used later: both decide which
    algorithms are chosen. Arguments and errors are those of :func:`lps.verify`; a device without a list of backends
    raises ``ValueError``. Use the answer as ``with probe(model, images).backend.flags(): ...``.
    """
    device = next(model.parameters(), images).device
    if device.type not in BACKENDS:
        raise ValueError(f"backends are known for {' and '.join(BACKENDS)}, the model is on {device}")
    tried: list[tuple[Backend, Report]] = []
    for backend in BACKENDS[device.type]:
        with backend.flags():
            tried.append((backend, verify(model, images, shifts=shifts, batch_size=batch_size)))
        if tried[-1][1].exact:
            break
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Probe(name, tuple(tried))
