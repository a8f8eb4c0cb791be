"""Photographs of any size with a label each or for each pixel, read when asked for, augmented by their own seeds."""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..metrics import Batches
from ..segmentation import IGNORED
from . import DRAWN, NOT_IGNORED, Split, channel_statistics, chosen, draw
from .drawn import CLASSES

DRAWN_CLASSES = {"drawn": CLASSES, "drawn-masks": ("ground", *CLASSES), "drawn-objects": ("ground", "object")}
"""Of an image, of its pixels, and of pixels whose object has no name: small networks find objects before they can name
them, and call ground what may be one of ten."""

Augment = Callable[[Any, Any], tuple[Any, Any]]


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


@dataclass(frozen=True)
class Files:
    """Image files below ``root``, and for each a label or the file of its mask, whose labels are below ``classes``."""

    root: Path
    images: tuple[str, ...]
    targets: tuple[int | str, ...]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(pixels(self.root / self.images[index])).permute(2, 0, 1)
        target = self.targets[index]
        if isinstance(target, int):
            return image, torch.tensor(target)
        path = self.root / target
        mask = torch.from_numpy(pixels(path, indices=True))
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {image.shape[2]}x{image.shape[1]}"
            )
        if len(odd := mask[(mask != IGNORED) & ((mask < 0) | (mask >= self.classes))]):
            raise ValueError(
                f"{path} holds the label {int(odd[0])}; the classes are 0 to {self.classes - 1}, and {IGNORED} is "
                "ignored: correct it, or name more classes in classes.txt"
            )
        return image, mask

    def fingerprints(self) -> Iterator[bytes]:
        """Names and sizes: the pixels of a million photographs would take hours to read."""
        for image, target in zip(self.images, self.targets, strict=True):
            yield f"{image} {(self.root / image).stat().st_size} {target}\n".encode()
            if isinstance(target, str):
                yield f"{(self.root / target).stat().st_size}\n".encode()

    def subset(self, count: int | None, seed: int) -> "Files":
        """``count`` images chosen by ``seed``; all of them for ``None``."""
        found = chosen(count, self, str(self.root), seed)
        images, targets = tuple(self.images[i] for i in found), tuple(self.targets[i] for i in found)
        return replace(self, images=images, targets=targets)


Samples = Split | Files
"""Images uint8 ``(3, H, W)``, each with its target: a label int64 ``()``, or a mask int64 ``(H, W)``."""


@dataclass(frozen=True)
class PhotographSet:
    """A data set of photographs. Targets equal to ``ignored`` count nowhere; ``size`` is that of test images."""

    name: str
    source: str
    classes: tuple[str, ...]
    ignored: int
    size: int
    train: Samples
    test: Samples

    def fingerprint(self) -> str:
        """SHA-256 of what tells the samples and their order from others."""
        digest = hashlib.sha256(" ".join(self.classes).encode())
        for part in (self.train, self.test):
            for piece in part.fingerprints():
                digest.update(piece)
        return digest.hexdigest()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel, ``(3,)`` each in units of 0 to 1, over 1,000 of the training images."""
        step = max(1, len(self.train) // 1000)
        return channel_statistics(self.train[i][0][None] for i in range(0, len(self.train), step))

    def batches(self, batch_size: int, workers: int = 0) -> Batches:
        """Test images ``(N, 3, size, size)`` uint8 and their targets, in order."""
        resize = v2.Compose([v2.Resize(self.size, antialias=True), v2.CenterCrop(self.size)])
        return DataLoader(Seen(self.test, resize), batch_size, num_workers=workers, worker_init_fn=heed_the_parent)


def heed_the_parent(worker: int) -> None:
    """For ``worker_init_fn``: a process that reads images leaves Ctrl-C, and signals sent to all processes, to its
    parent, and ends on SIGTERM from that alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        return

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    Thread(target=wait, daemon=True).start()


