"""One ResNet for every row of the paper's tables: the method is the ``sampling`` argument (Sec. 5.1)."""

from typing import Literal, cast, get_args

from torch import Tensor, nn

from .exact.convolution import Conv2d, Linear, MaxPool, Padding
from .exact.cpu import in_one_layout
from .exact.mean import spatial_mean
from .exact.ties import Origin
from .polyphase import require_fractions
from .sampling import Downsample, Sampling
from .selection import Selection

Stem = Literal["cifar", "imagenet", "imagenet-strided"]
OutputStride = Literal[16, 32]


def add_to(y: Tensor, x: Tensor) -> Tensor:
    """``y + x``, in the memory of ``y`` where it holds numbers of that kind; nothing else reads what a norm gave."""
    return y.add_(x) if y.dtype == x.dtype else y + x


class Shortcut(nn.Module):
    """Projection of a block whose shape changes: sample as the main branch did, 1x1 convolution, batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, sampling: Sampling | None) -> None:
        super().__init__()
        self.downsample = None if sampling is None else sampling.shortcut(in_channels)
        self.conv = Conv2d(in_channels, out_channels, 1, 1 if sampling else stride)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, selection: Selection | None) -> Tensor:
        if self.downsample is not None:
            x, _ = self.downsample(x, selection)
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """3x3, sample, 3x3 around a shortcut; without a sampling layer the first convolution is strided."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        sampling: Sampling | None = None,
        padding: Padding = "circular",
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, width, 3, 1 if sampling else stride, padding, dilation)
        self.norm1 = nn.BatchNorm2d(width)
        self.downsample = None if sampling is None else sampling.layer(width)
        self.conv2 = Conv2d(width, width, 3, 1, padding, dilation)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        changes = sampling is not None or stride > 1 or in_channels != width
        self.shortcut = Shortcut(in_channels, width, stride, sampling) if changes else None

    def forward(self, x: Tensor, origin: Origin | None) -> tuple[Tensor, Selection | None]:
        selection = None
        y = self.relu(self.norm1(self.conv1(x)))
        if self.downsample is not None:
            y, selection = self.downsample(y, origin=origin)
        y = self.norm2(self.conv2(y))
        return self.relu(add_to(y, x if self.shortcut is None else self.shortcut(x, selection))), selection


