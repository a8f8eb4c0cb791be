from hashlib import sha256

import pytest
import torch

from lps.data import drawn, load
from lps.data.drawn import CLASSES, Drawn, draw

FINGERPRINT = "318f4085c75c078ddf120d6d87cb18e43bf137142157d5938d7a1fdf914b6d43"


@pytest.fixture(scope="module")
def data() -> Drawn:
    return draw(500, seed=7, masks=True)


def test_kind_of_data(data: Drawn) -> None:
    assert data.masks is not None
    assert data.images.shape == (500, 3, 32, 32) and data.images.dtype == torch.uint8
    assert data.labels.shape == (500,) and data.labels.dtype == torch.int64
    assert data.masks.shape == (500, 32, 32) and data.masks.dtype == torch.uint8
    assert draw(2, seed=7).masks is None


def test_same_seed_same_bytes_other_seed_other_images(data: Drawn) -> None:
    assert torch.equal(draw(500, seed=7).images, data.images)
    assert (draw(500, seed=8).images != data.images).flatten(1).any(1).all()


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 257])
def test_an_image_does_not_depend_on_the_count(data: Drawn, count: int) -> None:
    fewer = draw(count, seed=7, masks=True)
    for part, whole in zip(fewer, data, strict=True):
        assert part is not None and whole is not None
        assert torch.equal(part, whole[:count])


def test_an_image_does_not_depend_on_the_chunks(data: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "_CHUNK", 30)
    assert torch.equal(draw(130, seed=7).images, data.images[:130])


def test_every_image_has_a_random_parity_of_its_own() -> None:
    plain = load("drawn", 400, 100, 0)
    moved = plain.at_random_parity()
    parities = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for before, after in ((plain.train, moved.train), (plain.test, moved.test)):
        assert torch.equal(before.labels, after.labels)
        same = torch.stack([(before.images.roll(p, (2, 3)) == after.images).flatten(1).all(1) for p in parities])
        assert (same.sum(0) == 1).all() and (same.sum(1) > len(before) / 8).all()
    assert moved.name == "drawn-parity" and moved.fingerprint() != plain.fingerprint()


def test_bytes_are_pinned() -> None:
    """The shipped results name this data: a change of the drawing is a change of the data set."""
    digest = sha256()
    for part in draw(50, seed=0, masks=True):
        assert part is not None
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest() == FINGERPRINT


def test_global_random_state_is_neither_read_nor_changed(data: Drawn) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(draw(20, seed=7).images, data.images[:20])
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_are_balanced(data: Drawn) -> None:
    assert torch.equal(data.labels.bincount(), torch.full((len(CLASSES),), 50))


def test_masks_name_the_label_and_nothing_else(data: Drawn) -> None:
    assert data.masks is not None
    for mask, label in zip(data.masks, data.labels, strict=True):
        assert set(mask.unique().tolist()) <= {0, 1 + int(label)}
    visible = (data.masks > 0).double().mean((1, 2))
    assert (visible > 0).all() and visible.max() < 0.6


def test_masked_pixels_differ_from_the_ground() -> None:
    """The mask lies where the object is: the colour on it is not the colour around it."""
    images, _, masks = draw(200, seed=1, size=64, masks=True)
    assert masks is not None
    on = (masks > 0)[:, None].double()
    inside, outside = ((images * weight).sum((2, 3)) / weight.sum((2, 3)) for weight in (on, 1 - on))
    assert ((inside - outside).abs().amax(1) > 20).double().mean() > 0.95


def test_nothing_happens_at_the_border() -> None:
    """On a torus the step over the border is like every other step."""
    images = draw(1000, seed=2).images.double()
    steps = (images - images.roll(1, 3)).abs().mean((0, 1, 2))
    assert abs(steps[0] - steps[1:].mean()) < 0.05 * steps[1:].mean()


@pytest.mark.parametrize("size", [16, 30, 96])
def test_other_sizes(size: int) -> None:
    assert draw(11, seed=0, size=size).images.shape == (11, 3, size, size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1, "seed": 0}, "cannot draw -1 images"),
        ({"count": 1, "seed": -2}, "seed -2"),
        ({"count": 1, "seed": 0, "size": 8}, "8x8 pixels are too small"),
    ],
)
def test_bad_input(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**arguments)  # type: ignore[arg-type]
