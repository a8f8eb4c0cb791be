"""Text is UTF-8 whatever the locale says, and no character ends a program."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lps.data.photographs import _entries
from lps.paths import ROOT

SOURCES = [path for folder in ("lps", "benchmarks", "book/_ext") for path in sorted((ROOT / folder).rglob("*.py"))]
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that knows only ASCII, and a Python that believes it."""


def without_encoding(source: str) -> Iterator[int]:
    """Lines that open a file or a process for text and leave the encoding to the locale."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg for keyword in call.keywords}
        at = 1 if isinstance(call.func, ast.Name) else 0
        mode = call.args[at] if len(call.args) > at else next((k.value for k in call.keywords if k.arg == "mode"), None)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        of_image = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "Image"
        text = name in ("read_text", "write_text") or (name == "open" and not binary and not of_image)
        true = {k.arg for k in call.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
        if (text or true & {"text", "universal_newlines"}) and "encoding" not in given:
            yield call.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_text_entries_its_encoding(path: Path) -> None:
    assert [*without_encoding(path.read_text(encoding="utf-8"))] == []


def test_the_ledger_is_printed_and_read_where_the_locale_is_ascii() -> None:
    """Without the theory, which takes its time, and without writing what it finds."""
    judge = "claims.ledger, claims.write = partial(claims.ledger, theory=False), lambda *_: None"
    code = f"import sys; from functools import partial; from lps.report import ledger as claims; {judge}; "
    code += "from lps.__main__ import main; sys.exit(main(['claims', '--all']))"
    environment = {**os.environ, **ASCII}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\xb1" in done.stdout and done.stdout.isascii()


def test_text_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(ValueError, match=r"val.txt is not text in UTF-8"):
        _entries(path)
