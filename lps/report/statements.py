"""The statements of ``results/paper/claims.yml``: what they compare, and those that can be tried in a moment."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import shifts
from ..data.drawn import draw
from ..exact.convolution import Padding
from ..experiments.model import build_model
from ..experiments.profiles import load_profile
from ..experiments.rows import Row
from ..experiments.schema import read_yaml
from ..filters import LowPass
from ..paths import PAPER
from ..polyphase import circular_shift
from ..resnet import ResNet
from ..sampling import Downsample, Sampling, Upsample
from ..selection import LearnedPhase, MaxNorm, Selection
from .paper import paper_table
from .tables import MARGIN
from .theory import Check, check

Relation = Literal["above", "not below", "close"]


@cache
def listed(section: str) -> list[dict[str, Any]]:
    """A section of ``claims.yml``: theorems, orderings, consistencies or sentences."""
    sections: dict[str, list[dict[str, Any]]] = read_yaml(PAPER / "claims.yml")
    return sections[section]


# Comparisons between rows of the paper's tables -------------------------------------------------------------


class Pair(NamedTuple):
    """Two rows of a table, of which a statement says that the first is better in ``metric``."""

    metric: str
    better: str
    worse: str


def select(table: str, where: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Rows of a paper's table whose columns hold one of the values given for them."""
    return [row for row in paper_table(table) if all(row[column] in values for column, values in where.items())]


def pairs(item: Mapping[str, Any]) -> Iterator[Pair]:
    """The comparisons that an ordering of ``claims.yml`` makes."""
    for part in item["compare"]:
        for better in select(part["table"], part["better"]):
            for worse in select(part["table"], part["than"]):
                if all(better[column] == worse[column] for column in part["same"]):
                    yield from (Pair(metric, better["row"], worse["row"]) for metric in part["metrics"])


def printed(pair: Pair) -> float | None:
    """The difference between the paper's two values, ``None`` where the text copy has lost one."""
    values = {row["row"]: row[pair.metric] for row in paper_table(pair.better.split("/")[0])}
    if not values[pair.better] or not values[pair.worse]:
        return None
    return round(float(values[pair.better]) - float(values[pair.worse]), 6)


def agrees(relation: Relation, low: float, high: float) -> bool | None:
    """Whether a difference between ``low`` and ``high`` has the relation, ``None`` where it may or may not."""
    if relation == "above":
        return True if low > 0 else False if high < 0 else None
    above = True if low >= -MARGIN else False if high < -MARGIN else None
    if relation == "not below" or above is not True:
        return above
    return True if high <= MARGIN else False if low > MARGIN else None


# Statements that are tried on real layers now ---------------------------------------------------------------


class Evidence(NamedTuple):
    """What trying a statement gave: our value, whether it bears the statement out, and how it was tried."""

    ours: str
    holds: bool
    text: str


COUNT = 16


@cache
def tried(label: str) -> Check:
    """What the notebook of a claim finds for stride 2 in two dimensions, as in the paper's networks."""
    return check(label, strides=[2], dims=[2], draws=COUNT)


@cache
def pictures() -> Tensor:
    """Drawn images ``(N, 3, 32, 32)``, float64, -0.5 to 0.5."""
    return draw(COUNT, 0).images.double() / 255 - 0.5


def _breaks(*variants: str) -> Evidence:
    """Variants that Claim 1's notebook tries by Eq. (1), at every shift of every map."""
    counts = {name: tried("claim-1").broken.get(name, Counter()) for name in variants}
    words = [f"{name}: {count[False]:,} of {count.total():,} break" for name, count in counts.items()]
    return Evidence(
        "; ".join(words) if len(words) > 1 else words[0].rpartition(": ")[2],
        all(count[False] for count in counts.values()),
        f"{COUNT} random maps in each number type, every circular shift, by Eq. (1): {'; '.join(words)}",
    )


PHASE_0 = "always phase 0 (Eq. 4)"


def downsampling_breaks() -> Evidence:
    return _breaks(PHASE_0)


def pooling_breaks() -> Evidence:
    return _breaks("average pooling", "max pooling")


