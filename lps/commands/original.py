"""The verb ``original``: a checkpoint of the original release, its settings, and its accuracy and consistency."""

import argparse
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from ..data.photographs import Seen, class_files, class_folders
from ..experiments.evaluate import predictor
from ..metrics import PAPER_SHIFTS, Batches, Count, Predict, Shifts, accuracy, circular_consistency, shift_consistency
from ..original import Settings, load_checkpoint
from ..paths import PAPER

LARGE, WINDOW = 256, 224
ROWS = {
    (18, "-"): ("table2/lps", 42),
    (18, "Rect-2"): ("table2/lps-rect-2", 42),
    (18, "Adapt-3"): ("table2/lps-adapt-3", 42),
    (50, "Tri-3"): ("table3/resnet50-lps-tri-3", 7),
    (101, "Tri-3"): ("table3/resnet101-lps-tri-3", 21),
    (101, "Adapt-3"): ("table3/resnet101-lps-adapt-3", 7),
}
"""Row of the paper behind which a released checkpoint stands, and the seed of the script that evaluates it."""
METRICS = {"Acc.": "acc", "C-Cons.": "c_cons", "S-Cons.": "s_cons"}
NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
READ = transforms.Compose([transforms.Resize(LARGE), transforms.CenterCrop(LARGE), transforms.ToTensor(), NORMALIZE])
"""As the original reads ImageNet; the 224 x 224 of the accuracy are the middle of it."""
BATCH = 64  # images to which the original's scripts apply one shift


def arguments(parser: argparse.ArgumentParser) -> None:
    add, folder = parser.add_argument, "holds ImageNet's val/<wnid>/*.JPEG; without it, only settings"
    add("checkpoint", type=Path, help="a .ckpt file of the original release")
    add("--data-root", type=Path, metavar="DIR", help=folder)
    add("--images", type=int, metavar="N", help="evaluate N images, evenly spread, instead of all")
    add("--workers", type=int, default=2, help="processes that read images (default: 2)")
    add("--seed", type=int, default=0, help="seed of the paper's protocol (default: 0)")
    add("--original-seed", type=int, help="seed of the original's; default: that of its script, or 7")


def main(options: argparse.Namespace) -> int:
    """Print the settings of a checkpoint and, where there are images, what it scores by both protocols."""
    network, settings = load_checkpoint(options.checkpoint)
    print(json.dumps(asdict(settings), indent=2))
    if options.data_root is None:
        return 0
    row, seed = released(settings) or (None, 7)
    printed = paper_row(row)
    folders = class_folders(options.data_root / "val")
    images = Seen(class_files(options.data_root, "val", folders), read)
    labelled = are_classes(folders, settings.classes)
    if not labelled:
        print(f"no accuracy: {len(folders)} folders do not tell which of {settings.classes} classes they hold")
    chosen = spread(len(images), options.images)
    predict = predictor(network, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    seed = seed if options.original_seed is None else options.original_seed
    counts = evaluate(predict, Subset(images, chosen), labelled, options.seed, seed, options.workers)
    print(f"\n{len(chosen)} of {len(images)} images; paper: {row or 'no row for these settings'}")
    print(f"{'':<24} {'agree':>7} {'of':>7} {'%':>7} {'paper':>7}")
    for (metric, protocol), count in counts.items():
        name = f"{metric}, {protocol}" if protocol else metric
        print(f"{name:<24} {count.agree:>7} {count.total:>7} {count.percent:>7.2f} {printed.get(metric, ''):>7}")
    return 0


def read(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """An image as the original reads it."""
    return READ(to_pil_image(image)), label


def released(settings: Settings) -> tuple[str, int] | None:
    """Row and seed of the released checkpoint with these settings, if there is one."""
    layers = settings.layers
    if layers is None or layers.method != "LPS" or settings.stem != "imagenet" or settings.classes != 1000:
        return None
    if settings.padding != ("circular" if settings.depth == 18 else "zeros"):
        return None
    return ROWS.get((settings.depth, layers.antialias.name if layers.antialias else "-"))


def paper_row(name: str | None) -> dict[str, str]:
    """The paper's values of a row, by metric."""
    if name is None:
        return {}
    with (PAPER / f"{name.split('/')[0]}.csv").open(encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["row"] == name)
    return {title: row[column] for title, column in METRICS.items() if column in row}


def are_classes(folders: list[str], classes: int) -> bool:
    """Whether folders in sorted order are the classes in order: all of them, by their WordNet identifiers."""
    return len(folders) == classes and all(re.fullmatch(r"n\d{8}", folder) for folder in folders)


def spread(total: int, wanted: int | None) -> list[int]:
    """``wanted`` of ``total`` indices, evenly spread; all of them for ``None``."""
    if wanted is None:
        return list(range(total))
    if not 0 < wanted <= total:
        raise ValueError(f"--images {wanted}: there are {total} images")
    return [k * total // wanted for k in range(wanted)]


@dataclass(frozen=True)
class OriginalShifts(Shifts):
    """Shifts that the original draws while it evaluates; each batch takes the next ones."""

    drawn: Iterator[Tensor] = field(kw_only=True)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return next(self.drawn).expand(count, 2)


def original_shifts(seed: int) -> tuple[OriginalShifts, OriginalShifts]:
    """Circular shifts and corners of windows for one pass of the original over ImageNet.

    It seeds numpy's generator once and draws for each batch two corners from 0 to 31, then two circular shifts from
    -32 to 31.
    """

    def draws(circular: bool) -> Iterator[Tensor]:
        generator = np.random.RandomState(seed)
        while True:
            for low in (0, 0, -32, -32):
                shift = torch.from_numpy(generator.randint(low, 32, size=2))
                if (low < 0) == circular:
                    yield shift

    return OriginalShifts(-32, 31, False, drawn=draws(True)), OriginalShifts(0, 31, False, drawn=draws(False))


def evaluate(
    predict: Predict,
    images: Dataset[tuple[Tensor, Tensor]],
    labelled: bool,
    seed: int,
    original_seed: int,
    workers: int,
) -> dict[tuple[str, str], Count]:
    """Counts by metric and protocol over ``images`` of 256 x 256 pixels.

    The paper's protocol shifts each image by its own draws from 0 to 32, circularly at 224 x 224. The original's code
    draws once for 64 images and shifts circularly at 256 x 256.
    """

    def batches(size: int, title: str) -> Batches:
        edge = (LARGE - size) // 2
        inside = slice(edge, edge + size)
        loader = DataLoader(images, BATCH, num_workers=workers)
        return ((x[..., inside, inside], labels) for x, labels in tqdm(loader, title, disable=None))

    circular, corners = original_shifts(original_seed)
    counts = {}
    if labelled:
        counts["Acc.", ""] = accuracy(predict, batches(WINDOW, "Acc."))
    counts["C-Cons.", "paper"] = circular_consistency(predict, batches(WINDOW, "C-Cons."), PAPER_SHIFTS, seed=seed)
    counts["S-Cons.", "paper"] = shift_consistency(predict, batches(LARGE, "S-Cons."), WINDOW, PAPER_SHIFTS, seed=seed)
    counts["C-Cons.", "original code"] = circular_consistency(predict, batches(LARGE, "C-Cons."), circular)
    counts["S-Cons.", "original code"] = shift_consistency(predict, batches(LARGE, "S-Cons."), WINDOW, corners)
    return counts
