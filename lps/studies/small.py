"""Four small networks that differ in their sampling alone, trained on drawn pictures. Their weights are shipped with
their records; the notebook ``play`` trains them."""

import json
from base64 import b64decode
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..data.drawn import CLASSES
from ..exact.convolution import Conv2d, Linear
from ..exact.mean import exact_mean
from ..paths import SHIPPED
from ..polyphase import circular_shift
from ..sampling import Sampling

WIDTHS = (3, 8, 16, 32, 48)
SAMPLINGS: dict[str, Any] = {
    "Baseline": Sampling(),  # Eq. (4)
    "LPF": Sampling.named("lpf", "tri-3"),
    "APS": Sampling.named("aps"),  # Eq. (5)
    "LPS": Sampling.named("lps", hidden_divisor=4),  # Eq. (7)
}


class Network(nn.Module):
    """Circular convolutions, each but the last followed by a sampling layer, then a mean and a linear layer."""

    def __init__(self, sampling: Any) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv2d(i, o, 3) for i, o in pairwise(WIDTHS))
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in WIDTHS[1:])
        self.samplers = nn.ModuleList(sampling.layer(o) for o in WIDTHS[1:-1])
        self.head = Linear(WIDTHS[-1], len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """The last map, ``(N, C, H/8, W/8)``."""
        for conv, norm, sampler in zip(self.convs, self.norms, self.samplers, strict=False):
            x, _ = sampler(norm(conv(x)).relu())
        return self.norms[-1](self.convs[-1](x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.mean((2, 3)) if self.training else exact_mean(x, (2, 3)).to(x.dtype))  # Eq. (3)

    def fused(self) -> "Network":
        """In evaluation, with each normalisation inside its convolution."""
        self.eval()
        for n, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            self.convs[n] = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
            self.norms[n] = nn.Identity()
        return self.requires_grad_(False)


def load(name: str, folder: Path = SHIPPED) -> tuple[Network, dict[str, Any]]:
    """A network with its recorded weights, and the record."""
    record = json.loads((folder / "play" / f"{name.lower()}.json").read_text(encoding="utf-8"))
    network = Network(SAMPLINGS[name]).fused()
    state = {
        key: torch.from_numpy(np.frombuffer(b64decode(w["float32"]), "<f4").reshape(w["shape"]).copy())
        for key, w in record["weights"].items()
    }
    network.load_state_dict(state)
    return network, record


def normalise(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 - 0.5


def orbit(picture: Tensor) -> Tensor:
    """The picture ``(1, C, H, W)`` at each of its places on the torus: ``(H * W, C, H, W)``."""
    return torch.cat(
        [circular_shift(picture, (i, j)) for i in range(picture.shape[2]) for j in range(picture.shape[3])]
    )
