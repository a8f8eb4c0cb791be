"""Command line: ``python -m lps <verb>``. Each verb imports what it needs only when it runs."""

import argparse
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple


class Verb(NamedTuple):
    module: str
    arguments: str
    main: str
    help: str


RUNS = "lps.commands.experiments"
VERBS = {
    "list": Verb(RUNS, "list_arguments", "list_main", "experiments, and which of their runs are recorded"),
    "show": Verb(RUNS, "show_arguments", "show_main", "every setting of an experiment"),
    "run": Verb(RUNS, "run_arguments", "run_main", "train what is outstanding and record it"),
    "evaluate": Verb(RUNS, "evaluate_arguments", "evaluate_main", "measure the weights of finished runs again"),
    "ship": Verb(RUNS, "ship_arguments", "ship_main", "copy local records to the shipped ones"),
    "verify": Verb("lps.commands.verify", "arguments", "main", "is a network exactly equivariant to circular shifts"),
    "convert": Verb("lps.commands.convert", "arguments", "main", "make a network shift-invariant in one line"),
    "original": Verb("lps.commands.original", "arguments", "main", "evaluate a checkpoint of the original release"),
    "study": Verb("lps.commands.study", "arguments", "main", "the studies of Sec. 5.3 on trained networks"),
    "claims": Verb("lps.report.ledger", "add_arguments", "main", "which claims of the paper hold on this machine"),
    "compare": Verb("lps.report.compare", "add_arguments", "main", "your runs, the shipped runs and the paper"),
    "notebooks": Verb("lps.notebooks.execute", "add_arguments", "main", "execute the notebooks that changed"),
    "variant": Verb("lps.notebooks.execute", "add_variant_arguments", "variant_main", "one notebook, other parameters"),
    "book": Verb("lps.notebooks.build", "add_arguments", "main", "the ledger and the book, where they are out of date"),
    "check": Verb("lps.notebooks.environment", "add_arguments", "main", "is this environment fit for the job?"),
}


def print_any_character() -> None:
    """Let a terminal that lacks a character show its number, where ``print`` would raise an error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    print_any_character()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m lps", description="Learnable polyphase sampling: the companion.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.help, description=verb.help)
        if name == chosen:
            getattr(import_module(verb.module), verb.arguments)(sub)
    options = parser.parse_args(arguments)
    verb = VERBS[options.verb]
    try:
        return int(getattr(import_module(verb.module), verb.main)(options))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):  # torch takes seconds to leave; how this ended is settled
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
