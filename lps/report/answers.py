"""The front page's questions, answered from the records: what was seen, how sure, and at what scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import pandas as pd

from . import section53, times
from .frame import Record, drawn, groups, images, labels, one_per_seed
from .paper import Pair, listed, pairs, paper_number, printed
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
    statement: str
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
        """Whether the paper's direction is seen: in the whole interval, in the mean alone, or not."""
        same = self.interval.value * self.paper > 0
        if self.n >= MIN_SEEDS and self.interval.decides:
            return "seen" if same else "the other way round"
        return "leans" if same else "not settled"

    @property
    def size(self) -> str:
        """The number of seeds, and the filters where some are missing."""
        filters = self.only or f"{self.pairs} of {self.of} filters"
        if self.pairs == self.of:
            filters = f"all {self.of} filters" if self.of > 1 else ""
        return ", ".join(filter(None, [f"n = {self.n}", filters]))

    @property
    def gap(self) -> str:
        """The difference, with its interval where there is one."""
        bounds = f" [{self.interval.low:+.2f}, {self.interval.high:+.2f}]" if self.n > 1 else ""
        return f"{self.interval.value:+.2f}{bounds}"

    def __str__(self) -> str:
        return f"{self.gap} ({self.size}; paper {self.paper:+.2f})"


def effects(made: pd.DataFrame) -> dict[str, list[Effect]]:
    """The effects of ``claims.yml`` by their ids, in every group of runs on real images that holds a seed of all their
    pairs."""
    found = [one_per_seed(members) for members in groups(made[~drawn(made) & made["as_profile"]])]
    return {item["id"]: [e for members in found for e in _effect(item, members)] for item in listed("effects")}


def _effect(item: Mapping[str, Any], made: pd.DataFrame) -> list[Effect]:
    """The effect over those pairs that have the most seeds, then over more pairs and the seeds that these share."""
    known = set(made["row"])
    asked = [*pairs(item)]
    compared = [pair for pair in asked if {pair.better, pair.worse} <= known]
    if not compared:
        return []
    wide = made[made["metric"] == compared[0].metric].pivot(index="seed", columns="row", values="value")
    gaps = pd.DataFrame({at: wide[pair.better] - wide[pair.worse] for at, pair in enumerate(compared)})
    counts, found = gaps.count(), []
    for least in sorted({*counts} - {0}, reverse=True):
        group = gaps.loc[:, counts >= least].dropna()
        if len(group):
            found.append(_over(item, [compared[at] for at in group], group.mean(axis=1), made, len(asked)))
    return found


def _over(item: Mapping[str, Any], compared: Sequence[Pair], gaps: pd.Series, made: pd.DataFrame, of: int) -> Effect:
    """The effect from the mean gap of the pairs that are ``compared``, by seed."""
    rows = {row for pair in compared for row in (pair.better, pair.worse)}
    behind = made[made["row"].isin(rows) & made["seed"].isin(gaps.index) & (made["metric"] == compared[0].metric)]
    paper = mean(value for pair in compared if (value := printed(pair)) is not None)
    only = behind.loc[behind["row"] == compared[0].better, "antialias"].iloc[0] if len(compared) == 1 else ""
    return Effect(
        item["id"], item["statement"], mean_interval(gaps), len(gaps), len(compared), of, paper,
        behind["profile"].iloc[0], labels(behind).iloc[0], list(behind["id"].unique()), bool(behind["full"].all()),
        "without a filter" if only == "-" else f"{only} alone" if only else "",
    )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A question of the front page, its answer in a line, the scale of what it rests on, the page behind it, and what
    was found at other scales."""

    question: str
    outcome: Outcome
    text: str
    scale: str
    page: str
    elsewhere: str = ""


def answers(
    made: pd.DataFrame,
    entries: Sequence[Mapping[str, Any]],
    studied: Sequence[Record],
    controls: Sequence[Record],
    timed: Sequence[Record],
    placed: Sequence[Record] = (),
) -> list[Answer]:
    """The eight questions in the order of the front page, from runs, the ledger, the studies of Sec. 5.3, their
    controls, benchmarks, and the studies of segmenters whose maps were put right."""
    found = effects(made)
    return [
        _theory(entries),
        _consistent(made),
        _compared("Is LPS better than APS?", found["lps-over-aps"], "notebooks/statistics"),
        _price(found),
        _learned(studied, controls),
        _segmentation(made, found, placed),
        _cost(entries, timed),
        _scale(made),
    ]


def _theory(entries: Sequence[Mapping[str, Any]]) -> Answer:
    tried = [entry for entry in entries if entry["kind"] == "theorem"]
    held = sum(entry["verdict"] == "holds" for entry in tried)
    text = f"{held} of {len(tried)} are derived and hold at every shift tried; every broken variant fails."
    outcome: Outcome = "not tested" if not tried else "seen" if held == len(tried) else "the other way round"
    return Answer(
        "Do Lemma 1 and Claims 1 to 4 hold?", outcome, text, "random maps; a proof has no scale", "book/theory"
    )


def _runs(lines: pd.DataFrame) -> str:
    """Which runs lines come from: ``CIFAR-10 as JPEG, profile reduced``."""
    return _joined(labels(lines))


def _real_first(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines on real images, or all where there are none."""
    real = lines[~drawn(lines)]
    return lines if real.empty else real