def first_phase_breaks() -> Evidence:
    """The constant choice of phase 0, made through the same layer as every other choice."""
    x = pictures()
    z = F.one_hot(torch.zeros(len(x), dtype=torch.int64), 4).to(x.dtype)
    same = torch.equal(Downsample()(x, Selection(z, z, z.argmax(1)))[0], x[..., ::2, ::2])
    found = _breaks(PHASE_0)
    return Evidence(found.ours, found.holds and same, f"The choice equals x[2n]: {same}. {found.text}")


def least_norm_works() -> Evidence:
    """One of the three choices that Claim 1's notebook tries; one case of any of them would end its check."""
    found = tried("claim-1")
    return Evidence(
        f"0 of {found.tried.total():,} break" if found.holds else "breaks",
        found.holds,
        found.failure
        or f"the smallest and the largest norm and LPD, {found.scope}: {found.tried.total():,} outputs, each the shift "
        "of the first one that Eq. (16) names",
    )


def richer_than_aps() -> Evidence:
    """The smallest norm is a logit that LPD may have (Claim 3); no norm makes APS choose so."""
    same = tried("claim-2").broken.get("smallest norm", Counter())
    found = least_norm_works()
    return Evidence(
        f"{same[True]:,} of {same.total():,} choices equal",
        found.holds and same.total() > 0 == same[True],
        f"The logits f(c) = -|c| are shift-invariant, so Claims 1 and 3 cover them ({found.text}), and their choice "
        f"is that of APS on {same[True]:,} of {same.total():,} random maps",
    )


def _distance(layer: Downsample) -> float:
    """Mean squared difference between the outputs for a picture and its shift by a pixel, over that of the output."""
    x, shifted = pictures(), circular_shift(pictures(), (0, 1))
    with torch.no_grad():
        y, y_hat = (layer.eval()(image)[0] for image in (x, shifted))
    nearest = torch.stack([(circular_shift(y_hat, (0, -d)) - y).square().mean((1, 2, 3)) for d in (0, 1)]).amin(0)
    return float((nearest / (y - y.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))).mean())


def filter_brings_closer() -> Evidence:
    plain, filtered = _distance(Downsample()), _distance(Downsample(antialias=LowPass(3, 3)))
    return Evidence(
        f"{100 * plain:.1f} % to {100 * filtered:.1f} % of the variance",
        0 < filtered < plain,
        f"{COUNT} drawn images and their shift by a pixel: mean squared difference of the outputs over their variance, "
        f"{plain:.4f} without a filter and {filtered:.4f} with Tri-3",
    )


def largest_norm_follows() -> Evidence:
    distance = _distance(Downsample(MaxNorm()))
    return Evidence(
        f"difference {distance:.0f}",
        distance == 0,
        f"{COUNT} drawn images and their shift by a pixel: APS keeps the same samples of each",
    )


def logits_follow() -> Evidence:
    found = tried("claim-3")
    return Evidence(
        f"{found.tried.total():,} of {found.tried.total():,}" if found.holds else "breaks",
        found.holds,
        found.failure
        or f"LPD with random weights, {found.scope}: the probability of a component is that of the component that "
        f"moved there, largest difference {found.worst:.0e}",
    )


def pooling_is_invariant() -> Evidence:
    (x,) = shifts.random(2, 2, COUNT, seed=0).values()
    torch.manual_seed(0)
    circular = nn.Conv2d(x.shape[1], 4, 3, padding=1, padding_mode="circular", dtype=x.dtype)
    with torch.no_grad():
        pooled = circular(shifts.orbit(x)).relu().sum((2, 3)).unflatten(0, (-1, len(x)))
    worst = float((pooled - pooled[:1]).abs().max() / pooled.abs().max())
    return Evidence(
        f"largest difference {worst:.0e}",
        worst < shifts.rounding(x),
        f"the sum over space behind a circular convolution, {COUNT} maps, every shift, float64",
    )


def zero_padding_breaks() -> Evidence:
    images, changed = pictures().float(), {}
    paddings: tuple[Padding, ...] = ("circular", "zeros")
    for padding in paddings:
        sampling = Sampling(select=partial(LearnedPhase, hidden=4, padding=padding))
        torch.manual_seed(0)
        network = ResNet(18, classes=10, sampling=sampling, stem="cifar", width=8, padding=padding).eval()
        with torch.no_grad():
            y, moved = network(images), network(circular_shift(images, (5, 3)))
        changed[padding] = int((y != moved).any(1).sum())
    return Evidence(
        f"{changed['zeros']} of {COUNT} logits change",
        changed["zeros"] > 0 and changed["circular"] == 0,
        f"an untrained ResNet-18 with LPD, one circular shift of {COUNT} images: the logits of {changed['zeros']} "
        f"change with zero padding, of {changed['circular']} with circular padding",
    )


