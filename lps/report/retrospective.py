"""Accuracies of Table 1 by profile, and what a guarantee costs."""

from collections.abc import Iterable

import pandas as pd

from .frame import Record, frame, groups
from .tables import accuracies as of_group
from .tables import prices as prices


def accuracies(records: Iterable[Record]) -> dict[str, pd.DataFrame]:
    """By profile, :func:`.tables.accuracies` of its largest group of runs on real images."""
    made = frame(records)
    real = made[~made["data"].str.startswith("drawn")]
    return {members["profile"].iloc[0]: of_group(members) for members in reversed(groups(real))}