def _counted(lines: pd.DataFrame) -> str:
    totals = lines.groupby("run")["total"].sum()  # the same images and shifts: pairs of networks do not add up
    each = f"{totals.min():,.0f} to {totals.max():,.0f}" if totals.nunique() > 1 else f"{totals.min():,.0f}"
    return f"{len(totals)} trained networks with APS or LPS, each on {each} pairs of shifts"


def _consistent(made: pd.DataFrame) -> Answer:
    question, page = "Is a prediction the same under every circular shift?", "notebooks/table1"
    guaranteed = made["guaranteed"].astype(bool)
    lines = made[guaranteed & made["metric"].isin(["c_cons", "c_cons_original", "c_cons_all"])]
    if lines.empty:
        return Answer(question, "not tested", "No network with APS or LPS is recorded.", "", page)
    if len(differ := lines[lines["agree"] < lines["total"]]["id"].unique()):
        text = f"{_counted(lines)}: pairs differ in {', '.join(differ)}."
        return Answer(question, "the other way round", text, _runs(lines), page)
    lines = _real_first(lines)
    loose = made[~guaranteed & (made["metric"] == "c_cons") & made["data"].isin(lines["data"])]["value"]
    rest = f" Without a guarantee {loose.min():.1f} to {loose.max():.1f} % agree." if len(loose) else ""
    return Answer(question, "seen", f"{_counted(lines)}: none differs.{rest}", _runs(lines), page)


def most_first(found: Sequence[Effect]) -> list[Effect]:
    """The same effect at several scales, which come longest training first: over enough seeds, then over fewer.

    Networks that have not converged decide nothing, however many filters they had.
    """
    return sorted(found, key=lambda effect: -min(effect.n, MIN_SEEDS))


def _elsewhere(found: Sequence[Effect]) -> str:
    """Briefly the effect in each profile but that of the one that is judged."""
    others: dict[str, Effect] = {}
    judged, *rest = most_first(found)
    for effect in rest:
        if effect.profile != judged.profile:
            others.setdefault(effect.profile, effect)
    return ", ".join(f"{effect.gap} in {effect.profile} ({effect.size})" for effect in others.values())


def _joined(scales: Iterable[str]) -> str:
    """Scales of the same images named together: ``CIFAR-10 as JPEG, profiles reduced, short``."""
    found: dict[str, set[str]] = {}
    for scale in scales:
        data, _, profile = scale.rpartition(", profile ")
        found.setdefault(data, set()).add(profile)
    return "; ".join(
        f"{data}, profile{'s' * (len(names) > 1)} {', '.join(sorted(names))}" for data, names in sorted(found.items())
    )


def _compared(question: str, found: Sequence[Effect], page: str) -> Answer:
    if not found:
        return Answer(question, "not tested", "No pair of runs on real images is recorded.", "", page)
    judged = most_first(found)[0]
    text = f"Accuracy of LPS less that of APS: {judged}."
    return Answer(question, judged.outcome, text, judged.scale, page, _elsewhere(found))


def _price(known: Mapping[str, Sequence[Effect]]) -> Answer:
    question, page = "Does the guarantee cost accuracy?", "notebooks/table1"
    found = {"LPS": known["lps-over-fixed"], "APS": known["aps-over-fixed"]}
    judged = {name: most_first(effects)[0] for name, effects in found.items() if effects}
    if not judged:
        return Answer(question, "not tested", "No pair of runs on real images is recorded.", "", page)
    outcomes = [effect.outcome for effect in judged.values()]
    outcome: Outcome = outcomes[0] if len(set(outcomes)) == 1 else "not settled"
    words = "; ".join(f"{name} {effect}, {effect.outcome}" for name, effect in judged.items())
    text = f"Accuracy less that of the rows that keep phase 0: {words}."
    elsewhere = "; ".join(f"{name} {rest}" for name in judged if (rest := _elsewhere(found[name])))
    return Answer(question, outcome, text, _joined(effect.scale for effect in judged.values()), page, elsewhere)


