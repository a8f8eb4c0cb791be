"""Where the checkout keeps its parts, relative to the folder that holds ``lps``; files written and read whole."""

import os
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
RESULTS = ROOT / "results"
PAPER = RESULTS / "paper"
SHIPPED = RESULTS / "shipped"
LOCAL = RESULTS / "local"


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def require_intact(path: Path) -> None:
    """Raise ``ValueError`` where a part of the zip archive ``path`` is not what ``torch.save`` wrote.

    The archive holds a checksum of each part, and ``torch.load`` does not look at them. Where a part is said to be a
    folder, which no checksum covers, it takes for weights what it finds in memory.
    """
    folder = 0x10  # the attribute of one
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip() or next(
                    (part.filename for part in archive.infolist() if part.external_attr & folder), None
                )
        except Exception as error:  # an archive can be damaged in as many ways as it has parts
            raise ValueError("it is no whole zip archive") from error
    if damaged:
        raise ValueError(f"its part {damaged} is damaged")
