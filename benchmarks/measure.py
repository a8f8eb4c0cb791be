"""Time cases side by side: they take turns in one process, so that whatever slows the machine slows them all."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median, quantiles
from timeit import Timer
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from lps import Downsample

from .networks import Arrangement

MIN_ROUNDS = 3
TURN = 0.05
"""Least length of a turn in seconds: a short step is repeated until it fills one."""


class OutOfTime(Exception):
    """The budget ended before a group had :data:`MIN_ROUNDS` rounds."""


class Work(NamedTuple):
    """One inference or training step, the tensors that outlive it, and the network it runs."""

    step: Callable[[], object]
    held: Callable[[], Iterable[Tensor]]
    network: nn.Module | None = None


@dataclass(frozen=True)
class Case:
    """Something to time, built when its group begins, and the case that it is divided by."""

    build: Callable[[], Work]
    against: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Turn(NamedTuple):
    """Milliseconds of one step: on the wall clock, and of this process on its processors."""

    ms: float
    cpu_ms: float


def turn(step: Callable[[], object], number: int) -> Turn:
    """Mean over ``number`` steps; the clock waits for the accelerator."""
    began = time.process_time()
    wall = Timer(step, timer=timer).timeit(number)
    return Turn(1e3 * wall / number, 1e3 * (time.process_time() - began) / number)


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles, to four digits after the point."""
    q1, middle, q3 = quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "q1": round(q1, 4), "q3": round(q3, 4)}


def spread(rounds: Sequence[Mapping[str, Turn]], name: str, against: str) -> dict[str, dict[str, float]]:
    """Quartiles of the times of a case, and of their ratios to another's of the same round."""
    return {
        "ms": quartiles(taken[name].ms for taken in rounds),
        "cpu_ms": quartiles(taken[name].cpu_ms for taken in rounds),
        "ratio": quartiles(taken[name].ms / taken[against].ms for taken in rounds),
        "cpu_ratio": quartiles(taken[name].cpu_ms / taken[against].cpu_ms for taken in rounds),
    }


def measure(
    cases: Mapping[str, Case],
    device: str,
    seconds: float,
    deadline: float,
    count: bool = True,
    profiled: Iterable[str] = (),
    report: Callable[[str], None] = print,
    in_a_row: int | None = None,
) -> dict[str, Any]:
    """Rounds of turns, in a new order each, for ``seconds`` or until ``deadline`` (``time.monotonic`` seconds).

    Before the first round every case is built and run, its peak memory is taken, and with ``count`` its arithmetic is
    counted; a compiled network hides that, and its first step, with the compilation, is timed instead. Returns, for
    each case, quartiles of its times and of its ratios to ``against`` in the same round, and all turns; with
    ``in_a_row`` also those of so many steps one after the other, in rounds between the others, and no count of its
    arithmetic. Raises :class:`OutOfTime` where fewer than :data:`MIN_ROUNDS` rounds are possible.
    """
    works: dict[str, Work] = {}
    numbers: dict[str, int] = {}
    costs: dict[str, dict[str, float]] = {}
    end = min(time.monotonic() + seconds, deadline)
    for name, case in cases.items():
        torch.manual_seed(0)
        works[name] = case.build()
        step = works[name].step
        costs[name] = {}
        if not in_a_row:
            costs[name] = {"gmac": gigamacs(step)} if count else {"first_ms": round(turn(step, 1).ms, 1)}
        costs[name] |= memory_of(works[name], device)
        numbers[name] = max(1, round(TURN / (1e-3 * turn(step, 1).ms)))
        report(name)
        if time.monotonic() > deadline:
            raise OutOfTime
    rounds: list[dict[str, Turn]] = []
    rows: list[dict[str, Turn]] = []
    longest = 0.0
    while len(rounds) < MIN_ROUNDS or time.monotonic() + longest < end:
        began = time.monotonic()
        if began + longest > deadline:
            raise OutOfTime
        order = random.Random(len(rounds)).sample(list(works), len(works))
        taken = {name: turn(works[name].step, numbers[name]) for name in order}
        rounds.append(taken)
        if in_a_row:
            rows.append({name: turn(works[name].step, in_a_row) for name in reversed(order)})
        longest = max(longest, time.monotonic() - began)
        report(f"round {len(rounds)}")

    def summary(name: str) -> dict[str, Any]:
        against = cases[name].against
        return {
            **cases[name].facts,
            "against": against,
            "steps_per_turn": numbers[name],
            **spread(rounds, name, against),
            **({"in_a_row": spread(rows, name, against)} if in_a_row else {}),
            **costs[name],
            "memory_ratio": round(costs[name]["peak_mb"] / costs[against]["peak_mb"], 4),
        }

    return {
        "cases": {name: summary(name) for name in cases},
        "turns_ms": [{name: round(taken[name].ms, 4) for name in cases} for taken in rounds],
        "profile": where_time_goes({name: works[name] for name in profiled}, device),
    }


