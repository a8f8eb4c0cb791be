"""Down- and upsampling by polyphase components: LPD, LPU and everything they generalise (Secs. 4.1 and 4.3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast, get_args

from torch import Tensor, nn

from . import filters
from .exact.convolution import Padding
from .exact.fused import Filtered
from .exact.ties import Origin, put_back_phases
from .filters import AntiAlias, LowPass
from .polyphase import Stride, components, phases, require_divisible, require_maps, steps
from .selection import LearnedPhase, MaxNorm, Selection, choose

Source = Literal["filtered", "unfiltered"]

Method = Literal["baseline", "lpf", "ddac", "aps", "lps"]
"""The methods of the paper by their names in the tables."""


def require_source(select_from: str) -> None:
    """Raise ``ValueError`` for what is no :data:`Source`."""
    if select_from not in get_args(Source):
        raise ValueError(f"no select_from {select_from!r}: there are {', '.join(get_args(Source))}")


def _same(one: Stride, other: Stride) -> bool:
    """Are these strides alike? One number stands for all axes."""
    dims = max((len(s) for s in (one, other) if not isinstance(s, int | float)), default=1)
    return steps(one, dims) == steps(other, dims)


class Downsample(nn.Module):
    """Filter, then keep one polyphase component: ``(N, C, *space)`` to ``(N, C, *space / s)``.

    >>> down = lps.Downsample(lps.LearnedPhase(64, hidden=8), lps.LowPass(64, size=3)).eval()
    >>> y, selection = down(torch.randn(2, 64, 16, 16))
    >>> y.shape, selection.phase.shape
    (torch.Size([2, 64, 8, 8]), torch.Size([2]))

    ======== ===================== ==========================
    method   ``select``            ``antialias``
    ======== ===================== ==========================
    LPF      ``None``              ``LowPass``
    DDAC     ``None``              ``AdaptiveLowPass``
    APS      ``MaxNorm``           any, or ``None``
    LPD      ``LearnedPhase``      any, or ``None``
    ======== ===================== ==========================

    Without ``select`` phase 0 is kept (Eq. 4), unless a selection made elsewhere is handed in, as a shortcut does.
    ``select_from`` says whether the selection looks at the filtered or the unfiltered map.

    Where scores tie, as on a map of zeros, the choice follows the content of ``x``. A network whose branches share a
    choice hands in where ``x`` comes from, ``origin=Origin(images)`` for the first layer and then the
    ``selection.origin`` of the layer above: ties are then broken by the image, and every branch follows its shifts.

    ``select`` is any module from a map to a :class:`~lps.selection.Selection`. One whose ``forward`` takes ``origin``
    breaks its own ties by it. ``stride`` may differ along the axes: ``(1, 2)`` samples the columns. Raises
    ``ValueError`` where it does not divide a size of the map, and where a selection does not fit it.
    """

    def __init__(
        self,
        select: nn.Module | None = None,
        antialias: nn.Module | None = None,
        stride: Stride = 2,
        select_from: Source = "filtered",
    ) -> None:
        super().__init__()
        for name, part in (("select", select), ("antialias", antialias)):
            if not isinstance(part, nn.Module | None):
                raise ValueError(
                    f"{name} is {part!r}; expected a module, as lps.LearnedPhase(64, 8) or lps.LowPass(64, 3), or "
                    "None; from names, lps.Sampling.named makes layers"
                )
        require_source(select_from)
        if not _same(chosen := getattr(select, "stride", stride), stride):
            raise ValueError(
                f"the selection is for a stride of {chosen} and the layer for {stride}; give both the same"
            )
        self.select, self.antialias = select, antialias
        self.stride, self.select_from = stride, select_from

    def forward(
        self, x: Tensor, selection: Selection | None = None, origin: Origin | None = None
    ) -> tuple[Tensor, Selection | None]:
        """Return the kept component and the selection behind it (``None`` where phase 0 is kept without a choice)."""
        require_maps(x)
        h = self.antialias
        if selection is None and self.select is None:
            return components(x, self.stride)[0] if h is None else h(x, stride=self.stride), None  # Eq. (4)
        require_divisible(x, self.stride)
        filtered = self._filtered(x)
        if selection is None:
            selection, filtered = self._choose(x, filtered, origin)
        expected = (x.shape[0], phases(self.stride, x.dim() - 2))
        if selection.z.shape != expected:
            raise ValueError(
                f"features {tuple(x.shape)} need a selection {expected} and were handed one {tuple(selection.z.shape)}"
            )
        _require_stride(selection, self.stride)
        return filtered.component(selection.z, selection.phase, self.stride), selection  # Eqs. (7) and (17)

    def _filtered(self, x: Tensor) -> Filtered:
        """``h * x``; a low-pass filter is left for where its result is read."""
        if self.antialias is None or isinstance(self.antialias, LowPass):
            return Filtered(x, self.antialias)
        return Filtered(self.antialias(x))

    def _choose(self, x: Tensor, filtered: Filtered, origin: Origin | None) -> tuple[Selection, Filtered]:
        """What ``select`` makes of the map; one that takes ``blur`` filters it itself, and one that takes ``origin``
        breaks its own ties. In evaluation a map that was filtered for it is kept: its component has the same bits."""
        select = cast(nn.Module, self.select)
        accepted = _arguments(select)
        seen = Filtered(x) if self.select_from == "unfiltered" else filtered
        if "blur" in accepted and "origin" in accepted:
            return select(seen.x, blur=seen.left, origin=origin), filtered
        whole = seen.whole()
        if seen is filtered and not self.training:
            filtered = Filtered(whole)
        if "origin" in accepted:
            return select(whole, origin=origin), filtered
        selection = select(whole)
        if origin is not None and selection.lag is not None:
            selection = choose(selection.scores, whole, self.stride, origin)
        return selection, filtered


def _require_stride(selection: Selection, stride: Stride) -> None:
    """Strides (1, 4) and 2 have four phases alike; a mixture does not know which it is of."""
    if selection.origin is not None and not _same(kept := selection.origin.strides[-1], stride):
        raise ValueError(f"the selection was made at a stride of {kept}, and the layer has {stride}")


def _arguments(select: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that its ``forward`` takes."""
    code = getattr(type(select).forward, "__code__", None)
    return () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


