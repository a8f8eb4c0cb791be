"""Weights of finished runs, read without unpickling anything but tensors."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..archive import require_intact

_DAMAGED = "{} is not a readable file of weights; remove it and its record to train anew"


def read_weights(path: Path) -> dict[str, Tensor]:
    """What a run left in ``path``. Raises ``ValueError`` where the file is damaged."""
    try:
        require_intact(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch has many words for a file that is none of its own
        raise ValueError(_DAMAGED.format(path)) from error
    if not isinstance(weights, dict):
        raise ValueError(_DAMAGED.format(path))
    return weights


def load_weights(network: nn.Module, path: Path) -> None:
    """Give ``network`` the weights in ``path``. Raises ``ValueError`` where they are damaged or another network's."""
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network") from error