def gigamacs(step: Callable[[], object]) -> float:
    """Multiplications of one step in 10^9, in convolutions and matrix products; the first one also tries out sizes."""
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return round(counter.get_total_flops() / 2e9, 4)


def memory_of(work: Work, device: str) -> dict[str, float]:
    """Peak memory of one step in MB: what it allocates at most, and with what is held between steps.

    On a GPU the allocator keeps count; on a CPU its events are read from a trace of the profiler, so buffers inside
    an operator count too.
    """
    allocated = (peak_on_gpu if device == "cuda" else peak_on_cpu)(work.step)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in work.held()}
    return {
        "allocated_mb": round(allocated / 1e6, 3),
        "peak_mb": round((allocated + sum(held.values())) / 1e6, 3),
    }


def peak_on_gpu(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(step: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    results: Any = trace.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())), default=0)


PARTS = ("sampling layers", "choice", "filter")


@contextmanager
def parts_named(network: nn.Module) -> Iterator[None]:
    """Let the profiler see the sampling layers of a network, and in them the choice and the filter outside of it."""
    parts: dict[nn.Module, str] = {}
    for layer in network.modules():
        if isinstance(layer, Downsample | Arrangement):
            parts[layer] = PARTS[0]
        if isinstance(layer, Downsample):
            inside = zip((layer.select, layer.antialias), PARTS[1:], strict=True)
            parts |= {module: part for module, part in inside if module is not None}
    running: list[str] = []

    def seen(part: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if "choice" in running:
                return forward(*given, **named)
            running.append(part)
            with record_function(part):
                y = forward(*given, **named)
            running.pop()
            return y

        return call

    for module, part in parts.items():
        module.forward = seen(part, module.forward)
    yield
    for module in parts:
        del module.forward


def where_time_goes(works: Mapping[str, Work], device: str, steps: int = 3) -> dict[str, dict[str, Any]]:
    """Milliseconds of one step of each case: in the sampling layers and their parts (forward), and by operator.

    Medians over ``steps`` under the profiler, again in turns; operators below 0.2 % of the step are left out.
    """
    seen = [{name: profiled_step(work, device) for name, work in works.items()} for _ in range(steps)]

    def medians(name: str, part: int) -> dict[str, float]:
        tables = [taken[name][part] for taken in seen]
        return {key: round(median(table.get(key, 0.0) for table in tables), 3) for key in tables[0]}

    profiles = {}
    for name in works:
        parts, operators = medians(name, 0), medians(name, 1)
        total = sum(operators.values())
        shown = {key: ms for key, ms in operators.items() if ms > 0.002 * total}
        profiles[name] = {"ms": round(total, 3), "parts_ms": parts, "operators_ms": shown}
    return profiles


def profiled_step(work: Work, device: str) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds in the sampling layers and their parts, and in each operator itself, of one step."""
    assert work.network is not None
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with parts_named(work.network), profile(activities=activities) as trace:
        work.step()
    clock = "device" if device == "cuda" else "cpu"
    called = [event for event in trace.key_averages() if event.device_type == DeviceType.CPU]
    parts = {e.key: getattr(e, f"{clock}_time_total") / 1e3 for e in called if e.key in PARTS}
    return parts, {e.key: getattr(e, f"self_{clock}_time_total") / 1e3 for e in called if e.key not in PARTS}
