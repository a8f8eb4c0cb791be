"""Lemma 1 and Claims 1 to 4, tried on the real layers: every circular shift, random and adversarial maps.

The circular shifts of a map form a finite group, so a statement about shifts is tried on all of it. The paper
states its results for one dimension, stride 2 and a shift by one; here they are tried for any number of axes,
any stride and any shift ``d``. In that form they read

- Lemma 1: ``Poly(T^d x)_k = T^q Poly(x)_r`` with ``k + d = s q + r`` along each axis,
- Eq. (11): ``p(pi(k) | T^d x) = p(k | x)`` with ``pi(k) = (k - d) mod s``.

``T`` is the paper's shift, ``T x[n] = x[n + 1]``. What is computed by moving samples about is compared for
equality, in every dtype; what passes through a convolution is compared within :data:`TOLERANCE`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..convolution import CONV, Padding
from ..filters import LowPass
from ..polyphase import circular_shift, merge, offsets, polyphase
from ..sampling import Downsample, Upsample
from ..selection import LearnedPhase, MaxNorm, Selection, choose

EXACT = 0.0
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}
"""Largest accepted difference, relative to the largest sample, where a convolution is involved, by dtype of
the map.

Logits and norms are never computed in half precision, so the values for half precision are those of float32.
Two scores that are closer than this are a tie.
"""

CHANNELS, HIDDEN = 2, 4
SHAPE_NAME = {1: "1-D", 2: "2-D", 3: "3-D"}


class Grid(NamedTuple):
    """A stride and the spatial sizes of the maps it is tried on; the stride divides each size."""

    stride: int
    space: tuple[int, ...]

    @property
    def dims(self) -> int:
        return len(self.space)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.space))} with stride {self.stride}"


GRIDS = (Grid(2, (12,)), Grid(3, (12,)), Grid(2, (8, 8)), Grid(3, (6, 9)))
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tally:
    """How many of ``tried`` cases failed, and the ``worst`` difference among all of them (``inf``: a wrong
    phase)."""

    tried: int = 0
    failed: int = 0
    worst: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.tried + other.tried, self.failed + other.failed, max(self.worst, other.worst))

    @staticmethod
    def of(errors: Tensor, tolerance: float) -> "Tally":
        """Count the entries of ``errors`` that are above ``tolerance`` or not a number."""
        errors = torch.where(errors.isnan(), torch.inf, errors)
        worst = float(errors.max()) if errors.numel() else 0.0
        return Tally(errors.numel(), int((errors > tolerance).sum()), worst)

    def __str__(self) -> str:
        return f"{self.tried:>8,} tried {self.failed:>8,} failed   worst {self.worst:.1e}"


@dataclass(frozen=True)
class Check:
    """What trying one statement gave.

    ``cases`` counts by kind of input. ``ties`` counts apart the inputs whose best scores agree: no choice
    among equal scores is determined by them, and the statements assume that one is largest. ``broken`` counts
    variants in which one assumption is dropped; each of them must fail somewhere, or the check shows nothing.
    """

    item: str
    statement: str
    scope: str
    cases: Mapping[str, Tally]
    ties: Mapping[str, Tally]
    broken: Mapping[str, Tally]

    @property
    def total(self) -> Tally:
        return sum(self.cases.values(), Tally())

    @property
    def tried(self) -> int:
        return self.total.tried

    @property
    def failed(self) -> int:
        return self.total.failed

    @property
    def worst(self) -> float:
        return self.total.worst

    @property
    def tied(self) -> Tally:
        return sum(self.ties.values(), Tally())

    @property
    def holds(self) -> bool:
        """No case failed, some were tried, and every broken variant failed."""
        return self.tried > 0 and self.failed == 0 and all(tally.failed > 0 for tally in self.broken.values())

    def __str__(self) -> str:
        parts = {
            "": self.cases,
            "ties, counted apart": self.ties,
            "broken variants, each must fail": self.broken,
        }
        lines = [f"{self.item} {'holds' if self.holds else 'FAILS'}: {self.statement}", self.scope]
        for title, part in parts.items():
            if part:
                lines += [title] * bool(title) + [f"  {name:<42}{tally}" for name, tally in part.items()]
        return "\n".join(lines)


# Shifts, and what they do to phases -------------------------------------------------------------------------


def advance(x: Tensor, shift: Sequence[int]) -> Tensor:
    """The paper's ``T^d x``: ``x[n + d]`` for maps ``(N, C, *space)`` and a ``shift`` ``d`` along each
    axis."""
    return circular_shift(x, [-d for d in shift])


def all_shifts(space: Sequence[int]) -> list[tuple[int, ...]]:
    """Every circular shift of a map of this size; the first is none at all."""
    return list(product(*map(range, space)))


def orbit(x: Tensor) -> Tensor:
    """All circular shifts of ``x`` ``(N, C, *space)``: ``(S, N, C, *space)`` in the order of
    :func:`all_shifts`."""
    return torch.stack([advance(x, shift) for shift in all_shifts(x.shape[2:])])


def lemma_source(shift: Sequence[int], stride: int) -> list[tuple[int, tuple[int, ...]]]:
    """Lemma 1, one entry for each phase ``k``: the phase ``r`` and the shift ``q`` with ``k + d = s q +
    r``."""
    dims = len(shift)
    number = {offset: k for k, offset in enumerate(offsets(stride, dims))}
    sources = []
    for offset in offsets(stride, dims):
        carry, rest = zip(*(divmod(k + d, stride) for k, d in zip(offset, shift, strict=True)), strict=True)
        sources.append((number[rest], carry))
    return sources


def permutation(shift: Sequence[int], stride: int) -> list[int]:
    """``pi`` of Eq. (11): component ``k`` of ``x`` reappears as component ``pi[k]`` of ``T^d x``."""
    pi = [0] * stride ** len(shift)
    for phase, (source, _) in enumerate(lemma_source(shift, stride)):
        pi[source] = phase
    return pi


def components_by_definition(x: Tensor, stride: int) -> Tensor:
    """Eq. (6) written out, ``Poly(x)_k[n] = x[s n + k]``: ``(N, P, C, *space / s)``."""
    cuts: list[tuple[Any, ...]] = [
        (..., *(slice(k, None, stride) for k in offset)) for offset in offsets(stride, x.dim() - 2)
    ]
    return torch.stack([x[cut] for cut in cuts], 1)


def largest_difference(a: Tensor, b: Tensor) -> Tensor:
    """Largest absolute difference of each sample, ``(N, ...)`` to ``(N,)``, in float64."""
    return (a.double() - b.double()).abs().flatten(1).amax(1)


def downsampling_errors(y: Tensor, space: Sequence[int], stride: int) -> Tensor:
    """How far each output is from shift equivariance as Eq. (1) defines it, ``(S, N, C, *space / s)`` to
    ``(S, N)``.

    ``y[i]`` is the output for the ``i``-th shift ``d``. It has to be ``y[0]`` shifted by ``d / s`` rounded
    down or up along each axis; the difference to the nearest of these is returned. Nothing is asked of the
    layer.
    """
    errors = []
    for output, shift in zip(y, all_shifts(space), strict=True):
        rounded = product(*({d // stride, -(-d // stride)} for d in shift))
        errors.append(torch.stack([largest_difference(output, advance(y[0], q)) for q in rounded]).amin(0))
    return torch.stack(errors)


def equivariance_errors(u: Tensor) -> Tensor:
    """How far ``u[i]`` is from ``T^d u[0]`` for the ``i``-th shift ``d``: ``(S, N, C, *space)`` to ``(S,
    N)``."""
    shifts = all_shifts(u.shape[3:])
    return torch.stack([largest_difference(out, advance(u[0], d)) for out, d in zip(u, shifts, strict=True)])


def hard_phase(selection: Selection) -> Tensor:
    """The phases ``(N,)`` of a hard selection; ``ValueError`` for a mixture, which has none."""
    if selection.phase is None:
        raise ValueError("a mixture of components has no single phase; put the layer into evaluation mode")
    return selection.phase


def is_tie(scores: Tensor, tolerance: float) -> Tensor:
    """Whether the two best of the ``scores`` ``(N, P)`` agree up to rounding: ``(N,)`` bool."""
    best = scores.double().topk(2, 1).values
    return best[:, 0] - best[:, 1] <= tolerance * scores.double().abs().amax(1)


# Inputs and layers ------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """Maps ``x`` ``(N, C, *space)`` and the kind of each."""

    kinds: list[str]
    x: Tensor


def random_inputs(grid: Grid, dtype: torch.dtype, draws: int, seed: int, channels: int = CHANNELS) -> Inputs:
    """``draws`` normal maps ``(draws, C, *space)``; the same seed gives the same maps in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(draws, channels, *grid.space, generator=generator, dtype=torch.float64)
    return Inputs(["random"] * draws, x.to(dtype))


