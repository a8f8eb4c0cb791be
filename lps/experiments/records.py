"""Run records: one JSON per run, written whole, never overwritten by another configuration."""

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import torch

from .config import Experiment, Task
from .schema import Both, Shape, check, conform

PACKAGE = Path(__file__).resolve().parents[1]

Subject = Task | Literal["layers", "convert"]
"""What a record tells of: the results of a task, the times of layers and networks, or converted networks."""

VERSION: dict[Subject, int] = {"images": 1, "photographs": 1, "segmentation": 1, "layers": 1, "convert": 1}
"""Raised by hand when equal settings, seed and data give other results, or when the layers compute in another way.

Records of another version are not today's. ``tests/experiments/test_versions.py`` repeats a small run of each subject,
compares it with a stored one, and says what to do where they differ; a rename or a move asks for nothing.
"""

_BEFORE_VERSIONS: dict[Subject, str] = {
    "images": "72a1d91b569f",
    "photographs": "9836e5da7b5f",
    "segmentation": "22e16ca63ba7",
    "layers": "51e0b50628dc",
}
"""Records older than versions hold a hash of sources; these are of version 1, which the ids of its runs still hold."""


def version_of(code: Mapping[str, Any], subject: Subject) -> int:
    """Version of the results behind a record's entry ``code``; 0 for records from before the first."""
    return int(code.get("version", code.get("hash", "none") == _BEFORE_VERSIONS.get(subject)))


def is_current(code: Mapping[str, Any], subject: Subject) -> bool:
    """Are the results behind a record's entry ``code`` today's?"""
    return version_of(code, subject) == VERSION[subject]


def run_id(experiment: Experiment, seed: int, fingerprint: str) -> str:
    """``<profile>-seed<k>-<hash>``: the hash covers every setting, the seed, the data and the version of results."""
    version = VERSION[experiment.task]
    made_by = _BEFORE_VERSIONS[experiment.task] if version == 1 else version
    return f"{experiment.profile}-seed{seed}-{short_hash([experiment.as_dict(), seed, fingerprint, made_by])}"


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


def read_records(*folders: Path, rows: str = "table*") -> list[dict[str, Any]]:
    """All records below the folders: of the paper's rows, or with ``mine`` of the reader's own."""
    return [read_record(path) for folder in folders for path in sorted(folder.glob(f"{rows}/*/*.json"))]


def code_version(subject: Subject) -> dict[str, Any]:
    """Commit of the checkout, whether it had uncommitted changes, and the version of the results."""
    return {**commit(), "version": VERSION[subject]}


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
    """The command that repeats a run; for a sampling of one's own, which no command line can name, the call."""
    if experiment.own is not None:
        given = f"like={experiment.own.like!r}, profile={experiment.profile!r}, seeds=[{seed}], changes={changes!r}"
        return f"lps.experiments.train({experiment.name!r}, sampling=sampling, {given})"
    parts = [f"python -m lps run {experiment.name} --profile {experiment.profile} --seed {seed}"]
    parts += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in changes.items()]
    return " ".join([*parts, f"--threads {torch.get_num_threads()}"])
