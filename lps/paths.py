"""Where the checkout keeps its parts; everything is relative to the folder that holds ``lps``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
RESULTS = ROOT / "results"
PAPER = RESULTS / "paper"
SHIPPED = RESULTS / "shipped"
LOCAL = RESULTS / "local"
