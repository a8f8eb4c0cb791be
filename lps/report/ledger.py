"""The ledger: every checkable statement of the paper with its verdict on this machine."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import pandas as pd
import torch

from ..experiments.records import VERSION, now, write_json
from ..machine import hardware
from ..notebooks.cells import left_by
from ..paths import BUILD, LOCAL, ROOT, SHIPPED
from ..studies import trained as studies
from . import answers, coverage, paper, section53
from . import times as benchmarks
from .answers import MIN_SEEDS
from .frame import GROUP, Record, age, drawn, groups, labels, measured, one_per_seed, runs
from .paper import TABLES, Pair, Relation, command, listed, paper_table
from .statistics import Interval, failure_bound, paired
from .tables import CONSISTENCIES, Verdict, judge, together, write_tables
from .theory import STATEMENTS, Check, check, counterexample, evidence, tried

README = ROOT / "README.md"
HERE = "python -m lps claims"
Kind = Literal["theorem", "cell", "ordering", "sentence"]
COUNTED = ("parameters", "pooling_parameters", "pooling_share")


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    id: str
    kind: Kind
    place: str
    statement: str
    paper: str | None = None
    ours: str | None = None
    rule: str = ""
    verdict: Verdict = "not run"
    evidence: str = ""
    run: list[str] = field(default_factory=list)
    command: str = ""
    page: str | None = None

    @classmethod
    def of(cls, item: Mapping[str, Any], kind: Kind, **known: Any) -> Self:
        """The line of an item of ``claims.yml``."""
        return cls(item["id"], kind, item["place"], item["statement"], **{"page": item.get("page"), **known})


# Lemma 1 and Claims 1 to 4 -----------------------------------------------------------------------------------


def theorem_entries() -> list[Entry]:
    """Lemma 1 and Claims 1 to 4, tried now on this machine by the cells of their notebooks."""
    return [_theorem(item, check(item["id"])) for item in listed("theorems")]


def _theorem(item: Mapping[str, str], found: Check) -> Entry:
    broken = sum(count[False] for count in found.broken.values())
    ties = f" {found.ties.total():,} cases with tied scores are counted apart." if found.ties else ""
    rule = "every case holds and every broken variant fails"
    entry = Entry.of(item, "theorem", paper="proved", rule=rule, command=HERE)
    if not found.holds:
        return replace(entry, verdict="fails", evidence=found.failure or "a broken variant never fails")
    words = f"{found.cases:,} cases ({found.scope}), 0 failed, largest difference {found.worst:.1e}; "
    words += f"{len(found.broken)} broken variants failed {broken:,} times.{ties}"
    return replace(entry, ours=f"{found.cases:,} of {found.cases:,}", verdict="holds", evidence=words)


# Cells of Tables 1 to 6 --------------------------------------------------------------------------------------

EVERY_PAIR = "every tested pair equal, at every scale and by every protocol"
RULES = {
    "parameters": "integer equality",
    "pooling_parameters": "integer equality",
    "pooling_share": "within one unit of the last digit printed",
    "time_ms_std": "none: the spread of one machine says nothing about another",
}
"""Rules of columns that are not measured; those of measured ones have a tolerance."""


def cell_entries(made: pd.DataFrame, timed: Sequence[Record] = ()) -> list[Entry]:
    """Every value that the paper prints in Tables 1 to 6."""
    best, every = best_runs(made), made[made["as_profile"]]
    return [
        _cell(name, row, metric, best[best["row"] == row["row"]], every[every["row"] == row["row"]], timed)
        for name, table in TABLES.items()
        for row in paper_table(name)
        for metric in table.metrics
        if row[metric] != "-"
    ]


def _cell(
    name: str, row: Mapping[str, str], metric: str, found: pd.DataFrame, every: pd.DataFrame, timed: Sequence[Record]
) -> Entry:
    table, printed = TABLES[name], row[metric]
    exact = metric in CONSISTENCIES and printed == "100"
    shown = f"{int(printed):,}" if printed.isdigit() else printed or None
    antialias = "without a filter" if row["antialias"] == "-" else f"with {row['antialias']}"
    deviation = row.get(f"{metric}_std") if metric != "time_ms" else None
    tolerance = f"within max(2 combined standard errors, {paper.MARGIN} points); only at the paper's scale"
    entry = Entry(
        f"{row['row']}:{metric}",
        "cell",
        f"Table {name.removeprefix('table')}",
        f"{table.metrics[metric]} of {row['method']} {antialias}" + (f" on {row['model']}" if "model" in row else ""),
        f"{printed} ± {deviation}" if deviation else shown,
        rule=EVERY_PAIR if exact else RULES.get(metric, tolerance),
        evidence=f"no record; needs {table.data}",
        command=command(row["row"]),
        page=table.page,
    )
    if not printed:
        return replace(entry, verdict="not checkable", evidence="the text copy of the paper has lost this value")
    if metric in COUNTED:
        return _counted(entry, row, metric)
    if metric == "time_ms":
        return replace(entry, **benchmarks.time_cell(row["row"], timed))
    if metric == "time_ms_std":
        return replace(entry, verdict="not checkable", evidence="the paper does not name the device", command="")
    entry = _measured(entry, row, metric, found, every)
    return _at_any_scale(entry, metric, every) if exact else entry


def _at_any_scale(entry: Entry, metric: str, every: pd.DataFrame) -> Entry:
    """An equality is contradicted by one pair, by whatever protocol it was counted and however small the run."""
    counted = every[every["metric"].isin([metric, *(f"{metric}_{ending}" for ending in PROTOCOLS)])]
    differ = list(counted[counted["agree"] < counted["total"]]["id"].unique())
    if differ:
        return replace(entry, verdict="fails", evidence=f"pairs differ in {', '.join(differ)}", run=differ)
    others = counted[~counted["id"].isin(entry.run)].drop_duplicates("id")
    if others.empty:
        return entry
    where = ", ".join(sorted(others["profile"].unique()))
    words = f"no pair differs in {len(others)} other {'run' if len(others) == 1 else 'runs'} ({where})"
    return replace(entry, evidence=f"{entry.evidence}; {words}")


def comparable(made: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs that the ledger judges by, those of a profile on real images, one for each seed.

    Those of one profile and data are together, for nothing else is compared: full scale first, then the larger profile.
    """
    real = made[~drawn(made)]
    small = real[real["as_profile"] & ~real["full"]]  # the paper's settings on fewer images among them
    return [one_per_seed(members) for scale in (real[real["full"]], small) for members in groups(scale)]


