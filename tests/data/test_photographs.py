"""Photographs from folders: the layouts of ImageNet and VOC, what is said where they are broken, and augmentation."""

import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import lps.data
from lps.data import Split
from lps.data.photographs import (
    Augmented,
    Files,
    PhotographSet,
    Samples,
    augmentation,
    heed_the_parent,
    load,
)

CLASSES = ("n01", "n02", "n03")


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if pixels.ndim == 2:
        image.putpalette(list(range(256)) * 3)
    image.save(path, **options)


def imagenet(root: Path) -> Path:
    """Three classes with two photographs each, of various sizes, in train and val."""
    for part in ("train", "val"):
        for label, name in enumerate(CLASSES):
            for i in range(2):
                pixels = np.full((40 + 8 * i, 56, 3), 80 * label + i, np.uint8)
                write(root / "imagenet" / part / name / f"{i}.JPEG", pixels, quality=95)
    return root


def voc(root: Path, train: int = 3, val: int = 2, classes: int = 4, augmented: bool = False) -> Path:
    """Photographs in blocks of brightness ``20 * label`` with the labels as masks, framed by 255."""
    base = root / "voc" / "VOCdevkit" / "VOC2012"
    names = {"train": [f"t{i}" for i in range(train)], "val": [f"v{i}" for i in range(val)]}
    for name in (*names["train"], *names["val"]):
        mask = np.kron(np.arange(classes, dtype=np.uint8), np.ones((48, 16), np.uint8))
        write(base / "JPEGImages" / f"{name}.jpg", np.repeat(20 * mask[..., None], 3, 2), quality=95)
        mask[:2] = 255
        write(base / "SegmentationClass" / f"{name}.png", mask)
        if augmented:
            write(base / "SegmentationClassAug" / f"{name}.png", mask)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part, of_part in names.items():
        (lists / f"{part}.txt").write_text("\n".join(of_part))
    if augmented:
        (lists / "train_aug.txt").write_text("\n".join(names["train"][:2]))
    return root


def read(layout: str, root: Path, size: int = 32, train: int | None = None) -> PhotographSet:
    return load(layout, layout, train, None, 0, size, lambda: root)


# layouts


def test_imagenet_from_its_folders(tmp_path: Path) -> None:
    images = read("imagenet", imagenet(tmp_path))
    assert images.classes == CLASSES and (len(images.train), len(images.test)) == (6, 6)
    assert images.train[0][0].shape == (3, 40, 56) and images.train[1][0].shape == (3, 48, 56)
    ((batch, labels),) = images.batches(6)
    assert batch.shape == (6, 3, 32, 32) and batch.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and (batch[4:].float().mean() - 160).abs() < 3
    assert len(read("imagenet", tmp_path, train=4).train) == 4


def test_voc_from_its_folders(tmp_path: Path) -> None:
    images = read("voc", voc(tmp_path), size=48)
    assert images.classes == ("0", "1", "2", "3") and images.ignored == 255
    assert "train_aug.txt and SegmentationClassAug are not there" in images.source
    image, mask = images.train[0]
    assert image.shape == (3, 48, 64) and mask.shape == (48, 64) and mask.dtype == torch.int64
    assert mask[0].unique().tolist() == [255] and mask[2:, ::16].unique(dim=0).tolist() == [[0, 1, 2, 3]]
    ((batch, masks),) = images.batches(2)
    assert batch.shape == (2, 3, 48, 48) and masks.shape == (2, 48, 48)