def adversarial_inputs(grid: Grid, dtype: torch.dtype, seed: int, channels: int = CHANNELS) -> Inputs:
    """Maps on which a selection is in danger: ties of every sort, one sample only, the ends of the dtype's
    range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    stride, phases = grid.stride, grid.stride**grid.dims
    small = tuple(n // stride for n in grid.space)
    one = normal(channels, *small)
    axes = tuple(range(1, grid.dims + 1))
    order = [torch.randperm(one[0].numel(), generator=generator) for _ in range(phases)]
    level = torch.arange(1, phases + 1, dtype=torch.float64).view(1, -1, 1, *(1,) * grid.dims)
    impulse = torch.zeros(1, channels, *grid.space, dtype=torch.float64)
    impulse.view(-1)[impulse[0, 0].numel() // 2 + 1] = 1
    half = torch.finfo(dtype).bits == 16
    kinds = {
        "small integers (frequent ties)": torch.randint(
            -1, 2, (4, channels, *grid.space), generator=generator
        ).double(),
        "huge": normal(2, channels, *grid.space) * (1e4 if half else 1e30),
        "tiny": normal(2, channels, *grid.space) * (1e-6 if half else 1e-30),
        "negative": -normal(2, channels, *grid.space).abs(),
        "constant": torch.full((1, channels, *grid.space), 0.7, dtype=torch.float64),
        "period of one stride": merge(level.expand(1, phases, channels, *small), stride),
        "impulse": impulse,
        "components equal up to a shift": merge(
            torch.stack([one.roll([k] * grid.dims, axes) for k in range(phases)])[None], stride
        ),
        "components with the same values, reordered": merge(
            torch.stack([one.flatten(1)[:, p].view_as(one) for p in order])[None], stride
        ),
    }
    names = [kind for kind, maps in kinds.items() for _ in maps]
    return Inputs(names, torch.cat(list(kinds.values())).to(dtype))


def inputs(grid: Grid, dtype: torch.dtype, draws: int, seed: int) -> Inputs:
    """Random and adversarial maps together."""
    random, adversarial = random_inputs(grid, dtype, draws, seed), adversarial_inputs(grid, dtype, seed)
    return Inputs(random.kinds + adversarial.kinds, torch.cat([random.x, adversarial.x]))


class SharedRule(nn.Module):
    """Eq. (20) with any function of one component as ``f_theta``: ``(N, C, *space)`` to a hard Selection.

    ``f`` takes components ``(N, C, *space / s)`` to logits ``(N,)``.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], stride: int) -> None:
        super().__init__()
        self.f, self.stride = f, stride

    def forward(self, x: Tensor) -> Selection:
        logits = torch.stack([self.f(component) for component in polyphase(x, self.stride).unbind(1)], 1)
        return choose(logits, x, self.stride)