def best_runs(made: pd.DataFrame) -> pd.DataFrame:
    """The runs that say most about each row by itself: those of the first group of :func:`comparable` that has it."""
    best = made.head(0)
    for found in comparable(made):
        best = pd.concat([best, found[~found["row"].isin(best["row"])]])
    return best


PROTOCOLS = {"original": "by the original code's protocol", "all": "over all pairs of shifts of the first images"}


def _measured(entry: Entry, row: Mapping[str, str], metric: str, found: pd.DataFrame, every: pd.DataFrame) -> Entry:
    lines = found[found["metric"] == metric]
    ours = measured(lines)
    if ours is None:
        return entry
    value = {"mean": float(row[metric]), "std": float(row.get(f"{metric}_std") or 0)}
    scale = _scale(found)
    evidence = (f"{ours['agree']:,} of {ours['total']:,} " if "total" in ours else "") + scale + _bound(metric, lines)
    for ending, words in PROTOCOLS.items():  # the same consistency counted otherwise, where all runs have it
        counted = found[found["metric"] == f"{metric}_{ending}"]
        if len(counted) == found["run"].nunique():
            evidence += f"; {words} {counted['agree'].sum():,.0f} of {counted['total'].sum():,.0f}"
    profile, *data = found.iloc[0][GROUP]
    others = every[(every["profile"] == profile) & ~drawn(every)].drop_duplicates("run")
    evidence += age(found)
    if apart := (others[GROUP[1:]] != data).any(axis=1).sum():
        evidence += f"; runs of this profile on other data, which stand apart: {apart}"
    return replace(
        entry,
        ours=f"{ours['mean']:.2f} (n = {ours['n']}, {scale.removeprefix('at reduced scale, ')})",
        verdict=judge(metric, value, lines),
        evidence=evidence,
        run=list(found["id"].unique()),
    )


def _scale(found: pd.DataFrame) -> str:
    if found["full"].all():
        return "at the paper's scale"
    return f"at reduced scale, {', '.join(sorted(set(labels(found))))}"


def _bound(metric: str, lines: pd.DataFrame) -> str:
    """What a count of pairs of images without a failure leaves possible for one network, were it not a theorem.

    Networks are tried on the same images with the same shifts, so that their pairs do not add up; nor do pixels, which
    are not independent.
    """
    if metric not in ("c_cons", "s_cons") or (lines["agree"] < lines["total"]).any():
        return ""
    total = int(lines["total"].min())
    rate = f"{100 * failure_bound(total):.2g} %"
    return f"; of each network alone, on {total:,} pairs, a failure rate above {rate} is ruled out (95 %)"


