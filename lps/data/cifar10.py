"""CIFAR-10 from torchvision's files or from a folder of images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from . import WHOLE, ImageSet, Split
from .files import pixels, visible

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(root: Path) -> ImageSet:
    """All 60,000 images: from ``root/cifar10/{train,test}/<class>/``, else from torchvision's own files in ``root``.

    Torchvision's files are downloaded when absent and their checksums verified before they are read.
    """
    folder = root / "cifar10"
    if folder.is_dir():
        source = "CIFAR-10, re-encoded images from a folder"
        return ImageSet("cifar10", source, CLASSES, _folder(folder / "train"), _folder(folder / "test"))
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(root, train=part, download=True) for part in (True, False))
    except Exception as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({error}); "
            f"put the folder cifar10/{{train,test}}/<class>/ or torchvision's cifar-10-batches-py there"
        ) from error
    splits = (
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in (train, test)
    )
    return ImageSet("cifar10", "CIFAR-10, original pixels (torchvision)", CLASSES, *splits)


def require_whole(images: ImageSet, root: Path, parts: Iterable[str]) -> None:
    """Raise ``ValueError`` where a part, ``train`` or ``test``, lacks images or has too many, with their numbers."""
    odd = {}
    for part in parts:
        expected = getattr(WHOLE["cifar10"], part) // len(CLASSES)
        counts = zip(CLASSES, getattr(images, part).labels.bincount(minlength=len(CLASSES)).tolist(), strict=True)
        if other := [f"{found:,} of {name}" for name, found in counts if found != expected]:
            odd[part] = f"{root / 'cifar10' / part} holds {len(getattr(images, part)):,} images, {other[0]}, and "
            odd[part] += f"CIFAR-10 has {expected * len(CLASSES):,}, {expected:,} of each class"
    if odd:
        said = " ".join(f"--set data.{part}={len(getattr(images, part))}" for part in odd)
        raise ValueError(f"{'; '.join(odd.values())}: copy what is missing, or say with {said} that it is a subset")


def _folder(folder: Path) -> Split:
    files = [(path, label) for label, name in enumerate(CLASSES) for path in visible(folder / name)]
    missing = set(range(len(CLASSES))) - {label for _, label in files}
    if missing:
        raise FileNotFoundError(f"{folder} holds no images of {', '.join(CLASSES[i] for i in sorted(missing))}")
    images = np.stack([_read(path) for path, _ in files])
    labels = torch.tensor([label for _, label in files])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _read(path: Path) -> np.ndarray:
    found = pixels(path)
    if found.shape != (32, 32, 3):
        raise ValueError(f"{path} is {found.shape[1]}x{found.shape[0]} pixels; CIFAR-10 images are 32x32")
    return found
