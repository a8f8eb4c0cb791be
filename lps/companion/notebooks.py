"""Execute the notebooks, and only those whose result would differ from what is there.

A notebook's executed copy is current as long as nothing that it depends on has another content: its source,
its parameters, the sources and profiles of ``lps``, the installed versions, and those results that its metadata names:
``lps: {records: true}`` for the paper's values and all run records, or patterns below ``results``, as in
``lps: {records: [paper/*]}``. Time stamps play no part.

Each notebook runs through papermill in a process of its own (``python -m lps.companion.notebooks``, a job as
JSON on its standard input). That process dies with its parent and moves finished files into place, so that
being killed at any moment leaves either the old result or the new one.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lps.companion.paths import ROOT
from lps.machine import hardware, versions

SOURCES = ("lps/**/*.py", "lps/profiles/*.yml")
RECORDED_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "matplotlib", "papermill")
RECORDS = ("results/local/**/*.json", "results/shipped/**/*.json", "results/paper/*")


@dataclass(frozen=True)
class Failure:
    """A notebook that did not run through."""

    name: str
    cell: str  # the first line of the failing cell, with its position; empty when the notebook never got to one
    error: str  # the last line of the traceback
    log: str


@dataclass(frozen=True)
class Job:
    """One execution: what to run, with which parameters, and where its result goes. Paths are absolute."""

    name: str
    profile: str
    root: str
    target: str  # the executed copy; its sidecar is the same path with the suffix .json
    log: str
    parameters: dict[str, Any]
    hash: str
    records: list[str]  # patterns of the results that it reads
    html: bool  # also export a page of its own
    command: str  # repeats this execution

    @property
    def sidecar(self) -> Path:
        return Path(self.target).with_suffix(".json")

    def is_current(self) -> bool:
        """Whether the executed copy is there and was made from the same content."""
        if not (Path(self.target).exists() and self.sidecar.exists()):
            return False
        made = json.loads(self.sidecar.read_text())
        return made["hash"] == self.hash and made["records"] == self.records_hash()

    def records_hash(self) -> str | None:
        """Hash of the results that the notebook reads, None where it reads none."""
        return files_hash(Path(self.root), self.records) if self.records else None


# --- what a notebook depends on -----------------------------------------------------------------------------


def files_hash(root: Path, patterns: Iterable[str]) -> str:
    """Hash of the names and contents of all files below `root` that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
        digest.update(
            f"{path.relative_to(root).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def content_hash(notebook: Mapping[str, Any], parameters: Mapping[str, Any], sources: str) -> str:
    """Hash of a notebook without outputs, its parameters, `files_hash` of the sources, and the versions."""
    cells = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"]) for cell in notebook["cells"]]
    installed = versions(RECORDED_PACKAGES)
    content = [cells, notebook["metadata"].get("lps"), dict(parameters), sources, installed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def records_read(notebook: Mapping[str, Any]) -> list[str]:
    """Patterns of the results that a notebook's metadata names."""
    named = notebook["metadata"].get("lps", {}).get("records", [])
    return list(RECORDS) if named is True else [f"results/{pattern}" for pattern in named]


# --- parameters ---------------------------------------------------------------------------------------------


def declared_parameters(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Names and defaults in the cell tagged ``parameters``: plain assignments of literals."""
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            defaults = {}
            for statement in ast.parse("".join(cell["source"])).body:
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                    defaults[statement.targets[0].id] = ast.literal_eval(statement.value)
                elif (
                    isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value
                ):
                    defaults[statement.target.id] = ast.literal_eval(statement.value)
            return defaults
    return {}


def check_parameters(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a parameter that notebook `name` does not declare, or a value of another type than declared."""
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"notebook {name} has no parameter {key!r}; known: {known}")
        expected = type(defaults[key])
        accepted = (int, float) if expected is float else expected
        wrong = not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool)
        if defaults[key] is not None and wrong:
            raise ValueError(
                f"parameter {key!r} of notebook {name} is of type {expected.__name__} "
                f"(default {defaults[key]!r}); given: {value!r}"
            )


def parse_value(text: str, default: Any) -> Any:
    """`text` as the type of `default`; commas separate a list, and a default of None takes any literal."""
    if isinstance(default, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(default, list):
        return [parse_value(item, default[0] if default else None) for item in text.split(",") if item]
    if default is None:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return type(default)(text)


def parse_overrides(name: str, defaults: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``["antialias=bin-5", "seed=3"]`` as values of the types that notebook `name` declares."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"a parameter is given as name=value; given: {override!r}")
        if key not in defaults:
            raise ValueError(f"notebook {name} has no parameter {key!r}; known: {', '.join(defaults) or 'none'}")
        try:
            values[key] = parse_value(text, defaults[key])
        except (ValueError, KeyError):
            expected = type(defaults[key]).__name__
            raise ValueError(
                f"parameter {key!r} of notebook {name} is of type {expected} (default {defaults[key]!r}); "
                f"given: {text!r}"
            ) from None
    return values


# --- planning -----------------------------------------------------------------------------------------------


def plan(
    profile: str,
    settings: Mapping[str, Mapping[str, Any]],
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    variant: bool = False,
    root: Path = ROOT,
) -> list[Job]:
    """The executions that a request asks for, checked, whether they are outstanding or not.

    Args:
        profile: name of the profile.
        settings: the profile's parameters for each notebook.
        only: names of notebooks; all when empty.
        overrides: ``name=value``, on top of the profile's parameters of the notebooks in `only`.
        variant: put the results apart, under ``build/variants``, and export each as a page of its own.

    Raises:
        ValueError: for a notebook or a parameter that does not exist, or a value of the wrong type;
            the message names the known ones.
    """
    known = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    for name in (*only, *settings):
        if name not in known:
            where = "" if name in only else f", which profile {profile} has settings for"
            raise ValueError(f"there is no notebook {name!r}{where}; known: {', '.join(known)}")
    if overrides and not only:
        raise ValueError("a parameter belongs to a notebook: name it too, as in NB=table1")

    sources = files_hash(root, SOURCES)
    jobs = []
    for name in only or known:
        notebook = json.loads(known[name].read_text())
        defaults = declared_parameters(notebook)
        parameters = {**settings.get(name, {}), **parse_overrides(name, defaults, overrides)}
        check_parameters(name, defaults, parameters)
        command = f"make {'variant' if variant else 'reproduce'} PROFILE={profile} NB={name}"
        if overrides:
            command += f' P="{" ".join(overrides)}"'
        stem = re.sub(r"[^\w.=,+-]+", "_", "_".join((profile, *overrides)))[:120]
        place = f"variants/{name}/{stem}" if variant else f"notebooks/{profile}/{name}"
        jobs.append(
            Job(
                name=name,
                profile=profile,
                root=str(root),
                target=str(root / "build" / f"{place}.ipynb"),
                log=str(root / "build" / "logs" / f"{place.removeprefix('notebooks/')}.log"),
                parameters=parameters,
                hash=content_hash(notebook, parameters, sources),
                records=records_read(notebook),
                html=variant,
                command=command,
            )
        )
    return jobs


# --- executing ----------------------------------------------------------------------------------------------


def execute(requested: Sequence[Job], jobs: int = 1) -> list[Failure]:
    """Run what is outstanding, `jobs` notebooks at a time; the failures, after all have run."""
    if all(job.is_current() for job in requested):
        return []
    from filelock import FileLock, Timeout

    build = Path(requested[0].root, "build")
    build.mkdir(exist_ok=True)
    lock = FileLock(build / ".notebooks.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            "Notebooks of this checkout are being executed elsewhere; waiting for that to end.",
            file=sys.stderr,
        )
        lock.acquire()
    try:
        return run_jobs([job for job in requested if not job.is_current()], jobs)
    finally:
        lock.release()


def run_jobs(outstanding: Sequence[Job], jobs: int) -> list[Failure]:
    """Run every job in a process of its own, `jobs` at a time, under one progress bar."""
    from tqdm import tqdm

    waiting = list(reversed(outstanding))
    running: list[tuple[Job, subprocess.Popen[str], float]] = []
    failures = []
    # Without a terminal the bar would be a line each time: the lines that it leaves behind say enough there.
    bar = tqdm(total=len(outstanding), unit="notebook", disable=not sys.stderr.isatty(), leave=False)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                job = waiting.pop()
                running.append((job, start_worker(job, jobs), time.monotonic()))
            bar.set_postfix_str(", ".join(job.name for job, _, _ in running))
            time.sleep(0.05)
            for entry in list(running):
                job, process, started = entry
                if process.poll() is None:
                    continue
                running.remove(entry)
                seconds = time.monotonic() - started
                with process:  # closes its pipes
                    if process.returncode == 0:
                        bar.write(f"{job.name}: executed in {seconds:.0f} s")
                    else:
                        failures.append(read_failure(job, process))
                        bar.write(f"{job.name}: FAILED after {seconds:.0f} s")
                bar.update()
    finally:
        for _, process, _ in running:
            with process:
                process.kill()
        bar.close()
    return failures


def start_worker(job: Job, jobs: int) -> subprocess.Popen[str]:
    """A process that executes `job` on its share of the cores, and ends when this one does."""
    log = Path(job.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "lps.companion.notebooks"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the worker
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(job)) + "\n")
    process.stdin.flush()
    return process


def read_failure(job: Job, process: subprocess.Popen[str]) -> Failure:
    """What the worker said of its failure, or that it died without a word."""
    assert process.stdout is not None
    said = process.stdout.read()
    log = Path(job.log).relative_to(job.root).as_posix()
    if said:
        return Failure(job.name, log=log, **json.loads(said))
    return Failure(job.name, "", f"the process ended with code {process.returncode}; out of memory, perhaps?", log)


# --- the worker ---------------------------------------------------------------------------------------------


def work(job: Job) -> dict[str, str] | None:
    """Execute `job` and move its files into place; on failure what failed, and nothing is moved."""
    import papermill
    from nbformat import NotebookNode, writes

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        isolate_kernel(Path(folder), Path(job.root))
        try:
            notebook: NotebookNode = papermill.execute_notebook(
                Path(job.root, "notebooks", f"{job.name}.ipynb"),
                None,
                parameters=job.parameters,
                cwd=Path(job.root, "notebooks"),
                kernel_name="python3",
                progress_bar=False,
                log_output=True,
                request_save_on_cell_execute=False,
            )
        except papermill.PapermillExecutionError as error:
            print(error, file=sys.stderr)
            code, message = (text.strip().split("\n")[0] for text in (error.source, error.evalue))
            return {"cell": f"cell {error.cell_index} ({code})", "error": f"{error.ename}: {message}"}
        except Exception as error:  # the kernel died, the notebook is no notebook: reported like any other failure
            print(repr(error), file=sys.stderr)
            return {"cell": "", "error": f"{type(error).__name__}: {error}"}
    strip(notebook, Path(job.root))
    sidecar = {
        "notebook": job.name,
        "profile": job.profile,
        "parameters": job.parameters,
        "command": job.command,
        "hash": job.hash,
        "records": job.records_hash(),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(RECORDED_PACKAGES),
        "hardware": hardware(),
    }
    target = Path(job.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    job.sidecar.unlink(missing_ok=True)  # it vouches for the copy that is about to go
    for kind in DRAWINGS.values():
        for old in target.parent.glob(f"{target.stem}-*.{kind}"):
            old.unlink()
    for number, kinds in enumerate(drawings(notebook), 1):
        for kind, drawing in kinds.items():
            write_whole(target.with_name(f"{target.stem}-{number}.{kind}"), drawing)
    write_whole(target, writes(notebook) + "\n")
    if job.html:
        from nbconvert import HTMLExporter

        write_whole(target.with_suffix(".html"), HTMLExporter().from_notebook_node(notebook)[0])
    write_whole(job.sidecar, json.dumps(sidecar, indent=1) + "\n")
    return None


def isolate_kernel(folder: Path, root: Path) -> None:
    """Point Jupyter at this interpreter and this checkout's ``lps``, whatever is installed for the user."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    os.environ |= {
        "JUPYTER_PATH": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(root),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def strip(notebook: Any, root: Path) -> None:
    """Take the timings out of an executed notebook's metadata, and the machine's paths out of its text."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = relative(output.text, root)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = relative(content, root)


DRAWINGS = {"image/svg+xml": "svg", "application/pdf": "pdf"}
"""Kinds of output that are files of their own, too, with their suffixes."""


def drawings(notebook: Any) -> Iterator[dict[str, str | bytes]]:
    """The figures of an executed notebook by suffix, in their order. PDFs are taken out: a page cannot show them."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found = {suffix: data[kind] for kind, suffix in DRAWINGS.items() if kind in data}
            if "pdf" in found:
                found["pdf"] = b64decode(data.pop("application/pdf"))
            if found:
                yield found


def relative(text: str, root: Path) -> str:
    """`text` with paths in the checkout relative to it and the home folder as ``~``."""
    return text.replace(f"{root}/", "").replace(f"{Path.home()}/", "~/")


def peak_memory_mb() -> float:
    """Largest resident memory of a finished child process, which is the kernel."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes, Linux KiB


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def end_with_parent() -> None:
    """Wait until the parent's end of standard input closes, as its death does, and end this process."""
    os.read(0, 1)  # not sys.stdin, whose lock would be missed when the interpreter shuts down
    os._exit(1)


def worker_main() -> int:
    """Read a job, execute it, and say on standard output what failed."""
    import logging

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=end_with_parent, daemon=True).start()
    failure = work(job)
    if failure is not None:
        print(json.dumps(failure))
    return 0 if failure is None else 1


# --- command line -------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m lps notebooks``."""
    parser.add_argument("only", nargs="*", metavar="notebook", help="notebooks to execute (default: all)")
    parser.add_argument("--profile", default="quick", help="smoke, quick, reduced or full (default: quick)")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="parameters of these notebooks")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: 1)")


