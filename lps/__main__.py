"""Command line: ``python -m lps <verb>``. Each verb imports what it needs only when it runs."""

import argparse
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

RUNS = "lps.commands.experiments"
VERBS = {
    "list": (RUNS, "experiments, and which of their runs are recorded"),
    "show": (RUNS, "every setting of an experiment"),
    "run": (RUNS, "train what is outstanding and record it"),
    "evaluate": (RUNS, "measure the weights of finished runs again"),
    "ship": (RUNS, "copy local records to the shipped ones"),
    "verify": ("lps.commands.verify", "is a network exactly equivariant to circular shifts"),
    "convert": ("lps.commands.verify", "make a network shift-invariant in one line"),
    "survey": ("lps.studies.families", "records of what converted networks do"),
    "original": ("lps.commands.original", "evaluate a checkpoint of the original release"),
    "study": (RUNS, "the studies of Sec. 5.3 and Table 5 on trained networks"),
    "claims": ("lps.report.ledger", "which claims of the paper hold on this machine"),
    "compare": ("lps.report.compare", "your runs, the shipped runs and the paper"),
    "notebooks": ("lps.notebooks.execute", "execute the notebooks that changed"),
    "variant": ("lps.notebooks.execute", "one notebook, other parameters"),
    "book": ("lps.notebooks.execute", "the ledger and the book, where they are out of date"),
    "check": ("lps.notebooks.environment", "is this environment fit for the job?"),
}
"""By verb its module, which has ``arguments`` and ``main``, or where it serves several ``list_arguments`` and
``list_main``."""


def part(verb: str, name: str) -> Any:
    module = import_module(VERBS[verb][0])
    return getattr(module, f"{verb}_{name}", None) or getattr(module, name)


def print_any_character() -> None:
    """Let a terminal that lacks a character show its number, where ``print`` would raise an error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    print_any_character()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m lps", description="Learnable polyphase sampling: the companion.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    subs = {verb: verbs.add_parser(verb, help=about, description=about) for verb, (_, about) in VERBS.items()}
    verb = parser.parse_args(arguments[:1]).verb
    part(verb, "arguments")(subs[verb])
    options = subs[verb].parse_intermixed_args(arguments[1:])  # rows and names may stand on both sides of an option
    try:
        return int(part(verb, "main")(options))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):  # torch takes seconds to leave; how this ended is settled
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