class Upsample(nn.Module):
    """LPU: put features back where their downsampling took them from, then filter (Eqs. 24 and 25).

    >>> down, up = lps.Downsample(lps.MaxNorm()), lps.Upsample(lps.LowPass(8, size=3, gain=4))
    >>> y, selection = down(torch.randn(2, 8, 16, 16))
    >>> up(y, selection).shape
    torch.Size([2, 8, 16, 16])

    ``(N, C, *space)`` and the selection of the matching :class:`Downsample` to ``(N, C, *(s * space))``. The filter
    carries the gain ``s ** dims`` (Sec. 4.3). Where phases stay tied, as on a constant map, all of them are filled
    alike, so that the result moves with every shift of the input. Raises ``ValueError`` where the selection is of
    another batch or stride.
    """

    def __init__(self, antialias: nn.Module | None = None, stride: Stride = 2) -> None:
        super().__init__()
        self.antialias, self.stride = antialias, stride

    def forward(self, y: Tensor, selection: Selection) -> Tensor:
        require_maps(y)
        if selection is None:
            raise ValueError(
                "LPU got None for a selection: its Downsample kept phase 0 without a choice; give that Downsample a "
                "`select`, lps.LearnedPhase or lps.MaxNorm, or interpolate in the place of LPU"
            )
        count = phases(self.stride, y.dim() - 2)
        if selection.z.shape != (y.shape[0], count):
            raise ValueError(
                f"LPU got features {tuple(y.shape)}, which need a selection ({y.shape[0]}, {count}), "
                f"and a selection {tuple(selection.z.shape)}"
            )
        _require_stride(selection, self.stride)
        h, z, lag = self.antialias, selection.z, selection.lag
        if isinstance(h, LowPass) and h.padding == "circular":
            return put_back_phases(y, z, lag, h.kernel[:1].to(y.dtype), self.stride)
        u = put_back_phases(y, z, lag, None, self.stride)  # Eqs. (24) and (25)
        return u if h is None else h(u)


