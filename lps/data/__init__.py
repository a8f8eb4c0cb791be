"""Images to train and test on, in memory as uint8, and what is needed to say which they were."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..metrics import Batches, Shifts, shift_each
from . import drawn


class Size(NamedTuple):
    """Images to train and to test on, and their classes."""

    train: int
    test: int
    classes: int


NOT_IGNORED = -100  # what stands for *no label is ignored*: no class has this number

WHOLE = {
    "cifar10": Size(50_000, 10_000, 10),
    "imagenet": Size(1_281_167, 50_000, 1000),
    "voc": Size(10_582, 1_449, 21),
}
"""How large data sets are at full scale, by their layout; the paper names no number for VOC, its predecessors do."""


def other_size(layout: str, found: Size) -> str:
    """In words, that a data set in the layout of one of the paper's is not of its size; empty where it is, or drawn."""
    whole = WHOLE.get(layout, found)
    if found == whole:
        return ""
    here = f"{found.train:,} images to train and {found.test:,} to test on, of {found.classes:,} classes"
    return f"{here} (at full scale: {whole.train:,}, {whole.test:,} and {whole.classes:,})"


def chosen(count: int | None, among: Sized, where: str, seed: int) -> list[int]:
    """Indices of ``count`` entries chosen by ``seed``; of all of them, in order, for ``None``."""
    if count is None:
        return list(range(len(among)))
    if count > len(among):
        raise ValueError(f"{count} images were asked for, {where} holds {len(among)}")
    return torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))[:count].tolist()


@dataclass(frozen=True)
class Split:
    """Images in memory, uint8 ``(N, 3, H, W)``, and their labels, ``(N,)`` int64 or ``(N, H, W)`` of each pixel."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index].long()

    def subset(self, count: int | None, seed: int) -> "Split":
        """``count`` images chosen by ``seed``; all of them for ``None``."""
        found = chosen(count, self, "the split", seed)
        return self if count is None else Split(self.images[found], self.labels[found])

    def batches(self, size: int) -> Batches:
        """Images and labels in order, ``size`` at a time."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)

    def fingerprints(self) -> Iterator[bytes]:
        """What tells these images from others."""
        yield self.images.contiguous().numpy().tobytes()
        yield self.labels.contiguous().numpy().tobytes()


@dataclass(frozen=True)
class ImageSet:
    """A data set for classification. ``source`` says in words where the pixels came from."""

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    ignored: ClassVar[int] = NOT_IGNORED

    def batches(self, size: int, workers: int = 0) -> Batches:
        """Test images and labels in order, ``size`` at a time; in memory, they need no ``workers``."""
        return self.test.batches(size)

    def fingerprint(self) -> str:
        """SHA-256 of all pixels and labels, in order."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor, content in zip((split.images, split.labels), split.fingerprints(), strict=True):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(content)
        return digest.hexdigest()

    def at_random_parity(self) -> "ImageSet":
        """Each image circularly moved by 0 or 1 pixel along each axis, once and for all: what a grid of two pixels in
        the files, such as that of JPEG's colours, may tell of a position is no longer the same in all images."""
        generator = torch.Generator().manual_seed(0)
        parity = Shifts(0, 1)
        moved = (
            Split(shift_each(split.images, parity.draw(len(split), generator)), split.labels)
            for split in (self.train, self.test)
        )
        source = f"{self.source}, each moved by a random parity"
        return ImageSet(f"{self.name}-parity", source, self.classes, *moved)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, in units of 0 to 1, ``(3,)`` each."""
        return channel_statistics([self.train.images])


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of images uint8 ``(N, 3, H, W)``, ``(3,)`` each in units of 0 to 1."""
    totals = sum(
        torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.int().unbind(1)]) for images in batches
    )
    if not isinstance(totals, Tensor):
        raise ValueError("there are no images to take the mean and the deviation of")
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = totals / totals.sum(1, keepdim=True)
    mean = (share * levels).sum(1)
    deviation = (share * (levels - mean[:, None]).square()).sum(1).sqrt()
    return mean.float(), deviation.float()


def data_root(given: Path | None = None, sought: str = "CIFAR-10, downloaded when absent,") -> Path:
    """Folder of downloaded data, where ``sought`` is looked for: the one given, or ``LPS_DATA``."""
    root = given or (Path(os.environ["LPS_DATA"]) if os.environ.get("LPS_DATA") else None)
    if root is None:
        raise FileNotFoundError(
            f"{sought} is looked for in a data folder, and none is given: set LPS_DATA or pass --data-root"
        )
    return root


