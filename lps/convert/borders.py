"""What the windows of the original see beyond its maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Pad(NamedTuple):
    """Samples that the original puts around a map; ``counts`` says whether an average divides by their number too."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0
    counts: bool = True

    def around(self, x: Tensor) -> Tensor:
        amounts = flat_pads(self.before, self.after)
        if not any(amounts):
            return x
        return F.pad(x, amounts, self.mode, self.value if self.mode == "constant" else None)


@dataclass(frozen=True)
class Border:
    """The paddings in front of a layer, from the first to its own, and ``fill`` beyond them.

    A converted layer keeps the size of its map. An ``exact`` one has the size that the original had, for which
    ``ceil`` are the strides of a pooling in ``ceil_mode``.
    """

    pads: tuple[Pad, ...] = ()
    fill: float = 0.0
    ceil: tuple[int, ...] = ()
    exact: bool = field(default=False, compare=False)

    @property
    def before(self) -> tuple[int, ...]:
        """How far in front of the map the first window begins."""
        return tuple(map(sum, zip(*(pad.before for pad in self.pads), strict=True)))

    def space(self, x: Tensor, reach: Sequence[int], stride: Sequence[int]) -> list[int]:
        """Size of the output, for windows that span ``reach`` samples beside their first."""
        if not self.exact:
            return [size // s for size, s in zip(x.shape[2:], stride, strict=True)]
        out = []
        for axis, (size, span) in enumerate(zip(x.shape[2:], reach, strict=True)):
            padded = size + sum(pad.before[axis] + pad.after[axis] for pad in self.pads)
            last = padded - span - 1
            if self.ceil:  # the last window has to begin in front of the padding behind the map
                step = self.ceil[axis]
                last = step * -(-last // step)
                last -= step * (last >= padded - self.pads[-1].after[axis])
            out.append(last // stride[axis] + 1)
        return out

    def around(self, x: Tensor, after: Sequence[int]) -> Tensor:
        """``x`` with its border, which at the far ends is made ``after`` samples wide."""
        wanted = [first + size + last for first, size, last in zip(self.before, x.shape[2:], after, strict=True)]
        for pad in self.pads:
            x = pad.around(x)
        missing = [size - found for size, found in zip(wanted, x.shape[2:], strict=True)]
        return F.pad(x, flat_pads((0,) * len(missing), missing), value=self.fill) if any(missing) else x

    def counted(self, x: Tensor, after: Sequence[int]) -> Tensor:
        """Ones where a sample of ``x`` with its border counts in an average, else zeros: ``(1, 1, *space)``."""
        pads = tuple(pad._replace(mode="constant", value=float(pad.counts)) for pad in self.pads)
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        return replace(self, pads=pads, fill=0.0).around(ones, after)


def flat_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """In the order of ``F.pad``: the last axis first."""
    return [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
