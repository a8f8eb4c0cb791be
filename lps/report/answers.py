"""The front page's questions, answered from the records: what was seen, how sure, and at what scale."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import pandas as pd

from . import section53, times
from .frame import Record, drawn, groups, label, labels, one_per_seed
from .paper import listed, pairs, paper_number, printed
from .statistics import Interval, mean_interval

Outcome = Literal["seen", "leans", "not settled", "not seen", "the other way round", "not tested"]
MIN_SEEDS = 3


@dataclass(frozen=True)
class Effect:
    """The mean difference between two kinds of rows, over filters and then over ``n`` seeds, in one profile's runs.

    ``pairs`` of the ``of`` filters asked for have runs, ``only`` names one that is alone; ``paper`` is the same mean of
    the paper's printed values, and ``scale`` says which runs were compared.
    """

    id: str
    interval: Interval
    n: int
    pairs: int
    of: int
    paper: float
    profile: str
    scale: str
    runs: list[str]
    full: bool
    only: str = ""

    @property
    def outcome(self) -> Outcome:
        """Whether the paper's direction is seen: in the whole interval over all filters, in the mean alone, or not."""
        same = self.interval.value * self.paper > 0
        if self.n >= MIN_SEEDS and self.interval.decides and self.pairs == self.of:
            return "seen" if same else "the other way round"
        return "leans" if same else "not settled"

    @property
    def size(self) -> str:
        """The number of seeds, and the filters where some are missing."""
        filters = self.only or f"{self.pairs} of {self.of} filters"
        if self.pairs == self.of:
            filters = f"all {self.of} filters" if self.of > 1 else ""
        return ", ".join(filter(None, [f"n = {self.n}", filters]))

    def __str__(self) -> str:
        return f"{self.interval} ({self.size}; paper {self.paper:+.2f})"


def effects(made: pd.DataFrame) -> dict[str, list[Effect]]:
    """The effects of ``claims.yml`` by their ids, in every group of runs on real images that holds a seed of all their
    pairs."""
    found = [one_per_seed(members) for members in groups(made[~drawn(made) & made["as_profile"]])]
    return {item["id"]: [e for members in found for e in _effect(item, members)] for item in listed("effects")}


def _effect(item: Mapping[str, Any], made: pd.DataFrame) -> Iterator[Effect]:
    """The effect over those pairs that have the most seeds, then over more pairs and the seeds that these share."""
    asked = [*pairs(item)]
    lines = made[made["metric"] == asked[0].metric]
    wide = lines.pivot(index="seed", columns="row", values="value")
    known = [pair for pair in asked if {pair.better, pair.worse} <= {*wide}]
    gaps = pd.DataFrame({at: wide[pair.better] - wide[pair.worse] for at, pair in enumerate(known)})
    counts = gaps.count()
    for least in sorted({*counts} - {0}, reverse=True):
        group = gaps.loc[:, counts >= least].dropna()
        if group.empty:
            continue
        compared = [known[at] for at in group]
        rows = {row for pair in compared for row in (pair.better, pair.worse)}
        behind = lines[lines["row"].isin(rows) & lines["seed"].isin(group.index)]
        paper = mean(value for pair in compared if (value := printed(pair)) is not None)
        only = behind.loc[behind["row"] == compared[0].better, "antialias"].iloc[0] if len(compared) == 1 else ""
        yield Effect(
            item["id"], mean_interval(group.mean(axis=1)), len(group), len(compared), len(asked), paper,
            behind["profile"].iloc[0], labels(behind).iloc[0], list(behind["id"].unique()), bool(behind["full"].all()),
            "without a filter" if only == "-" else f"{only} alone" if only else "",
        )  # fmt: skip


Said = tuple[Outcome, *tuple[str, ...]]
"""An answer, as fields of :class:`Answer` from the outcome on."""


@dataclass(frozen=True)
class Answer:
    """A question of the front page, the page behind its answer, which is a line, the scale of what it rests on, and
    what was found at other scales."""

    question: str
    page: str
    outcome: Outcome
    text: str
    scale: str = ""
    elsewhere: str = ""