def test_sbd_is_used_where_it_is(tmp_path: Path) -> None:
    images = read("voc", voc(tmp_path, augmented=True))
    assert len(images.train) == 2 and images.source.endswith("with SBD's train_aug")
    (tmp_path / "voc/VOCdevkit/VOC2012/classes.txt").write_text("ground\nsky\ntree\nroad\n")
    assert read("voc", tmp_path).classes == ("ground", "sky", "tree", "road")
    (tmp_path / "voc/VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"SegmentationClassAug is there and .*train_aug.txt is not"):
        read("voc", tmp_path)


def test_drawn_images_stand_in_for_both() -> None:
    for name, shape in (("drawn", ()), ("drawn-masks", (64, 64))):
        images = load(name, "", 20, 10, 0, 64, Path.cwd)
        assert images.train[3][0].shape == (3, 64, 64) and images.train[3][1].shape == shape
    assert images.classes[0] == "ground" and len(images.classes) == 11
    objects = load("drawn-objects", "", 20, 10, 0, 64, Path.cwd)
    assert objects.classes == ("ground", "object") and objects.fingerprint() != images.fingerprint()
    (image, named), (same, found) = images.train[3], objects.train[3]
    assert torch.equal(image, same) and torch.equal(found, (named > 0).long()) and named.max() > 1


def broken(path: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    def breaking(root: Path) -> None:
        change(root / path)

    return breaking


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


VOC = "voc/VOCdevkit/VOC2012"
LISTS = f"{VOC}/ImageSets/Segmentation"


@pytest.mark.parametrize(
    ("layout", "breaking", "words"),
    [
        ("imagenet", broken("imagenet/val", lambda p: p.rename(p.with_name("test"))), r"val is not there; expected"),
        ("imagenet", broken("imagenet/val/n02", lambda p: p.rename(p.with_name("n09"))), "only one of them holds n02"),
        (
            "imagenet",
            broken("imagenet/val/n02", emptied),
            "n02 holds no images; the download is not complete",
        ),
        ("voc", broken(f"{VOC}/ImageSets", lambda p: p.rename(p.with_name("x"))), "unpack VOCtrainval_11-May-2012.tar"),
        ("voc", broken(f"{VOC}/ImageSets/Segmentation/val.txt", Path.unlink), "val.txt is missing"),
        ("voc", broken(f"{VOC}/JPEGImages/t1.jpg", Path.unlink), "t1.jpg is missing; the download is not complete"),
        ("voc", broken(f"{VOC}/SegmentationClass/v1.png", Path.unlink), "v1.png is missing"),
    ],
)
def test_what_is_missing_is_named(layout: str, breaking: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    {"imagenet": imagenet, "voc": voc}[layout](tmp_path)
    breaking(tmp_path)
    with pytest.raises(FileNotFoundError, match=words):
        read(layout, tmp_path)


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (broken(f"{VOC}/JPEGImages/t0.jpg", lambda p: p.write_bytes(p.read_bytes()[:300])), "t0.jpg is not a readable"),
        (broken(f"{VOC}/JPEGImages/t0.jpg", lambda p: p.write_bytes(b"")), "t0.jpg is not a readable image"),
        (
            broken(f"{VOC}/SegmentationClass/t0.png", lambda p: write(p, np.zeros((48, 60), np.uint8))),
            "t0.png is 60x48 pixels, its image 64x48",
        ),
        (
            broken(f"{VOC}/SegmentationClass/t0.png", lambda p: write(p, np.zeros((48, 64, 3), np.uint8))),
            "t0.png has 3 channels; a mask has one",
        ),
    ],
)
def test_what_is_damaged_is_named(breaking: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    breaking(voc(tmp_path))
    with pytest.raises(ValueError, match=words):
        read("voc", tmp_path).train[0]


def truncated(path: Path) -> None:
    """A PNG that ends within a chunk, which PIL calls a ``SyntaxError``."""
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT")] + b"\0" * 40)


def bomb(path: Path) -> None:
    """A PNG of a few bytes that says it has 400 million pixels."""
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def of_16_bits(path: Path, **options: Any) -> None:
    Image.fromarray(np.full((40, 40), 20000, np.uint16)).save(path, **options)


@pytest.mark.parametrize("damage", [truncated, bomb, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_whatever_is_wrong_with_an_image_it_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = imagenet(tmp_path) / "imagenet" / "train" / "n01" / "0.png"
    write(path, np.zeros((40, 40, 3), np.uint8))
    images = read("imagenet", tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=r"n01/0\.png is not a readable image \(.+\); replace or remove it"):
        for index in range(3):
            images.train[index]


def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path) -> None:
    folder = imagenet(tmp_path) / "imagenet" / "train" / "n01"
    emptied(folder)
    of_16_bits(folder / "0.png")
    of_16_bits(folder / "1.tif", format="TIFF")
    images = read("imagenet", tmp_path)
    for index in range(2):
        assert (images.train[index][0] == 20000 // 256).all()


def test_pixels_without_a_known_scale_are_refused(tmp_path: Path) -> None:
    path = imagenet(tmp_path) / "imagenet" / "train" / "n01" / "0.tif"
    for kind in (np.float32, np.int32):
        Image.fromarray(np.full((40, 40), 2, kind)).save(path)
        with pytest.raises(ValueError, match=r"n01/0\.tif is not a readable image \(pixels of mode [FI] have no known"):
            read("imagenet", tmp_path).train[1]


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    train = imagenet(tmp_path) / "imagenet" / "train"
    (train / ".ipynb_checkpoints").mkdir()
    for path in (train / ".DS_Store", train / "n01" / ".DS_Store", train / "n02" / "._0.JPEG"):
        path.write_bytes(b"hidden")
    images = read("imagenet", tmp_path)
    assert images.classes == CLASSES and len(images.train) == 6


def masked(value: int, kind: Any = np.uint8) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.full((48, 64), value, kind)).save(path)


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (broken(f"{VOC}/SegmentationClass/t1.png", masked(11)), r"t1\.png holds the label 11; the classes are 0 to 3"),
        (broken(f"{VOC}/SegmentationClass/t1.png", masked(300, np.uint16)), r"t1\.png holds the label 300; "),
        (broken(f"{VOC}/classes.txt", lambda p: p.write_text("a\nb\n\nc\n")), r"classes\.txt has no name in line 3"),
        (broken(f"{VOC}/classes.txt", lambda p: p.write_text("a\nb\nc\nd\n\n")), r"classes\.txt has no name in line 5"),
        (broken(f"{VOC}/classes.txt", lambda p: p.write_text("a\nb\na\nd\n")), r"classes\.txt names a twice"),
        (broken(f"{VOC}/classes.txt", lambda p: p.write_text("")), r"classes\.txt is empty"),
        (broken(f"{VOC}/classes.txt", lambda p: p.write_bytes(b"\xff\xfe")), r"classes\.txt is not text in UTF-8"),
        (broken(f"{LISTS}/train.txt", lambda p: p.write_text("\n")), r"train\.txt is empty; expected a name"),
        (broken(f"{LISTS}/val.txt", lambda p: p.write_text("")), r"val\.txt is empty; expected a name"),
        (broken(f"{LISTS}/val.txt", lambda p: p.write_text("v0 v1 v0")), r"val\.txt names v0 twice"),
        (broken(f"{LISTS}/val.txt", lambda p: p.write_text("v0 t1 t0")), r"train\.txt and val\.txt share 2 images, t0"),
        (lambda root: [masked(255)(root / VOC / f"SegmentationClass/v{i}.png") for i in (0, 1)], "no label but 255"),
    ],
)
def test_labels_and_lists_that_cannot_be_are_named(
    breaking: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    breaking(voc(tmp_path))
    with pytest.raises(ValueError, match=words):
        samples = read("voc", tmp_path).train
        for index in range(len(samples)):
            samples[index]


def test_no_images_have_no_statistics() -> None:
    with pytest.raises(ValueError, match="there are no images to take the mean and the deviation of"):
        lps.data.channel_statistics([])


def test_the_fingerprint_follows_files_and_order(tmp_path: Path) -> None:
    before = read("voc", voc(tmp_path)).fingerprint()
    assert read("voc", tmp_path).fingerprint() == before
    assert read("voc", tmp_path, train=2).fingerprint() != before
    photograph = tmp_path / VOC / "JPEGImages" / "t0.jpg"
    photograph.write_bytes(photograph.read_bytes() + b"\0")
    assert read("voc", tmp_path).fingerprint() != before


def test_statistics_are_those_of_the_pixels() -> None:
    images = load("drawn", "", 30, 2, 0, 32, Path.cwd)
    assert isinstance(images.train, Split)
    pixels = images.train.images.double() / 255
    mean, deviation = images.statistics()
    torch.testing.assert_close(mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.double(), pixels.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


# augmentation


def drawn(masks: bool = True) -> Samples:
    return load("drawn-masks" if masks else "drawn", "", 12, 2, 0, 64, Path.cwd).train


def looks(seed: int, epoch: int, workers: int) -> list[torch.Tensor]:
    augment = augmentation("random-scale", 64, 32, None, True, 255)
    batches = [[(epoch, image) for image in (3, 1, 4, 1)], [(epoch, 5)]]
    return [
        part
        for pair in DataLoader(Augmented(drawn(), augment, seed), batch_sampler=batches, num_workers=workers)
        for part in pair
    ]


def test_a_look_depends_on_seed_epoch_and_image_and_not_on_the_workers() -> None:
    here = looks(0, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(here, looks(0, 2, 2), strict=True))
    assert torch.equal(here[0][1], here[0][3])  # the same image twice
    for other in (looks(1, 2, 0), looks(0, 3, 0)):
        assert not torch.equal(here[0], other[0])


def reading(line: Any) -> None:
    heed_the_parent(0)
    line.send("reading")
    time.sleep(60)


def test_a_process_that_reads_ends_on_a_signal_of_its_parent_alone() -> None:
    ours, theirs = Pipe()
    process = get_context("fork").Process(target=reading, args=(theirs,), daemon=True)
    process.start()
    assert ours.recv() == "reading"
    for number in ("INT", "TERM"):
        subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)
    process.join(0.5)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def test_a_look_leaves_the_noise_of_training_alone() -> None:
    changed = Augmented(drawn(), augmentation("random-resized", 64, 32, None, True, 255), 0)
    before = torch.get_rng_state()
    assert changed[0, 0][0].shape == (3, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["center", "random-resized", "random-scale"])
def test_masks_move_with_their_images(kind: str) -> None:
    """Images that show their labels still do so after augmentation, but for edges between two labels."""
    labels = torch.kron(torch.arange(4).view(2, 2), torch.ones(24, 24, dtype=torch.int64))
    samples = Split((60 * labels).to(torch.uint8).expand(1, 3, 48, 48), labels[None])
    changed = Augmented(samples, augmentation(kind, 48, 32, None, True, 255), 0)
    for epoch in range(20):
        image, mask = changed[epoch, 0]
        assert image.shape == (3, 32, 32) and mask.shape == (32, 32)
        shown = (image[0] / 60).round()
        assert (shown[mask != 255] == mask[mask != 255]).double().mean() > 0.85
        assert (image[:, mask == 255] == 0).all()


def test_random_scale_pads_small_images_with_ignored_pixels() -> None:
    changed = Augmented(drawn(), augmentation("random-scale", 64, 64, 32, False, 255), 0)
    masks = torch.stack([changed[0, i][1] for i in range(12)])
    assert (masks == 255).any() and (masks != 255).any()


def test_center_shows_the_middle_and_flips_half() -> None:
    samples = drawn(masks=False)
    middle = Augmented(samples, augmentation("center", 64, 32, None, False, -100), 0)
    assert torch.equal(middle[0, 2][0], samples[2][0][:, 16:48, 16:48]) and middle[0, 2][1] == samples[2][1]
    flipping = Augmented(samples, augmentation("center", 64, 32, None, True, -100), 0)
    flipped = [torch.equal(flipping[e, 2][0], middle[0, 2][0].flip(2)) for e in range(40)]
    assert 8 < sum(flipped) < 32


def test_more_images_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 images were asked for"):
        read("imagenet", imagenet(tmp_path), train=7)
    assert isinstance(read("imagenet", tmp_path, train=2).train, Files)
