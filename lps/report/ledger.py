"""The ledger: every checkable statement of the paper with its verdict on this machine."""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from ..experiments.records import VERSION, now, read_records, write_json
from ..machine import hardware
from ..paths import BUILD, LOCAL, ROOT, SHIPPED
from ..studies import trained as studies
from . import coverage, statements
from . import times as benchmarks
from .paper import command
from .statements import EVIDENCE, Pair, agrees, listed, pairs, printed, select
from .statistics import Interval, failure_bound, paired
from .tables import (
    CONSISTENCIES,
    MARGIN,
    TABLES,
    Record,
    Verdict,
    age,
    as_profile,
    by_seed,
    group,
    grouped,
    is_full_scale,
    judge,
    measured,
    one_per_seed,
    paper_table,
    seeds_table,
    write_tables,
)
from .theory import Check, check

README = ROOT / "README.md"
HERE = "python -m lps claims"
MIN_SEEDS = 3
COUNTED = ("parameters", "pooling_parameters", "pooling_share")


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    id: str
    kind: Literal["theorem", "cell", "ordering", "sentence"]
    place: str
    statement: str
    paper: str | None
    ours: str | None
    rule: str
    verdict: Verdict
    evidence: str
    run: list[str] = field(default_factory=list)
    command: str = ""
    page: str | None = None


# Lemma 1 and Claims 1 to 4 -----------------------------------------------------------------------------------


def theorem_entries() -> list[Entry]:
    """Lemma 1 and Claims 1 to 4, tried now on this machine by the cells of their notebooks."""
    return [_theorem(item, check(item["id"])) for item in listed("theorems")]


def _theorem(item: Mapping[str, str], found: Check) -> Entry:
    cases, broken = found.tried.total(), sum(count[False] for count in found.broken.values())
    ties = f" {found.ties.total():,} cases with tied scores are counted apart." if found.ties else ""
    entry = Entry(
        item["id"],
        "theorem",
        item["place"],
        item["statement"],
        "proved",
        f"{cases:,} of {cases:,}",
        "every case holds and every broken variant fails",
        "holds",
        f"{cases:,} cases ({found.scope}), 0 failed, largest difference {found.worst:.1e}; "
        f"{len(found.broken)} broken variants failed {broken:,} times.{ties}",
        command=HERE,
        page=item["page"],
    )
    if found.holds:
        return entry
    return replace(entry, ours=None, verdict="fails", evidence=found.failure or "a broken variant never fails")


# Cells of Tables 1 to 6 --------------------------------------------------------------------------------------


def cell_entries(records: Sequence[Record], timed: Sequence[Record] = ()) -> list[Entry]:
    """Every value that the paper prints in Tables 1 to 6."""
    found, runs = best_records(records), _runs(records)
    return [
        _cell(name, row, metric, found.get(row["row"], []), runs.get(row["row"], []), timed)
        for name, table in TABLES.items()
        for row in paper_table(name)
        for metric in table.metrics
        if row[metric] != "-"
    ]


def _cell(
    name: str,
    row: Mapping[str, str],
    metric: str,
    found: Sequence[Record],
    runs: Sequence[Record],
    timed: Sequence[Record],
) -> Entry:
    table = TABLES[name]
    entry = Entry(
        f"{row['row']}:{metric}",
        "cell",
        f"Table {name.removeprefix('table')}",
        f"{table.metrics[metric]} of {_with_filter(row)}",
        _printed(row, metric),
        None,
        _rule(row, metric),
        "not run",
        f"no record; needs {table.data}",
        command=command(row["row"]),
        page=table.page,
    )
    if not row[metric]:
        return replace(entry, verdict="not checkable", evidence="the text copy of the paper has lost this value")
    if metric in COUNTED:
        return _counted(entry, row, metric)
    if metric == "time_ms":
        return replace(entry, **benchmarks.time_cell(row["row"], timed))
    if metric == "time_ms_std":
        return replace(entry, verdict="not checkable", evidence="the paper does not name the device", command="")
    entry = _measured(entry, row, metric, found, runs)
    return _at_any_scale(entry, metric, runs) if _exact(row, metric) else entry