def learned(grid: Grid, dtype: torch.dtype, seed: int, padding: Padding = "circular") -> LearnedPhase:
    """LPD's choice with random weights, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = LearnedPhase(CHANNELS, HIDDEN, grid.stride, padding, grid.dims)
    return layer.to(torch.promote_types(dtype, torch.float32)).eval().requires_grad_(False)


def dead(grid: Grid, dtype: torch.dtype, seed: int) -> LearnedPhase:
    """LPD's choice with every ReLU at zero: all logits tie, whatever the input."""
    layer = learned(grid, dtype, seed)
    for name, value in (("weight", 0.0), ("bias", -1.0)):
        nn.init.constant_(layer.conv1.get_parameter(name), value)
    return layer


def norm_of_order(p: float) -> Callable[[Tensor], Tensor]:
    """The l_p norm of a component, ``(N, C, *space)`` to ``(N,)`` float64."""
    return lambda component: torch.linalg.vector_norm(component.double().flatten(1), p, dim=1)


def absolute_sum_rule(stride: int, dims: int, channels: int = CHANNELS) -> LearnedPhase:
    """LPD's own network, Eq. (23), with weights set so that its logit is the l1 norm over the component's
    size.

    ``relu(x) + relu(-x) = |x|``, so ``2 C`` hidden channels suffice.
    """
    layer = LearnedPhase(channels, 2 * channels, stride, dims=dims).eval().requires_grad_(False)
    centre: tuple[Any, ...] = (..., *(1,) * dims)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    layer.conv1.weight[centre] = torch.cat([torch.eye(channels), -torch.eye(channels)])
    layer.conv2.weight[centre] = 1.0
    return layer