def add_variant_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m lps variant``."""
    parser.add_argument("notebook", help="notebook to execute")
    parser.add_argument("set", nargs="*", metavar="name=value", help="parameters that differ from the profile's")
    parser.add_argument("--profile", default="quick", help="smoke, quick, reduced or full (default: quick)")


def main(args: argparse.Namespace) -> int:
    """Execute what is outstanding of a profile; the exit code says whether a notebook failed."""
    return run(args.profile, args.only, args.set, jobs=args.jobs)


def variant_main(args: argparse.Namespace) -> int:
    """Execute one notebook with other parameters, apart from the main results, and say where it is."""
    return run(args.profile, [args.notebook], args.set, variant=True)


def run(profile: str, only: Sequence[str], overrides: Sequence[str], jobs: int = 1, variant: bool = False) -> int:
    """Plan, execute and report; the exit code."""
    from lps.experiments.profiles import load_profile

    try:
        requested = plan(profile, load_profile(profile).notebooks, only, overrides, variant)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    current = sum(job.is_current() for job in requested)
    if current:
        print(f"{profile}: {current} of {len(requested)} notebooks are up to date")
    try:
        failures = execute(requested, jobs)
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return 130
    for failure in failures:
        where = f" in {failure.cell}" if failure.cell else ""
        print(f"{failure.name} failed{where}: {failure.error} (log: {failure.log})", file=sys.stderr)
    if variant and not failures:
        for job in requested:
            print(
                Path(job.target).relative_to(ROOT),
                Path(job.target).with_suffix(".html").relative_to(ROOT),
                sep="\n",
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(worker_main())