def _counted(entry: Entry, row: Mapping[str, str], metric: str) -> Entry:
    ours = paper.table4_parameters(row["row"])[metric]
    digits = len(row[metric].partition(".")[2])
    return replace(
        entry,
        ours=f"{ours:.3f}" if digits else f"{int(ours):,}",
        verdict="holds" if abs(ours - float(row[metric])) < 10**-digits else "fails",
        evidence="counted on this machine, with 10 classes, which the paper's counts are those of",
        command=HERE,
    )


# Orderings ---------------------------------------------------------------------------------------------------

RELATIONS = {
    "above": "above zero",
    "not below": f"above -{paper.MARGIN} points",
    "close": f"within {paper.MARGIN} points of zero",
}


def ordering_entries(made: pd.DataFrame, timed: Sequence[Record] = ()) -> list[Entry]:
    """Statements that one method beats another: paired over seeds, never from one seed; times, in a benchmark."""
    none = made.head(0)
    found = [defaultdict(lambda: none, iter(group.groupby(["metric", "row"]))) for group in (*comparable(made), none)]
    return [_ordering(item, found, timed) for item in listed("orderings")]


Lines = Mapping[tuple[str, str], pd.DataFrame]
"""Of runs that may be compared, the lines of each metric and row."""


def _ordering(item: Mapping[str, Any], found: Sequence[Lines], timed: Sequence[Record]) -> Entry:
    compared, relation = list(paper.pairs(item)), item.get("relation", "above")
    tables = sorted({pair.better.split("/")[0] for pair in compared})
    gaps = [gap for pair in compared if (gap := paper.printed(pair)) is not None]
    in_print = sum(paper.agrees(relation, gap, gap) is True for gap in gaps)
    entry = Entry.of(
        item,
        "ordering",
        paper=item.get("paper") or f"{in_print} of {len(gaps)} in print, least {min(gaps):+.2f}",
        rule=f"paired over at least {MIN_SEEDS} seeds, the 95 % interval of every difference {RELATIONS[relation]}; "
        "below the paper's scale direction only at most, and undecided where an interval contradicts it",
        command="\n".join(command(f"{name}/*") for name in tables if name != "table4"),
        page=TABLES[tables[0]].page if len(tables) == 1 else "notebooks/audit",
    )
    if all(pair.metric == "time_ms" for pair in compared):
        return replace(entry, **benchmarks.slower([pair.better for pair in compared], timed))  # all over LPF
    results = {pair: _compare(pair, relation, found) for pair in compared}
    known = {pair: result for pair, result in results.items() if result.n >= MIN_SEEDS}
    verdict = together(
        [(result.agrees if pair in known else None, result.full) for pair, result in results.items()],
        tried=any(result.n for result in results.values()),
    )
    directions = Counter({True: "seen", False: "against", None: "open"}[result.agrees] for result in known.values())
    counts = ", ".join(f"{directions[name]} {name}" for name in ("seen", "against", "open") if directions[name])
    needed = f"{len(known)} of {len(results)} comparisons have {MIN_SEEDS} paired seeds"
    if verdict == "undecided" and directions["against"]:
        needed += f", and the direction of {directions['against']} is not seen at this scale"
    elif verdict == "undecided" and len(known) == len(results):
        needed = "the intervals do not decide it"
    words = "; ".join(
        f"{pair.better} - {pair.worse}, {pair.metric}: {r.interval}, n = {r.n}" for pair, r in known.items()
    )
    behind = pd.concat([result.behind for result in results.values()]).drop_duplicates("id")
    evidence = f"{needed}{age(behind)}. {words}".strip()
    ours = f"of {len(known)}: {counts}" if known else None
    return replace(entry, ours=ours, verdict=verdict, evidence=evidence, run=list(behind["id"]))


class Compared(NamedTuple):
    """The difference of a pair over its common seeds, their number, whether it agrees, whether it was made at the
    paper's scale, and the runs behind it."""

    interval: Interval
    n: int
    agrees: bool | None
    full: bool
    behind: pd.DataFrame


