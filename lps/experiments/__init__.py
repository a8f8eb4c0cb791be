"""The paper's experiments: rows of its tables, trained and recorded."""

from .run import RunsFailed
from .training import NotFinished, Runs, train

__all__ = ["NotFinished", "Runs", "RunsFailed", "train"]
