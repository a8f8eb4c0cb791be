"""``python -m lps study``: study the networks that ``run`` has trained."""

import argparse
import json

import torch

from ..experiments.run import DataCache
from ..experiments.training import Trained, planned
from ..studies.trained import IMAGES, STUDIES, study
from .experiments import add, count


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", nargs="*", default=["table1/lps*"], metavar="row", help="default: table1/lps*")
    add(parser, "--profile", "--seed", "--seeds", "--threads", "--data-root", "--results")
    parser.add_argument(
        "--images", type=count, default=IMAGES, help="test images for shifts and margins; default: 1000"
    )


def main(options: argparse.Namespace) -> int:
    """Study every trained network that matches and print what was found; 3 where weights are missing."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = DataCache(options.data_root)
    seeds = range(options.seed, options.seed + options.seeds)
    runs = planned(options.patterns, options.profile, seeds, {}, options.results, data)
    if others := [run.experiment.name for run in runs if run.experiment.task != "images"]:
        raise ValueError(f"studies are of the networks of Table 1, whose images are shifted whole; given: {others}")
    for run in runs:
        name, profile, method = run.experiment.name, run.experiment.profile, run.experiment.model.method
        if not run.weights.exists():
            print(f"{run.title}: no weights; python -m lps run {name} --profile {profile} --seed {run.seed}")
            continue
        for kind in (kind for kind, of in STUDIES.items() if method in of.methods):
            metrics = study(Trained(run, data), kind, options.images)["metrics"]
            shown = {name: round(metric["value"], 2) for name, metric in metrics.items()}
            print(f"{run.title}, {kind}: {json.dumps(shown)}", flush=True)
    return 0 if all(run.weights.exists() for run in runs) else 3
