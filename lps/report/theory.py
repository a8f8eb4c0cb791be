"""What the notebooks try: the ledger and the tests run the cells tagged ``check`` of Lemma 1 and Claims 1 to 4, and
those tagged ``evidence``, which leave our value and how it was found for sentences of the paper, by their ids.

The cells tagged ``check`` need torch alone, neither papermill nor a kernel. They leave behind

- ``tried``: cases by kind of map, each of which has passed its assertions;
- ``broken``: for each variant that drops an assumption, how many cases passed and failed; each has to fail somewhere;
- ``ties``: of cases with equal best scores, of which the claims promise nothing, how many passed and failed;
- ``worst``: the largest difference where a convolution is involved.
"""

import linecache
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from ..notebooks.cells import check_parameters, declared_parameters, left_by, read, run

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

    @property
    def cases(self) -> int:
        return self.tried.total()

    @property
    def failed(self) -> dict[str, str]:
        """How many cases of each broken variant failed: ``12 of 34``."""
        return {name: f"{count[False]:,} of {count.total():,}" for name, count in self.broken.items()}

    @property
    def passed(self) -> dict[str, str]:
        return {name: f"{count[True]:,} of {count.total():,}" for name, count in self.broken.items()}


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


@cache
def tried(label: str) -> Check:
    """A statement for stride 2 in two dimensions, as in the paper's networks."""
    return check(label, strides=[2], dims=[2], draws=16)


@cache
def evidence(name: str) -> dict[str, tuple[str, str]]:
    """What the cells tagged ``evidence`` of a notebook find: by sentence, our value and how it was found."""
    with torch.random.fork_rng(devices=[]):
        found: dict[str, tuple[str, str]] = left_by(name, "evidence")["evidence"]
    return found


def counterexample(error: AssertionError, name: str) -> str:
    """The line of the notebook whose assertion failed, with the stride, maps and shift that a check tried last."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    frame, number = [(f, n) for f, n in frames if f.f_code.co_filename.startswith(f"{name}.ipynb")][-1]
    seen = frame.f_globals | frame.f_locals
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    if "s" not in seen:
        return line
    shift = f", shift {seen['d'].tolist()}" if "d" in seen else ""
    return f"{line} (last tried: stride {seen['s']}, {seen['x'].dtype} maps {tuple(seen['x'].shape)}{shift})"
