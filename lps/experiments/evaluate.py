"""From a trained network to the metrics of its record."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..metrics import ORIGINAL_CIFAR, PAPER, Count, accuracy, circular_consistency, exhaustive_consistency
from .config import Evaluate


def evaluate(network: nn.Module, data: ImageSet, settings: Evaluate, device: torch.device) -> dict[str, dict[str, Any]]:
    """Accuracy and C-Cons. on the test images, in float32, as counts and percentages.

    ``c_cons`` follows Eq. (26): each image with its own shifts from 0 to 32. ``c_cons_original`` follows the
    original code: shifts from -3 to 2, the same for a batch. ``c_cons_all`` counts every pair of shifts of the first
    ``settings.exhaustive`` test images, where there are any.
    """
    network = network.to(device).eval()

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images.to(device)).argmax(1).cpu()

    def batches() -> Any:
        return data.test.batches(settings.batch_size)

    counts = {
        "acc": accuracy(predict, batches()),
        "c_cons": circular_consistency(predict, batches(), PAPER, settings.pairs, settings.seed),
        "c_cons_original": circular_consistency(predict, batches(), ORIGINAL_CIFAR, settings.pairs, settings.seed),
    }
    if settings.exhaustive:
        counts["c_cons_all"] = exhaustive_consistency(predict, data.test.images[: settings.exhaustive])
    return {name: _as_dict(count) for name, count in counts.items()}


def _as_dict(count: Count) -> dict[str, Any]:
    return {"value": count.percent, **asdict(count)}
