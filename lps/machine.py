"""What a result was made with: installed versions, hardware, commit. Standard library only."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
_OURS = ("__init__.py", "machine.py")
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Version of Python and of each distribution, ``None`` where there is none; nothing is imported."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, str | int | None]:
    """Processor, cores and GPUs of this machine, without its name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpus = ""
    if shutil.which("nvidia-smi"):
        gpus = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": ", ".join(gpus.splitlines()) or None,
        "system": platform.system(),
    }


def _said(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", **options)
    return str(done.stdout).strip()


def commit(package: Path = PACKAGE) -> dict[str, Any]:
    """The commit of the git repository that tracks the package, and whether there are changes since; or why there is
    none, as ``no_commit``: a package may lie in a repository of another project without being part of it."""
    # the repository around the package, whatever another program has set, and git's words in English
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | {"LC_ALL": "C"}
    steps = (
        ("the package is in no git repository", "rev-parse", "--git-dir"),
        ("the git repository around the package does not track it", "ls-files", "--error-unmatch", "--", *_OURS),
        ("the git repository has no commit yet", "rev-parse", "--verify", "HEAD"),
        ("git cannot say what has changed", "status", "--porcelain", "--untracked-files=all", "--", "."),
    )
    answers: list[str] = []
    for reason, *arguments in steps:
        try:
            answers.append(_said("git", *arguments, cwd=package, env=environment, check=True))
        except (OSError, subprocess.CalledProcessError) as error:
            if isinstance(error, OSError):
                reason = "git cannot be run"
            elif "dubious ownership" in error.stderr:
                reason = "git refuses the repository for its dubious ownership: name it in git's setting safe.directory"
            return {"commit": None, "dirty": None, "no_commit": reason}
    *_, found, changes = answers
    return {"commit": found, "dirty": bool(changes)}
