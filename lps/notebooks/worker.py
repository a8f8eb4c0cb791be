"""Execute one notebook and move its files into place: what each process does that :mod:`.execute` starts.

Packages that notebooks import are imported once, where processes are forked: the kernel is a fork of this process. Both
end with their parent, and being killed at any moment leaves either the old result or the new one.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import resource
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import Thread
from typing import Any, cast

from ..paths import write_whole


@dataclass(frozen=True)
class Job:
    """One execution: what to run, with which parameters, and where its result goes."""

    name: str
    profile: str
    root: Path
    target: Path  # the executed copy; its sidecar is the same path with the suffix .json
    log: Path
    parameters: dict[str, Any]
    hash: str
    records: list[str]  # patterns of the results that it reads
    first: bool  # takes longest
    html: bool  # also export a page of its own
    command: str  # repeats this execution

    @property
    def sidecar(self) -> Path:
        return self.target.with_suffix(".json")

    def is_current(self) -> bool:
        """Whether the executed copy is there and was made from the same content."""
        if not (self.target.exists() and self.sidecar.exists()):
            return False
        made = json.loads(self.sidecar.read_text(encoding="utf-8"))
        return made["hash"] == self.hash and made["records"] == self.records_hash()

    def records_hash(self) -> str | None:
        """Hash of the results that the notebook reads, None where it reads none."""
        return files_hash(self.root, self.records) if self.records else None


def files_hash(root: Path, patterns: Iterable[str]) -> str:
    """Hash of the names and contents of all files below `root` that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def work(job: Job, machine: Mapping[str, Any]) -> dict[str, str] | None:
    """Execute `job` and move its files into place; on failure what failed, and nothing is moved.

    `machine` holds the versions and the hardware for the sidecar.
    """
    import papermill
    from nbformat import NotebookNode, writes

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        isolate_kernel(Path(folder), job.root)
        try:
            notebook: NotebookNode = papermill.execute_notebook(
                job.root / "notebooks" / f"{job.name}.ipynb",
                None,
                parameters=job.parameters,
                cwd=job.root / "notebooks",
                kernel_name="python3",
                progress_bar=False,
                log_output=True,
                request_save_on_cell_execute=False,
            )
        except papermill.PapermillExecutionError as error:
            print(error, file=sys.stderr)
            code, message = (text.strip().split("\n")[0] for text in (error.source, error.evalue))
            message = message or failing_line(error.traceback)  # of an assertion without words
            return {"cell": f"cell {error.cell_index} ({code})", "error": f"{error.ename}: {message}"}
        except Exception as error:  # the kernel died, the notebook is no notebook: reported like any other failure
            print(repr(error), file=sys.stderr)
            return {"cell": "", "error": f"{type(error).__name__}: {error}"}
    strip(notebook, job.root)
    sidecar = {
        "notebook": job.name,
        "profile": job.profile,
        "parameters": job.parameters,
        "command": job.command,
        "hash": job.hash,
        "records": job.records_hash(),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
        **machine,
    }
    target = job.target
    target.parent.mkdir(parents=True, exist_ok=True)
    job.sidecar.unlink(missing_ok=True)  # it vouches for the copy that is about to go
    for kind in DRAWINGS.values():
        for old in target.parent.glob(f"{target.stem}-*.{kind}"):
            if old.stem.removeprefix(f"{target.stem}-").isdigit():  # another variant's name may begin with this one
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


def failing_line(traceback: Iterable[str]) -> str:
    """The line of code to which the last arrow of a kernel's traceback points."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(traceback))
    return next(reversed(re.findall(r"^-+> *\d+ +(.*)$", plain, re.MULTILINE)), "")


def isolate_kernel(folder: Path, root: Path) -> None:
    """Point Jupyter at this interpreter and this checkout's ``lps``, whatever is installed for the user."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about), encoding="utf-8")
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

    def relative(text: str) -> str:
        return text.replace(f"{root}/", "").replace(f"{Path.home()}/", "~/")

    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = relative(output.text)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = relative(content)


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


def peak_memory_mb() -> float:
    """Largest resident memory of a finished child process, which is the kernel."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes, Linux KiB


class KernelProcess(ForkProcess):
    """A kernel that starts with the imports of this process. Jupyter handles it like a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, command: Sequence[str], **ignored: Any) -> None:
        super().__init__(target=serve_kernel, args=(command[command.index("-f") :], os.getpid()))
        self.start()
        os.setpgid(cast(int, self.pid), cast(int, self.pid))  # Jupyter signals the group

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode


def serve_kernel(arguments: Sequence[str], parent: int) -> None:
    """Be a kernel until its client or the process `parent` ends."""
    import matplotlib
    import torch
    from ipykernel.kernelapp import IPKernelApp

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    asyncio.set_event_loop(asyncio.new_event_loop())  # the one that it was forked in is the client's
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={parent}"])


def perform(job: Job, machine: Mapping[str, Any], share: int) -> dict[str, str] | None:
    """:func:`work` in a process of its own, on a `share` of the cores."""
    parent = cast(Any, parent_process())
    os.setsid()  # Ctrl-C reaches the parent alone, which ends this process
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    with job.log.open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    for name in ("OMP_NUM_THREADS", "LPS_JOBS"):
        os.environ.setdefault(name, str(share))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    if sys.platform == "linux":
        from jupyter_client.provisioning import local_provisioner

        local_provisioner.launch_kernel = KernelProcess  # type: ignore[assignment]
    return work(job, machine)
