"""Weights of finished runs, read without unpickling anything but tensors."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """What a run left in ``path``. Raises ``ValueError`` where the file is damaged."""
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is not a readable file of weights; remove it and its record to train anew") from error
    return weights


def load_weights(network: nn.Module, path: Path) -> None:
    """Give ``network`` the weights in ``path``. Raises ``ValueError`` where they are damaged or another network's."""
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network") from error