def _compare(pair: Pair, relation: Relation, groups: Sequence[Lines]) -> Compared:
    """A pair within the group that contradicts it at full scale, else that compares it over enough seeds."""

    def within(lines: Lines) -> Compared:
        better, worse = (lines[pair.metric, row].set_index("seed") for row in (pair.better, pair.worse))
        (interval, n), behind = paired(better["value"], worse["value"]), pd.concat([better, worse])
        return Compared(
            interval, n, paper.agrees(relation, interval.low, interval.high), bool(behind["full"].all()), behind
        )

    def weight(made: Compared) -> tuple[bool, int]:
        return made.n >= MIN_SEEDS and made.agrees is False and made.full, min(made.n, MIN_SEEDS)

    sides = {(pair.metric, row) for row in (pair.better, pair.worse)}
    return max(map(within, [lines for lines in groups if sides & lines.keys()] or groups[-1:]), key=weight)


def _effect(item: Mapping[str, Any], found: Sequence[answers.Effect]) -> Entry:
    """A mean difference over filters, paired by seed, of the largest profile with enough seeds."""
    rule = (
        f"mean over the pairs of rows, then over at least {MIN_SEEDS} seeds: the 95 % interval on the paper's side of "
        "zero; below the paper's scale direction only at most"
    )
    entry = Entry.of(item, "ordering", rule=rule, command=command(f"{item['compare'][0]['table']}/*"))
    if not found:
        return entry
    most = answers.most_first(found)[0]
    return replace(
        entry,
        paper=f"{most.paper:+.2f}",
        ours=f"{most.interval.value:+.2f} ({most.size}, {most.scale})",
        verdict=together([({"seen": True, "the other way round": False}.get(most.outcome), most.full)]),
        evidence=f"{most.outcome}: " + "; ".join(f"{effect}, {effect.scale}" for effect in found),
        run=most.runs,
    )


# Consistencies and sentences ---------------------------------------------------------------------------------


def consistency_entries(made: pd.DataFrame) -> list[Entry]:
    """Statements that predictions agree under every shift, or need not."""
    found = [*comparable(made), made.head(0)]
    return [_consistency(item, found, made[made["as_profile"]]) for item in listed("consistencies")]


def _consistency(item: Mapping[str, Any], groups: Sequence[pd.DataFrame], every: pd.DataFrame) -> Entry:
    rows, table, metric = paper.select(item["table"], item["rows"]), TABLES[item["table"]], item["metric"]
    names, values = [row["row"] for row in rows], [float(row[metric]) for row in rows if row[metric]]
    exact = item["kind"] == "exact"
    spread = " to ".join(f"{value:g}" for value in sorted({min(values), max(values)}))
    entry = Entry.of(
        item,
        "sentence",
        paper="100 in every row" if exact else spread,
        rule=EVERY_PAIR if exact else "some pairs differ in every row",
        evidence=f"no record; needs {table.data}",
        command=command(f"{item['table']}/*"),
        page=table.page,
    )
    found = max((lines[lines["row"].isin(names)] for lines in groups), key=lambda lines: lines["row"].nunique())
    if not found.empty:
        found = found.sort_values("row", key=lambda row: row.map(names.index), kind="stable")
        lines, recorded = found[found["metric"] == metric], found["row"].nunique()
        counts = lines.groupby("row")[["agree", "total"]].sum()
        agree, total = counts.sum()
        full = bool(recorded == len(names) and found["full"].all())
        differ = bool((counts["agree"] < counts["total"]).all())
        bound = _bound(metric, lines) if exact else ""
        entry = replace(
            entry,
            ours=f"{agree:,.0f} of {total:,.0f}",
            verdict=together([(exact or differ, full)]),
            evidence=f"{recorded} of {len(names)} rows have records, {_scale(found)}{bound}{age(found)}",
            run=list(found["id"].unique()),
        )
    return _at_any_scale(entry, metric, every[every["row"].isin(names)]) if exact else entry


def sentence_entries(
    studied: Sequence[Record], timed: Sequence[Record] = (), unlearned: Sequence[Record] = ()
) -> list[Entry]:
    """The other sentences: tried now, studied on trained networks, not run, or not checkable."""
    return [_sentence(item, studied, timed, unlearned) for item in listed("sentences")]


def _sentence(
    item: Mapping[str, str], studied: Sequence[Record], timed: Sequence[Record], unlearned: Sequence[Record]
) -> Entry:
    entry = Entry.of(item, "sentence", paper=item.get("paper"))
    if "reason" in item:
        return replace(entry, rule="none", verdict="not checkable", evidence=item["reason"])
    if "study" in item:
        return replace(entry, **section53.judge(item["study"], studied, unlearned))
    if "times" in item:
        return replace(entry, **benchmarks.time_cell(item["times"], timed, item.get("beyond", "")))
    holds, ours, text = _tried(item)
    rule = "rounds to the paper's value" if "paper" in item else "tried now on real layers"
    return replace(entry, ours=ours, rule=rule, verdict="holds" if holds else "fails", evidence=text, command=HERE)


