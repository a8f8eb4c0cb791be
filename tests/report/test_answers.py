"""The front page's answers follow the records, and say so when they contradict the paper."""

import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import pytest

from lps.experiments.profiles import load_profile
from lps.experiments.records import read_records
from lps.experiments.rows import ROWS, matching
from lps.paths import SHIPPED
from lps.report import times
from lps.report.answers import Effect, _consistent, _segmentation, answers, effects, most_first
from lps.report.frame import COLUMNS, as_profile, frame, guaranteed, runs
from lps.report.statistics import Interval
from lps.studies.trained import read

STUDENT = 4.302652729911275
"""The 97.5 % quantile of Student's t with two degrees of freedom."""


def effect(low: float, value: float, high: float, n: int = 3, paper: float = 1.0, pairs: int = 5) -> Effect:
    return Effect("e", Interval(value, low, high), n, pairs, 5, paper, "reduced", "drawn, profile reduced", [], False)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (effect(0.1, 0.5, 0.9), "seen"),
        (effect(-0.9, -0.5, -0.1), "the other way round"),
        (effect(-0.9, -0.5, -0.1, paper=-2.0), "seen"),
        (effect(-0.1, 0.5, 1.1), "leans"),
        (effect(-1.1, -0.5, 0.1), "not settled"),
        (effect(0.1, 0.5, 0.9, n=2), "leans"),
        (effect(0.1, 0.5, 0.9, pairs=4), "leans"),
        (effect(-0.9, -0.5, -0.1, pairs=4), "not settled"),
    ],
)
def test_the_outcome_says_what_the_interval_says(found: Effect, outcome: str) -> None:
    assert found.outcome == outcome
    filters = {4: "4 of 5 filters", 5: "all 5 filters"}[found.pairs]
    assert f"n = {found.n}, {filters}; paper" in str(found)


@pytest.fixture(scope="module")
def shipped() -> list[Any]:
    return read_records(SHIPPED)


def test_lps_over_aps_is_the_mean_over_filters_paired_by_seed(shipped: list[Any]) -> None:
    reduced = {
        (r["experiment"], r["seed"]): r["metrics"]["acc"]["value"]
        for r in shipped
        if "acc" in r["metrics"] and r["profile"] == "reduced" and as_profile(r)
    }
    tails = ("", "-rect-2", "-tri-3", "-bin-5", "-adapt-3")
    gaps = [
        mean(reduced[f"table1/lps{tail}", seed] - reduced[f"table1/aps{tail}", seed] for tail in tails)
        for seed in range(3)
    ]
    (found,) = (e for e in effects(frame(shipped))["lps-over-aps"] if e.profile == "reduced")
    half = STUDENT * stdev(gaps) / 3**0.5
    assert found.interval == pytest.approx((mean(gaps), mean(gaps) - half, mean(gaps) + half))
    assert (found.n, found.pairs, found.of, found.size) == (3, 5, 5, "n = 3, all 5 filters")


def test_filters_with_one_seed_leave_the_others_their_three(shipped: list[Any]) -> None:
    later = ("rect-2", "tri-3", "bin-5", "adapt-3")
    made = frame([r for r in shipped if r["seed"] == 0 or not r["experiment"].endswith(later)])
    found = [e for e in effects(made)["lps-over-aps"] if e.profile == "reduced"]
    assert [(e.n, e.pairs, e.of, len(e.runs)) for e in found] == [(3, 1, 5, 6), (1, 5, 5, 10)]
    whole = [e for e in effects(frame(shipped))["lps-over-aps"] if e.profile == "reduced"]
    assert [(e.n, e.pairs) for e in whole] == [(3, 5)]


def test_networks_that_converged_are_judged_and_their_filter_and_the_other_networks_are_told(
    shipped: list[Any],
) -> None:
    unfiltered = ("table1/baseline", "table1/aps", "table1/lps")
    made = frame([r for r in shipped if r["profile"] == "reduced" or r["experiment"] in unfiltered])
    first, *rest = most_first(effects(made)["lps-over-fixed"])
    assert (first.profile, first.size) == ("converged", "n = 3, without a filter")
    assert {(effect.profile, effect.size) for effect in rest} >= {("reduced", "n = 3, all 5 filters")}
    (price,) = (a for a in answers(made, ENTRIES, [], [], []) if a.question == "Does the guarantee cost accuracy?")
    assert price.text.count("n = 3, without a filter") == 2  # of LPS and of APS
    assert price.scale.endswith("profile converged")
    assert price.elsewhere.count("in reduced (n = 3, all 5 filters)") == 2


ENTRIES = [
    {"id": "lemma-1", "kind": "theorem", "verdict": "holds"},
    {"id": "table4/lps-tri-3:pooling_share", "kind": "cell", "verdict": "holds", "ours": "1.049", "paper": "1.05"},
]


def test_without_records_nothing_is_claimed() -> None:
    nothing = pd.DataFrame(columns=COLUMNS)
    found = answers(nothing, ENTRIES, [], [], [])
    assert [a.outcome for a in found] == ["seen", *["not tested"] * 5, "not settled", "not tested"]


def test_one_differing_pair_turns_the_answer(shipped: list[Any]) -> None:
    made = frame(shipped)
    question = "Is a prediction the same under every circular shift?"
    before, after = (
        {a.question: a for a in answers(m, ENTRIES, [], [], [])}[question] for m in (made, _less_one(made))
    )
    assert before.outcome == "seen" and "none differs" in before.text
    assert after.outcome == "the other way round" and "pairs differ in table1/lps" in after.text


def _less_one(made: pd.DataFrame) -> pd.DataFrame:
    made = made.copy()
    chosen = made[(made["row"] == "table1/lps") & (made["metric"] == "c_cons")].index[0]
    made.loc[chosen, "agree"] -= 1
    return made


