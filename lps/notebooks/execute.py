"""Execute the notebooks, and only those whose result would differ from what is there; build the book that shows them.

A notebook's executed copy is current as long as nothing that it depends on has another content: its source,
its parameters, the sources and profiles of ``lps``, the installed versions, and those results that its metadata names:
``lps: {records: true}`` for the paper's values and all run records, which it waits for, or patterns below ``results``,
as in ``lps: {records: [paper/*]}``. Time stamps play no part. Those that take longest, ``lps: {first: true}``, start
first, so that short ones fill the end.

Each notebook runs through papermill in a process of its own, :mod:`.worker`.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from ..experiments.profiles import load_profile, profile_names
from ..experiments.records import write_json
from ..machine import hardware, versions
from ..paths import BUILD, ROOT
from ..processes import apart, forks
from . import worker
from .cells import check_parameters, declared_parameters, parse_overrides, words
from .worker import Job, files_hash

SOURCES = ("lps/**/*.py", "lps/**/*.yml", "lps/report/*.mplstyle")
RECORDED_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "matplotlib", "papermill")
PRELOADED = ("papermill", "nbconvert", "ipykernel.kernelapp", "matplotlib.pyplot", "torch")
"""What every execution imports, which takes seconds: once. None of it starts a thread or a GPU, which no fork has."""

PRELOADED_FOR_MANY = ("seaborn", "torchvision", "pytorch_lightning")
"""What most notebooks import."""

RECORDS = ("results/local/**/*.json", "results/shipped/**/*.json", "results/paper/*")
PAGES = ("_config.yml", "_toc.yml", "book/*.*", "book/_ext/**/*.*", "book/_static/*", "notebooks/*.ipynb")


class Failure(NamedTuple):
    """A notebook that did not run through."""

    name: str
    cell: str  # the first line of the failing cell, with its position; empty when the notebook never got to one
    error: str  # the last line of the traceback
    log: str


def plan(
    profile: str,
    settings: Mapping[str, Mapping[str, Any]],
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    variant: bool = False,
    root: Path = ROOT,
) -> list[Job]:
    """The executions that a request asks for, checked, whether they are outstanding or not.

    ``settings`` are the profile's parameters for each notebook, ``only`` names of notebooks, all where there are none,
    and ``overrides`` are ``name=value`` on top of the settings of these. A ``variant`` is put apart, under
    ``build/variants``, and exported as a page of its own. Raises ``ValueError`` for a notebook or a parameter that does
    not exist, or a value of the wrong type; the message names the known ones.
    """
    known = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    for name in (*only, *settings):
        if name not in known:
            where = "" if name in only else f", which profile {profile} has settings for"
            raise ValueError(f"there is no notebook {name!r}{where}; known: {', '.join(known)}")
    if overrides and not only:
        raise ValueError("a parameter belongs to a notebook: name it too, as in NB=table1")
    sources = files_hash(root, SOURCES)

    def job(name: str) -> Job:
        notebook = json.loads(known[name].read_text(encoding="utf-8"))
        defaults, about = declared_parameters(notebook), notebook["metadata"].get("lps", {})
        named = {"profile": profile} if "profile" in defaults else {}
        parameters = {**named, **settings.get(name, {}), **parse_overrides(name, defaults, overrides)}
        check_parameters(name, defaults, parameters)
        command = f"make {'variant' if variant else 'reproduce'} PROFILE={profile} NB={name}"
        if overrides:
            given = " ".join(overrides)
            plain = not re.search(r"[\"'$`\\]", given) and given.split() == [*overrides]
            command += f' P="{given}"' if plain else f" P={shlex.quote(shlex.join(overrides))}"
        stem = re.sub(r"[^\w.=,+-]+", "_", "_".join((profile, *overrides)))[:120]
        place = f"variants/{name}/{stem}" if variant else f"notebooks/{profile}/{name}"
        # what its result depends on: the notebook without outputs, the parameters, the sources, the versions
        cells = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"]) for cell in notebook["cells"]]
        content = [cells, notebook["metadata"].get("lps"), parameters, sources, versions(RECORDED_PACKAGES)]
        read = about.get("records", [])
        return Job(
            name=name,
            profile=profile,
            root=root,
            target=root / "build" / f"{place}.ipynb",
            log=root / "build" / "logs" / f"{place.removeprefix('notebooks/')}.log",
            parameters=parameters,
            hash=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            records=list(RECORDS) if read is True else [f"results/{pattern}" for pattern in read],
            first=about.get("first", False),
            html=variant,
            command=command,
        )

    return [job(name) for name in only or known]


def execute(requested: Sequence[Job], jobs: int = 1) -> list[Failure]:
    """Run what is outstanding, `jobs` notebooks at a time; the failures, after all have run."""
    if all(job.is_current() for job in requested):
        return []
    from filelock import FileLock, Timeout

    lock = requested[0].root / "build" / ".notebooks.lock"
    lock.parent.mkdir(exist_ok=True)
    with suppress(Timeout), FileLock(lock, timeout=0):
        return run_jobs(requested, jobs)
    print("Notebooks of this checkout are being executed elsewhere; waiting for that to end.", file=sys.stderr)
    with FileLock(lock):
        return run_jobs(requested, jobs)


def run_jobs(requested: Sequence[Job], jobs: int) -> list[Failure]:
    """Run every outstanding job in a process of its own, on its share of the cores, `jobs` at a time."""
    from tqdm import tqdm

    late = [job for job in requested if job.records == [*RECORDS]]  # behind those that make records
    early = [job for job in requested if job not in late and not job.is_current()]
    early.sort(key=lambda job: not job.first)
    context = forks([*PRELOADED, *(PRELOADED_FOR_MANY if len(early + late) > 2 * jobs else ())])
    share, running, interrupted = max(1, (os.cpu_count() or 1) // jobs), list[str](), Event()
    machine = {"versions": versions(RECORDED_PACKAGES), "hardware": hardware()}
    # Without a terminal the bar would be a line each time: the lines that it leaves behind say enough there.
    options: Any = {"unit": "notebook", "disable": not sys.stderr.isatty(), "leave": False}

    def perform(job: Job) -> Failure | None:
        said, started = None, time.monotonic()
        if not job.is_current():
            job.log.parent.mkdir(parents=True, exist_ok=True)
            running.append(job.name)
            bar.set_postfix_str(", ".join(running))
            try:
                said = apart(context, worker.perform, job, machine, share)
            except ChildProcessError as error:
                if interrupted.is_set():
                    return None
                said = {"cell": "", "error": f"{error}; out of memory, perhaps?"}
            running.remove(job.name)
            bar.write(f"{job.name}: {'FAILED after' if said else 'executed in'} {time.monotonic() - started:.0f} s")
        bar.update()
        return Failure(job.name, log=job.log.relative_to(job.root).as_posix(), **said) if said else None

    with tqdm(total=len(early + late), **options) as bar, ThreadPoolExecutor(jobs) as threads:
        try:
            return [failure for part in (early, late) for failure in threads.map(perform, part) if failure]
        except BaseException:
            interrupted.set()
            for process in active_children():
                process.kill()
            raise


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("only", nargs="*", metavar="notebook", help="notebooks to execute (default: all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="parameters of these notebooks")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: 1)")
    _add_shared(parser)


def variant_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("notebook", help="notebook to execute")
    parser.add_argument("set", nargs="*", metavar="name=value", help="parameters that differ from the profile's")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="quick", help=f"{', '.join(profile_names())} (default: quick)")
    parser.add_argument("--parameters", default="", metavar="TEXT", help="the same in one text, as make's P has them")


def main(args: argparse.Namespace) -> int:
    """Execute what is outstanding of a profile; the exit code says whether a notebook failed."""
    if args.jobs < 1:
        raise ValueError(f"jobs is {args.jobs}: at least one notebook runs at a time")
    failed, _ = run(args, args.only, jobs=args.jobs)
    return failed


def variant_main(args: argparse.Namespace) -> int:
    """Execute one notebook with other parameters, apart from the main results, and say where it is."""
    failed, (job,) = run(args, [args.notebook], variant=True)
    if not failed:
        target = job.target.relative_to(ROOT)
        print(target, target.with_suffix(".html"), sep="\n")
    return failed


def run(args: argparse.Namespace, only: Sequence[str], jobs: int = 1, variant: bool = False) -> tuple[int, list[Job]]:
    """Plan, execute and report; the exit code, and what was asked for."""
    overrides = [*args.set, *words(args.parameters)]
    requested = plan(args.profile, load_profile(args.profile).notebooks, only, overrides, variant)
    if current := sum(job.is_current() for job in requested):
        print(f"{args.profile}: {current} of {len(requested)} notebooks are up to date")
    try:
        failures = execute(requested, jobs)
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return 130, requested
    for failure in failures:
        where = f" in {failure.cell}" if failure.cell else ""
        print(f"{failure.name} failed{where}: {failure.error} (log: {failure.log})", file=sys.stderr)
    return 1 if failures else 0, requested


def book_arguments(parser: argparse.ArgumentParser) -> None:
    about = "whose executed notebooks it shows (default: quick)"
    parser.add_argument("--profile", default="quick", choices=profile_names(), help=about)


def book_main(args: argparse.Namespace) -> int:
    """Write the ledger and the tables, then run jupyter-book with warnings as errors, unless nothing that they depend
    on has changed; its exit status."""
    stamp, html = BUILD / "book.json", BUILD / "_build" / "html"
    sources = (*PAGES, *SOURCES, *RECORDS, f"build/notebooks/{args.profile}/*")
    content = {"profile": args.profile, "hash": files_hash(ROOT, sources)}
    if stamp.exists() and (html / "index.html").exists() and json.loads(stamp.read_text(encoding="utf-8")) == content:
        print("The book is up to date: build/html/index.html")
        return 0
    from ..report.ledger import ledger, write

    write(ledger())
    program = Path(sys.executable).with_name("jupyter-book")
    command: list[str | Path] = [program, "build", "-q", "-n", "-W", "--keep-going", "--path-output", BUILD, ROOT]
    built = subprocess.run(command, env={**os.environ, "BOOK_PROFILE": args.profile}, cwd=ROOT)
    if built.returncode == 0:
        link = BUILD / "html"
        link.unlink(missing_ok=True)
        link.symlink_to(html.relative_to(BUILD))
        write_json(stamp, content)
        print("The book is at build/html/index.html")
    return built.returncode