def _with_filter(row: Mapping[str, str]) -> str:
    words = (
        f"{row['method']} without a filter" if row["antialias"] == "-" else f"{row['method']} with {row['antialias']}"
    )
    return f"{words} on {row['model']}" if "model" in row else words


def _printed(row: Mapping[str, str], metric: str) -> str | None:
    deviation = row.get(f"{metric}_std") if metric != "time_ms" else None
    return f"{row[metric]} ± {deviation}" if deviation else row[metric] or None


EVERY_PAIR = "every tested pair equal, at every scale and by every protocol"


def _exact(row: Mapping[str, str], metric: str) -> bool:
    return metric in CONSISTENCIES and row[metric] == "100"


def _rule(row: Mapping[str, str], metric: str) -> str:
    if metric in ("parameters", "pooling_parameters"):
        return "integer equality"
    if metric == "pooling_share":
        return "within one unit of the last digit printed"
    if metric == "time_ms_std":
        return "none: the spread of one machine says nothing about another"
    if _exact(row, metric):
        return EVERY_PAIR
    return f"within max(2 combined standard errors, {MARGIN} points); only at the paper's scale"


Found = Mapping[str, Sequence[Record]]
"""Records by row."""


def _runs(records: Iterable[Record]) -> dict[str, list[Record]]:
    """All runs of each row at any scale, on any images, that were made with the settings of their profile."""
    found: dict[str, list[Record]] = {}
    for record in filter(as_profile, records):
        found.setdefault(record["experiment"], []).append(record)
    return found


def _at_any_scale(entry: Entry, metric: str, runs: Iterable[Record]) -> Entry:
    """An equality is contradicted by one pair, by whatever protocol it was counted and however small the run."""
    names = (metric, *(f"{metric}_{ending}" for ending in PROTOCOLS))
    counts = [(r, r["metrics"][name]) for r in runs for name in names if name in r["metrics"]]
    differ = list(dict.fromkeys(run["id"] for run, count in counts if count["agree"] < count["total"]))
    if differ:
        return replace(entry, verdict="fails", evidence=f"pairs differ in {', '.join(differ)}", run=differ)
    others = {run["id"]: run["profile"] for run, _ in counts if run["id"] not in entry.run}
    if not others:
        return entry
    words = f"nor does a pair differ in {len(others)} other runs ({', '.join(sorted({*others.values()}))})"
    return replace(entry, evidence=f"{entry.evidence}; {words}")


def comparable_records(records: Iterable[Record]) -> list[dict[str, list[Record]]]:
    """Records that the ledger judges by, of full scale or of the reduced schedule on real images, by row.

    Those of one profile and data are together, for nothing else is compared: full scale first, then the most. There is
    one record for each seed, by :func:`~lps.report.tables.one_per_seed`.
    """
    real = [r for r in records if not r["data"]["name"].startswith("drawn")]
    full = grouped(filter(is_full_scale, real)).values()
    reduced = (r for r in real if r["profile"] in SMALL and as_profile(r) and not is_full_scale(r))
    return [_by_row(members) for members in (*full, *grouped(reduced).values())]


SMALL = ("reduced", "full")
"""Profiles whose runs are judged as reduced ones where they are not of full scale, the paper's settings on fewer images
among them."""


def _by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record["experiment"], []).append(record)
    return {row: one_per_seed(made) for row, made in rows.items()}


