"""What is given to make reaches the programs as it is, whatever is in it: neither make nor a shell runs it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lps.notebooks.cells import words

SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"
ODD = (
    "$(touch mark)",
    "$(shell touch mark)",
    "`touch mark`",
    ";touch mark;",
    "&& touch mark",
    "| touch mark",
    '"; touch mark; "',
    "'; touch mark; '",
    "x\ntouch mark\n",
    "$$HOME $HOME ${HOME} ~ * # % \\ !",
    "> mark",
)


MEMORY = "import json, os; print(json.dumps([os.environ.get('GLIBC_TUNABLES', '')]))"


def made(
    folder: Path, target: str, given: dict[str, str], environment: bool, show: str = SHOW
) -> tuple[str, list[str]]:
    """What make said, and what each program of ``target`` shows, by default its arguments, as a line of JSON."""
    (folder / "Makefile").write_text((Path(__file__).parents[1] / "Makefile").read_text())
    (folder / "show.py").write_text(show)
    program = f"{shlex.quote(sys.executable)} show.py"
    settings = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", target, f"LPS={program}", "STAMP=show.py"]
    if environment:
        settings |= given
    else:
        command += [f"{name}={value}" for name, value in given.items()]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return done.stdout + done.stderr, [json.loads(line) for line in lines]


@pytest.mark.parametrize("environment", [False, True], ids=["arguments", "environment"])
@pytest.mark.parametrize("value", ODD)
def test_nothing_that_is_given_is_run(value: str, environment: bool, tmp_path: Path) -> None:
    given = dict.fromkeys(("PROFILE", "JOBS", "NB", "P"), value)
    for target, expected in (
        ("variant", [["variant", value, "--profile", value, "--parameters", value]]),
        ("reproduce", [["notebooks", *value.split(), "--profile", value, "--jobs", value, "--parameters", value]]),
        ("book", [["book", "--profile", value]]),
    ):
        said, got = made(tmp_path, target, given, environment)
        assert got == expected, said
    said, _ = made(tmp_path, "serve", {"PYTHON": "true", "PORT": value}, environment)
    assert "Error" not in said
    (tmp_path / "show.py").unlink()
    made(tmp_path, "env", {"PYTHON": value, "STAMP": "absent"}, environment)
    assert not (tmp_path / "mark").exists()


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    said, _ = made(tmp_path, "env", {"PYTHON": "no python", "STAMP": "absent"}, False)
    assert "no python is not found: install Python 3.11 or newer" in said


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    said, _ = made(tmp_path, "env", {"PYTHON": str(old), "STAMP": "absent"}, False)
    assert f"{old} is older than Python 3.11: install a newer one" in said


def test_defaults_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROFILE", "JOBS", "NB", "P"):
        monkeypatch.delenv(name, raising=False)
    _, got = made(tmp_path, "reproduce", {}, False)
    assert got == [
        ["notebooks", "--profile", "quick", "--jobs", "2", "--parameters", ""],
        ["book", "--profile", "quick"],
    ]
    _, got = made(tmp_path, "reproduce", {"MAKEFLAGS": "-j3"}, True)
    assert got[0][4] == "3"


def test_parameters_are_split_at_spaces_and_kept_in_quotes() -> None:
    assert words("antialias=bin-5 seed=3") == ["antialias=bin-5", "seed=3"]
    assert words("overrides='train.lr=1 data.train=5' x=$(touch mark);`y`") == [
        "overrides=train.lr=1 data.train=5", "x=$(touch", "mark);`y`",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"the parameters \"a='b\" cannot be told apart: No closing quotation"):
        words("a='b")


def test_programs_keep_their_memory_unless_the_reader_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    given = {"NB": "table1"}
    for target in ("reproduce", "variant"):
        _, got = made(tmp_path, target, given, True, MEMORY)
        assert got[0][0].startswith("glibc.malloc.mmap_max=0:")
    assert made(tmp_path, "book", given, True, MEMORY)[1] == [[""]]
    given["GLIBC_TUNABLES"] = "glibc.malloc.arena_max=1"
    assert made(tmp_path, "reproduce", given, True, MEMORY)[1] == [[given["GLIBC_TUNABLES"]]]
