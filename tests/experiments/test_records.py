"""Records edited by hand: each edit is refused with the file and a reason, or changes no number that is shown."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from lps.experiments import records
from lps.experiments.records import read_json, read_record, read_records
from lps.machine import commit
from lps.paths import SHIPPED
from lps.report import compare, paper, section53, tables
from lps.report import ledger as claims
from lps.report import times as benchmarks
from lps.report.frame import frame, groups
from lps.studies import trained as studies

Way = tuple[str | int, ...]

KINDS = {
    "run": "table1/lps/short-*.json",
    "segmentation": "table5/lps-adapt-3/reduced-seed0-*.json",
    **{kind: f"{kind}/table?/lp[ds]*/*.json" for kind in studies.STUDIES},
    "benchmark": f"benchmarks/{benchmarks.TABLE4}-*.json",
}


def shipped(kind: str) -> Path:
    return min(SHIPPED.glob(KINDS[kind]))


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    """Where a record holds something; of a list, its first entry and its last."""
    if way:
        yield way
    places: Any = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        places = sorted({0, len(value) - 1} & set(range(len(value))))
    for place in places:
        yield from ways(value[place], (*way, place))


def edited(record: Any, way: Way, new: Any = None, drop: bool = False) -> Any:
    changed = copy.deepcopy(record)
    inner = changed
    for place in way[:-1]:
        inner = inner[place]
    if drop:
        del inner[way[-1]]
    else:
        inner[way[-1]] = new
    return changed


def others(value: Any) -> Iterator[Any]:
    """Values of other types, and numbers out of range."""
    yield from (
        "text",
        -1,
        -0.5,
        10**12,
        10**400,
        1e9,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        {},
        [value],
        {"a": value},
    )
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)
        yield [str(value)]
    if type(value) is int:
        yield value + 0.5
        yield value + 1
    if type(value) is float:
        yield value + 1


def edits(record: Any) -> Iterator[tuple[Way, Any]]:
    for way in ways(record):
        inner = record
        for place in way:
            inner = inner[place]
        yield way, edited(record, way, drop=True)
        for new in others(inner):
            if type(new) is not type(inner) or new != inner:
                yield way, edited(record, way, new)


def read(kind: str, path: Path) -> dict[str, Any]:
    if kind == "benchmark":
        (record,) = benchmarks.read(path.parents[1])
        return record
    return studies.read_study(path) if kind in studies.STUDIES else read_record(path)


def numbers(kind: str, record: Any) -> dict[str, Any]:
    """What pages and the ledger make of a record: no error, and these numbers."""
    if kind == "benchmark":
        benchmarks.machine(record)
        for row in ("table4/lps-tri-3", "table4/aps-tri-3"):
            benchmarks.time_cell(row, [record])
        return {}
    found: dict[str, Any] = {}
    if kind in studies.STUDIES:
        if kind == "section53":
            found |= {name: section53.judge(name, [record])["ours"] for name in section53.DIRECTIONS}
        return found
    table = record["experiment"].partition("/")[0]
    made = frame([record])
    for group in tables.table_groups(table, made, ""):
        for row in group["rows"]:
            found |= {f"{row['row']}:{name}": cell["mean"] for name, cell in (row["ours"] or {}).items()}
    for lines in groups(made):
        found |= {f"accuracy, {name}": list(seeds) for name, seeds in tables.accuracies(lines).items()}
    for line in claims.best_runs(made).itertuples():
        counts = line.agree, line.total  # a mean of shares, like mIoU, has none
        found[f"best, {line.row}, {line.metric}"] = line.value, *(n for n in counts if not isnan(n))
    compare.relation(record, [record], next(iter(paper.TABLES[table].metrics)))
    compare.environment_differences(record, [record])
    return found


EVERY = 1 if os.environ.get("LPS_EXHAUSTIVE") else 29
"""One edit of so many is tried; all of them in the weekly tests."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_refused_or_changes_no_number(kind: str, tmp_path: Path) -> None:
    source = shipped(kind)
    path = tmp_path / source.relative_to(SHIPPED)
    path.parent.mkdir(parents=True)
    whole = json.loads(source.read_text(encoding="utf-8"))
    if kind == "figure4":  # the maps are long, and all alike
        whole["maps"] = [{**shown, "components": [[[[0.5]]]]} for shown in whole["maps"]]
    path.write_text(json.dumps(whole), encoding="utf-8")
    expected = numbers(kind, read(kind, path))
    refused = accepted = 0
    for way, changed in islice(edits(whole), 0, None, EVERY):
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            record = read(kind, path)
        except ValueError as error:
            said = str(error)
            assert said.startswith(f"{path} is no readable record; ") and "\n" not in said, (way, said)
            refused += 1
            continue
        accepted += 1
        found = numbers(kind, record)
        assert found.items() <= expected.items(), (way, changed if len(str(changed)) < 200 else "")
    assert refused > accepted > 0


