"""Profiles: how large the companion's experiments are, one YAML file each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from .config import Experiment, Own, build
from .rows import BY_NAME, Row
from .schema import read_yaml

PAPER = "full"
_FOLDER = files("lps") / "profiles"


@dataclass(frozen=True)
class Profile:
    """``experiments`` holds what sets each table apart from the paper's settings, which are those of ``full``;
    ``notebooks`` the parameters that differ from a notebook's own. What a file leaves out is as in the profile it is
    ``like``."""

    name: str
    experiments: dict[str, dict[str, dict[str, Any]]]
    notebooks: dict[str, dict[str, Any]]

    def row(self, row: Row) -> Experiment:
        """The experiment of one row of a table at this profile's size."""
        settings = load_profile(PAPER).experiments[row.table]
        for name, value in (("model.method", row.method), ("model.antialias", row.antialias), *row.settings):
            section, _, field = name.partition(".")
            settings = _merged(settings, {section: {field: value}})
        if self.name != PAPER:
            settings = _merged(settings, self.experiments[row.table])
        return Experiment(row.name, self.name, **build(row.table, settings, f"{self.name}.{row.table}"))


def profile_names() -> list[str]:
    """Smallest first."""
    return ["smoke", "quick", "reduced", "converged", "longer", "short", "full"]


@cache
def load_profile(name: str) -> Profile:
    """Read ``lps/profiles/<name>.yml``; ``ValueError`` names the known profiles."""
    if name not in profile_names():
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(profile_names())}")
    path = _FOLDER / f"{name}.yml"
    content = read_yaml(path)
    if "experiments" not in (content or ()):
        raise ValueError(f"{path} lacks experiments")
    experiments, notebooks = _tables(content["experiments"]), content.get("notebooks", {})
    if "like" in content:
        like = load_profile(content["like"])
        experiments, notebooks = _merged(like.experiments, experiments), _merged(like.notebooks, notebooks)
    return Profile(name, experiments, notebooks)


@cache
def experiment_of(row: str, profile: str) -> Experiment:
    """The experiment of a row, by its name, at the size of a profile."""
    return load_profile(profile).row(BY_NAME[row])


def _tables(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of each table: those ``common`` to all, or those of the table it is ``like``, and its own."""
    tables = {"common": blocks.get("common", {})}
    for table, block in blocks.items():
        own = {section: values for section, values in block.items() if section != "like"}
        tables[table] = _merged(tables[block.get("like", "common")], own)
    del tables["common"]
    return tables


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one, in which the second's values win."""
    result = dict(first)
    for name, value in second.items():
        nested = isinstance(value, Mapping) and isinstance(first.get(name), Mapping)
        result[name] = _merged(first[name], value) if nested else value
    return result


def recorded(
    row: str, profile: str, config: Mapping[str, Mapping[str, Any]], own: Mapping[str, str] | None = None
) -> Experiment:
    """The experiment of a record, its settings checked as any others are.

    A section that the record does not have is the profile's. A setting may be missing only where it has a default.
    One of a reader's ``own`` is made like another row.
    """
    found = BY_NAME[own["like"] if own else row]
    made = Own(own["like"], own["source"]) if own else None
    parts = build(found.table, config, "config")
    return replace(load_profile(profile).row(found), name=row, own=made, **parts)


def changed(
    record: Mapping[str, Any],
    experiment: Experiment,
    sections: Iterable[str] = ("data", "model", "train", "evaluate"),
) -> list[str]:
    """Settings that a record names and that are others in ``experiment``; the code of an older one had the rest fixed.

    How the machine is used (``engine``) makes no other experiment.
    """
    settings = experiment.as_dict()
    return [
        f"{section}.{name}"
        for section in sections
        for name, value in record["config"].get(section, {}).items()
        if settings[section].get(name) != value
    ]


def profile_of(record: Mapping[str, Any]) -> str:
    """The profile whose settings a record has: the one that it names, or, where it changed that one's into those of
    another, the other; the one it names where there is none, where both have the same settings, and for a row of a
    reader's own."""
    named, row = record["profile"], record["experiment"]
    known = (named, *profile_names()) if row in BY_NAME else ()
    return next((name for name in known if not changed(record, experiment_of(row, name))), named)