def _tried(item: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Whether a sentence holds here and now, our value, and how it was found."""
    if "share" in item:
        share = paper.table4_parameters(item["share"])["pooling_share"]
        words = "counted on this machine, 10 classes as in Table 4"
        return item["paper"] == f"about {share:.0f} %", f"{share:.2f} %", words
    if "notebook" in item:
        try:
            return True, *evidence(item["notebook"])[item["id"]]
        except AssertionError as error:
            return False, "breaks", counterexample(error, item["notebook"])
    ours, text = item["checked"]
    found = {label: tried(label) for label in STATEMENTS if f"{{{label}." in ours + text}
    for one in found.values():
        if not one.holds:
            return False, "breaks", one.failure or "a broken variant never fails"
    return True, ours.format_map(found), text.format_map(found)


# The whole ---------------------------------------------------------------------------------------------------


def ledger(theory: bool = True, folders: Sequence[Path] = (SHIPPED, LOCAL)) -> dict[str, Any]:
    """All entries by the records below ``folders``, with counts by verdict and where they were judged."""
    made, timed = runs(*folders), benchmarks.read(*folders)
    effects = answers.effects(made)
    studied, controls, placed, segmenters, unlearned = (
        studies.read(*folders, kind=kind) for kind in ("section53", "controls", "placed", "segmenters", "unlearned")
    )
    entries = [
        *(theorem_entries() if theory else []),
        *cell_entries(made, timed),
        *ordering_entries(made, timed),
        *(_effect(item, effects[item["id"]]) for item in listed("effects")),
        *consistency_entries(made),
        *sentence_entries(studied, timed, unlearned),
    ]
    about, found = hardware(), [asdict(entry) for entry in entries]
    return {
        "generated": now(),
        "code": VERSION,
        "machine": f"{about['cpu']}, {about['cores']} cores, torch {torch.__version__}",
        "counts": dict(Counter(entry.verdict for entry in entries)),
        "answers": [
            asdict(answer)
            for answer in answers.answers(made, found, studied, controls, timed, placed, segmenters, unlearned)
        ],
        "entries": found,
    }


def write(content: Mapping[str, Any], path: Path = BUILD / "claims.json") -> None:
    """Write the ledger, and the tables that it fills for the book and for the reader."""
    write_json(path, content)
    write_tables(content["entries"])
    write_json(BUILD / "seeds.json", left_by("statistics", "evidence")["seeds"])
    write_json(BUILD / "coverage.json", coverage.report(content["entries"]))


GROUPS = {"theorem": "Theory", "ordering": "Orderings", "sentence": "Sentences"}
MARK = "<!-- the scoreboard: python -m lps claims --readme -->"


def scoreboard(entries: Iterable[Mapping[str, Any]]) -> str:
    """How many entries of each part of the ledger have which verdict, as a Markdown table."""
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        counts.setdefault(GROUPS.get(entry["kind"], entry["place"]), Counter())[entry["verdict"]] += 1
    verdicts = get_args(Verdict)
    lines = [("", *verdicts), ("---", *("---:" for _ in verdicts))]
    lines += [(part, *(str(found[verdict] or "") for verdict in verdicts)) for part, found in counts.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_readme() -> None:
    """Put the scoreboard of what is shipped between its marks in the README."""
    before, _, after = README.read_text(encoding="utf-8").split(MARK)
    table = scoreboard(ledger(folders=(SHIPPED,))["entries"])
    README.write_text(f"{before}{MARK}\n\n{table}\n\n{MARK}{after}", encoding="utf-8")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, default=BUILD / "claims.json", help="where the ledger is written")
    parser.add_argument("--all", action="store_true", help="list the claims that were not run, too")
    parser.add_argument("--readme", action="store_true", help="only count what is shipped, into the README")


def main(options: argparse.Namespace) -> int:
    """Judge, print and write the ledger; exit status 1 when a claim fails."""
    if options.readme:
        write_readme()
        return 0
    content = ledger()
    write(content, options.json)
    shown = [e for e in content["entries"] if options.all or e["verdict"] not in ("not run", "not checkable")]
    width = max(len(entry["id"]) for entry in shown)
    for entry in shown:
        ours = entry["ours"] or "-"
        print(f"{entry['id']:<{width}}  {entry['verdict']:<14}  paper {entry['paper'] or '-':<16}  here {ours}")
    print("  ".join(f"{verdict}: {count}" for verdict, count in content["counts"].items()))
    return 1 if content["counts"].get("fails") else 0
