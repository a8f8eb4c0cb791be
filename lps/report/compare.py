"""Your runs against the shipped runs against the paper."""

import argparse
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from ..experiments.profiles import profile_names
from ..experiments.records import read_records
from ..paths import LOCAL, ROOT, SHIPPED
from .paper import TABLES, paper_table
from .tables import CONSISTENCIES


def arguments(parser: argparse.ArgumentParser) -> None:
    about = "whose runs (default: quick)"
    parser.add_argument("--profile", default="quick", choices=profile_names(), help=about)


def relation(mine: Mapping[str, Any], shipped: list[dict[str, Any]], metric: str) -> str:
    """How a run stands to the shipped runs of the same settings: equal, within the seeds' spread, or outside."""
    twins = [r for r in shipped if _same(r, mine) and r["config"] == mine["config"]]
    if not twins:
        return "nothing shipped"
    value = mine["metrics"][metric]
    if any(r["seed"] == mine["seed"] and r["metrics"][metric] == value for r in twins):
        return "equal"
    values = [r["metrics"][metric]["value"] for r in twins]
    gap = value["value"] - mean(values)
    if len(values) == 1:
        return f"{gap:+.2f} (one seed shipped)"
    return f"{gap:+.2f} ({'within' if abs(gap) <= 2 * stdev(values) else 'outside'} two deviations)"


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """The same row, profile and data."""
    return all(a[key] == b[key] for key in ("experiment", "profile")) and all(
        a["data"][key] == b["data"][key] for key in ("name", "fingerprint")
    )


def environment_differences(mine: Mapping[str, Any], shipped: list[dict[str, Any]]) -> list[str]:
    """What differs between this machine and the one of the shipped record with the same row, seed, profile and data."""
    twin = next((r for r in shipped if r["seed"] == mine["seed"] and _same(r, mine)), None)
    if twin is None:
        return []
    found = []
    for section in ("versions", "hardware", "determinism", "code"):
        for name, value in mine[section].items():
            there = twin[section].get(name, "not recorded")
            if there != value and name not in ("commit", "dirty", "no_commit"):
                found.append(f"{section}.{name}: {value} here, {there} there")
    return found


def main(options: argparse.Namespace) -> int:
    """Print the comparison; exit status 1 when a consistency that was exact is exact no more."""
    found = [[r for rows in ("table*", "mine") for r in read_records(folder, rows=rows)] for folder in (LOCAL, SHIPPED)]
    local, shipped = ([r for r in records if r["profile"] == options.profile] for records in found)
    if not local:
        made = " and ".join(sorted({record["profile"] for record in found[0]}))
        yours = f", which are with {made}" if made else ""
        print(f"no runs of your own with profile {options.profile}{yours}: make reproduce PROFILE={options.profile}")
        if shipped:
            print(f"What is shipped, in {SHIPPED.relative_to(ROOT)}, with its records:")
    paper = {row["row"]: row for name in TABLES for row in paper_table(name)}
    lost = False
    environment: set[str] = set()
    shown = [record for record in local or shipped if record["experiment"] in paper]
    width = max((len(record["id"]) for record in shown), default=0)
    if shown:
        whose, against = ("yours", "against the shipped") if local else ("shipped", "")
        print(f"{'record':<{width}} {'metric':<8} {whose:>7}  {against:<36} paper (full scale)")
    for record in shown:
        for metric, title in TABLES[record["experiment"].partition("/")[0]].metrics.items():
            value = record["metrics"][metric]["value"]
            printed = paper[record["experiment"]][metric] or "not in the text copy"
            against = relation(record, shipped, metric) if local else ""
            print(f"{record['id']:<{width}} {title:<8} {value:7.2f}  {against:<36} {printed}")
            lost |= metric in CONSISTENCIES and printed == "100" and value < 100
        environment.update(environment_differences(record, shipped))
    if others := sorted({record["experiment"] for record in local} - paper.keys()):
        print(f"not in the paper, and so not compared: {', '.join(others)}")
    for line in sorted(environment):
        print(line)
    return 1 if lost else 0
