"""The verb ``original``: protocols, data and table rows."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from lps.commands import original as verb
from lps.metrics import Count
from lps.original import Filter, Layers, Logits, Settings, build

HIDDEN = {64: 8, 128: 16, 256: 32, 512: 64}
RECT_2 = Filter("LPF", 2, "circular")
SETTINGS = Settings(
    18, 2, "imagenet", "circular", "circular", Layers("LPS", RECT_2, "filtered", Logits(HIDDEN, "circular"))
)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def test_shifts_are_those_of_the_original() -> None:
    circular, corners = verb.original_shifts(42)
    generator = torch.Generator()
    np.random.seed(42)
    for _ in range(5):
        for shifts, low in ((corners, 0), (circular, -32)):
            for _ in range(2):
                drawn = shifts.draw(3, generator)
                assert drawn.tolist() == [np.random.randint(low, 32, size=2).tolist()] * 3


@pytest.mark.parametrize("size", [(301, 500), (500, 301), (256, 256), (333, 257)])
def test_the_middle_of_the_large_crop_is_the_small_crop(size: tuple[int, int]) -> None:
    small = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *verb.READ.transforms[2:]])
    image = picture(0, size)
    assert torch.equal(verb.READ(image)[:, 16:240, 16:240], small(image))


def test_each_released_checkpoint_has_its_row_of_the_paper() -> None:
    filters = {
        "-": None,
        "Rect-2": RECT_2,
        "Tri-3": Filter("LPF", 3, "circular"),
        "Adapt-3": Filter("DDAC", 3, "circular", 8),
    }
    for (depth, antialias), (row, seed) in verb.ROWS.items():
        padding: Any = "circular" if depth == 18 else "zeros"
        layers = Layers("LPS", filters[antialias], "filtered", Logits(HIDDEN, "circular"))
        settings = Settings(depth, 1000, "imagenet", padding, "circular", layers)
        assert verb.released(settings) == (row, seed)
        assert verb.released(replace(settings, classes=10)) is None
        assert verb.released(replace(settings, layers=replace(layers, method="APS"))) is None
        assert verb.released(replace(settings, padding="reflect")) is None
        assert verb.paper_row(row).keys() == {"Acc.", "C-Cons." if depth == 18 else "S-Cons."}
    assert verb.paper_row(None) == {}


def test_folders_are_classes_only_when_all_are_there() -> None:
    assert verb.are_classes(["n01440764", "n01443537"], 2)
    assert not verb.are_classes(["n01440764"], 2)
    assert not verb.are_classes(["cat", "dog"], 2)


def test_a_sample_is_spread_over_the_images() -> None:
    assert verb.spread(10, None) == list(range(10))
    assert verb.spread(10, 4) == [0, 2, 5, 7]
    for wanted in (0, 11):
        with pytest.raises(ValueError, match=f"--images {wanted}: there are 10 images"):
            verb.spread(10, wanted)


def test_protocols_count_every_image_with_its_shifts() -> None:
    """A predictor that tells images apart by their first pixel, against the protocols spelled out."""
    generator = torch.Generator().manual_seed(0)
    images = [(torch.randn(3, 256, 256, generator=generator), k % 2) for k in range(70)]
    seen: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        seen.append(x)
        return (x[:, 0, 0, 0] > 0).long()

    counts = verb.evaluate(predict, images, True, seed=3, original_seed=7, workers=0)  # type: ignore[arg-type]
    assert {count.total for count in counts.values()} == {70}
    whole = torch.stack([x for x, _ in images])
    middle = whole[..., 16:240, 16:240]
    assert counts["Acc.", ""] == Count.of((middle[:, 0, 0, 0] > 0) == torch.tensor([k % 2 for k in range(70)]))
    circular, corners = verb.original_shifts(7)
    windows = rolled = 0
    for batch in whole.split(64):
        first, second = (next(corners.drawn).tolist() for _ in range(2))
        windows += int(((batch[:, 0, first[0], first[1]] > 0) == (batch[:, 0, second[0], second[1]] > 0)).sum())
        first, second = ((-next(circular.drawn) % 256).tolist() for _ in range(2))
        rolled += int(((batch[:, 0, first[0], first[1]] > 0) == (batch[:, 0, second[0], second[1]] > 0)).sum())
    assert counts["S-Cons.", "original code"].agree == windows
    assert counts["C-Cons.", "original code"].agree == rolled
    sizes = {(len(x), x.shape[-1]) for x in seen}
    assert sizes == {(64, 224), (6, 224), (64, 256), (6, 256)}


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for wnid in ("n01440764", "n01443537"):
        folder = tmp_path / "val" / wnid
        folder.mkdir(parents=True)
        picture(len(wnid), (300, 260)).save(folder / "a.JPEG")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, **changes: Any) -> int:
    torch.manual_seed(0)
    settings = replace(SETTINGS, **changes)
    monkeypatch.setattr(verb, "load_checkpoint", lambda path: (build(settings).eval(), settings))
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    return verb.main(parser.parse_args(["a.ckpt", "--workers", "0", *arguments]))


def test_settings_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert '"padding": "circular"' in printed and "Cons." not in printed


def test_all_metrics(imagenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--data-root", str(imagenet)) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 images; paper: no row for these settings" in printed
    lines = {line[:24].strip(): line[24:].split() for line in printed.splitlines() if "Cons." in line or "Acc." in line}
    assert list(lines) == ["Acc.", *(f"{m}-Cons., {p}" for p in ("paper", "original code") for m in "CS")]
    assert lines["C-Cons., paper"] == lines["C-Cons., original code"] == ["2", "2", "100.00"]


def test_no_accuracy_without_all_classes(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--data-root", str(imagenet), "--images", "1", classes=3) == 0
    printed = capsys.readouterr().out
    assert "no accuracy: 2 folders do not tell which of 3 classes they hold" in printed and "Acc." not in printed


def test_a_folder_without_validation_images_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="val"):
        run(monkeypatch, "--data-root", str(tmp_path))


def test_hidden_files_are_skipped_and_a_damaged_one_is_named(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".DS_Store", "n01440764/._a.JPEG"):
        (imagenet / "val" / name).write_bytes(b"hidden")
    (imagenet / "val" / ".ipynb_checkpoints").mkdir()
    assert run(monkeypatch, "--data-root", str(imagenet)) == 0
    path = imagenet / "val" / "n01440764" / "a.JPEG"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"n01440764/a\.JPEG is not a readable image"):
        run(monkeypatch, "--data-root", str(imagenet))
