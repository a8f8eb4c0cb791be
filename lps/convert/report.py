"""What a conversion did, and why one was refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod


class ConvertError(ValueError):
    """A network, or a part of it, that cannot be converted with a proof.

    >>> try:
    ...     lps.convert(torch.nn.Linear(3, 2))
    ... except lps.ConvertError as error:
    ...     print(error.layer, "|", error.reason)
    the network | it has no convolution, from which the images' channels are read: pass `example`

    ``layer`` is the path of the module in the model and ``reason`` says what stands in the way.
    """

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer, self.reason = layer, reason


def in_words(error: Exception) -> str:
    """An error of torch or of the network's code, in a line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@dataclass(frozen=True)
class Stride:
    """One stride of the original: where it was, and the sampling layer in its place.

    ``follows`` names the layers whose selections it takes over; it is empty for a layer that makes its own.
    """

    layer: str
    kind: str
    stride: int | tuple[int, ...]
    channels: int
    sampling: str
    follows: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """What :func:`lps.convert` did to a network.

    ``stride`` is what sizes have to be multiples of, one number where it is the same along all axes: the product of the
    strides from the images to the coarsest map, and to one that is pooled to a fixed number of windows times that.
    ``padded`` names the layers whose border changed, ``raised`` the upsampling layers that became LPUs, ``parameters``
    the new parameters with their sizes. ``checked`` are the sizes of the images and the number of circular shifts for
    which the outputs were compared and equal; ``None`` without circular padding, which leaves nothing to check.
    ``compared`` is the size of the images on which the network, with phase 0 everywhere, no filter and its own borders,
    was the original.
    """

    model: str
    method: str
    antialias: str
    placement: str
    padding: str
    stride: int | tuple[int, ...]
    strides: Sequence[Stride]
    raised: Mapping[str, tuple[str, ...]]
    padded: Sequence[str]
    pooled: Sequence[str]
    parameters: Mapping[str, tuple[int, ...]]
    notes: Sequence[str]
    checked: tuple[tuple[tuple[int, ...], ...], int] | None = None
    compared: tuple[int, ...] = ()

    def __str__(self) -> str:
        rows = [
            (s.layer, s.kind, str(s.stride), str(s.channels), f"as {', '.join(s.follows)}" if s.follows else "chooses")
            for s in self.strides
        ]
        rows += [(name, "upsampling", "", "", f"back by {', '.join(by)}") for name, by in self.raised.items()]
        titles = ("stride of", "kind", "stride", "channels", "phase")
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        lines = [
            f"{self.model}: method {self.method}, filter {self.antialias}, sampling {self.placement} convolutions, "
            f"{self.padding} padding, total stride {self.stride}",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (titles, *rows)),
            f"{self.padding} padding in {len(self.padded)} layers, sums over space made exact in {len(self.pooled)}",
        ]
        count = sum(map(prod, self.parameters.values()))
        lines.append(f"{count:,} new parameters" + (" to train" if count else ": works as it is, without training"))
        lines += self.notes
        size = "x".join(map(str, self.compared))
        lines.append(f"compared: with phase 0, no filter and its own borders, the original on images of {size}")
        if self.checked is not None:
            sizes, shifts = self.checked
            words = " and ".join("x".join(map(str, size)) for size in sizes)
            lines.append(f"checked: equal outputs under {shifts} circular shifts of {words}")
        return "\n".join(lines)