@dataclass(frozen=True)
class Sampling:
    """How a network samples: factories, from a number of channels, for the parts of each :class:`Downsample`.

    >>> sampling = lps.Sampling(
    ...     select=lambda channels: lps.LearnedPhase(channels, max(1, channels // 8)),
    ...     antialias=lambda channels: lps.LowPass(channels, size=3),
    ... )
    >>> sampling.layer(64)(torch.randn(2, 64, 16, 16))[0].shape
    torch.Size([2, 64, 8, 8])

    :meth:`named` builds the methods of the paper from their names.
    """

    select: Callable[[int], nn.Module] | None = None
    antialias: Callable[[int], nn.Module] | None = None
    stride: Stride = 2
    select_from: Source = "filtered"

    def __post_init__(self) -> None:
        for name, part in (("select", self.select), ("antialias", self.antialias)):
            if isinstance(part, nn.Module) or not (part is None or callable(part)):
                raise ValueError(
                    f"{name} is {part!r}; expected a function from a number of channels to a layer, as "
                    "lambda channels: lps.MaxNorm(), or None; from names, lps.Sampling.named makes a Sampling"
                )
        require_source(self.select_from)

    @classmethod
    def named(
        cls,
        method: Method,
        antialias: AntiAlias = "none",
        *,
        hidden_divisor: int = 8,
        learned: type[LearnedPhase] = LearnedPhase,
        groups: int | None = None,
        padding: Padding = "circular",
        select_from: Source = "filtered",
        stride: Stride = 2,
        dims: int = 2,
    ) -> "Sampling | None":
        """A row of the paper's tables by its names; ``None`` for the ``"baseline"``, whose convolutions are strided.

        >>> lps.Sampling.named("lps", "tri-3").layer(64)
        Downsample(
          (select): LearnedPhase(
            stride=2, padding='circular'
            (conv1): Conv2d(64, 8, kernel_size=(3, 3), stride=(1, 1))
            (conv2): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1))
          )
          (antialias): LowPass(size=3, padding='circular')
        )

        The logit networks of LPS, of class ``learned``, have ``channels / hidden_divisor`` hidden channels; ``groups``
        are those of Adapt-3. Raises ``ValueError`` for an unknown name, and for a filter that the method does not take.
        """
        if method not in get_args(Method):
            raise ValueError(f"no method {method!r}: there are {', '.join(get_args(Method))}")
        if not isinstance(hidden_divisor, int) or hidden_divisor < 1:
            words = "channels are divided by a whole number, hidden_divisor"
            raise ValueError(f"{words}: expected at least 1, got {hidden_divisor}")
        along = [axis for axis, s in enumerate(steps(stride, dims)) if s > 1]
        low_pass = filters.named(antialias, padding=padding, groups=groups, dims=dims, along=along or None)
        if method == "baseline":
            if low_pass is not None:
                raise ValueError("the baseline has no filter: with one it is called lpf or ddac")
            return None
        if method in ("lpf", "ddac"):
            if low_pass is None:
                raise ValueError(f"{method.upper()} is a filter: choose one of rect-2, tri-3, bin-5, adapt-3")
            if (method == "ddac") != (antialias == "adapt-3"):
                raise ValueError(f"{method.upper()} does not go with the filter {antialias}")
            return cls(None, low_pass, stride, select_from)
        if method == "aps":
            return cls(partial(_max_norm, stride=stride), low_pass, stride, select_from)
        select = partial(_learned, learned, hidden_divisor=hidden_divisor, stride=stride, padding=padding, dims=dims)
        return cls(select, low_pass, stride, select_from)

    def at(self, stride: Stride) -> "Sampling":
        """The same method at another stride; at stride 1 there is nothing to select, and its filter remains."""
        select = self.select
        if isinstance(select, partial) and "stride" in select.keywords:
            select = partial(select, stride=stride)
        return replace(self, stride=stride, select=None if _same(stride, 1) else select)

    def layer(self, channels: int, antialias: bool = True) -> Downsample:
        """A layer that makes its own choice."""
        select = None if self.select is None else self.select(channels)
        return Downsample(select, self._filter(channels) if antialias else None, self.stride, self.select_from)

    def shortcut(self, channels: int) -> Downsample:
        """A layer that follows the choice of the branch beside it."""
        return Downsample(None, self._filter(channels), self.stride, self.select_from)

    def _filter(self, channels: int) -> nn.Module | None:
        return None if self.antialias is None else self.antialias(channels)


def _max_norm(channels: int, stride: Stride) -> MaxNorm:
    return MaxNorm(stride)


def _learned(
    kind: type[LearnedPhase], channels: int, hidden_divisor: int, stride: Stride, padding: Padding, dims: int
) -> LearnedPhase:
    return kind(channels, max(1, channels // hidden_divisor), stride, padding, dims)
