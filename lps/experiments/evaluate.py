"""From a trained network to the metrics of its record."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from math import isnan
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .. import metrics
from ..metrics import ORIGINAL_CIFAR, PAPER_SHIFTS, Batches, Count, Predict, Shifts
from ..probe import BACKENDS, probe
from ..processes import gather
from ..sampling import Downsample
from ..segmentation import Confusion, confusion, mascc, mascc_original, massc, massc_original
from .config import Evaluate, Experiment, Photographs

Metrics = dict[str, dict[str, Any]]

# what the original code draws on ImageNet: shifts for C-Cons., corners of windows for S-Cons.
ORIGINAL_CIRCULAR = Shifts(-32, 31, per_image=False)
ORIGINAL_STANDARD = Shifts(0, 31, per_image=False)


@contextmanager
def exact_convolutions(network: nn.Module, images: Tensor, batch_size: int, device: torch.device) -> Iterator[str]:
    """Measure here: on a GPU with the fastest convolutions that keep the guarantee of a ``network`` which selects.

    ``network`` is a normalisation and a model, ``images`` some that it takes. A network that selects nothing, or that
    no algorithm makes exact, gets full float32. Yields the name of what was chosen.
    """
    if device.type != "cuda":
        yield "default"
        return
    network, backend = network.to(device).eval(), BACKENDS["cuda"][-1]
    if any(isinstance(layer, Downsample) and layer.select is not None for layer in network.modules()):
        normalize, model = cast(nn.Sequential, network)
        backend = probe(model, normalize(images.to(device)), batch_size=batch_size).backend or backend
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
        try:
            mine: Any = predict(images.tensor_split(world)[rank])
        except Exception as error:  # the others wait for an answer
            mine = error
        parts = gather(mine)
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return torch.cat(parts)

    return predict_together


def measure(network: nn.Module, data: Any, experiment: Experiment) -> tuple[Metrics, str]:
    """Metrics of a trained network, and the convolutions that they were measured with: see
    :func:`exact_convolutions`, tried here on images and batches of the size measured."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    batch_size = experiment.evaluate.batch_size
    some, _ = next(iter(data.batches(batch_size)))
    if experiment.task == "photographs":
        crop = cast(Photographs, experiment.data).crop
        some = some[..., :crop, :crop]
    with exact_convolutions(network, some, batch_size, device) as convolutions:
        return evaluate(network, data, experiment, device), convolutions


def evaluate(network: nn.Module, data: Any, experiment: Experiment, device: torch.device) -> Metrics:
    """The metrics of the experiment's task on the test images, in float32, as counts and percentages.

    Names that end in ``_original`` follow the original code, which draws one shift for a batch; the others the paper:

    - ``acc`` and ``c_cons``, Eq. (26), look at the middle of photographs, and ``s_cons``, Eq. (27), at windows of that
      size; the original code shifts whole photographs. ``c_cons_all`` counts every pair of shifts of the first images;
    - ``miou``, ``pixel_acc``, ``mascc`` and ``massc`` look at whole images. The windows of ``massc`` are 32 pixels
      smaller.
    """
    predict, settings = predictor(network, device), experiment.evaluate
    pairs, seed = settings.pairs, settings.seed
    whole = partial(data.batches, settings.batch_size, experiment.engine.workers)
    if experiment.task == "segmentation":
        matrix = confusion(predict, whole(), len(data.classes))
        window = data.size - PAPER_SHIFTS.high
        return in_percent(
            {
                "miou": matrix,
                "pixel_acc": matrix.accuracy,
                "mascc": mascc(predict, whole(), pairs=pairs, seed=seed),
                "mascc_original": mascc_original(predict, whole(), times=pairs, seed=seed),
                "massc": massc(predict, whole(), window, pairs=pairs, seed=seed),
                "massc_original": massc_original(predict, whole(), times=pairs, seed=seed),
            }
        )

    crop = experiment.data.crop if isinstance(experiment.data, Photographs) else None
    inside = slice(None) if crop is None else slice(edge := (data.size - crop) // 2, edge + crop)

    def middle() -> Batches:
        return ((images[..., inside, inside], labels) for images, labels in whole())

    circular = ORIGINAL_CIFAR if crop is None else ORIGINAL_CIRCULAR
    counts = {
        "acc": metrics.accuracy(predict, middle()),
        "c_cons": metrics.circular_consistency(predict, middle(), PAPER_SHIFTS, pairs, seed),
        "c_cons_original": metrics.circular_consistency(predict, whole(), circular, pairs, seed),
    }
    if crop is not None:
        counts["s_cons"] = metrics.shift_consistency(predict, whole(), crop, PAPER_SHIFTS, pairs, seed)
        counts["s_cons_original"] = metrics.shift_consistency(predict, whole(), crop, ORIGINAL_STANDARD, pairs, seed)
    elif exhaustive := cast(Evaluate, settings).exhaustive:
        counts["c_cons_all"] = metrics.exhaustive_consistency(predict, data.test.images[:exhaustive])
    return in_percent(counts)


def in_percent(counts: Mapping[str, Count | Confusion]) -> Metrics:
    """Metrics of a record: their values in per cent and their counts; of a confusion matrix its mIoU."""
    recorded: Metrics = {}
    for name, found in counts.items():
        if isinstance(found, Count):
            recorded[name] = {"value": found.percent, **asdict(found)}
        else:
            classes = [None if isnan(value) else value for value in found.iou.tolist()]
            recorded[name] = {"value": found.miou, "classes": classes, "confusion": found.counts.tolist()}
    return recorded