def answers(
    made: pd.DataFrame,
    entries: Sequence[Mapping[str, Any]],
    studied: Sequence[Record],
    controls: Sequence[Record],
    timed: Sequence[Record],
    placed: Sequence[Record] = (),
    segmenters: Sequence[Record] = (),
    unlearned: Sequence[Record] = (),
) -> list[Answer]:
    """The eight questions in the order of the front page, from runs, the ledger, the studies of Sec. 5.3, their
    controls, benchmarks, the studies of segmenters: of those whose maps were put right, and how they choose; and
    those of logit networks that nobody trained."""
    found = effects(made)
    full = made[made["full"].astype(bool) & made["table"].isin(["table2", "table3", "table5", "table6"])]
    voc = "Does it hold on ImageNet and PASCAL VOC?", "book/scale" if full.empty else "book/claims"
    learned = "Does LPD learn something that APS lacks (Sec. 5.3)?", "notebooks/section53"
    return [
        Answer("Do Lemma 1 and Claims 1 to 4 hold?", "book/theory", *_theory(entries)),
        Answer("Is a prediction the same under every circular shift?", "notebooks/table1", *_consistent(made)),
        Answer("Is LPS better than APS?", "notebooks/statistics", *_compared(found["lps-over-aps"], controls)),
        Answer("Does the guarantee cost accuracy?", "notebooks/table1", *_price(found)),
        Answer(*learned, *_learned(studied, controls, segmenters, unlearned)),
        Answer("Is segmentation equivariant?", "notebooks/table5", *_segmentation(made, found, placed)),
        Answer("What does it cost in parameters and time?", "notebooks/table4", *_cost(entries, timed)),
        Answer(*voc, *_scale(full)),
    ]


def _theory(entries: Sequence[Mapping[str, Any]]) -> Said:
    tried = [entry for entry in entries if entry["kind"] == "theorem"]
    held = sum(entry["verdict"] == "holds" for entry in tried)
    text = f"{held} of {len(tried)} are derived, and hold at every shift tried where one score is largest (ties are "
    text += "counted apart); every broken variant fails at some."
    outcome: Outcome = "not tested" if not tried else "seen" if held == len(tried) else "the other way round"
    return outcome, text, "random maps; a proof has no scale"