def positive_part_rule(stride: int, dims: int, channels: int = CHANNELS) -> LearnedPhase:
    """LPD's own network with weights set so that its logit is the mean of ``relu(x)``: no norm, as the sign
    counts."""
    layer = absolute_sum_rule(stride, dims, channels)
    layer.conv1.weight[channels:] = 0.0
    return layer


class Mixed(nn.Module):
    """The relaxed choice of Eq. (17) without noise: ``z = softmax(scores)``, no component alone."""

    def __init__(self, select: nn.Module) -> None:
        super().__init__()
        self.select = select

    def forward(self, x: Tensor) -> Selection:
        scores = self.select(x).scores
        return Selection(scores, scores.softmax(1), None)


def trials(grid: Grid, dtype: torch.dtype, draws: int, seed: int) -> Iterator[tuple[Downsample, Inputs]]:
    """APS and LPD, each with the maps to try it on; behind Tri-3 too, where the dtype is a full one."""
    stride, everything = grid.stride, inputs(grid, dtype, draws, seed)
    yield Downsample(MaxNorm(stride).eval(), stride=stride), everything
    yield Downsample(learned(grid, dtype, seed), stride=stride), everything
    random = random_inputs(grid, dtype, draws, seed)
    yield Downsample(dead(grid, dtype, seed), stride=stride), Inputs(["all ReLUs dead"] * draws, random.x)
    if torch.finfo(dtype).bits >= 32:
        blur = LowPass(CHANNELS, 3, dims=grid.dims)
        yield Downsample(MaxNorm(stride).eval(), blur, stride), everything
        yield Downsample(learned(grid, dtype, seed + 1), blur, stride, "unfiltered"), everything


# The statements ---------------------------------------------------------------------------------------------


