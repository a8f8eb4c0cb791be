"""Tensors among the values of a network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a value: itself, or those in a mapping or a sequence, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [found for part in value for found in tensors(part)] if isinstance(value, tuple | list) else []