def draw(train: int | None, test: int | None, seed: int, size: int = 32, masks: bool = False) -> list[Split]:
    """Drawn images to train on and to test on, labelled as a whole or by pixel."""
    if train is None or test is None:
        raise ValueError("the drawn data set has no size of its own: give the numbers of train and test images")
    images, labels, seen = drawn.draw(train + test, seed, size, masks)
    targets = labels if seen is None else seen
    return [Split(images[part], targets[part]) for part in (slice(None, train), slice(train, None))]


DRAWN = "procedurally drawn in memory from seed {}"


def load(name: str, train: int | None, test: int | None, seed: int, root: Path | None = None) -> ImageSet:
    """The data set ``drawn``, ``cifar10`` or ``cifar10-parity``, limited to ``train`` and ``test`` images chosen by
    ``seed``.

    The drawn set is made in memory and needs both numbers; CIFAR-10 is looked for in :func:`data_root`, and in
    ``cifar10-parity`` each of its images is first moved by a random parity (:meth:`ImageSet.at_random_parity`).
    """
    if name == "drawn":
        return ImageSet(name, DRAWN.format(seed), drawn.CLASSES, *draw(train, test, seed))
    if name in ("cifar10", "cifar10-parity"):
        full = _cifar10(data_root(root))
        if name == "cifar10-parity":
            full = full.at_random_parity()
        return ImageSet(name, full.source, full.classes, full.train.subset(train, seed), full.test.subset(test, seed))
    raise ValueError(f"unknown data set {name!r}; known: drawn, cifar10, cifar10-parity")


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _cifar10(root: Path) -> ImageSet:
    """All 60,000 images: from ``root/cifar10/{train,test}/<class>/``, else from torchvision's own files in ``root``.

    Torchvision's files are downloaded when absent and their checksums verified before they are read.
    """
    folder = root / "cifar10"
    if folder.is_dir():
        source = "CIFAR-10, re-encoded images from a folder"
        return ImageSet("cifar10", source, CIFAR10_CLASSES, _folder(folder / "train"), _folder(folder / "test"))
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
    return ImageSet("cifar10", "CIFAR-10, original pixels (torchvision)", CIFAR10_CLASSES, *splits)


def require_whole(images: ImageSet, root: Path, parts: Iterable[str]) -> None:
    """Raise ``ValueError`` where a part, ``train`` or ``test``, lacks images or has too many, with their numbers."""
    odd = {}
    for part in parts:
        found, expected = getattr(images, part).labels, getattr(WHOLE["cifar10"], part) // len(CIFAR10_CLASSES)
        counts = zip(CIFAR10_CLASSES, found.bincount(minlength=len(CIFAR10_CLASSES)).tolist(), strict=True)
        if other := [f"{count:,} of {name}" for name, count in counts if count != expected]:
            whole = f"{expected * len(CIFAR10_CLASSES):,}, {expected:,} of each class"
            here = f"{root / 'cifar10' / part} holds {len(found):,} images, {other[0]}"
            odd[f"--set data.{part}={len(found)}"] = f"{here}, and CIFAR-10 has {whole}"
    if odd:
        said = f"copy what is missing, or say with {' '.join(odd)} that it is a subset"
        raise ValueError(f"{'; '.join(odd.values())}: {said}")


def _folder(folder: Path) -> Split:
    from .photographs import pixels, visible

    files = [(path, label) for label, name in enumerate(CIFAR10_CLASSES) for path in visible(folder / name)]
    labels = torch.tensor([label for _, label in files])
    if missing := [name for label, name in enumerate(CIFAR10_CLASSES) if label not in labels]:
        raise FileNotFoundError(f"{folder} holds no images of {', '.join(missing)}")
    images = []
    for path, _ in files:
        images.append(torch.from_numpy(pixels(path)).permute(2, 0, 1))
        if images[-1].shape != (3, 32, 32):
            _, height, width = images[-1].shape
            raise ValueError(f"{path} is {width}x{height} pixels; CIFAR-10 images are 32x32")
    return Split(torch.stack(images).contiguous(), labels)