class _Counter:
    """Tallies by name, in the order in which names first appear."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = defaultdict(Tally)

    def add(self, name: str, errors: Tensor, tolerance: float) -> None:
        if errors.numel():
            self.tallies[name] += Tally.of(errors, tolerance)

    def by_kind(self, kinds: Sequence[str], errors: Tensor, tolerance: float, among: Tensor | None = None) -> None:
        """Count ``errors`` ``(S, N)`` under the kind of each of the ``N`` inputs, of those that ``among``
        names."""
        for kind in dict.fromkeys(kinds):
            members = torch.tensor([k == kind for k in kinds])
            self.add(kind, errors[:, members if among is None else members & among], tolerance)


def _scope(grids: Sequence[Grid], dtypes: Sequence[torch.dtype]) -> str:
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"every circular shift of maps {', '.join(map(str, grids))}; {names}"


def _settings(grids: Sequence[Grid], dtypes: Sequence[torch.dtype]) -> Iterator[tuple[Grid, torch.dtype]]:
    for grid in grids:
        if any(n % grid.stride for n in grid.space):
            raise ValueError(f"the statements are about sizes that the stride divides, got {grid}")
    return product(grids, dtypes)


def lemma_1(
    grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES, draws: int = 16, seed: int = 0
) -> Check:
    """Lemma 1, Eq. (8): the library's components against Eq. (6), for every shift and every phase, exactly.

    Broken: a size that the stride does not divide, such as an odd one, padded with a zero; a shift that is
    not circular. There a component of the shifted map is no component of the map under any shift.
    """
    cases, broken = _Counter(), _Counter()
    for grid, dtype in _settings(grids, dtypes):
        stride = grid.stride
        kinds, x = inputs(grid, dtype, draws, seed)
        original = components_by_definition(x, stride)
        errors = []
        for shift in all_shifts(grid.space):
            moved = polyphase(advance(x, shift), stride)
            errors += [
                largest_difference(moved[:, k], advance(original[:, source], carry))
                for k, (source, carry) in enumerate(lemma_source(shift, stride))
            ]
        cases.by_kind(kinds, torch.stack(errors), EXACT)

        random, one = random_inputs(grid, dtype, draws, seed).x, (1,) * grid.dims
        short = _without_last(random)
        variants = {
            "indivisible size, padded with a zero": (_zero_after(advance(short, one)), _zero_after(short)),
            "shift that is not circular": (_zero_after(_without_last(advance(random, one))), random),
        }
        for name, (moved, original) in variants.items():
            broken.add(name, _distance_from_components(polyphase(moved, stride), original, stride), EXACT)
    return Check(
        "Lemma 1",
        "a circular shift permutes the polyphase components and shifts some of them.",
        _scope(grids, dtypes) + "; compared for equality",
        dict(cases.tallies),
        {},
        dict(broken.tallies),
    )


def _without_last(x: Tensor) -> Tensor:
    """``x`` ``(N, C, *space)`` without the last sample along each axis."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, 0, x.shape[axis] - 1)
    return x


def _zero_after(x: Tensor) -> Tensor:
    """``x`` ``(N, C, *space)`` with a zero behind the last sample along each axis."""
    return F.pad(x, (0, 1) * (x.dim() - 2))


def _distance_from_components(moved: Tensor, x: Tensor, stride: int) -> Tensor:
    """Distance of each of the components ``moved`` from those of ``x`` under all shifts: ``(P, N)``."""
    shifted = [
        advance(component, shift)
        for component in components_by_definition(x, stride).unbind(1)
        for shift in all_shifts(component.shape[2:])
    ]
    return torch.stack(
        [torch.stack([largest_difference(part, s) for s in shifted]).amin(0) for part in moved.unbind(1)]
    )


def claim_1(
    grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES, draws: int = 16, seed: int = 0
) -> Check:
    """Claim 1: with a hard choice, APS and LPD are shift-equivariant in the sense of Eq. (1).

    Three things are asked of each layer, map and shift: the output is the selected component of Eq. (6) as in
    Eq. (7); the selected phase moves by ``pi`` (Eq. 15); the output is a shift of the output for the
    unshifted map by ``d / s``, rounded (Eqs. 1 and 16). Equality, but within :data:`TOLERANCE` behind a
    low-pass filter.

    Broken: always phase 0 (Eq. 4), also behind Tri-3; logits from a network with zero padding; the mixture of
    Eq. (17).
    """
    cases, ties, broken = _Counter(), _Counter(), _Counter()
    for grid, dtype in _settings(grids, dtypes):
        stride, space = grid.stride, grid.space
        for layer, (kinds, x) in trials(grid, dtype, draws, seed):
            maps, scale = orbit(x), _scale(x)
            filtered = x if layer.antialias is None else layer.antialias(x)
            tolerance = EXACT if layer.antialias is None else TOLERANCE[dtype]
            y, selection = layer(maps.flatten(0, 1))
            y, phase = y.unflatten(0, maps.shape[:2]), hard_phase(selection).view(maps.shape[:2])
            errors = downsampling_errors(y, space, stride) / scale
            selected = components_by_definition(filtered, stride)[torch.arange(len(x)), phase[0]]
            errors[0] = torch.maximum(errors[0], largest_difference(y[0], selected) / scale)
            tied = is_tie(selection.scores[: len(x)], TOLERANCE[dtype])
            ties.by_kind(kinds, errors, tolerance, tied)
            errors[phase != _permuted(phase[0], space, stride)] = torch.inf
            cases.by_kind(kinds, errors, tolerance, ~tied)
        random = orbit(random_inputs(grid, dtype, draws, seed).x)
        variants = {
            "always phase 0 (Eq. 4)": Downsample(stride=stride),
            "logits with zero padding": Downsample(learned(grid, dtype, seed, padding="zeros"), stride=stride),
            "mixture of components (Eq. 17)": Downsample(Mixed(learned(grid, dtype, seed)), stride=stride),
        }
        if torch.finfo(dtype).bits >= 32:
            variants["Tri-3, then phase 0 (LPF)"] = Downsample(
                antialias=LowPass(CHANNELS, 3, dims=grid.dims), stride=stride
            )
        for name, variant in variants.items():
            y = variant(random.flatten(0, 1))[0].unflatten(0, random.shape[:2])
            broken.add(name, downsampling_errors(y, space, stride) / _scale(random[0]), TOLERANCE[dtype])
    return Check(
        "Claim 1",
        "with a shift-permutation-equivariant choice, LPD is a shift-equivariant downsampling layer.",
        _scope(grids, dtypes) + "; APS and LPD, equality; behind Tri-3 within the tolerance",
        dict(cases.tallies),
        dict(ties.tallies),
        dict(broken.tallies),
    )


