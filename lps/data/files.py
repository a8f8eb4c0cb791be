"""Image files: which of a folder count, and their pixels."""

from pathlib import Path

import numpy as np
from PIL import Image


def visible(folder: Path) -> list[Path]:
    """What is in ``folder``, sorted, but for what systems and editors hide there; nothing where it is not there."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def pixels(path: Path, indices: bool = False) -> np.ndarray:
    """Pixels ``(H, W, 3)`` uint8 of an image file; for ``indices`` the whole numbers ``(H, W)`` int64 of a label map.

    Of 16 bits, the upper 8 are kept. Raises ``ValueError`` with the name of the file, whatever is wrong with it.
    """
    try:
        with Image.open(path) as image:
            found = np.array(image if indices else _colours(image))
    except Exception as error:  # a file can be damaged in as many ways as there are formats
        raise ValueError(
            f"{path} is not a readable image ({str(error) or type(error).__name__}); replace or remove it"
        ) from error
    if not indices:
        return found
    if found.ndim != 2:
        raise ValueError(f"{path} has {found.shape[2]} channels; a mask has one, of palette indices or grey levels")
    if found.dtype.kind == "f":
        raise ValueError(f"{path} holds fractions; a mask holds whole numbers, palette indices or grey levels")
    return found.astype(np.int64)


def _colours(image: Image.Image) -> Image.Image:
    """In RGB; PIL's own conversion makes white of all that is above 255."""
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known scale; save it with 8 or 16 bits")
    return image.convert("RGB")
