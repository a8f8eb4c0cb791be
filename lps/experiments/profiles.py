"""Profiles: how large the companion's experiments are, one YAML file each."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from .config import Data, Evaluate, Experiment, Model, Train, build

_FOLDER = files("lps") / "profiles"


@dataclass(frozen=True)
class Profile:
    """``experiment`` holds every setting but the method and filter, which a row supplies; ``notebooks`` holds the
    parameters of each notebook."""

    name: str
    about: str
    experiment: dict[str, dict[str, Any]]
    notebooks: dict[str, dict[str, Any]]

    def row(self, name: str, method: str, antialias: str) -> Experiment:
        """The experiment of one row of a table at this profile's size."""
        where = f"{self.name}.experiment"
        sections = self.experiment
        return Experiment(
            name,
            self.name,
            build(Data, sections["data"], f"{where}.data"),
            build(Model, {**sections["model"], "method": method, "antialias": antialias}, f"{where}.model"),
            build(Train, sections["train"], f"{where}.train"),
            build(Evaluate, sections["evaluate"], f"{where}.evaluate"),
        )


def profile_names() -> list[str]:
    """Names of the profiles, smallest first."""
    return ["smoke", "quick", "reduced", "full"]


def load_profile(name: str) -> Profile:
    """Read ``lps/profiles/<name>.yml``; ``ValueError`` names the known profiles."""
    if name not in profile_names():
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(profile_names())}")
    content = yaml.safe_load((_FOLDER / f"{name}.yml").read_text())
    return Profile(name, content["about"], content["experiment"], content["notebooks"])
