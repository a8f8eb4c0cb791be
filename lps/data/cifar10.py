"""CIFAR-10 from torchvision's files or from a folder of images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from . import WHOLE, ImageSet, Split
from .photographs import pixels, visible

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
        found, expected = getattr(images, part).labels, getattr(WHOLE["cifar10"], part) // len(CLASSES)
        counts = zip(CLASSES, found.bincount(minlength=len(CLASSES)).tolist(), strict=True)
        if other := [f"{count:,} of {name}" for name, count in counts if count != expected]:
            whole = f"{expected * len(CLASSES):,}, {expected:,} of each class"
            here = f"{root / 'cifar10' / part} holds {len(found):,} images, {other[0]}"
            odd[f"--set data.{part}={len(found)}"] = f"{here}, and CIFAR-10 has {whole}"
    if odd:
        said = f"copy what is missing, or say with {' '.join(odd)} that it is a subset"
        raise ValueError(f"{'; '.join(odd.values())}: {said}")


def _folder(folder: Path) -> Split:
    files = [(path, label) for label, name in enumerate(CLASSES) for path in visible(folder / name)]
    labels = torch.tensor([label for _, label in files])
    if missing := [name for label, name in enumerate(CLASSES) if label not in labels]:
        raise FileNotFoundError(f"{folder} holds no images of {', '.join(missing)}")
    images = []
    for path, _ in files:
        images.append(pixels(path))
        if images[-1].shape != (32, 32, 3):
            height, width, _ = images[-1].shape
            raise ValueError(f"{path} is {width}x{height} pixels; CIFAR-10 images are 32x32")
    return Split(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels)
