"""DeepLabV3+ on the one ResNet: bilinear, or shift-equivariant with LPU (Secs. 4.3, 5.4 and 5.5)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact.convolution import Conv2d, Padding
from .exact.mean import spatial_mean
from .resnet import ResNet
from .sampling import Downsample, Upsample
from .selection import Selection

LOW_LEVEL_CHANNELS = 48


def _unit(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1 convolution, a 3x3 convolution at each of ``rates`` and the image mean, concatenated and projected.

    ``(N, in_channels, H, W)`` to ``(N, channels, H, W)``. ``paddings`` holds the border of each 3x3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], paddings: Sequence[Padding]) -> None:
        super().__init__()
        atrous = (
            Conv2d(in_channels, channels, 3, padding_mode=padding, dilation=rate)
            for rate, padding in zip(rates, paddings, strict=True)
        )
        self.branches = nn.ModuleList(_unit(conv, channels) for conv in (Conv2d(in_channels, channels, 1), *atrous))
        self.image = _unit(Conv2d(in_channels, channels, 1), channels)
        joined = (len(self.branches) + 1) * channels
        self.project = _unit(Conv2d(joined, channels, 1), channels).append(nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        mean = spatial_mean(x, exact=not self.training)
        everywhere = self.image(mean[..., None, None]).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), everywhere], 1))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: images ``(N, in_channels, H, W)`` to logits ``(N, classes, H, W)``. The method is an argument.

    >>> backbone = lps.ResNet(18, classes=10, sampling=lps.Sampling.named("lps"), width=8, output_stride=16)
    >>> network = lps.DeepLabV3Plus(backbone, classes=5, channels=16, upsample=lambda channels: lps.Upsample()).eval()
    >>> network(torch.randn(1, 3, 64, 64)).shape
    torch.Size([1, 5, 64, 64])

    ======================== ======================== ======================================
    row of Table 5           ``sampling`` of backbone ``upsample``
    ======================== ======================== ======================================
    DeepLabV3+               ``None``                 ``None`` (bilinear)
    LPF, DDAC                only ``antialias``       ``None``
    APS, LPD only            with ``select``          ``None``
    LPS                      with ``select``          factory of LPUs, from a channel count
    ======================== ======================== ======================================

    With ``upsample``, the last map of the backbone is put back by the selections of its stages, from the last to the
    second, and the logits by those of its stem (Eqs. 24 and 25): every step up undoes a step down. In evaluation, with
    circular padding throughout, the logits then move with every circular shift of an image, bit for bit on a CPU.

    The network takes ``backbone`` over: its classification head is dropped and its batch norms get momentum 0.01, as
    in the original. ``third_branch_padding`` is the border of the ASPP's largest rate where it differs from
    ``padding``: the original leaves it at ``"zeros"`` in its circular head, which costs equivariance as soon as the
    last map exceeds that rate on one side.

    Raises ``ValueError`` for an ``upsample`` without a selection for each step of the backbone, and in ``forward`` for
    image sizes that the backbone refuses.
    """

    def __init__(
        self,
        backbone: ResNet,
        *,
        classes: int,
        upsample: Callable[[int], Upsample] | None = None,
        padding: Padding = "circular",
        third_branch_padding: Padding | None = None,
        rates: tuple[int, int, int] = (6, 12, 18),
        channels: int = 256,
    ) -> None:
        super().__init__()
        in_stem, in_stages = _selecting_layers(backbone.stem), _selecting_layers(backbone.stages)
        if upsample is not None and 2 ** (in_stem + in_stages) != backbone.stride:
            raise ValueError(
                f"LPU needs a selection for each step of its backbone, which samples by {backbone.stride} and makes "
                f"{in_stem + in_stages} selections: give the backbone a Sampling with select and a stem that selects, "
                "or leave upsample=None for bilinear interpolation"
            )
        self.aspp = AtrousPyramid(
            backbone.channels, channels, rates, (padding, padding, third_branch_padding or padding)
        )
        low_level = backbone.channels // 8  # each stage after the first doubles the channels
        self.project = _unit(Conv2d(low_level, LOW_LEVEL_CHANNELS, 1), LOW_LEVEL_CHANNELS)
        self.decoder = nn.Sequential(
            *_unit(Conv2d(LOW_LEVEL_CHANNELS + channels, channels, 3, padding_mode=padding), channels),
            Conv2d(channels, classes, 1, bias=True),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.backbone = backbone
        self.backbone.register_module("head", nn.Identity())
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01
        self.features_up = None if upsample is None else nn.ModuleList(upsample(channels) for _ in range(in_stages))
        self.logits_up = None if upsample is None else nn.ModuleList(upsample(classes) for _ in range(in_stem))

    def forward(self, x: Tensor) -> Tensor:
        maps, selections = self.backbone.features(x)
        low_level = self.project(maps[0])
        deep = _upsample(self.aspp(maps[-1]), low_level, self.features_up, selections)
        return _upsample(self.decoder(torch.cat([low_level, deep], 1)), x, self.logits_up, selections)


def _selecting_layers(part: nn.Module) -> int:
    return sum(isinstance(layer, Downsample) and layer.select is not None for layer in part.modules())


def _upsample(y: Tensor, like: Tensor, layers: nn.ModuleList | None, selections: list[Selection]) -> Tensor:
    """Bring ``y`` to the size of ``like``, bilinearly or by LPUs, each of which uses up the last selection."""
    if layers is None:
        return F.interpolate(y, like.shape[2:], mode="bilinear", align_corners=False)
    for layer in layers:
        y = layer(y, selections.pop())
    return y