def best_records(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records that say most about each row by itself, the first of :func:`comparable_records`."""
    return {row: made for found in reversed(comparable_records(records)) for row, made in found.items()}


def _measured(
    entry: Entry, row: Mapping[str, str], metric: str, found: Sequence[Record], runs: Iterable[Record]
) -> Entry:
    ours = measured(found, metric)
    if ours is None:
        return entry
    paper = {"mean": float(row[metric]), "std": float(row.get(f"{metric}_std") or 0)}
    scale = _scale(found)
    counts = f"{ours['agree']:,} of {ours['total']:,} {scale}" if "total" in ours else scale
    if metric in IMAGES and ours["agree"] == ours["total"]:
        counts += f"; {_bound(found, metric)}"
    return replace(
        entry,
        ours=f"{ours['mean']:.2f} (n = {ours['n']}, {scale})",
        verdict=judge(metric, paper, found),
        evidence=counts + _other_protocols(metric, found) + age(found) + _apart(found, runs),
        run=[r["id"] for r in found],
    )


IMAGES = ("c_cons", "s_cons")
"""Consistencies that count pairs of images; those of pixels are not independent, and a count bounds nothing."""


def _scale(found: Sequence[Record]) -> str:
    if all(map(is_full_scale, found)):
        return "at the paper's scale"
    return f"at reduced scale on {', '.join(sorted({r['data']['name'] for r in found}))}"


PROTOCOLS = {"original": "by the original code's protocol", "all": "over all pairs of shifts of the first images"}


def _other_protocols(metric: str, found: Sequence[Record]) -> str:
    """The same consistency counted otherwise, where all records have it."""
    counted = {
        words: measured(found, f"{metric}_{ending}")
        for ending, words in PROTOCOLS.items()
        if all(f"{metric}_{ending}" in r["metrics"] for r in found)
    }
    return "".join(f"; {words} {c['agree']:,} of {c['total']:,}" for words, c in counted.items() if c)


def _apart(found: Sequence[Record], runs: Iterable[Record]) -> str:
    """A remark on runs of the same profile that saw other data, and so have no part in a mean."""
    profile, *data = group(found[0])
    others = [group(r) for r in runs if r["profile"] == profile and not r["data"]["name"].startswith("drawn")]
    number = sum(data != other for _, *other in others)
    return f"; runs of this profile on other data, which stand apart: {number}" if number else ""


def _bound(found: Iterable[Record], metric: str) -> str:
    """What a count without a failure leaves possible for one network, were it not a theorem.

    Networks are tried on the same images with the same shifts, so that their pairs do not add up.
    """
    total = min(record["metrics"][metric]["total"] for record in found)
    rate = f"{100 * failure_bound(total):.2g} %"
    return f"of each network alone, on {total:,} pairs, a failure rate above {rate} is ruled out (95 %)"


def _counted(entry: Entry, row: Mapping[str, str], metric: str) -> Entry:
    ours = statements.table4_parameters(row["row"])[metric]
    digits = len(row[metric].partition(".")[2])
    return replace(
        entry,
        ours=f"{ours:.3f}" if digits else str(int(ours)),
        verdict="holds" if abs(ours - float(row[metric])) < 10**-digits else "fails",
        evidence="counted on this machine; the paper's networks have 10 classes",
        command=HERE,
    )


# Orderings ---------------------------------------------------------------------------------------------------


def ordering_entries(records: Sequence[Record], timed: Sequence[Record] = ()) -> list[Entry]:
    """Statements that one method beats another: paired over seeds, never from one seed; times, in a benchmark."""
    comparable = comparable_records(records)
    return [_ordering(item, comparable, timed) for item in listed("orderings")]


_WORDS = {
    "above": "above zero",
    "not below": f"above -{MARGIN} points",
    "close": f"within {MARGIN} points of zero",
}


def _ordering(item: Mapping[str, Any], comparable: Sequence[Found], timed: Sequence[Record]) -> Entry:
    compared, relation = list(pairs(item)), item.get("relation", "above")
    tables = sorted({pair.better.split("/")[0] for pair in compared})
    entry = Entry(
        item["id"],
        "ordering",
        item["place"],
        item["statement"],
        item.get("paper") or _in_print(compared, relation),
        None,
        f"paired over at least {MIN_SEEDS} seeds, the 95 % interval of every difference {_WORDS[relation]}; below the "
        "paper's scale direction only at most, and undecided where an interval contradicts it",
        "not run",
        "",
        command="\n".join(command(f"{name}/*") for name in tables if name != "table4"),
        page=TABLES[tables[0]].page if len(tables) == 1 else "notebooks/audit",
    )
    if all(pair.metric == "time_ms" for pair in compared):
        return replace(entry, **benchmarks.slower([pair.better for pair in compared], timed))  # all over LPF
    results = {pair: _compare(pair, relation, comparable) for pair in compared}
    known = {pair: result for pair, result in results.items() if result.n >= MIN_SEEDS}
    against = [result for result in known.values() if result.agrees is False]
    behind = list({r["id"]: r for result in results.values() for r in result.behind}.values())
    if any(result.full for result in against):
        verdict: Verdict = "fails"
    elif len(known) == len(results) and all(result.agrees for result in known.values()):
        verdict = "holds" if all(result.full for result in results.values()) else "direction only"
    else:
        verdict = "undecided" if any(result.n for result in results.values()) else "not run"
    words = "; ".join(
        f"{pair.better} - {pair.worse}, {pair.metric}: {r.interval.value:+.2f} "
        f"[{r.interval.low:+.2f}, {r.interval.high:+.2f}], n = {r.n}"
        for pair, r in known.items()
    )
    needed = f"{len(known)} of {len(results)} comparisons have {MIN_SEEDS} paired seeds"
    if against and verdict == "undecided":
        needed += f", and the direction of {len(against)} is not seen at this scale"
    elif len(known) == len(results) and verdict == "undecided":
        needed = "the intervals do not decide it"
    return replace(
        entry,
        verdict=verdict,
        evidence=f"{needed}{age(behind)}. {words}".strip(),
        run=[r["id"] for r in behind],
    )


def _in_print(compared: Sequence[Pair], relation: statements.Relation) -> str:
    """How many of the comparisons the paper's own numbers bear out."""
    values = [value for pair in compared if (value := printed(pair)) is not None]
    held = sum(agrees(relation, value, value) is True for value in values)
    return f"{held} of {len(values)} in print, least {min(values):+.2f}"


class Compared(NamedTuple):
    """The difference of a pair over its common seeds, their number, whether it agrees, and the records behind it."""

    interval: Interval
    n: int
    agrees: bool | None
    behind: list[Record]

    @property
    def full(self) -> bool:
        return all(map(is_full_scale, self.behind))


def _compare(pair: Pair, relation: statements.Relation, comparable: Iterable[Found]) -> Compared:
    """A pair within the group that contradicts it at full scale, else that compares it over enough seeds."""

    def within(found: Found) -> Compared:
        better, worse = (list(found.get(row, [])) for row in (pair.better, pair.worse))
        interval, n = paired(by_seed(better, pair.metric), by_seed(worse, pair.metric))
        return Compared(interval, n, agrees(relation, interval.low, interval.high), [*better, *worse])

    def weight(made: Compared) -> tuple[bool, int, bool]:
        enough = made.n >= MIN_SEEDS
        return enough and made.agrees is False and made.full, min(made.n, MIN_SEEDS), bool(made.behind)

    return max((within(found) for found in (*comparable, {})), key=weight)


# Consistencies and sentences ---------------------------------------------------------------------------------


def consistency_entries(records: Sequence[Record]) -> list[Entry]:
    """Statements that predictions agree under every shift, or need not."""
    comparable, runs = comparable_records(records), _runs(records)
    return [_consistency(item, comparable, runs) for item in listed("consistencies")]


def _consistency(item: Mapping[str, Any], comparable: Sequence[Found], runs: Found) -> Entry:
    rows, table, metric = select(item["table"], item["rows"]), TABLES[item["table"]], item["metric"]
    values = [float(row[metric]) for row in rows if row[metric]]
    exact = item["kind"] == "exact"
    entry = Entry(
        item["id"],
        "sentence",
        item["place"],
        item["statement"],
        "100 in every row" if exact else f"{min(values):g} to {max(values):g}",
        None,
        EVERY_PAIR if exact else "some pairs differ in every row",
        "not run",
        f"no record; needs {table.data}",
        command=command(f"{item['table']}/*"),
        page=table.page,
    )
    by_group = [{row["row"]: made for row in rows if (made := of.get(row["row"]))} for of in (*comparable, {})]
    found = max(by_group, key=len)
    every = [run for row in rows for run in runs.get(row["row"], [])]
    if not found:
        return _at_any_scale(entry, metric, every) if exact else entry
    counts = [measured(made, metric) for made in found.values()]
    equal = [bool(c) and c["agree"] == c["total"] for c in counts if c]
    agree, total = (sum(c[key] for c in counts if c) for key in ("agree", "total"))
    complete = len(found) == len(rows) and all(is_full_scale(r) for made in found.values() for r in made)
    verdict: Verdict = "holds" if complete else "direction only"
    if not exact and any(equal):
        verdict = "fails" if complete else "undecided"
    behind = [r for made in found.values() for r in made]
    bound = f"; {_bound(behind, metric)}" if exact and all(equal) and metric in IMAGES else ""
    entry = replace(
        entry,
        ours=f"{agree:,} of {total:,}",
        verdict=verdict,
        evidence=f"{len(found)} of {len(rows)} rows have records, {_scale(behind)}{bound}{age(behind)}",
        run=[r["id"] for r in behind],
    )
    return _at_any_scale(entry, metric, every) if exact else entry


def sentence_entries(studied: Sequence[Record], timed: Sequence[Record] = ()) -> list[Entry]:
    """The other sentences: tried now, studied on trained networks, not run, or not checkable."""
    return [_sentence(item, studied, timed) for item in listed("sentences")]


def _sentence(item: Mapping[str, str], studied: Sequence[Record], timed: Sequence[Record]) -> Entry:
    entry = Entry(
        item["id"], "sentence", item["place"], item["statement"], item.get("paper"), None, "", "not run", "",
        page=item.get("page"),
    )  # fmt: skip
    if "reason" in item:
        return replace(entry, rule="none", verdict="not checkable", evidence=item["reason"])
    if "evidence" in item:
        tried = EVIDENCE[item["evidence"]]()
        rule = "rounds to the paper's value" if "paper" in item else "tried now on real layers"
        verdict: Verdict = "holds" if tried.holds else "fails"
        return replace(entry, ours=tried.ours, rule=rule, verdict=verdict, evidence=tried.text, command=HERE)
    if "study" in item:
        return replace(entry, **studies.judge(item["study"], studied))
    return replace(entry, **benchmarks.time_cell(item["times"], timed, item.get("beyond", "")))


# The whole ---------------------------------------------------------------------------------------------------


def ledger(theory: bool = True, folders: Sequence[Path] = (SHIPPED, LOCAL)) -> dict[str, Any]:
    """All entries by the records below ``folders``, with counts by verdict and where they were judged."""
    records, timed = read_records(*folders), benchmarks.read(*folders)
    entries = [
        *(theorem_entries() if theory else []),
        *cell_entries(records, timed),
        *ordering_entries(records, timed),
        *consistency_entries(records),
        *sentence_entries(studies.read(*folders), timed),
    ]
    about = hardware()
    return {
        "generated": now(),
        "code": VERSION,
        "machine": f"{about['cpu']}, {about['cores']} cores, torch {torch.__version__}",
        "counts": dict(Counter(entry.verdict for entry in entries)),
        "entries": [asdict(entry) for entry in entries],
    }


def write(content: Mapping[str, Any], path: Path = BUILD / "claims.json") -> None:
    """Write the ledger, and the tables that it fills for the book and for the reader."""
    write_json(path, content)
    write_tables(content["entries"])
    write_json(BUILD / "seeds.json", seeds_table(read_records(SHIPPED, LOCAL)))
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
