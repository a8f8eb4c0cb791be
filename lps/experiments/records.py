"""Run records: one JSON per run, written whole, never overwritten by another configuration."""

import ast
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from .config import Experiment, Task
from .schema import Both, Shape, check, conform

PACKAGE = Path(__file__).resolve().parents[1]
_NETWORK = (
    "polyphase.py",
    "convolution.py",
    "exact.py",
    "filters.py",
    "ties.py",
    "selection.py",
    "sampling.py",
    "resnet.py",
)
_IMAGES = (
    *_NETWORK,
    "metrics.py",
    "experiments/model.py",
    "experiments/train.py",
    "experiments/evaluate.py",
)
_PHOTOGRAPHS = (*_IMAGES, "data/photographs.py", "experiments/photographs.py")
CODE: dict[Task, tuple[str, ...]] = {
    "images": _IMAGES,
    "photographs": _PHOTOGRAPHS,
    "segmentation": (*_PHOTOGRAPHS, "deeplab.py", "segmentation.py", "experiments/segment.py"),
}
"""The sources that the results of a task depend on, besides their configuration and their data."""

SAME_RESULTS = {
    "0e24e86008b6": "72a1d91b569f",
    "786e6f345773": "9836e5da7b5f",
    "4bcde370d5b4": "22e16ca63ba7",
    "bf7308b5bb90": "51e0b50628dc",
}
"""Hashes of sources, and of the earlier ones whose records they repeat bit for bit, so that these count as today's.

Since then a CPU treats batches of one image, and 1x1 convolutions of fewer than four outputs, in another way in
evaluation, so that threads may share them. No record has either; results/README.md says what was repeated.
"""


def code_hash(task: Task = "images", package: Path = PACKAGE) -> str:
    """Hash of the sources behind the results of a task, blind to comments, docstrings and layout."""
    return _hash(CODE[task], package)


def network_hash(package: Path = PACKAGE) -> str:
    """The same of the layers and networks alone, which a benchmark depends on."""
    return _hash((*_NETWORK, "deeplab.py"), package)


def _hash(names: Iterable[str], package: Path) -> str:
    digest = hashlib.sha256()
    for name in names:
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(_shape(tree).encode())
    found = digest.hexdigest()[:12]
    return SAME_RESULTS.get(found, found)


def _shape(node: Any) -> str:
    """A syntax tree in words, the same for every version of Python: fields that hold nothing are left out."""
    if isinstance(node, ast.AST):
        held = [f"{name}={_shape(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(held)})"
    return f"[{', '.join(map(_shape, node))}]" if isinstance(node, list) else repr(node)


def run_id(experiment: Experiment, seed: int, fingerprint: str, code: str) -> str:
    """``<profile>-seed<k>-<hash>``: the hash covers every setting, the seed, the data and the code."""
    return f"{experiment.profile}-seed{seed}-{short_hash([experiment.as_dict(), seed, fingerprint, code])}"


def short_hash(content: Any) -> str:
    """The first digits of a hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def read_record(path: Path, more: Shape = dict) -> dict[str, Any]:
    """A record with its id (``<row>/<file stem>``) added, checked once and here; ``more`` is what else it holds.

    Raises ``ValueError`` for a file that is none, that has another place than its content, or that contradicts itself.
    """
    record = read_json(path, Both(check, more))
    found, place = f"{record['experiment']}/{record['profile']}-seed{record['seed']}-", "/".join(path.parts[-3:])
    identity = f"{record['experiment']}/{path.stem}"
    if not place.startswith(found) or record.get("run", identity) != identity:
        raise ValueError(_UNREADABLE.format(path, f"it is the record of {record.get('run', found)}"))
    return {**record, "id": identity}


_UNREADABLE = "{} is no readable record; copy it again, or remove it: {}"


def read_json(path: Path, shape: Shape) -> Any:
    """The content of a file of results, of a shape. Raises ``ValueError`` for another content, with the file."""

    def refuse(word: str) -> None:
        raise ValueError(f"it holds {word}, which is no number")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        conform(content, shape)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(_UNREADABLE.format(path, error)) from error
    return content


def read_records(*folders: Path) -> list[dict[str, Any]]:
    """All records below the folders."""
    return [read_record(path) for folder in folders for path in sorted(folder.glob("table*/*/*.json"))]


def code_version(task: Task = "images") -> dict[str, Any]:
    """Commit of the checkout, whether it had uncommitted changes, and the hash of the sources behind a result."""
    return {**commit(), "hash": code_hash(task)}


def commit(package: Path = PACKAGE) -> dict[str, Any]:
    """The commit of the git repository that tracks the package, and whether there are changes since; or why there is
    none, as ``no_commit``: a package may lie in a repository of another project without being part of it."""

    def none(reason: str) -> dict[str, Any]:
        return {"commit": None, "dirty": None, "no_commit": reason}

    # the repository around the package, whatever another program has set, and git's words in English
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | {"LC_ALL": "C"}

    def git(*arguments: str) -> str:
        options: Any = {"cwd": package, "env": environment, "capture_output": True, "check": True}
        answer = subprocess.run(["git", *arguments], encoding="utf-8", errors="replace", **options)
        return cast(str, answer.stdout).strip()

    steps = (
        ("the package is in no git repository", "rev-parse", "--git-dir"),
        ("the git repository around the package does not track it", "ls-files", "--error-unmatch", "--", *_OURS),
        ("the git repository has no commit yet", "rev-parse", "--verify", "HEAD"),
        ("git cannot say what has changed", "status", "--porcelain", "--untracked-files=all", "--", "."),
    )
    answers = []
    for reason, *arguments in steps:
        try:
            answers.append(git(*arguments))
        except OSError:
            return none("git cannot be run")
        except subprocess.CalledProcessError as error:
            dubious = "git refuses the repository for its dubious ownership: name it in git's setting safe.directory"
            return none(dubious if "dubious ownership" in error.stderr else reason)
    *_, found, changes = answers
    return {"commit": found, "dirty": bool(changes)}


_OURS = ("__init__.py", Path(__file__).relative_to(PACKAGE).as_posix())
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def determinism() -> dict[str, Any]:
    """Settings that decide whether a repetition gives the same bits."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
    }


def command(experiment: Experiment, seed: int, changes: dict[str, str]) -> str:
    """The command that repeats a run."""
    parts = [f"python -m lps run {experiment.name} --profile {experiment.profile} --seed {seed}"]
    parts += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in changes.items()]
    return " ".join([*parts, f"--threads {torch.get_num_threads()}"])
