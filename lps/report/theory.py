"""Lemma 1 and Claims 1 to 4, tried by their notebooks: the ledger and the tests run the cells tagged ``check``.

Those cells need torch alone, neither papermill nor a kernel. They leave behind

- ``tried``: cases by kind of map, each of which has passed its assertions;
- ``broken``: for each variant that drops an assumption, how many cases passed and failed; each has to fail somewhere;
- ``ties``: of cases with equal best scores, of which the claims promise nothing, how many passed and failed;
- ``worst``: the largest difference where a convolution is involved.
"""

import json
import linecache
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch

from ..notebooks.parameters import check_parameters, declared_parameters
from ..paths import NOTEBOOKS

STATEMENTS = {"lemma-1": "lemma1", **{f"claim-{n}": f"claim{n}" for n in range(1, 5)}}
"""The notebook of each statement, by the label that the book gives it."""


@dataclass(frozen=True)
class Check:
    """What trying a statement gave; ``failure`` says which assertion did not hold, and for what."""

    scope: str
    failure: str = ""
    tried: Counter[str] = field(default_factory=Counter)
    broken: Mapping[str, Counter[bool]] = field(default_factory=dict)
    ties: Counter[bool] = field(default_factory=Counter)
    worst: float = 0.0

    @property
    def holds(self) -> bool:
        """No assertion failed, some cases were tried, and there are broken variants, each of which failed."""
        if self.failure or not self.tried.total() or not self.broken:
            return False
        return all(count[False] for count in self.broken.values())


def check(label: str, **parameters: Any) -> Check:
    """Try a statement with the parameters of its notebook, or with others; on one thread, the maps being small."""
    name = STATEMENTS[label]
    notebook = read(name)
    defaults = declared_parameters(notebook)
    check_parameters(name, defaults, parameters)
    values: dict[str, Any] = defaults | parameters
    stride, dims = (", ".join(map(str, values[key])) for key in ("strides", "dims"))
    scope = f"every circular shift for stride {stride} in {dims} dimensions; float64, float32, float16, bfloat16"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            run(name, notebook, values, "check")
    except AssertionError as error:
        return Check(scope, counterexample(error, name))
    finally:
        torch.set_num_threads(threads)
    return Check(scope, **{key: values[key] for key in ("tried", "broken", "ties", "worst") if key in values})


def read(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def run(name: str, notebook: Mapping[str, Any], values: dict[str, Any], tag: str = "") -> None:
    """Execute the code cells of a notebook, or those with a tag; their names come into ``values``."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (not tag or tag in cell["metadata"].get("tags", [])):
            exec(compiled("".join(cell["source"]), f"{name}.ipynb, cell {cell['id']}"), values)


def compiled(source: str, name: str) -> CodeType:
    """Code whose lines a traceback shows, and whose assertions ``python -O`` leaves in."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return compile(source, name, "exec", optimize=0)


def counterexample(error: AssertionError, name: str) -> str:
    """The line of the notebook whose assertion failed, with the stride, the maps and the shift that were tried last."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    frame, number = [(f, n) for f, n in frames if f.f_code.co_filename.startswith(f"{name}.ipynb")][-1]
    seen = frame.f_globals | frame.f_locals
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    shift = f", shift {seen['d'].tolist()}" if "d" in seen else ""
    return f"{line} (last tried: stride {seen['s']}, {seen['x'].dtype} maps {tuple(seen['x'].shape)}{shift})"
