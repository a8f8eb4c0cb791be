"""Can this machine build the companion? One plain sentence, with the remedy, for each thing that is amiss.

Run as a script before anything is installed (``--before-install``), and as ``python -m lps check`` afterwards, so
nothing but the standard library is imported at the top.
"""

import argparse
import importlib
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISK_GB = 8  # what installing the locked environment takes, downloads included
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "jupyter-book")


def before_install(folder: Path = ROOT) -> Iterator[str]:
    """What the installation lacks: git, venv with pip, room on the disk."""
    if shutil.which("git") is None:
        yield "git is not found: install it (`apt install git`, `brew install git`) and try again."
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        package = "install its venv package (`apt install python3-venv`)"
        yield f"This Python cannot make virtual environments: {package} and try again."
    if (free := shutil.disk_usage(folder).free) < DISK_GB * 10**9:
        needs = f"the environment needs about {DISK_GB} GB: free some space, or clone onto a larger disk."
        yield f"Only {free / 1e9:.1f} GB are free in {folder} and {needs}"


def installed(package: str) -> str:
    """The installed version of a distribution, empty where there is none; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def after_install() -> Iterator[str]:
    """What the environment lacks: jupyter-book 1.x, and a torch and a torchvision that belong together."""
    if not (book := installed("jupyter-book")).startswith("1."):
        yield (
            f"jupyter-book {book or 'is missing'}: this book is written for 1.x, so delete .venv and run `make env`, "
            "or run `pip install 'jupyter-book<2'`."
        )
    for name in ("torch", "torchvision"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            yield f"{name} needs {error.name}, which is not installed: delete .venv and run `make env`."
        except Exception as error:  # a mismatched pair fails in many ways: RuntimeError, OSError, AttributeError
            yield (
                f"{name} cannot be imported ({str(error).strip().splitlines()[0]}): torch {installed('torch')} and "
                f"torchvision {installed('torchvision')} must be a matching pair, so delete .venv and run `make env`."
            )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before-install", action="store_true", help="look only at what the installation itself needs")


def main(options: argparse.Namespace) -> int:
    """Print the problems; the exit status says whether there were any."""
    problems = [*(before_install() if options.before_install else after_install())]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems and not options.before_install:
        found = ", ".join(f"{name} {installed(name)}" for name in PACKAGES)
        print(f"Ready: Python {platform.python_version()}, {found}.")
    return 1 if problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments(parser)
    sys.exit(main(parser.parse_args()))
