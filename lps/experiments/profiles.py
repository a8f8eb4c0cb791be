"""Profiles: how large the companion's experiments are, one YAML file each."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from .config import SECTIONS, TABLES, Experiment, Own, build
from .rows import ROWS, Row
from .schema import read_yaml

PAPER = "full"
_FOLDER = files("lps") / "profiles"


@dataclass(frozen=True)
class Profile:
    """``experiments`` holds what sets each table apart from the paper's settings, which are those of ``full``;
    ``notebooks`` the parameters that differ from a notebook's own. What a file leaves out is as in the profile it is
    ``like``."""

    name: str
    about: str
    experiments: dict[str, dict[str, dict[str, Any]]]
    notebooks: dict[str, dict[str, Any]]

    def row(self, row: Row) -> Experiment:
        """The experiment of one row of a table at this profile's size."""
        settings = deepcopy(load_profile(PAPER).experiments[row.table])
        settings["model"] |= {"method": row.method, "antialias": row.antialias}
        for name, value in row.settings:
            section, _, field = name.partition(".")
            settings[section][field] = value
        if self.name != PAPER:
            for section, values in self.experiments[row.table].items():
                if section not in settings:
                    raise ValueError(f"{self.name}.{row.table}: no section {section}; known: {', '.join(SECTIONS)}")
                settings[section] |= values
        parts: Iterator[Any] = (
            build(cls, settings[section], f"{self.name}.{row.table}.{section}")
            for section, cls in zip(SECTIONS, TABLES[row.table], strict=True)
        )
        return Experiment(row.name, self.name, *parts)


def profile_names() -> list[str]:
    """Names of the profiles, smallest first."""
    return ["smoke", "quick", "reduced", "converged", "short", "full"]


@cache
def load_profile(name: str) -> Profile:
    """Read ``lps/profiles/<name>.yml``; ``ValueError`` names the known profiles."""
    if name not in profile_names():
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(profile_names())}")
    path = _FOLDER / f"{name}.yml"
    content = read_yaml(path)
    if missing := [key for key in ("about", "experiments") if key not in (content or ())]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    experiments, notebooks = _tables(content["experiments"]), content.get("notebooks", {})
    if "like" in content:
        like = load_profile(content["like"])
        experiments, notebooks = _merged(like.experiments, experiments), _merged(like.notebooks, notebooks)
    return Profile(name, content["about"], experiments, notebooks)


def _tables(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of each table: those ``common`` to all, or those of the table it is ``like``, and its own."""
    tables = {"": blocks.get("common", {})}
    for table, block in blocks.items():
        if table != "common":
            own = {section: values for section, values in block.items() if section != "like"}
            tables[table] = _merged(tables[block.get("like", "")], own)
    del tables[""]
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
    (found,) = (known for known in ROWS if known.name == (own["like"] if own else row))
    classes = dict(zip(SECTIONS, TABLES[found.table], strict=True))
    if unknown := sorted(config.keys() - classes.keys()):
        raise ValueError(f"config.{unknown[0]} is no section of settings; known: {', '.join(classes)}")
    made = Own(own["like"], own["source"]) if own else None
    parts: dict[str, Any] = {name: build(classes[name], config[name], f"config.{name}") for name in config}
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
