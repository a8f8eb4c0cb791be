"""One ResNet for every row of the paper's tables: the method is the ``sampling`` argument (Sec. 5.1)."""

from typing import Literal, cast

from torch import Tensor, nn

from .convolution import Conv2d, Padding, pad
from .exact import exact_mean
from .sampling import Downsample, Sampling
from .selection import Selection

Stem = Literal["cifar", "imagenet"]


class Shortcut(nn.Module):
    """Projection of a block whose shape changes: sample as the main branch did, 1x1 convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, sampling: Sampling | None) -> None:
        super().__init__()
        samples = stride > 1 and sampling is not None
        self.downsample = cast(Sampling, sampling).shortcut(inputs) if samples else None
        self.conv = nn.Conv2d(inputs, outputs, 1, 1 if samples else stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, selection: Selection | None) -> Tensor:
        if self.downsample is not None:
            x, _ = self.downsample(x, selection)
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """3x3, sample, 3x3 around a shortcut; with ``sampling=None`` the first convolution is strided."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, sampling: Sampling | None, padding: Padding) -> None:
        super().__init__()
        samples = stride > 1 and sampling is not None
        self.conv1 = Conv2d(inputs, width, 3, 1 if samples else stride, padding)
        self.norm1 = nn.BatchNorm2d(width)
        self.downsample = cast(Sampling, sampling).layer(width) if samples else None
        self.conv2 = Conv2d(width, width, 3, 1, padding)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = Shortcut(inputs, width, stride, sampling) if stride > 1 or inputs != width else None

    def forward(self, x: Tensor) -> tuple[Tensor, Selection | None]:
        selection = None
        y = self.relu(self.norm1(self.conv1(x)))
        if self.downsample is not None:
            y, selection = self.downsample(y)
        y = self.norm2(self.conv2(y))
        return self.relu(y + (x if self.shortcut is None else self.shortcut(x, selection))), selection


class Bottleneck(nn.Module):
    """1x1, 3x3, sample, 1x1 around a shortcut; with ``sampling=None`` the 3x3 convolution is strided."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, sampling: Sampling | None, padding: Padding) -> None:
        super().__init__()
        samples = stride > 1 and sampling is not None
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, 1 if samples else stride, padding)
        self.norm2 = nn.BatchNorm2d(width)
        self.downsample = cast(Sampling, sampling).layer(width) if samples else None
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = Shortcut(inputs, outputs, stride, sampling) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> tuple[Tensor, Selection | None]:
        selection = None
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        if self.downsample is not None:
            y, selection = self.downsample(y)
        y = self.norm3(self.conv3(y))
        return self.relu(y + (x if self.shortcut is None else self.shortcut(x, selection))), selection


class CifarStem(nn.Module):
    """3x3 convolution at full resolution."""

    def __init__(self, in_channels: int, width: int, padding: Padding) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, width, 3, 1, padding)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Selection]]:
        return self.relu(self.norm(self.conv(x))), []


class ImageNetStem(nn.Module):
    """7x7 convolution and max pooling, each followed by its own sampling layer; the first one is never filtered."""

    def __init__(self, in_channels: int, width: int, sampling: Sampling | None, padding: Padding) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, width, 7, 2 if sampling is None else 1, padding)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.padding: Padding = padding
        self.samplers = (
            None if sampling is None else nn.ModuleList([sampling.layer(width, antialias=False), sampling.layer(width)])
        )
        self.pool = nn.MaxPool2d(3, 2, 1) if sampling is None else nn.MaxPool2d(2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Selection]]:
        x = self.relu(self.norm(self.conv(x)))
        if self.samplers is None:
            return self.pool(x), []
        first, second = self.samplers
        x, selection_1 = first(x)
        x, selection_2 = second(self.pool(pad(x, 0, 1, self.padding)))
        return x, [s for s in (selection_1, selection_2) if s is not None]


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152 whose every stride is a sampling layer.

    Images ``(N, in_channels, H, W)`` to logits ``(N, classes)``. ``sampling=None`` is the strided baseline. With
    circular padding, a selection, and H and W divisible by the product of the strides (8 behind the CIFAR stem, 32
    behind the ImageNet stem), the logits in evaluation are invariant to every circular shift.
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        classes: int,
        sampling: Sampling | None = None,
        stem: Stem = "imagenet",
        width: int = 64,
        in_channels: int = 3,
        padding: Padding = "circular",
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"no ResNet-{depth}: the depths are {', '.join(map(str, DEPTHS))}")
        block, repeats = DEPTHS[depth]
        self.stem = (
            CifarStem(in_channels, width, padding)
            if stem == "cifar"
            else ImageNetStem(in_channels, width, sampling, padding)
        )
        channels = width
        stages = []
        for level, count in enumerate(repeats):
            blocks = []
            for index in range(count):
                stride = 2 if level > 0 and index == 0 else 1
                blocks.append(block(channels, width << level, stride, sampling, padding))
                channels = (width << level) * block.expansion
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, classes)
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming-normal convolutions as in torchvision; selections and filters keep their own initialisation."""
        own = {id(m) for layer in self.modules() if isinstance(layer, Downsample) for m in layer.modules()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and id(module) not in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Selection]]:
        """Map after each stage, and the selections in the order in which they were made."""
        x, selections = self.stem(x)
        maps = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x, selection = block(x)
                if selection is not None:
                    selections.append(selection)
            maps.append(x)
        return maps, selections

    def forward(self, x: Tensor) -> Tensor:
        maps, _ = self.features(x)
        last = maps[-1]
        # Eq. (3); in evaluation the pooled vector does not depend on the order of summation
        pooled = last.mean((2, 3)) if self.training else exact_mean(last, (2, 3)).to(last.dtype)
        return self.head(pooled)