def test_a_record_under_another_name_or_in_another_place_is_refused(tmp_path: Path) -> None:
    source = shipped("run")
    for place in ("table1/lps/short-seed1-0.json", "table1/aps/short-seed0-0.json", "table1/lps/reduced-seed0-0.json"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        with pytest.raises(ValueError, match=r"it is the record of table1/lps/short-seed0-"):
            read_records(tmp_path)
        path.unlink()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"null"])
def test_what_is_no_json_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is no readable record; copy it again, or remove it: [^\n]+$"):
        read_json(path, dict)


def test_every_shipped_record_is_one() -> None:
    assert len(read_records(SHIPPED, SHIPPED / "engine")) > 80


# the commit of a record


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package below a repository of somebody else, as in a virtual environment."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "project" / ".venv" / "lps"
    package.mkdir(parents=True)
    for name in ("__init__.py", "machine.py"):
        (package / name).write_text("")
    (tmp_path / "project" / "theirs.py").write_text("")
    return package


def test_no_commit_where_there_is_no_repository(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parents[2]))
    nothing = {"commit": None, "dirty": None}
    assert commit(package) == nothing | {"no_commit": "the package is in no git repository"}
    monkeypatch.setenv("PATH", "")
    assert commit(package) == nothing | {"no_commit": "git cannot be run"}


def test_the_commit_of_another_project_is_not_ours(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = package.parents[1]
    git(project, "init")
    git(project, "add", "theirs.py")
    git(project, "commit", "-m", "theirs")
    without = {"commit": None, "dirty": None, "no_commit": "the git repository around the package does not track it"}
    assert commit(package) == without
    monkeypatch.setenv("GIT_DIR", str(project / ".git"))
    assert commit(package) == without
    outside = project.parent / "lps"
    shutil.copytree(package, outside)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parents[1]))
    assert commit(outside)["no_commit"] == "the package is in no git repository"


def test_a_repository_that_tracks_the_package_names_its_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = package.parents[1]
    git(project, "init")
    git(project, "add", ".")
    assert commit(package)["no_commit"] == "the git repository has no commit yet"
    git(project, "commit", "-m", "all")
    found = commit(package)
    assert len(found["commit"]) == 40 and found["dirty"] is False and "no_commit" not in found
    (project / "theirs.py").write_text("changed")
    assert commit(package)["dirty"] is False
    (package / "new.py").write_text("")
    assert commit(package) == found | {"dirty": True}
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = commit(package)
    assert refused["commit"] is None and "dubious ownership" in refused["no_commit"]


def test_the_commit_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", os.devnull)
    assert records.code_version("images").keys() >= {"commit", "dirty", "version"}


def test_a_record_is_of_the_profile_whose_settings_it_has(tmp_path: Path) -> None:
    (source,) = SHIPPED.glob("table1/lps/converged-seed1-*.json")
    named = json.loads(source.read_text())

    def named_reduced(record: Any) -> dict[str, Any]:
        copy_ = tmp_path / "table1/lps" / source.name.replace("converged", "reduced")
        copy_.parent.mkdir(parents=True, exist_ok=True)
        copy_.write_text(json.dumps(record | {"profile": "reduced"}))
        return read_record(copy_)

    assert named_reduced(named)["profile"] == read_record(source)["profile"] == "converged"
    assert frame([named_reduced(named)])["as_profile"].all()
    of_none = named_reduced(edited(named, ("config", "train", "lr"), 0.1234))
    assert of_none["profile"] == "reduced" and not frame([of_none])["as_profile"].any()