def test_contrary_results_stand_in_the_answer(shipped: list[Any]) -> None:
    (found,) = (a for a in answers(frame(shipped), ENTRIES, [], [], []) if a.page == "notebooks/table5")
    assert "The other way round than in the paper: mASCC of LPD only less that of DDAC, -" in found.text
    assert found.text.count("mASCC of LPD only less that of DDAC") == 1  # at the scale that is judged


def test_what_becomes_of_maps_that_are_put_right_is_told(shipped: list[Any]) -> None:
    placed = [r for r in read(SHIPPED, kind="placed") if r["experiment"] == "table5/lpd-adapt-3" and r["seed"] == 0]
    at_home = [r | {"run": "at home", "data": r["data"] | {"name": "drawn-objects"}} for r in placed]
    stays = [r | {"run": "lps", "metrics": r["metrics"] | {"mascc, put right": r["metrics"]["mascc"]}} for r in placed]
    found = [
        answers(frame(shipped), ENTRIES, [], [], [], given)[5].text for given in (placed, placed + at_home + stays)
    ]
    assert "those of 1 network with APS or LPD only keep 93.5 % of their labels, not 82.7 %, at an mIoU of" in found[0]
    assert found[1] == found[0]


def test_the_rule_of_segmenters_is_told_of_those_without_lpu(shipped: list[Any]) -> None:
    studied = read(SHIPPED, kind="segmenters", changes={"model.head_padding": "circular"})
    with_lpu = [r | {"run": "lps", "config": {"model": r["config"]["model"] | {"unpool": True}}} for r in studied]
    replaced = read(SHIPPED)[:1]
    found = [answers(frame(shipped), ENTRIES, replaced, [], [], [], given)[4].text for given in ([], studied, with_lpu)]
    assert (
        "In segmenters without LPU (1, as in Table 5) the deepest LPD keeps the largest norm in 0.0 % of the images"
        in found[1]
    )
    assert "with APS in LPD's place mIoU changes by -1.3 points, with random phases by -0.8." in found[1]
    assert found[0] == found[2] and "LPU" not in found[0]
    new = [r | {"unlearned": [[0, 25], [0, 75]], "data": r["data"] | {"test": 100}} for r in (*studied, *replaced)]
    told = answers(frame(shipped), ENTRIES, replaced, [], [], [], studied, new)[4].text
    assert "in 0.0 % of the images (logit networks that nobody trained: 25.0 to 75.0 %); with APS" in told


@pytest.mark.parametrize("row", [row.name for row in ROWS])
def test_what_promises_equal_predictions_is_what_selects_with_circular_borders(row: str) -> None:
    model = load_profile("quick").row(*matching([row])).as_dict()["model"]
    promised = model["method"] in ("aps", "lps") and not row.startswith(("table3", "table6"))
    if row.startswith("table5"):
        promised = row == "table5/lps-adapt-3"
    assert guaranteed(model) == promised


def test_runs_on_drawn_pictures_say_nothing_where_there_are_real_images(shipped: list[Any]) -> None:
    made = frame(shipped)
    loose = made[(made["metric"] == "c_cons") & ~made["guaranteed"].astype(bool)].head(1)
    at_home = loose.assign(data="drawn", value=1.0, run="at home", id="at home")
    alone, beside = (answers(lines, ENTRIES, [], [], [])[1] for lines in (made, pd.concat([made, at_home])))
    assert beside == alone and "drawn" not in alone.scale
    assert (
        "1.0 to 1.0 %"
        in answers(pd.concat([at_home, at_home.assign(guaranteed=True, agree=1, total=1)]), ENTRIES, [], [], [])[1].text
    )


def test_what_the_chosen_phase_is_worth_stands_beside_the_gain(shipped: list[Any]) -> None:
    controls = [r for r in read(SHIPPED, kind="controls") if r["experiment"] == "table1/lps"]
    turned = [
        r | {"metrics": r["metrics"] | {"acc, random phase": {"value": 10.0, "agree": 1000, "total": 10_000}}}
        for r in controls
    ]
    none, alone, depends = (answers(frame(shipped), ENTRIES, [], given, [])[2].text for given in ([], controls, turned))
    assert "at random" not in none
    for text, given in ((alone, controls), (depends, turned)):
        of_profile = [r["metrics"] for r in given if r["profile"] == "longer"]
        change = mean(found["acc, random phase"]["value"] - found["acc"]["value"] for found in of_profile)
        assert f"accuracy changes by {change:+.2f} points in the mean of {len(of_profile)} of these networks" in text


def test_the_time_is_that_of_every_setting(shipped: list[Any]) -> None:
    timed = times.read()
    found = times.on_processors(timed, "lps-tri-3")
    medians = [r["cases"]["lps-tri-3"]["ratio"]["median"] for r in timed if r["group"].startswith(times.TABLE4)]
    assert len(found) >= len(medians) > 1 and min(found) < 1.2
    text = answers(frame(shipped), ENTRIES, [], [], timed)[6].text
    assert f"{100 * (min(found) - 1):.0f} to {100 * (max(found) - 1):.0f} % more on a processor" in text


def test_a_run_that_is_repeated_is_one_network(tmp_path: Path) -> None:
    for row in ("table1/lps", "table5/lps-adapt-3"):
        shutil.copytree(SHIPPED / row, tmp_path / row, ignore=shutil.ignore_patterns("*.pt"))
    found = [runs(SHIPPED), runs(SHIPPED, tmp_path)]
    assert len(found[0]) < len(found[1])
    said = [(_consistent(made), _segmentation(made, effects(made), [])) for made in found]
    assert said[0] == said[1]