def aliasing(antialias: nn.Module | None) -> tuple[float, float]:
    """Of pictures behind LPU: energy outside the band of the small map over all, and gain of the mean."""
    select = MaxNorm().eval()
    y, selection = Downsample(select)(pictures())
    with torch.no_grad():
        u = Upsample(antialias)(y, selection)
    energy = torch.fft.fft2(u - u.mean((2, 3), keepdim=True)).abs().square().sum((0, 1))
    outside = torch.stack(torch.meshgrid(*(torch.fft.fftfreq(n).abs() > 0.25 for n in u.shape[2:]), indexing="ij"))
    return float(energy[outside.any(0)].sum() / energy.sum()), float(u.mean() / y.mean())


def gain_restores() -> Evidence:
    (bare, low), (filtered, gain) = aliasing(None), aliasing(LowPass(3, 3, gain=4))
    return Evidence(
        f"{100 * bare:.0f} % to {100 * filtered:.0f} % of the energy out of band; mean {low:.2f} to {gain:.2f}",
        filtered < bare and abs(gain - 1) < 1e-9,
        f"{COUNT} drawn images through APS and back: {100 * bare:.1f} % of the energy lies above the band of the small "
        f"map without a filter and {100 * filtered:.1f} % behind Tri-3 with gain 4, 2 for each axis; the mean "
        f"of the map is {low:.3f} of its value without and {gain:.3f} with the filter",
    )


def temperature_sharpens() -> Evidence:
    """Largest weight of the Gumbel-softmax at falling temperatures, equal logits and all."""
    largest = {tau: sharpness(tau) for tau in (1.0, 0.3, 0.1, 0.02)}
    values = list(largest.values())
    words = ", ".join(f"{value:.3f} at {tau:g}" for tau, value in largest.items())
    return Evidence(
        f"{values[0]:.2f} to {values[-1]:.2f}",
        values == sorted(values),
        f"mean of the largest of four weights over 10,000 draws from equal logits: {words}",
    )


def sharpness(tau: float) -> float:
    """Mean of the largest weight of the Gumbel-softmax over 10,000 draws from four equal logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return float(F.gumbel_softmax(torch.zeros(10_000, 4), tau).amax(1).mean())


@cache
def table4_parameters(row: str) -> dict[str, float]:
    """Trainable parameters of a row of Table 4, counted on ResNet-101 with 10 classes; the share is in per cent."""
    method, _, antialias = row.removeprefix("table4/").partition("-")
    counts = {}
    for name, tail in ((method, antialias), ("baseline", "none")):
        config = load_profile("full").row(Row(row, name, tail, name, "table1"))  # type: ignore[arg-type]
        config = config.override({"model.depth": "101", "model.stem": "imagenet"})
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in build_model(config.model, classes=10).parameters())
    pooling = counts[method] - counts["baseline"]
    return {
        "parameters": counts[method],
        "pooling_parameters": pooling,
        "pooling_share": 100 * pooling / counts["baseline"],
    }


def _share(row: str, whole: int) -> Evidence:
    share = table4_parameters(row)["pooling_share"]
    return Evidence(f"{share:.2f} %", round(share) == whole, "counted on this machine, 10 classes as in Table 4")


def lpd_share() -> Evidence:
    return _share("table4/lps-tri-3", 1)


def ddac_share() -> Evidence:
    return _share("table4/ddac-adapt-3", 4)


EVIDENCE: dict[str, Callable[[], Evidence]] = {
    f.__name__: f
    for f in (
        downsampling_breaks,
        pooling_breaks,
        first_phase_breaks,
        least_norm_works,
        richer_than_aps,
        filter_brings_closer,
        largest_norm_follows,
        logits_follow,
        pooling_is_invariant,
        zero_padding_breaks,
        gain_restores,
        temperature_sharpens,
        lpd_share,
        ddac_share,
    )
}
"""What the sentences of ``claims.yml`` name as their evidence."""
