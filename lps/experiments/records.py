"""Run records: one JSON per run, written whole, never overwritten by another configuration."""

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from .config import Experiment, Task

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
    content = json.dumps([experiment.as_dict(), seed, fingerprint, made_by], sort_keys=True)
    return f"{experiment.profile}-seed{seed}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def read_record(path: Path) -> dict[str, Any]:
    """A record with its id (``<row>/<file stem>``) added. Raises ``ValueError`` for a file that is none."""
    try:
        record = json.loads(path.read_text())
        return {**record, "id": f"{record['experiment']}/{path.stem}"}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no readable record; copy it again, or remove it") from error


def read_records(*folders: Path) -> list[dict[str, Any]]:
    """All records below the folders."""
    return [read_record(path) for folder in folders for path in sorted(folder.glob("table*/*/*.json"))]


def code_version(subject: Subject) -> dict[str, Any]:
    """Commit of the checkout, whether it had uncommitted changes, and the version of the results."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", str(PACKAGE)) if commit else None
    return {"commit": commit, "dirty": None if commit is None else bool(changed), "version": VERSION[subject]}


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
