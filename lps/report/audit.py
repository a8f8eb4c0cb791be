"""The paper's arithmetic, recomputed from its own printed numbers. Nothing here is measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .statements import agrees, listed, pairs, printed, table4_parameters
from .statistics import average_difference, difference
from .tables import PAPER_SEEDS, TABLES, paper_number, paper_table, printed_samples

RESNET101_FEATURES, IMAGENET_CLASSES, COUNTED_CLASSES = 2048, 1000, 10
LARGEST_SHIFT, CIFAR_SIDE, PHASES = 32, 32, 4


@dataclass(frozen=True)
class Item:
    """One recomputation: what the paper prints, what its other numbers give, and whether the two agree."""

    place: str
    statement: str
    printed: str
    recomputed: str
    verdict: Literal["holds", "fails", "not checkable"]
    note: str = ""


def _value(row: str, column: str) -> float:
    table = row.split("/")[0]
    return float(next(r[column] for r in paper_table(table) if r["row"] == row))


def _equal(place: str, statement: str, printed: float, recomputed: float, unit: str = "", note: str = "") -> Item:
    """A printed number against its recomputation, rounded to the digits printed."""
    digits = len(f"{printed:.10f}".rstrip("0").partition(".")[2])
    show = "{:,.0f}" if digits == 0 else f"{{:.{digits}f}}"
    same = show.format(printed) == show.format(recomputed)
    exact = show if float(recomputed).is_integer() else f"{{:.{digits + 2}f}}"
    return Item(
        place,
        statement,
        show.format(printed) + unit,
        exact.format(recomputed) + unit,
        "holds" if same else "fails",
        note,
    )


def table4() -> Iterator[Item]:
    """Counts, differences and percentages of Table 4."""
    plain = _value("table4/lpf-tri-3", "parameters")
    for row in ("lps-tri-3", "lps-adapt-3", "ddac-adapt-3"):
        absolute, relative = (_value(f"table4/{row}", c) for c in ("parameters", "pooling_parameters"))
        yield _equal("Table 4", f"{row}: absolute minus default is relative", relative, absolute - plain)
        share = _value(f"table4/{row}", "pooling_share")
        note = "The last digit is cut, not rounded." if round(100 * relative / plain, 2) != share else ""
        yield _equal("Table 4", f"{row}: relative over default", share, 100 * relative / plain, " %", note)
    for row, name in (("lps-tri-3", "lpd"), ("ddac-adapt-3", "ddac")):
        share = 100 * _value(f"table4/{row}", "pooling_parameters") / plain
        yield _equal("Sec. 5.3", f"{row} adds approximately", paper_number(f"{name}-parameters"), share, " %")
    parts = [_value(f"table4/{row}", "pooling_parameters") for row in ("lps-tri-3", "ddac-adapt-3")]
    both = _value("table4/lps-adapt-3", "pooling_parameters")
    yield _equal("Table 4", "LPD with DDAC has the parameters of LPD and of DDAC", both, sum(parts))
    full = plain + (IMAGENET_CLASSES - COUNTED_CLASSES) * (RESNET101_FEATURES + 1)
    counted = table4_parameters("table4/lpf-tri-3")["parameters"]
    shares = ", ".join(f"{100 * part / full:.2f} %" for part in (*parts, both))
    yield Item(
        "Table 4; Sec. 5.3",
        "The counts are those of a ResNet-101 for ImageNet",
        f"{plain:,.0f}",
        f"{full:,.0f} with {IMAGENET_CLASSES:,} classes",
        "fails",
        f"A ResNet-101 with {COUNTED_CLASSES} classes has {counted:,.0f} parameters, counted here. With "
        f"{IMAGENET_CLASSES:,} the shares of LPD, DDAC and both would be {shares}: no conclusion changes.",
    )


def times() -> Iterator[Item]:
    """Differences and ratios of the times of Table 4, and the words of Sec. 5.3 for them."""
    rows = ("lpf-tri-3", "aps-tri-3", "lps-tri-3", "ddac-adapt-3", "lps-adapt-3")
    lpf, aps, lpd, ddac, both = (_value(f"table4/{row}", "time_ms") for row in rows)
    yield _equal("Sec. 5.3", "LPD increases the time over LPF by", paper_number("lpd-time"), lpd - lpf, " ms")
    yield _equal("Sec. 5.3", "DDAC increases the time over LPF by", paper_number("ddac-time"), ddac - lpf, " ms")
    yield Item(
        "Sec. 5.3",
        "The overhead is almost trivial",
        "no number",
        f"{100 * (lpd / lpf - 1):.1f} % over LPF, {100 * (lpd / aps - 1):.1f} % over APS",
        "not checkable",
        f"APS alone takes {100 * (aps / lpf - 1):.1f} % over LPF, DDAC {100 * (ddac / lpf - 1):.1f} %, and LPD on top "
        f"of DDAC {both - ddac:.2f} ms or {100 * (both / ddac - 1):.1f} %.",
    )


def sentences() -> Iterator[Item]:
    """Numbers of the text that other numbers of the paper determine."""
    consistencies = {row["method"]: float(row["mascc"]) for row in paper_table("table5")}
    leads = {name: 100 - value for name, value in consistencies.items() if not name.startswith(("LPS", "LPD"))}
    yield Item(
        "Abstract",
        "LPS outperforms the baselines in consistency on PASCAL VOC by",
        f"{paper_number('lead')} points",
        f"{min(leads.values()):.2f} to {max(leads.values()):.2f} points",
        "holds" if f"{min(leads.values()):.1f}" == f"{paper_number('lead')}" else "fails",
        f"The least lead, 100 - {consistencies['APS']:.2f}, over APS. It is in mASCC, not in mIoU, where LPS and APS "
        f"print {_value('table5/lps-adapt-3', 'miou'):.2f} and {_value('table5/aps-adapt-3', 'miou'):.2f}.",
    )
    yield _equal(
        "Sec. 5.3",
        "The ResNet-101 whose LPD is replaced has the accuracy of its row in Table 3",
        paper_number("replaced-before"),
        _value("table3/resnet101-lps-adapt-3", "acc"),
        " %",
    )
    yield _equal(
        "Sec. 5.3",
        "With APS in place of LPD accuracy is that of chance",
        paper_number("replaced-after"),
        100 / IMAGENET_CLASSES,
        " %",
    )
    yield Item(
        "Sec. 5.3",
        "LPD selects the largest norm only in a part of its choices",
        f"{paper_number('max-norm-share')} %",
        f"{100 / PHASES:.0f} % by chance",
        "holds" if paper_number("max-norm-share") < 100 / PHASES else "fails",
        "Below one in four, the share of a choice among four phases that has nothing to do with the norm.",
    )
    ddac = {row["row"].rpartition("/")[2]: row for row in paper_table("table6")}
    gap = float(ddac["ddac-adapt-3-retrained"]["massc"]) - float(ddac["ddac-adapt-3"]["massc"])
    lead = float(ddac["lps-adapt-3"]["massc"]) - float(ddac["ddac-adapt-3-retrained"]["massc"])
    yield Item(
        "Table 6",
        "The mASSC of DDAC's paper and of DDAC* measure the same checkpoint alike",
        f"{ddac['ddac-adapt-3']['massc']} and {ddac['ddac-adapt-3-retrained']['massc']}",
        f"{gap:.2f} points apart",
        "fails",
        f"The two implementations differ by more than the lead of LPS over DDAC*, {lead:.2f} points. Only that lead is "
        "a comparison; the rows from DDAC's paper are on another scale.",
    )
    counts = {shift % CIFAR_SIDE: 0 for shift in range(LARGEST_SHIFT + 1)}
    for shift in range(LARGEST_SHIFT + 1):
        counts[shift % CIFAR_SIDE] += 1
    total = LARGEST_SHIFT + 1
    equal = (sum(count**2 for count in counts.values()) / total**2) ** 2
    yield Item(
        "Sec. 5.1, Eq. (26)",
        "Shifts from 0 to 32 are uniform on CIFAR-10",
        "0 to 32",
        f"{total} values for {CIFAR_SIDE} shifts",
        "fails",
        f"A shift by 32 is none, so none is drawn twice as often. Two shifts of a pair coincide with probability "
        f"{100 * equal:.3f} %: C-Cons. is at least that on average, and nothing in Table 1 changes.",
    )
    with_spread = [name for name in TABLES if any("std" in column for column in paper_table(name)[0])]
    yield Item(
        "Checklist 3c",
        "Mean and deviation over random seeds are reported where feasible",
        "in Sec. 5",
        f"accuracies with a deviation: 1 of {len(TABLES) - 1} tables",
        "holds" if "table1" in with_spread else "fails",
        f"Table 1, {PAPER_SEEDS} seeds. Tables 2, 3, 5 and 6 print single runs, so the seed's part in their "
        "differences is unknown; Table 4's deviations are of times.",
    )


def spreads() -> Iterator[Item]:
    """Whether Table 1's own deviations settle that LPS is more accurate than APS."""
    compared = printed_samples("LPS", "APS")
    settled = [antialias for antialias, (lps, aps) in compared.items() if difference(lps, aps).low > 0]
    mean = average_difference(list(compared.values()))
    yield Item(
        "Sec. 5.1; Table 1",
        "The gain of LPS over APS is larger than the spread of five seeds explains",
        f"{len(compared)} of {len(compared)} means above",
        f"{len(settled)} of {len(compared)} intervals above zero",
        "holds" if len(settled) == len(compared) else "fails",
        f"Settled at 95 % for {', '.join('no filter' if a == '-' else a for a in settled)}. Over all filters the mean "
        f"gain is {mean.value:.2f} points, between {mean.low:.2f} and {mean.high:.2f}, and is settled.",
    )


