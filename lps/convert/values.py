"""Tensors among the values of a network."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a value: itself, or those in a mapping, a sequence or a data class, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value):
        value = [getattr(value, part.name) for part in fields(value)]
    return [found for part in value for found in tensors(part)] if isinstance(value, tuple | list) else []
