"""Where the checkout keeps its parts, relative to the folder that holds ``lps``, and how they are written."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
RESULTS = ROOT / "results"
PAPER = RESULTS / "paper"
SHIPPED = RESULTS / "shipped"
LOCAL = RESULTS / "local"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
