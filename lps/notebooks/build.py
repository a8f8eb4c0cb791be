"""Judge the claims and build the book, unless nothing that either depends on has changed."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ..experiments.profiles import profile_names
from ..experiments.records import write_json
from ..paths import BUILD, ROOT
from .execute import RECORDS, SOURCES
from .worker import files_hash

PAGES = ("_config.yml", "_toc.yml", "book/*.*", "book/_ext/**/*.*", "book/_static/*", "notebooks/*.ipynb")
STAMP = BUILD / "book.json"
HTML = BUILD / "_build" / "html"


def arguments(parser: argparse.ArgumentParser) -> None:
    about = "whose executed notebooks it shows (default: quick)"
    parser.add_argument("--profile", default="quick", choices=profile_names(), help=about)


def sources(profile: str) -> Iterable[str]:
    return (*PAGES, *SOURCES, *RECORDS, f"build/notebooks/{profile}/*")


def main(options: argparse.Namespace) -> int:
    """Write the ledger and the tables, then run jupyter-book with warnings as errors; its exit status."""
    content = {"profile": options.profile, "hash": files_hash(ROOT, sources(options.profile))}
    if STAMP.exists() and (HTML / "index.html").exists() and json.loads(STAMP.read_text(encoding="utf-8")) == content:
        print("The book is up to date: build/html/index.html")
        return 0
    from ..report.ledger import ledger, write

    write(ledger())
    program = Path(sys.executable).with_name("jupyter-book")
    command: list[str | Path] = [program, "build", "-q", "-n", "-W", "--keep-going", "--path-output", BUILD, ROOT]
    environment = {**os.environ, "BOOK_PROFILE": options.profile}
    built = subprocess.run(command, env=environment, cwd=ROOT)
    if built.returncode == 0:
        link = BUILD / "html"
        link.unlink(missing_ok=True)
        link.symlink_to(HTML.relative_to(BUILD))
        write_json(STAMP, content)
        print("The book is at build/html/index.html")
    return built.returncode
