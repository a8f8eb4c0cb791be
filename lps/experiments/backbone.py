"""What a run starts with: random weights, or for the backbone of a segmenter those of a classifier (Tables 5 and 6)."""

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ..deeplab import DeepLabV3Plus
from .config import Experiment, Segmenter
from .model import fresh
from .profiles import changed, load_profile
from .records import read_record
from .rows import matching
from .weights import read_weights


def find_backbone(experiment: Experiment, seed: int, results: Path) -> Path | None:
    """The weights in ``results`` that ``model.backbone`` names, of the same network: those of a run, or the newest of a
    row with this profile, its settings and this seed; ``None`` for ``random``."""
    ours = cast(Segmenter, experiment.model)
    named = ours.backbone
    if named == "random":
        return None
    row, profile = "/".join(named.split("/")[:2]), experiment.profile
    of_row = (results / row).glob(f"{profile}-seed{seed}-*.pt")
    paths = sorted(of_row, key=lambda path: path.stat().st_mtime) if row == named else [results / f"{named}.pt"]
    found = {path: read_record(path.with_suffix(".json")) for path in reversed(paths) if path.exists()}
    if not found:
        raise FileNotFoundError(
            f"{experiment.name} starts from {named}, which has no weights in {results}; make them with: python -m lps "
            f"run {row} --profile {profile} --seed {seed}, or start with --set model.backbone=random"
        )
    words = ""
    for path, record in found.items():
        theirs = record["config"]["model"]
        apart = [f"{name} is {value} there" for name, value in theirs.items() if getattr(ours, name) != value]
        (base,) = matching([row])
        other = changed(record, load_profile(profile).row(base), ("data", "model", "train")) if row == named else []
        if not apart and not other:
            return path
        words = words or (
            f"are of another network: {', '.join(apart)}; train that row with the settings of this one"
            if apart
            else f"are not those of the profile {profile}: {', '.join(other)}; name one run, with --set "
            f"model.backbone={record['id']}, or train that row as it is"
        )
    raise ValueError(
        f"{experiment.name} starts from {named}, whose weights in {results} {words}, or start with --set "
        "model.backbone=random"
    )


def started(experiment: Experiment, data: Any, seed: int, results: Path) -> tuple[nn.Sequential, Path | None]:
    """The network that a run starts with, and the weights that its backbone starts from, where it does: those of a
    classifier in ``results``, with the normalisation that goes with them."""
    path = find_backbone(experiment, seed, results) if isinstance(experiment.model, Segmenter) else None
    network = fresh(experiment, data, seed)
    if path is not None:
        parts: tuple[dict[str, Tensor], ...] = ({}, {})
        for name, value in read_weights(path).items():
            if not name.startswith("1.head."):
                parts[int(name[0])][name[2:]] = value
        network[0].load_state_dict(parts[0])
        cast(DeepLabV3Plus, network[1]).backbone.load_state_dict(parts[1])
    return network, path
