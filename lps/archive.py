"""Files that ``torch.save`` wrote, checked before they are read."""

import zipfile
from pathlib import Path

_FOLDER = 0x10
"""The attribute of a folder."""


def require_intact(path: Path) -> None:
    """Raise ``ValueError`` where a part of the zip archive ``path`` is not what was written.

    The archive holds a checksum of each part, and ``torch.load`` does not look at them. Where a part is said to be a
    folder, which no checksum covers, it takes for weights what it finds in memory.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                parts = archive.infolist()
                damaged = archive.testzip() or next((p.filename for p in parts if p.external_attr & _FOLDER), None)
        except Exception as error:  # an archive can be damaged in as many ways as it has parts
            raise ValueError("it is no whole zip archive") from error
    if damaged:
        raise ValueError(f"its part {damaged} is damaged")
