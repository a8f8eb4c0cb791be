"""Networks in which a choosing map says nothing, while the branch that follows the choice does.

The choice is then the image's: equal where the image equals a shifted copy of itself, and so do all maps there.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lps
from lps.exact import ties
from lps.exact.ties import Origin

SIZE = 16


def images(kind: str) -> Tensor:
    """Two images, in which ``kind`` leaves little to choose by."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    row, column = torch.arange(SIZE)[:, None], torch.arange(SIZE)[None, :]
    kinds: dict[str, Callable[[], Tensor]] = {
        "noise": lambda: noise,
        "flat": lambda: torch.full_like(noise, 0.3),
        "sparse": lambda: noise * (torch.rand(noise.shape, generator=generator) < 0.004),
        "one pixel": lambda: nn.functional.one_hot(torch.tensor(37), SIZE**2).view(SIZE, SIZE) * torch.ones(2, 3, 1, 1),
        "of period 4": lambda: noise[:, :, row % 4, column % 4],
        "of period 1 and 8": lambda: noise[:, :, 0 * row, column % 8],
    }
    return kinds[kind]()


KINDS = ("noise", "flat", "sparse", "one pixel", "of period 4", "of period 1 and 8")


def dead(network: nn.Module) -> None:
    """No unit in front of a choice fires."""
    for name, module in network.named_modules():
        if name.endswith("norm1") and isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, -100.0)


def zero_initialised(network: nn.Module) -> None:
    """Branches start at zero, as with ``zero_init_residual``."""
    for name, module in network.named_modules():
        if name.endswith(("norm1", "norm2")) and isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)


def pruned(network: nn.Module) -> None:
    """The convolutions in front of a choice are gone, all but their shortcuts."""
    for name, module in network.named_modules():
        if name.endswith(("conv1", "conv2")) and isinstance(module, nn.Conv2d) and ".select." not in name:
            nn.init.zeros_(module.weight)


def constant(network: nn.Module) -> None:
    """What the choice looks at is one number everywhere."""
    zero_initialised(network)
    for name, module in network.named_modules():
        if name.endswith(("norm1", "norm2")) and isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.7)


STATES = (dead, zero_initialised, pruned, constant)


def sampling(method: str) -> lps.Sampling:
    select = (lambda channels: lps.MaxNorm()) if method == "aps" else (lambda channels: lps.LearnedPhase(channels, 2))
    return lps.Sampling(select, lambda channels: lps.LowPass(channels, 3))


def drawn(network: nn.Module) -> nn.Module:
    """Batch norms that have seen something, so that no branch is lost in another's rounding."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def classifier(method: str) -> nn.Module:
    torch.manual_seed(0)
    return drawn(lps.ResNet(18, classes=5, stem="cifar", width=4, sampling=sampling(method)))


def segmenter(method: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = lps.ResNet(18, classes=5, stem="imagenet", width=8, sampling=sampling(method), output_stride=16)

    def up(channels: int) -> lps.Upsample:
        return lps.Upsample(lps.LowPass(channels, 3, gain=4))

    return drawn(lps.DeepLabV3Plus(backbone, classes=3, upsample=up, channels=8, rates=(1, 2, 3)))


class Block(nn.Module):
    """A stride in a branch and in its shortcut, with the names of :class:`lps.ResNet`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.norm1(self.conv1(x)).relu()).relu()