class Seen(Dataset[tuple[Tensor, Tensor]]):
    """Samples through a transformation."""

    def __init__(self, samples: Samples, transform: Augment) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = self.samples[index]
        if target.dim():
            target = tv_tensors.Mask(target)
        image, target = self.transform(tv_tensors.Image(image), target)
        return image.as_subclass(Tensor), target.as_subclass(Tensor)


class Augmented(Seen):
    """Samples that look different in each epoch. An index is ``(epoch, image)``: the look of an image depends on
    these two and the seed, not on the process that makes it."""

    def __init__(self, samples: Samples, transform: Augment, seed: int) -> None:
        super().__init__(samples, transform)
        self.seed = seed

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        epoch, image = index
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed((((self.seed + 1) * 1_000_003 + epoch) * 100_000_007 + image) % 2**64)
            return super().__getitem__(image)


def augmentation(kind: str, resize: int, crop: int, base: int | None, flip: bool, ignored: int) -> Augment:
    """How training images are cut to ``crop`` pixels a side; see ``Photographs`` in the configuration."""
    cuts: dict[str, list[Any]] = {
        "center": [v2.Resize(resize, antialias=True), v2.CenterCrop(crop)],
        "random-resized": [v2.RandomResizedCrop(crop, antialias=True)],
        "random-scale": [
            *([] if base is None else [v2.Resize(base, antialias=True)]),
            _scale,
            v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: ignored}),
        ],
    }
    return v2.Compose([*cuts[kind], *([v2.RandomHorizontalFlip()] if flip else [])])


def _scale(image: Any, target: Any) -> tuple[Any, Any]:
    factor = torch.empty(()).uniform_(0.5, 2.0).item()
    size = [round(factor * side) for side in image.shape[1:]]
    return F.resize(image, size, antialias=True), F.resize(target, size)


def load(
    name: str, folder: str, train: int | None, test: int | None, seed: int, size: int, root: Callable[[], Path]
) -> PhotographSet:
    """The data set in ``root() / folder``, laid out as ``name`` says, or drawn; at most ``train`` and ``test`` images.

    ``imagenet``: ``train/<wnid>/*`` and ``val/<wnid>/*``. ``voc``: ``VOCdevkit/VOC2012`` as torchvision unpacks it.
    Test images are shown at ``size`` x ``size`` pixels.
    """
    if name in DRAWN_CLASSES:
        masks, classes = name != "drawn", DRAWN_CLASSES[name]
        drawn = draw(train, test, seed, size, masks)
        if name == "drawn-objects":
            drawn = [Split(part.images, part.labels.clamp(max=1)) for part in drawn]
        return PhotographSet(name, DRAWN.format(seed), classes, IGNORED if masks else NOT_IGNORED, size, *drawn)
    where = root() / folder
    source, names, ignored, *parts = {"imagenet": _imagenet, "voc": _voc}[name](where)
    training, testing = (part.subset(count, seed) for part, count in zip(parts, (train, test), strict=True))
    return PhotographSet(folder, source, names, ignored, size, training, testing)


Layout = tuple[str, tuple[str, ...], int, Files, Files]


def _imagenet(root: Path) -> Layout:
    """A folder of images for each class, the same ones in ``train`` and in ``val``."""
    classes, others = (class_folders(root / part) for part in ("train", "val"))
    if odd := sorted(set(classes) ^ set(others)):
        raise FileNotFoundError(f"{root}: train and val must hold the same classes; only one of them holds {odd[0]}")
    training, testing = (class_files(root, part, classes) for part in ("train", "val"))
    return f"{root.name}, photographs from class folders", tuple(classes), NOT_IGNORED, training, testing


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, one for each class."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; expected {folder}/<wnid>/*.JPEG, a folder for each class")
    if names := [path.name for path in visible(folder) if path.is_dir()]:
        return names
    ours = f"{folder}/<wnid>/ by the devkit's ground truth"
    raise FileNotFoundError(f"{folder} holds no folders; sort its images into {ours}")


