"""The paper's experiments: rows of its tables, trained and recorded."""

from .jobs import RunsFailed
from .training import NotFinished, Runs, train

__all__ = ["NotFinished", "Runs", "RunsFailed", "train"]
