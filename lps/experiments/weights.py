"""Weights and checkpoints: written whole or not at all, read without unpickling more than tensors and plain values."""

import hashlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..paths import require_intact, write_whole
from .records import read_record

HASHES = "weights.sha256"
"""A file of a folder of results with lines ``<SHA-256>  <row>/<run>.pt``, for weights that are not the run's own bytes,
as shipped ones in half precision, or whose records are older than the entry for them."""

CHECKPOINT = "last.ckpt"

_DAMAGED = {
    ".pt": "{} is not a readable file of weights; remove it and its record to train anew",
    ".ckpt": "{} is not a readable checkpoint; remove it to start over",
}


def save(content: Any, path: Path) -> None:
    """Write what torch can; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = BytesIO()  # a full disk is then an OSError with its own words
    torch.save(content, whole)
    write_whole(path, whole.getbuffer())


def load(path: Path, device: Any = "cpu") -> Any:
    """What :func:`save` wrote. Raises ``ValueError`` where the file is not whole, or holds more than tensors and plain
    values."""
    try:
        require_intact(path)
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch has many words for a file that is none of its own, and advice against safety
        raise ValueError(_DAMAGED[path.suffix].format(path)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint without the contents of its tensors. Raises ``ValueError`` where it is damaged, or none of a run."""
    found = load(path, "meta")
    if not isinstance(found, dict) or not {"state_dict", "history", "processes"} <= found.keys():
        raise ValueError(f"{path} is no checkpoint of a run; remove it to start over")
    return found


def sha256(path: Path) -> str:
    """SHA-256 of a file, read once for as long as it is not written again."""
    about = path.stat()
    return _sha256(path, about.st_mtime_ns, about.st_size)


@cache
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_sha256(path: Path) -> str | None:
    """What the weights in ``path`` should be, by :data:`HASHES` or by the record beside them; ``None`` where neither
    says it."""
    results = path.parents[2] if len(path.parents) > 2 else path.parent
    if (results / HASHES).exists():
        lines = (line.partition("  ") for line in (results / HASHES).read_text(encoding="utf-8").splitlines())
        known = {name: digest for digest, _, name in lines}
        if found := known.get(path.relative_to(results).as_posix()):
            return found
    record = path.with_suffix(".json")
    return read_record(record).get("weights", {}).get("sha256") if record.exists() else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """What a run left in ``path``. Raises ``ValueError`` where the file is damaged, or another than its record's."""
    weights = load(path)
    if not isinstance(weights, dict):
        raise ValueError(_DAMAGED[path.suffix].format(path))
    if (expected := expected_sha256(path)) not in (None, sha256(path)):
        raise ValueError(
            f"{path} is not the file that was recorded, of SHA-256 {expected:.12}...: copy it again, or remove it and "
            "its record to train anew"
        )
    return weights


def about(path: Path) -> dict[str, str]:
    """What a record says of the weights it is about: their SHA-256, and the type of their numbers."""
    types = {value.dtype for value in read_weights(path).values() if value.is_floating_point()}
    return {"sha256": sha256(path), "precision": " ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))}
