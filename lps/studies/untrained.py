"""What a shift does to the networks of Tables 2, 3, 5 and 6 before any training, on photographs or drawn pictures.

Shift equivariance is a property of layers, so it shows with random weights as well; accuracy does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from .. import segmentation
from ..data import channel_statistics, data_root
from ..data.photographs import Files, PhotographSet, load
from ..experiments.config import Model, Segmenter
from ..experiments.evaluate import predictor
from ..experiments.learner import Normalize
from ..experiments.model import build_model, build_segmenter
from ..experiments.profiles import load_profile
from ..experiments.rows import Row
from ..metrics import PAPER_SHIFTS, Count, circular_consistency, shift_consistency
from ..polyphase import circular_shift

Kind = Literal["circular", "standard"]
PICTURE = (".jpg", ".jpeg", ".png")


class Pictures(NamedTuple):
    """Images uint8 ``(N, 3, size + 32, size + 32)``, of which windows of ``size`` are seen, and where they are from."""

    images: Tensor
    size: int
    source: str

    @property
    def middle(self) -> Tensor:
        """The middle window of each image."""
        edge = (self.images.shape[-1] - self.size) // 2
        return self.images[..., edge : edge + self.size, edge : edge + self.size]


def pictures(folder: str, count: int, size: int, seed: int = 0) -> Pictures:
    """``count`` pictures: ``drawn``, or from all files below a folder of the data root."""
    whole = size + PAPER_SHIFTS.high
    if folder == "drawn":
        found = load("drawn", "", 1, count, seed, whole, data_root)
    else:
        root = data_root() / folder
        names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in PICTURE)
        if not names:
            raise FileNotFoundError(f"no pictures ({', '.join(PICTURE)}) below {root}: unpack them there, or use drawn")
        files = Files(root, tuple(names), (0,) * len(names)).subset(count, seed)
        found = PhotographSet(folder, f"photographs of {folder}", (), 0, whole, files, files)
    images = torch.cat([images for images, _ in found.batches(count)])
    return Pictures(images, size, found.source)


def untrained(rows: Sequence[Row], profile: str, seen: Tensor, classes: int, seed: int = 0) -> dict[Row, nn.Module]:
    """The rows' networks at the size of a profile, with random weights, their batch norms fitted to ``seen``.

    Rows that differ only in their training, or in a depth that the profile does not follow, are one network here; a
    row that names a depth names that of its network.
    """
    networks: dict[Row, nn.Module] = {}
    known = []
    for row in rows:
        config = load_profile(profile).row(row).model
        network_of = {**asdict(config), "backbone": None}
        if network_of not in known:
            known.append(network_of)
            depth = (("model.depth", config.depth),) if "model.depth" in dict(row.settings) else ()
            networks[replace(row, settings=depth)] = _network(config, seen, classes, seed)
    return networks


def _network(config: Model, seen: Tensor, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_segmenter(config, classes) if isinstance(config, Segmenter) else build_model(config, classes)
    network = nn.Sequential(Normalize(*channel_statistics([seen])), model).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None
    with torch.no_grad():
        network(seen)
    return network.eval()


def looks(network: nn.Module, seen: Pictures, kind: Kind, shifts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each shift along the rows: what the network says of the unmoved and of the moved pictures, moved to fit.

    A circular shift rolls the middle windows; a standard shift moves the window over the picture, and of two label
    maps only the part that both show is compared.
    """

    def look(shift: int) -> Tensor:
        moved = circular_shift(seen.middle, (0, shift))
        if kind == "standard":
            moved = seen.images[..., : seen.size, shift : shift + seen.size]
        with torch.no_grad():
            return network(moved)

    first = look(0)
    for shift in shifts:
        y = look(shift)
        if y.dim() == 2:
            yield first, y
        elif kind == "circular":
            yield first, circular_shift(y, (0, -shift))
        else:
            yield first[..., shift:], y[..., : seen.size - shift]


def changes(network: nn.Module, seen: Pictures, kind: Kind, shifts: Sequence[int]) -> list[float]:
    """Mean absolute change of the logits under each shift, the median picture's, in per cent of their mean absolute
    deviation among the pictures."""
    return [
        100 * float((y - first).abs().flatten(1).mean(1).median() / (first - first.mean(0)).abs().mean())
        for first, y in looks(network, seen, kind, shifts)
    ]


def change_map(network: nn.Module, seen: Pictures, kind: Kind, shift: int) -> Tensor:
    """Where the logits of a segmenter change: mean absolute value ``(N, H, W)``, in units of their deviation."""
    ((first, y),) = looks(network, seen, kind, [shift])
    return (y - first).abs().mean(1) / (first - first.mean(0)).abs().mean()


def consistencies(networks: Mapping[Row, nn.Module], seen: Pictures, pairs: int, seed: int = 0) -> pd.DataFrame:
    """Both consistencies of the paper for each network: how many of the pairs, or pixels of them, agree."""
    lines = {}
    for row, network in networks.items():
        predict = predictor(network, torch.device("cpu"))
        none = torch.zeros(len(seen.images), dtype=torch.int64)
        middle, whole = [(seen.middle, none)], [(seen.images, none)]
        if row.table in ("table5", "table6"):
            circular = segmentation.mascc(predict, middle, pairs=pairs, seed=seed)
            standard = segmentation.massc(predict, whole, seen.size, pairs=pairs, seed=seed)
        else:
            circular = circular_consistency(predict, middle, PAPER_SHIFTS, pairs, seed)
            standard = shift_consistency(predict, whole, seen.size, PAPER_SHIFTS, pairs, seed)
        lines[title(row)] = {"circular": circular, "standard": standard}
    return pd.DataFrame.from_dict(lines, orient="index")


def shown(count: Count) -> str:
    """A count with its percentage; 100.00 only where nothing differs."""
    percent = min(count.percent, 99.99) if count.agree < count.total else 100
    return f"{percent:.2f} % ({count.agree:,} of {count.total:,})"


def title(row: Row) -> str:
    """Method, filter and depth of a row."""
    method, antialias = row.labels
    depth = dict(row.settings).get("model.depth")
    words = [method, *([] if antialias == "-" else [antialias]), *([f"ResNet-{depth}"] if depth else [])]
    return ", ".join(words)