def orderings() -> Iterator[Item]:
    """Every sentence that orders methods, against the values printed in the tables."""
    for item in listed("orderings"):
        relation = item.get("relation", "above")
        values = {pair: printed(pair) for pair in pairs(item)}
        known = {pair: value for pair, value in values.items() if value is not None}
        against = [pair for pair, value in known.items() if not agrees(relation, value, value)]
        least = min(known.values())
        words = [f"{p.better.partition('/')[2]} - {p.worse.partition('/')[2]} in Table {p.better[5]}, {p.metric}: "
                 f"{known[p]:+.2f}" for p in against]  # fmt: skip
        lost = f" {len(values) - len(known)} not printed." if len(known) < len(values) else ""
        yield Item(
            item["place"],
            item["statement"],
            f"{len(known)} comparisons",
            f"{len(known) - len(against)} agree, least {least:+.2f}",
            "fails" if against else "holds",
            ("Against it: " + "; ".join(words) + "." if words else "") + lost,
        )


PARTS = {
    "Counts and shares": table4,
    "Times": times,
    "Numbers of the text": sentences,
    "Spreads": spreads,
    "Orderings, read strictly": orderings,
}


def report() -> dict[str, Any]:
    """The whole audit as data for the book."""
    return {title: [asdict(item) for item in part()] for title, part in PARTS.items()}