def _permuted(phase: Tensor, space: Sequence[int], stride: int) -> Tensor:
    """Where each shift takes the ``phase`` ``(N,)`` selected in an unshifted map: ``(S, N)``."""
    return torch.stack([torch.tensor(permutation(shift, stride))[phase] for shift in all_shifts(space)])


def _scale(x: Tensor) -> Tensor:
    """Largest absolute sample of each map, ``(N, ...)`` to ``(N,)`` float64; 1 for a map of zeros."""
    largest = x.double().abs().flatten(1).amax(1)
    return torch.where(largest == 0, 1.0, largest)


def claim_2(
    grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES, draws: int = 16, seed: int = 0
) -> Check:
    """Claim 2: APS selects what LPD selects with the norm as ``f_theta`` (Eqs. 18 and 19), on every shifted
    map.

    The selected phases are compared. Also: LPD's own network, with weights set by hand, selects by the l1
    norm.

    Broken: other rules, each of them an LPD, that APS does not agree with, among them one that no norm can
    express.
    """
    cases, ties, broken = _Counter(), _Counter(), _Counter()
    for grid, dtype in _settings(grids, dtypes):
        stride = grid.stride
        kinds, x = inputs(grid, dtype, draws, seed)
        maps = orbit(x)
        flat = maps.flatten(0, 1)
        aps = MaxNorm(stride).eval()
        euclidean, absolute = (SharedRule(norm_of_order(p), stride) for p in (2, 1))
        for rule, reference in (
            (euclidean, aps(flat)),
            (absolute_sum_rule(stride, grid.dims), absolute(flat)),
        ):
            differ = _disagreement(rule(flat), reference).view(maps.shape[:2])
            tied = is_tie(reference.scores, TOLERANCE[dtype]).view(maps.shape[:2]).any(0)
            cases.by_kind(kinds, differ, EXACT, ~tied)
            ties.by_kind(kinds, differ, EXACT, tied)
        random = orbit(random_inputs(grid, dtype, draws, seed).x).flatten(0, 1)
        variants = {
            "l1 norm against APS's l2": absolute,
            "smallest norm": SharedRule(lambda component: -norm_of_order(2)(component), stride),
            "mean of the positive part (a learned rule)": positive_part_rule(stride, grid.dims),
        }
        for name, variant in variants.items():
            broken.add(name, _disagreement(variant(random), aps(random)), EXACT)
    return Check(
        "Claim 2",
        "APS is a special case of LPD.",
        _scope(grids, dtypes) + "; selected phases, equality",
        dict(cases.tallies),
        dict(ties.tallies),
        dict(broken.tallies),
    )


def _disagreement(a: Selection, b: Selection) -> Tensor:
    """``inf`` where two hard selections differ and 0 where they agree: ``(N,)``."""
    return torch.where(hard_phase(a) == hard_phase(b), 0.0, torch.inf)


