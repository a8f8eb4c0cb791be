"""Can this machine build the companion? One plain sentence, with the remedy, for each thing that is amiss.

Run as a script by whatever Python the machine has, before anything is installed (``--before-install``), and
as ``python -m lps check`` afterwards. So nothing but the standard library is imported at the top, and syntax
and types are those that Python 3.6 still reads: a Python that is too old has to be told so, not to stumble
over a line of this file.
"""

import argparse
import importlib
import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
DISK_GB = 8  # what installing the locked environment takes, downloads included


def python_problems(version: Tuple[int, ...], executable: str) -> List[str]:
    """A Python older than `OLDEST_PYTHON`."""
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return []
    return [
        f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is needed and {executable} is Python "
        f"{version[0]}.{version[1]}: install a newer one and name it, as in "
        "`make reproduce PYTHON=python3.12`."
    ]


def tool_problems() -> List[str]:
    """Programs and standard modules that the set-up calls: git, venv with pip."""
    problems = []
    if shutil.which("git") is None:
        problems.append("git is not found: install it (`apt install git`, `brew install git`) and try again.")
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        problems.append(
            "This Python cannot make virtual environments: install its venv package "
            "(`apt install python3-venv`) and try again."
        )
    return problems


def disk_problems(folder: Path, free_bytes: int) -> List[str]:
    """Too little room for the environment in `folder`."""
    if free_bytes >= DISK_GB * 10**9:
        return []
    return [
        f"Only {free_bytes / 1e9:.1f} GB are free in {folder} and the environment needs about {DISK_GB} GB: "
        "free some space, or clone onto a larger disk."
    ]


def installed(package: str) -> Optional[str]:
    """The installed version of a distribution, None where there is none; nothing is imported."""
    from importlib import metadata  # Python 3.8, which the checks before the installation cannot count on

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def jupyter_book_problems() -> List[str]:
    """jupyter-book missing, or of the 2.x line, which does not read ``_config.yml`` and ``_toc.yml``."""
    version = installed("jupyter-book")
    if version is None:
        return ["jupyter-book is not installed here: run `make env` and use .venv/bin/python."]
    if not version.startswith("1."):
        return [
            f"jupyter-book {version} is installed and this book is written for 1.x: run "
            "`pip install 'jupyter-book<2'`, or delete .venv and run `make env`."
        ]
    return []


def torch_problems() -> List[str]:
    """torch or torchvision missing, or two builds that do not belong together (found by importing them)."""
    for name in ("torch", "torchvision"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return [f"{name} is not installed here: run `make env` and use .venv/bin/python."]
            return [f"{name} lacks {error.name}: delete .venv and run `make env`."]
        except Exception as error:  # a mismatched pair fails in many ways: RuntimeError, OSError, AttributeError
            found = {name: installed(name) for name in ("torch", "torchvision")}
            reason = str(error).strip().split("\n")[0]
            return [
                f"{name} cannot be imported ({reason}): torch {found['torch']} and torchvision "
                f"{found['torchvision']} must be a matching pair, so delete .venv and run `make env`, "
                "or install both in one pip command."
            ]
    return []


def check(before_install: bool = False) -> List[str]:
    """Every problem found, a sentence each; empty when the companion can be built.

    Args:
        before_install: look at what the installation needs (tools, disk) rather than at what it leaves.
    """
    problems = python_problems(sys.version_info[:2], sys.executable)
    if problems:
        return problems
    if before_install:
        return tool_problems() + disk_problems(ROOT, shutil.disk_usage(ROOT).free)
    return jupyter_book_problems() + torch_problems()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m lps check``."""
    parser.add_argument("--before-install", action="store_true", help="look only at what the installation itself needs")


def main(args: argparse.Namespace) -> int:
    """Print the problems; the exit code says whether there were any."""
    problems = check(before_install=args.before_install)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems and not args.before_install:
        names = ("torch", "torchvision", "pytorch-lightning", "jupyter-book")
        packages = ", ".join(f"{name} {installed(name)}" for name in names)
        print(f"Ready: Python {platform.python_version()}, {packages}.")
    return 1 if problems else 0


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_arguments(arguments)
    sys.exit(main(arguments.parse_args()))