def class_files(root: Path, part: str, classes: Sequence[str]) -> Files:
    """The files in the folders of the classes below ``root / part``."""
    found = [[path for path in visible(root / part / name) if path.is_file()] for name in classes]
    if missing := [name for name, paths in zip(classes, found, strict=True) if not paths]:
        raise FileNotFoundError(f"{root / part / missing[0]} holds no images; the download is not complete")
    images = (path.relative_to(root).as_posix() for paths in found for path in paths)
    return Files(root, tuple(images), tuple(label for label, paths in enumerate(found) for _ in paths))


def _voc(root: Path) -> Layout:
    """PASCAL VOC 2012, or another data set laid out like it.

    Its classes are the lines of ``classes.txt`` where there is one, else 0 to the largest label of the masks to test
    on. SBD's 10,582 images are trained on where ``train_aug.txt`` and ``SegmentationClassAug`` are there, else those
    of ``train.txt``.
    """
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    if not lists.is_dir():
        source = "unpack VOCtrainval_11-May-2012.tar" if root.name == "voc" else "put data in the layout of VOC"
        raise FileNotFoundError(f"{lists} is not there; {source} in {root}, or name another folder by data.folder")
    here = {path: path.exists() for path in (lists / "train_aug.txt", base / "SegmentationClassAug")}
    if any(here.values()) and not all(here.values()):
        there, missing = sorted(here, key=lambda path: not here[path])
        raise FileNotFoundError(f"{there} is there and {missing} is not: SBD's annotations take both")
    augmented = all(here.values())
    training_list = lists / ("train_aug.txt" if augmented else "train.txt")
    names = [_entries(training_list), _entries(lists / "val.txt")]
    if both := sorted(set(names[0]).intersection(names[1])):
        raise ValueError(
            f"{training_list} and val.txt share {len(both)} images, {both[0]} among them: an image to train on "
            "measures nothing, so take it out of one of them"
        )
    folders = ("SegmentationClassAug" if augmented else "SegmentationClass", "SegmentationClass")
    images = [tuple(f"JPEGImages/{name}.jpg" for name in part) for part in names]
    masks = [tuple(f"{folder}/{name}.png" for name in part) for part, folder in zip(names, folders, strict=True)]
    for path in (base / file for part in zip(images, masks, strict=True) for files in part for file in files):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; the download is not complete")
    classes = _classes(base, masks[1])
    training, testing = (Files(base, *part, len(classes)) for part in zip(images, masks, strict=True))
    extra = (
        "with SBD's train_aug" if augmented else "train.txt only: train_aug.txt and SegmentationClassAug are not there"
    )
    return f"{root.name} in the layout of VOC 2012, {extra}", classes, IGNORED, training, testing


def _classes(base: Path, masks: Sequence[str]) -> tuple[str, ...]:
    """The lines of ``classes.txt``, or the numbers up to the largest in the masks to test on."""
    path = base / "classes.txt"
    if path.exists():
        return tuple(_entries(path, str.splitlines))
    labels = (pixels(base / mask, indices=True) for mask in masks)
    largest = max(int(mask[mask != IGNORED].max(initial=-1)) for mask in labels)
    if largest < 0:
        raise ValueError(f"the masks of val.txt in {base} hold no label but {IGNORED}; there is nothing to measure")
    return tuple(str(label) for label in range(1 + largest))


def _entries(path: Path, split: Callable[[str], list[str]] = str.split) -> list[str]:
    """What a file lists, each once and none of them empty: its words, or what else ``split`` makes of its text."""
    try:
        entries = split(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; the download is not complete") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); save it as such") from error
    if not entries:
        raise ValueError(f"{path} is empty; expected a name on each line")
    for line, entry in enumerate(entries, 1):
        if not entry.strip():
            raise ValueError(f"{path} has no name in line {line}; expected one on each line")
    if twice := [entry for entry, times in Counter(entries).items() if times > 1]:
        raise ValueError(f"{path} names {twice[0]} twice")
    return entries