def claim_3(
    grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES, draws: int = 16, seed: int = 0
) -> Check:
    """Claim 3: a shift-invariant ``f_theta`` makes ``p_theta`` shift-permutation-equivariant, Eq. (11).

    The largest ``|p(pi(k) | T^d x) - p(k | x)|`` over all phases is measured, for the logits as the layer
    computes them and, in float32 and float64, as Eq. (23) defines them; it has to stay within
    :data:`TOLERANCE`.

    Broken: ``f_theta`` with zero padding, with a mean that weighs positions, and with weights that phases do
    not share.
    """
    cases, broken = _Counter(), _Counter()
    for grid, dtype in _settings(grids, dtypes):
        stride, tolerance = grid.stride, TOLERANCE[dtype]
        layer = learned(grid, dtype, seed)
        kinds, x = inputs(grid, dtype, draws, seed)
        rules: list[nn.Module] = [layer]
        if torch.finfo(dtype).bits >= 32:
            rules.append(SharedRule(layer.component_logit, stride))
        for rule in rules:
            cases.by_kind(kinds, permutation_errors(rule, x, stride), tolerance)
        random = random_inputs(grid, dtype, draws, seed).x
        full = random.to(torch.promote_types(dtype, torch.float32))
        variants: dict[str, tuple[nn.Module, Tensor]] = {
            "zero padding": (learned(grid, dtype, seed, padding="zeros"), random),
            "mean that weighs positions": (SharedRule(_weighted_mean, stride), full),
            "a bias for each phase": (_PhaseBias(layer), random),
        }
        for name, (variant, maps) in variants.items():
            broken.add(name, permutation_errors(variant, maps, stride), tolerance)
    return Check(
        "Claim 3",
        "if f_theta is shift-invariant, p_theta is shift-permutation-equivariant.",
        _scope(grids, dtypes) + "; probabilities, within the tolerance",
        dict(cases.tallies),
        {},
        dict(broken.tallies),
    )


def permutation_errors(select: nn.Module, x: Tensor, stride: int) -> Tensor:
    """Largest ``|p(pi(k) | T^d x) - p(k | x)|`` over ``k`` for each shift of ``x`` ``(N, C, *space)``: ``(S,
    N)``."""
    maps = orbit(x)
    p = select(maps.flatten(0, 1)).scores.double().softmax(1).unflatten(0, maps.shape[:2])
    pi = torch.tensor([permutation(shift, stride) for shift in all_shifts(x.shape[2:])])
    moved = p.gather(2, pi[:, None].expand_as(p))
    return (moved - p[0]).abs().amax(2)


def _weighted_mean(component: Tensor) -> Tensor:
    """A mean in which later samples weigh more, ``(N, C, *space)`` to ``(N,)``."""
    ramp = torch.linspace(0, 1, component[0, 0].numel(), dtype=component.dtype)
    return (component.flatten(2) * ramp).flatten(1).mean(1)


class _PhaseBias(nn.Module):
    """A choice whose logits get a bias that depends on the phase: the phases do not share their weights."""

    def __init__(self, select: nn.Module) -> None:
        super().__init__()
        self.select = select

    def forward(self, x: Tensor) -> Selection:
        selection: Selection = self.select(x)
        bias = torch.arange(selection.scores.shape[1], dtype=selection.scores.dtype)
        return selection._replace(scores=selection.scores + bias)