def _real_first(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines on real images, or all where there are none."""
    real = lines[~drawn(lines)]
    return lines if real.empty else real


SHIFTS = 32**2
"""Circular shifts of an image of Table 1."""


def _counted(lines: pd.DataFrame) -> str:
    every = lines["metric"] == "c_cons_all"
    drawn_pairs = lines[~every].groupby("run")["total"].sum()  # the same images and shifts: networks do not add up
    least, most = drawn_pairs.min(), drawn_pairs.max()
    each = f"{least:,.0f} to {most:,.0f}" if least < most else f"{least:,.0f}"
    text = f"{lines['id'].nunique()} trained networks with APS or LPS, each on {each} random pairs of shifts"
    images = lines["total"][every] / SHIFTS**2
    return text + (f" and on all {SHIFTS:,} shifts of up to {images.max():.0f} images" if every.any() else "")


def _consistent(made: pd.DataFrame) -> Said:
    guaranteed = made["guaranteed"].astype(bool)
    lines = made[guaranteed & made["metric"].isin(["c_cons", "c_cons_original", "c_cons_all"])]
    if lines.empty:
        return "not tested", "No network with APS or LPS is recorded."
    if len(differ := lines[lines["agree"] < lines["total"]]["id"].unique()):
        text = f"{_counted(lines)}: pairs differ in {', '.join(differ)}."
        return "the other way round", text, _joined(labels(lines))
    lines = _real_first(lines)
    loose = made[~guaranteed & (made["metric"] == "c_cons") & made["data"].isin(lines["data"])]["value"]
    apart = f" Without a guarantee {loose.min():.1f} to {loose.max():.1f} % of random pairs agree."
    rest = apart if len(loose) else ""
    return "seen", f"{_counted(lines)}: none differs.{rest}", _joined(labels(lines))


def most_first(found: Sequence[Effect]) -> list[Effect]:
    """The same effect at several scales, which come longest training first: over enough seeds, then over fewer.

    Shorter training decides less, however many filters it had.
    """
    return sorted(found, key=lambda effect: -min(effect.n, MIN_SEEDS))


def _elsewhere(found: Sequence[Effect]) -> str:
    """Briefly the effect in each other profile, and over more filters in that of the one that is judged."""
    judged, *rest = most_first(found)
    others: dict[str, Effect] = {}
    for effect in rest:
        if effect.profile != judged.profile or effect.pairs > judged.pairs:
            others.setdefault(effect.profile, effect)
    return ", ".join(f"{effect.interval} in {effect.profile} ({effect.size})" for effect in others.values())


def _joined(scales: Iterable[str]) -> str:
    """Scales of the same images named together: ``CIFAR-10 as JPEG, profiles reduced, short``."""
    found = defaultdict[str, set[str]](set)
    for scale in scales:
        data, _, profile = scale.rpartition(", profile ")
        found[data].add(profile)
    return "; ".join(
        f"{data}, profile{'s' * (len(names) > 1)} {', '.join(sorted(names))}" for data, names in sorted(found.items())
    )


UNPAIRED: Said = "not tested", "No pair of runs on real images is recorded."


def _compared(found: Sequence[Effect], controls: Sequence[Record]) -> Said:
    if not found:
        return UNPAIRED
    judged = most_first(found)[0]
    text = f"Accuracy of LPS less that of APS: {judged}."
    of_lps = [r["metrics"] for r in _with_lps(controls) if r["run"] in judged.runs]
    if changes := [found[RANDOM]["value"] - found["acc"]["value"] for found in of_lps]:
        text += (
            f" With phases drawn at random in the place of LPD's, accuracy changes by {mean(changes):+.2f} points in "
            f"the mean of {len(changes)} of these networks ({min(changes):+.2f} to {max(changes):+.2f})."
        )
    return judged.outcome, text, judged.scale, _elsewhere(found)


RANDOM = "acc, random phase"


def _with_lps(controls: Sequence[Record]) -> list[Record]:
    """The controls of networks with LPS on real images."""
    return [r for r in section53.on_real_images(controls) if r["experiment"].startswith("table1/lps")]


def _price(known: Mapping[str, Sequence[Effect]]) -> Said:
    found = {"LPS": known["lps-over-fixed"], "APS": known["aps-over-fixed"]}
    judged = {name: most_first(effects)[0] for name, effects in found.items() if effects}
    if not judged:
        return UNPAIRED
    outcomes = [effect.outcome for effect in judged.values()]
    outcome: Outcome = outcomes[0] if len(set(outcomes)) == 1 else "not settled"
    words = "; ".join(f"{name} {effect}, {effect.outcome}" for name, effect in judged.items())
    text = f"Accuracy less that of the rows that keep phase 0: {words}."
    elsewhere = "; ".join(f"{name} {rest}" for name in judged if (rest := _elsewhere(found[name])))
    return outcome, text, _joined(effect.scale for effect in judged.values()), elsewhere


def _learned(
    studied: Sequence[Record], controls: Sequence[Record], segmenters: Sequence[Record], unlearned: Sequence[Record]
) -> Said:
    real = section53.on_real_images(studied)
    if not real:
        return "not tested", "No study of a network trained on real images is recorded."
    falls = sum(section53.direction("replaced", record["metrics"]) for record in real)
    text = (
        f"When APS takes LPD's place, accuracy falls by more than chance in {falls} of {len(real)} networks, by "
        f"{_most(real, 'acc_max_norm'):.2f} points at most (paper: from {paper_number('replaced-before'):g} to "
        f"{paper_number('replaced-after'):g} %)."
    )
    controlled = _with_lps(controls)
    if controlled:
        fall = sum(section53.falls(record["metrics"], RANDOM) for record in controlled)
        text += (
            f" With phases drawn at random it does in {fall} of {len(controlled)}, by {_most(controlled, RANDOM):.2f}"
        )
        text += (
            ": networks whose accuracy depends so little on the phase cannot say what LPD learned."
            if not falls + fall
            else "."
        )
    without_lpu = [r for r in section53.on_real_images(segmenters) if not r["config"]["model"]["unpool"]]
    if without_lpu:
        metrics = [record["metrics"] for record in without_lpu]
        kept = _range(found[section53.last_layer(found)]["value"] for found in metrics)
        by_aps, by_chance = (
            _range((found[f"miou, {rule}"]["value"] - found["miou"]["value"] for found in metrics), "+")
            for rule in ("APS", "random phase")
        )
        same = {record["run"] for record in without_lpu}
        new = [share for r in unlearned if r["run"] in same for share in section53.kept_unlearned(r, -1)]
        beside = f" (logit networks that nobody trained: {_range(new)} %)" if new else ""
        text += (
            f" In segmenters without LPU ({len(metrics)}, as in Table 5) the deepest LPD keeps the largest norm in "
            f"{kept} % of the images{beside}; with APS in LPD's place mIoU changes by {by_aps} points, with random "
            f"phases by {by_chance}."
        )
    outcome: Outcome = "seen" if falls == len(real) else "leans" if 2 * falls > len(real) else "not seen"
    if controlled and not falls + fall:
        outcome = "not settled"
    scale = _joined(map(label, [*real, *without_lpu]))
    return outcome, text, scale


def _range(values: Iterable[float], sign: str = "") -> str:
    found = [*values]
    least, most = f"{min(found):{sign}.1f}", f"{max(found):{sign}.1f}"
    return least if least == most else f"{least} to {most}"


def _most(studied: Iterable[Record], changed: str) -> float:
    """The largest fall of accuracy, in points."""
    metrics = [record["metrics"] for record in studied]
    return max(found["acc"]["value"] - found[changed]["value"] for found in metrics)


SEGMENTATION = {
    "lpd-only-over-ddac": "mASCC of LPD only less that of DDAC",
    "aps-over-ddac": "mASCC of APS less that of DDAC",
    "lps-over-lpf-miou": "mIoU of LPS less that of LPF",
}


def _segmentation(made: pd.DataFrame, known: Mapping[str, Sequence[Effect]], placed: Sequence[Record]) -> Said:
    lines = made[made["guaranteed"].astype(bool) & (made["metric"] == "mascc")].drop_duplicates("id")
    if lines.empty:
        return "not tested", "No DeepLabV3+ with LPU is recorded."
    lines = lines if (lines["agree"] < lines["total"]).any() else _real_first(lines)
    agree, total = lines["agree"].sum(), lines["total"].sum()
    outcome: Outcome = "seen" if agree == total else "the other way round"
    changed = f"{total - agree:,.0f} pixels change their label"
    kept = "every pixel keeps its label under every pair of shifts tried" if agree == total else changed
    text = f"{lines['id'].nunique()} networks with LPU: {kept}."
    judged = (effect for key in SEGMENTATION for effect in most_first(known[key])[:1])
    if against := [effect for effect in judged if effect.outcome == "the other way round"]:
        words = "; ".join(f"{SEGMENTATION[e.id]}, {e}" for e in against)
        text += f" The other way round than in the paper: {words}."
    metrics = [record["metrics"] for record in section53.on_real_images(placed)]
    if moved := [found for found in metrics if found["mascc"] != found["mascc, put right"]]:
        before, after, miou, put_right = (
            mean(found[name]["value"] for found in moved)
            for name in ("mascc", "mascc, put right", "miou", "miou, put right")
        )
        text += (
            " With their maps moved to where they were taken, those of "
            f"{len(moved)} network{'s' * (len(moved) > 1)} with APS or LPD only keep {after:.1f} % of their labels, "
            f"not {before:.1f} %, at an mIoU of {put_right:.1f}, not {miou:.1f}."
        )
    return outcome, text, _joined(labels(lines))


def _cost(entries: Sequence[Mapping[str, Any]], timed: Sequence[Record]) -> Said:
    share = next(entry for entry in entries if entry["id"] == "table4/lps-tri-3:pooling_share")
    paper = 100 * (times.paper_ratios()["lps-tri-3"] - 1)
    held = "seen" if share["verdict"] == "holds" else "not settled"
    text = f"Parameters, {held}: {share['ours']} % more (paper: {share['paper']} %). Time over LPF: "
    if took := times.on_processors(timed, "lps-tri-3"):
        low, high = (100 * (found - 1) for found in (min(took), max(took)))
        text += (
            f"{low:.0f} to {high:.0f} % more on a processor, by threads, batch and order; not to be compared with the "
        )
        text += f"paper's {paper:.0f} %, whose device it does not name."
    else:
        text += f"not measured (paper: {paper:.0f} %)."
    return "not settled", text, "the paper's network"  # the time is of other hardware than the paper's


def _scale(full: pd.DataFrame) -> Said:
    if full.empty:
        return "not tested", "No network was trained there; the commands stand ready."
    return "not settled", f"{full['id'].nunique()} runs are recorded.", _joined(labels(full))
