"""From a trained network to the metrics of its record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..data import ImageSet
from ..metrics import ORIGINAL_CIFAR, PAPER, Count, Predict, accuracy, circular_consistency, exhaustive_consistency
from ..probe import BACKENDS, probe
from ..sampling import Downsample
from .config import Evaluate

SHIFTS = 16
"""Random shifts of an image with which a GPU's convolutions are tried."""


@contextmanager
def exact_convolutions(network: nn.Module, images: Tensor, batch_size: int, device: torch.device) -> Iterator[str]:
    """Measure here: on a GPU with the fastest convolutions that keep the guarantee of a ``network`` which selects.

    ``network`` is a normalisation and a model, ``images`` some that it takes. A network that selects nothing, or that
    no algorithm makes exact, gets full float32. Yields the name of what was chosen.
    """
    if device.type != "cuda":
        yield "default"
        return
    network = network.to(device).eval()
    *_, plainest = BACKENDS["cuda"]
    backend = plainest
    if any(isinstance(layer, Downsample) and layer.select is not None for layer in network.modules()):
        normalize, model = cast(nn.Sequential, network)
        found = probe(model, normalize(images.to(device)), shifts=SHIFTS, batch_size=batch_size)
        backend = found.backend or plainest
    with backend.flags():
        yield backend.name


def predictor(network: nn.Module, device: torch.device) -> Predict:
    """From images to the most likely labels, on the CPU. Where training used several processes, each predicts a part
    of every batch and has the whole answer, so that counts are those of one process.

    Raises ``FloatingPointError`` where a logit is not finite, in all processes where it is in one.
    """
    network, batches = network.to(device).eval(), count(1)

    def predict(images: Tensor) -> Tensor:
        batch = f"batch {next(batches)} of the evaluation"
        with torch.inference_mode():
            try:
                logits = network(images.to(device))
            except ValueError as error:
                raise ValueError(f"{batch}: {error}") from error
            if not logits.isfinite().all():
                raise FloatingPointError(
                    f"{batch}: the network's logits are not finite, so nothing is measured; train with a lower train.lr"
                )
            return logits.argmax(1).cpu()

    if not (dist.is_available() and dist.is_initialized()):
        return predict
    rank, world = dist.get_rank(), dist.get_world_size()

    def predict_together(images: Tensor) -> Tensor:
        if len(images) < world:
            return predict(images)
        parts: list[Any] = [None] * world
        try:
            mine: Any = predict(images.tensor_split(world)[rank])
        except Exception as error:  # the others wait for an answer
            mine = error
        dist.all_gather_object(parts, mine)
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return torch.cat(parts)

    return predict_together


def evaluate(network: nn.Module, data: ImageSet, settings: Evaluate, device: torch.device) -> dict[str, dict[str, Any]]:
    """Accuracy and C-Cons. on the test images, in float32, as counts and percentages.

    ``c_cons`` follows Eq. (26): each image with its own shifts from 0 to 32. ``c_cons_original`` follows the
    original code: shifts from -3 to 2, the same for a batch. ``c_cons_all`` counts every pair of shifts of the first
    ``settings.exhaustive`` test images, where there are any.
    """
    predict = predictor(network, device)

    def batches() -> Any:
        return data.test.batches(settings.batch_size)

    counts = {
        "acc": accuracy(predict, batches()),
        "c_cons": circular_consistency(predict, batches(), PAPER, settings.pairs, settings.seed),
        "c_cons_original": circular_consistency(predict, batches(), ORIGINAL_CIFAR, settings.pairs, settings.seed),
    }
    if settings.exhaustive:
        counts["c_cons_all"] = exhaustive_consistency(predict, data.test.images[: settings.exhaustive])
    return {name: as_dict(count) for name, count in counts.items()}


def as_dict(count: Count) -> dict[str, Any]:
    """A metric of a record: its value in per cent and its counts."""
    return {"value": count.percent, **asdict(count)}