def claim_4(
    grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES, draws: int = 16, seed: int = 0
) -> Check:
    """Claim 4: LPU after LPD is shift-equivariant, ``u(T^d x) = T^d u(x)``.

    Equality for the pair itself, for which Eq. (24) is asked too where the scores do not tie: ``u`` is ``x`` at
    the samples of the selected phase and zero elsewhere. Within :data:`TOLERANCE` where a convolution stands
    between the two and Tri-3 behind them.

    Broken: back to phase 0, nearest and linear interpolation instead of LPU, and the mixture of Eqs. (17) and
    (25).
    """
    cases, ties, broken = _Counter(), _Counter(), _Counter()
    for grid, dtype in _settings(grids, dtypes):
        stride = grid.stride
        for down, (kinds, x) in trials(grid, dtype, draws, seed):
            maps, scale = orbit(x), _scale(x)
            between: nn.Module
            if down.antialias is None:
                tolerance, between, up = EXACT, nn.Identity(), Upsample(stride=stride)
            else:
                tolerance, between = TOLERANCE[dtype], _convolution(grid, dtype, seed)
                up = Upsample(LowPass(CHANNELS, 3, gain=stride**grid.dims, dims=grid.dims), stride)
            y, selection = down(maps.flatten(0, 1))
            u = up(between(y), selection).unflatten(0, maps.shape[:2])
            errors = equivariance_errors(u) / scale
            tied = is_tie(selection.scores[: len(x)], TOLERANCE[dtype])
            ties.by_kind(kinds, errors, tolerance, tied)
            if down.antialias is None:  # Eq. (24) fills one phase; among ties the library fills each that is tied
                masked = x * _samples_of(hard_phase(selection)[: len(x)], grid)
                errors[0] = torch.maximum(errors[0], largest_difference(u[0], masked) / scale)
            cases.by_kind(kinds, errors, tolerance, ~tied)
        random = orbit(random_inputs(grid, dtype, draws, seed).x)
        for name, variant in broken_upsampling(grid, dtype, seed).items():
            u = variant(random.flatten(0, 1)).unflatten(0, random.shape[:2])
            broken.add(name, equivariance_errors(u) / _scale(random[0]), TOLERANCE[dtype])
    return Check(
        "Claim 4",
        "with a shift-permutation-equivariant choice, LPU after LPD is shift-equivariant.",
        _scope(grids, dtypes) + "; equality; with convolution and Tri-3 within the tolerance",
        dict(cases.tallies),
        dict(ties.tallies),
        dict(broken.tallies),
    )


def _samples_of(phase: Tensor, grid: Grid) -> Tensor:
    """Mask ``(N, 1, *space)`` of the samples that belong to the ``phase`` ``(N,)`` of each map."""
    indices = torch.meshgrid(*(torch.arange(n) % grid.stride for n in grid.space), indexing="ij")
    number = torch.zeros(grid.space, dtype=torch.int64)
    for index in indices:
        number = number * grid.stride + index
    return (number == phase.view(-1, *(1,) * grid.dims))[:, None]


def _convolution(grid: Grid, dtype: torch.dtype, seed: int) -> nn.Module:
    """A circular convolution and a ReLU: what a network does between its down- and upsampling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        convolution = CONV[grid.dims](CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular")
    return nn.Sequential(convolution, nn.ReLU()).to(dtype).requires_grad_(False)


def broken_upsampling(grid: Grid, dtype: torch.dtype, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """LPD with something else than LPU behind it, each a function of the map ``(N, C, *space)``."""
    stride = grid.stride
    down, up = Downsample(learned(grid, dtype, seed), stride=stride), Upsample(stride=stride)
    mixed = Downsample(Mixed(learned(grid, dtype, seed)), stride=stride)

    def to_phase_zero(x: Tensor) -> Tensor:
        y, selection = down(x)
        first = torch.zeros_like(hard_phase(selection))
        return up(y, selection._replace(phase=first, z=F.one_hot(first, selection.z.shape[1])))

    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[grid.dims]
    return {
        "back to phase 0": to_phase_zero,
        "nearest neighbour": lambda x: F.interpolate(down(x)[0], scale_factor=stride, mode="nearest"),
        "linear interpolation": lambda x: F.interpolate(down(x)[0], scale_factor=stride, mode=linear),
        "mixture of components (Eqs. 17, 25)": lambda x: up(*mixed(x)),
    }


STATEMENTS: Mapping[str, Callable[..., Check]] = {
    "lemma-1": lemma_1,
    "claim-1": claim_1,
    "claim-2": claim_2,
    "claim-3": claim_3,
    "claim-4": claim_4,
}
"""The checks by the labels that the book gives the statements."""


def all_checks(draws: int = 16, seed: int = 0) -> list[Check]:
    """Try every statement on every default grid and dtype; on one core, the maps being too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [check(draws=draws, seed=seed) for check in STATEMENTS.values()]
    finally:
        torch.set_num_threads(threads)