def converted(method: Any, state: Callable[[nn.Module], None], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = drawn(nn.Sequential(Block(3, 4), Block(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    state(network)
    return lps.convert(network, method, "none", example=torch.zeros(1, 3, SIZE, SIZE), **options).eval()


def differing(network: nn.Module, x: Tensor, shifts: Any) -> int:
    """Shifts under which outputs do not stay, or, of the size of the images, do not move along."""
    with torch.inference_mode():
        y = network(x)
        moved = ((network(lps.circular_shift(x, shift)), shift) for shift in shifts)
        return sum(not torch.equal(z, lps.circular_shift(y, s) if y.dim() == 4 else y) for z, s in moved)


EVERY_PHASE = list(product(range(8), (0, 3)))


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("state", STATES)
def test_a_network_keeps_every_shift_whatever_its_branches_say(method: str, state: Callable[[nn.Module], None]) -> None:
    network = classifier(method)
    state(network)
    for kind in KINDS:
        assert differing(network, images(kind), EVERY_PHASE) == 0, kind


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("state", [dead, constant])
def test_put_back_follows_the_image(method: str, state: Callable[[nn.Module], None]) -> None:
    network = segmenter(method)
    state(network)
    for kind in KINDS:
        assert differing(network, images(kind), [(1, 0), (3, 5), (7, 2), (14, 11)]) == 0, kind


@pytest.mark.parametrize("method", ["aps", "lps"])
@pytest.mark.parametrize("placement", ["behind", "before"])
@pytest.mark.parametrize("state", STATES)
def test_a_converted_network_keeps_every_shift(method: str, placement: str, state: Callable[[nn.Module], None]) -> None:
    network = converted(method, state, placement=placement)
    for kind in KINDS:
        assert differing(network, images(kind), list(product(range(4), range(4)))) == 0, kind


def test_the_map_alone_would_not_do() -> None:
    """The negative control: broken by what the dead map is, a tie does not follow the image."""
    network = classifier("aps")
    dead(network)
    for layer in network.modules():
        if isinstance(layer, lps.Downsample):
            layer.register_forward_pre_hook(
                lambda layer, args, kwargs: (args, {**kwargs, "origin": None}), with_kwargs=True
            )
    assert differing(network, images("noise"), EVERY_PHASE) > 0


def test_a_rule_of_ones_own_is_broken_by_the_image_too() -> None:
    class Indifferent(nn.Module):
        def forward(self, x: Tensor) -> lps.Selection:
            return lps.selection.choose(torch.zeros(len(x), 4), x, 2)

    x = images("noise")
    flat = torch.zeros_like(x)
    layer = lps.Downsample(Indifferent()).eval()
    _, selection = layer(flat, origin=Origin(x))
    _, as_image = layer(x)
    assert selection.phase.tolist() == as_image.phase.tolist()
    assert selection.origin is not None and selection.origin.strides == (2,)


def test_where_nothing_ties_nobody_looks_at_the_image() -> None:
    x = images("noise")
    alone, _ = lps.Downsample(lps.MaxNorm()).eval()(x)
    beside, _ = lps.Downsample(lps.MaxNorm()).eval()(x, origin=Origin(torch.full_like(x, torch.nan)))
    assert torch.equal(alone, beside)


def test_each_image_is_looked_at_once_on_the_way_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that tie only further down included: what is known then is what they would have had by themselves."""
    looked: list[int] = []
    plain = ties.fingerprints

    def fingerprints(x: Tensor) -> Tensor:
        looked.append(len(x))
        return plain(x)

    def chosen(scores: Tensor, size: int, origin: Origin | None) -> tuple[list[int], Origin]:
        _, _, phase, _, below = lps.selection.choose(scores, torch.zeros(len(scores), 1, size, size), 2, origin)
        assert phase is not None and below is not None
        return phase.tolist(), below

    monkeypatch.setattr(ties, "fingerprints", fingerprints)
    x, clear, tied = images("noise"), torch.tensor([[2.0, 1.0, 0.0, 0.0]]), torch.zeros(1, 4)
    _, origin = chosen(torch.cat([tied, clear]), SIZE, Origin(x))
    second, origin = chosen(tied.repeat(2, 1), SIZE // 2, origin)
    third, _ = chosen(tied.repeat(2, 1), SIZE // 4, origin)
    assert looked == [1, 1]
    _, origin = chosen(clear, SIZE, Origin(x[1:]))
    alone, origin = chosen(tied, SIZE // 2, origin)
    assert alone == second[1:] and chosen(tied, SIZE // 4, origin)[0] == third[1:]