class Bottleneck(nn.Module):
    """1x1, 3x3, sample, 1x1 around a shortcut; without a sampling layer the 3x3 convolution is strided."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        sampling: Sampling | None = None,
        padding: Padding = "circular",
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = Conv2d(in_channels, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, 1 if sampling else stride, padding, dilation)
        self.norm2 = nn.BatchNorm2d(width)
        self.downsample = None if sampling is None else sampling.layer(width)
        self.conv3 = Conv2d(width, out_channels, 1)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        changes = sampling is not None or stride > 1 or in_channels != out_channels
        self.shortcut = Shortcut(in_channels, out_channels, stride, sampling) if changes else None

    def forward(self, x: Tensor, origin: Origin | None) -> tuple[Tensor, Selection | None]:
        selection = None
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        if self.downsample is not None:
            y, selection = self.downsample(y, origin=origin)
        y = self.norm3(self.conv3(y))
        return self.relu(add_to(y, x if self.shortcut is None else self.shortcut(x, selection))), selection


class CifarStem(nn.Module):
    """3x3 convolution at full resolution."""

    def __init__(self, in_channels: int, width: int, padding: Padding) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, width, 3, 1, padding)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Selection]]:
        return self.relu(self.norm(self.conv(x))), []


class ImageNetStem(nn.Module):
    """7x7 convolution and max pooling, each followed by its own sampling layer; the first one is never filtered.

    With ``strided`` the convolution keeps its stride and loses its sampling layer: cheaper, and no longer exact.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        sampling: Sampling | None,
        padding: Padding,
        pool_padding: Padding,
        strided: bool,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, width, 7, 2 if sampling is None or strided else 1, padding)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.samplers = nn.ModuleList()
        if sampling is not None and not strided:
            self.samplers.append(sampling.layer(width, antialias=False))
        if sampling is not None:
            self.samplers.append(sampling.layer(width))
        self.pool = nn.MaxPool2d(3, 2, 1) if sampling is None else MaxPool(2, pool_padding)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Selection]]:
        # a stride that chooses nothing leaves positions that no phases tell
        origin: Origin | None = Origin(x) if self.conv.stride == (1, 1) else None
        x = self.relu(self.norm(self.conv(x)))
        if not self.samplers:
            return self.pool(x), []
        *before, after = self.samplers
        selections = []
        for sampler in before:
            x, selection = sampler(x, origin=origin)
            if selection is not None:
                selections.append(selection)
                origin = selection.origin
        x, selection = after(self.pool(x), origin=origin)
        return x, selections if selection is None else [*selections, selection]


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152 whose every stride is a sampling layer.

    >>> network = lps.ResNet(18, classes=10, sampling=lps.Sampling.named("lps", "tri-3"), stem="cifar", width=8).eval()
    >>> images = torch.randn(2, 3, 32, 32)
    >>> network(images).shape
    torch.Size([2, 10])
    >>> torch.equal(network(lps.circular_shift(images, (3, 5))), network(images))
    True

    Images ``(N, in_channels, H, W)`` to logits ``(N, classes)``. ``sampling=None`` is the strided baseline. With
    circular padding, a selection, and H and W divisible by ``stride`` (8 behind the CIFAR stem, 32 behind the ImageNet
    stem), the logits in evaluation are invariant to every circular shift.

    ``pool_padding`` is the border of the stem's max pooling where it differs from ``padding``. ``output_stride=16``
    dilates the last stage instead of sampling it, as segmentation does.
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
        pool_padding: Padding | None = None,
        output_stride: OutputStride = 32,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"no ResNet-{depth}: the depths are {', '.join(map(str, DEPTHS))}")
        if stem not in get_args(Stem):
            raise ValueError(f"no stem {stem!r}: the stems are {', '.join(get_args(Stem))}")
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"no output stride {output_stride}: it is 16 or 32")
        if width < 1:
            raise ValueError(f"expected a width of at least 1 channel, got {width}")
        if not isinstance(sampling, Sampling | None):
            raise ValueError(
                f"sampling is {sampling!r}; expected an lps.Sampling, as lps.Sampling.named('lps', 'tri-3'), or None"
            )
        if sampling is not None and sampling.stride != 2:
            raise ValueError(f"a ResNet samples by 2 at each stage, got a sampling by {sampling.stride}")
        self.in_channels, self.classes = in_channels, classes
        self.selects = sampling is not None and sampling.select is not None
        self.stem = (
            CifarStem(in_channels, width, padding)
            if stem == "cifar"
            else ImageNetStem(
                in_channels, width, sampling, padding, pool_padding or padding, strided=stem == "imagenet-strided"
            )
        )
        block, repeats = DEPTHS[depth]
        channels = width
        stages = []
        self.stride: int = 1 if stem == "cifar" else 4
        for level, count in enumerate(repeats):
            dilated = level == 3 and output_stride == 16
            stride = 1 if level == 0 or dilated else 2
            self.stride *= stride
            sampled = sampling.at(stride) if sampling and level else None
            blocks = [block(channels, width << level, stride, sampling=sampled, padding=padding)]
            channels = (width << level) * block.expansion
            dilation = 2 if dilated else 1
            blocks += [block(channels, width << level, 1, dilation, padding=padding) for _ in range(count - 1)]
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.channels: int = channels
        self.head = Linear(channels, classes)
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming-normal convolutions as in torchvision; selections and filters keep their own initialisation."""
        own = {id(m) for layer in self.modules() if isinstance(layer, Downsample) for m in layer.modules()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and id(module) not in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Selection]]:
        """Map after each stage, and the selections in the order in which they were made.

        Raises ``ValueError`` where ``x`` is not ``(N, in_channels, H, W)``, holds whole numbers, or a selecting
        network's ``stride`` does not divide H and W.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        require_fractions(x)
        if self.selects and (x.shape[2] % self.stride or x.shape[3] % self.stride):
            raise ValueError(
                f"this network selects among polyphase components down to stride {self.stride}, so height and width "
                f"must be multiples of {self.stride}, got {tuple(x.shape[2:])}; resize or crop the images, or grow "
                f"them once with lps.pad_to_multiple(x, {self.stride})"
            )
        origin: Origin | None = Origin(x)
        x, selections = self.stem(x if self.training else in_one_layout(x))
        if isinstance(self.stem, ImageNetStem):
            origin = selections[-1].origin if selections else None
        maps = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x, selection = block(x, origin)
                if selection is not None:
                    selections.append(selection)
                    origin = selection.origin
            maps.append(x)
        return maps, selections

    def forward(self, x: Tensor) -> Tensor:
        maps, _ = self.features(x)
        return self.head(spatial_mean(maps[-1], exact=not self.training))  # Eq. (3)