def _learned(studied: Sequence[Record], controls: Sequence[Record]) -> Answer:
    question, page = "Does LPD learn something that APS lacks (Sec. 5.3)?", "notebooks/section53"
    real = section53.on_real_images(studied)
    if not real:
        return Answer(question, "not tested", "No study of a network trained on real images is recorded.", "", page)
    falls = sum(section53.direction("replaced", record["metrics"]) for record in real)
    text = (
        f"Accuracy falls in {falls} of {len(real)} networks when APS takes LPD's place (paper: from "
        f"{paper_number('replaced-before'):g} to {paper_number('replaced-after'):g} %)."
    )
    controlled = [r["metrics"] for r in section53.on_real_images(controls) if "lps" in r["experiment"]]
    if controlled:
        fall = sum(section53.falls(metrics, RANDOM) for metrics in controlled)
        text += f" With phases drawn at random it falls in {fall} of {len(controlled)}"
        text += ": networks that do not depend on the phase cannot say what LPD learned." if not falls + fall else "."
    outcome: Outcome = "seen" if falls == len(real) else "leans" if 2 * falls > len(real) else "not seen"
    if controlled and not falls + fall:
        outcome = "not settled"
    scale = _joined(f"{images(record['data'])}, profile {record['profile']}" for record in real)
    return Answer(question, outcome, text, scale, page)


RANDOM = "acc, random phase"


SEGMENTATION = {
    "lpd-only-over-ddac": "mASCC of LPD only less that of DDAC",
    "aps-over-ddac": "mASCC of APS less that of DDAC",
    "lps-over-lpf-miou": "mIoU of LPS less that of LPF",
}


def _segmentation(made: pd.DataFrame, known: Mapping[str, Sequence[Effect]], placed: Sequence[Record] = ()) -> Answer:
    question, page = "Is segmentation equivariant?", "notebooks/table5"
    lines = made[made["guaranteed"].astype(bool) & (made["metric"] == "mascc")]
    if lines.empty:
        return Answer(question, "not tested", "No DeepLabV3+ with LPD and LPU is recorded.", "", page)
    lines = lines if (lines["agree"] < lines["total"]).any() else _real_first(lines)
    agree, total = lines["agree"].sum(), lines["total"].sum()
    kept = (
        "in each every pixel keeps its label under every shift tried"
        if agree == total
        else f"{total - agree:,.0f} pixels change their label"
    )
    text = f"{lines['run'].nunique()} networks with LPD and LPU: {kept}."
    judged = (effect for key in SEGMENTATION for effect in most_first(known[key])[:1])
    if against := [effect for effect in judged if effect.outcome == "the other way round"]:
        words = "; ".join(f"{SEGMENTATION[e.id]}, {e}" for e in against)
        text += f" The other way round than in the paper: {words}."
    both = [[r["metrics"][f"mascc{at}"] for at in ("", ", put right")] for r in section53.on_real_images(placed)]
    if moved := [pair for pair in both if pair[0] != pair[1]]:
        before, after = (mean(metric["value"] for metric in metrics) for metrics in zip(*moved, strict=True))
        text += (
            " Interpolation misplaces maps of learned phases: moved to where they were taken, those of "
            f"{len(moved)} network{'s' * (len(moved) > 1)} with APS or LPD only keep {after:.1f} % of their labels, "
            f"not {before:.1f} %."
        )
    return Answer(question, "seen" if agree == total else "the other way round", text, _runs(lines), page)


def _cost(entries: Sequence[Mapping[str, Any]], timed: Sequence[Record]) -> Answer:
    share = next(entry for entry in entries if entry["id"] == "table4/lps-tri-3:pooling_share")
    paper = 100 * (times.paper_ratios()["lps-tri-3"] - 1)
    held = "seen" if share["verdict"] == "holds" else "not settled"
    text = f"Parameters, {held}: {share['ours']} % more (paper: {share['paper']} %). Time over LPF: "
    if record := times.newest(timed, times.TABLE4, "cpu"):
        took = times.frame(record).loc["lps-tri-3"]
        low, middle, high = (100 * (took[name] - 1) for name in ("low", "time", "high"))
        text += f"{middle:.0f} % more on a processor, quartiles {low:.0f} to {high:.0f}; not to be compared with "
        text += f"the paper's {paper:.0f} % on a GPU."
    else:
        text += f"not measured (paper: {paper:.0f} % on a GPU)."
    outcome: Outcome = "not settled"  # the time is of other hardware than the paper's
    return Answer("What does it cost in parameters and time?", outcome, text, "the paper's network", "notebooks/table4")


def _scale(made: pd.DataFrame) -> Answer:
    full = made[made["full"].astype(bool) & made["table"].isin(["table2", "table3", "table5", "table6"])]
    question = "Does it hold on ImageNet and PASCAL VOC?"
    if full.empty:
        text = "No network was trained there; the commands stand ready."
        return Answer(question, "not tested", text, "", "book/scale")
    return Answer(question, "not settled", f"{full['run'].nunique()} runs are recorded.", _runs(full), "book/claims")
