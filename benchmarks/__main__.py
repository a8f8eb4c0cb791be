"""The command ``python -m benchmarks``: time the groups in turn, and record each as soon as it is done."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lps.__main__ import print_any_character
from lps.commands.experiments import seconds
from lps.experiments.records import code_version, determinism, now, short_hash, write_json
from lps.machine import hardware, versions
from lps.paths import LOCAL

from .groups import Device, Group, plan
from .measure import OutOfTime, measure


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add, time_for_all = parser.add_argument, "time for all groups (s, m, h); default: 5m, on a GPU 10m"
    default = "all but '*threads*' and 'converted*', ten and six minutes"
    add("patterns", nargs="*", metavar="group", help=f"'resnet101*'; default: {default}")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--budget", type=seconds, metavar="5m", help=time_for_all)
    add("--batch", type=int, help="images of a step; default: 2 (CIFAR-10: 16), on a GPU 32 (128)")
    add("--threads", type=int, help="CPU threads; default: torch's")
    add("--results", type=Path, default=LOCAL / "benchmarks", help="where records are written")
    add("--list", action="store_true", help="only name the groups, in their order")
    return parser


def record(group: Group, measured: dict[str, Any], began: float, options: argparse.Namespace) -> Path:
    """Write a group's record: a machine, configuration and state of the code that are new get a file of their own."""
    tunables = os.environ.get("GLIBC_TUNABLES") if group.setting.device == "cpu" else None
    content = {
        **({"allocator": tunables} if tunables else {}),
        "group": group.name,
        "config": group.describe(),
        "hardware": hardware(),
        "determinism": determinism(),
        "code": code_version("layers"),
        "versions": versions(("torch", "torchvision", "numpy")),
    }
    took = round(time.monotonic() - began)
    words = [f"python -m benchmarks {group.name} --device {options.device} --budget {took}s"]
    words += [f"--threads {torch.get_num_threads()}"] + ([f"--batch {options.batch}"] if options.batch else [])
    path = Path(options.results) / f"{group.name}-{short_hash(content)}.json"
    about = {"date": now(), "seconds": took, "command": " ".join(words)}
    write_json(path, {**content, **about, **measured})
    return path


def compile_case(device: Device, batch: int | None, name: str, case: str) -> None:
    """Leave what one compiled case needs in the compiler's cache; one that cannot be compiled says so in its turn."""
    (group,) = (g for g in plan(device, batch) if g.name == name)
    group.setting.apply()
    with suppress(RuntimeError):
        group.cases[case].build().step()


def compile_ahead(groups: Sequence[Group], options: argparse.Namespace) -> None:
    """Compile the cases of all groups side by side: one after the other, on a GPU they take longer than all timings."""
    cases = [(group.name, case) for group in groups if group.setting.compiled for case in group.cases]
    if options.device == "cuda" and cases:
        print(f"compiling {len(cases)} networks side by side: one to three minutes", file=sys.stderr)
        with ProcessPoolExecutor(len(cases), get_context("spawn")) as pool:
            for done in [pool.submit(compile_case, options.device, options.batch, *case) for case in cases]:
                done.result()


def main() -> int:
    """Spend the budget on the groups, each its share of what is left; 3 where time ran out first, 1 after an error."""
    print_any_character()
    options = arguments().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU that torch can use; leave out --device cuda to measure on the processor", file=sys.stderr)
        return 2
    options.budget = options.budget or (600.0 if options.device == "cuda" else 300.0)
    planned, patterns = plan(options.device, options.batch), options.patterns
    groups = [g for g in planned if (any(fnmatch(g.name, p) for p in patterns) if patterns else not g.by_name)]
    if options.list or not groups:
        print("\n".join(g.name for g in planned))
        return 0 if options.list else 2
    deadline, status, threads = time.monotonic() + options.budget, 0, torch.get_num_threads()
    compile_ahead(groups, options)
    for position, group in enumerate(groups):
        began = time.monotonic()
        share = (deadline - began) * group.seconds / sum(later.seconds for later in groups[position:])
        print(f"{group.name}: about {max(0, share):.0f} s", file=sys.stderr)
        setting = group.setting
        setting.apply()
        torch.set_num_threads(setting.threads or threads)
        try:
            counts = not setting.compiled
            measured = measure(
                group.cases, setting.device, share, deadline, counts, group.profiled, progress, group.in_a_row
            )
        except OutOfTime:
            print(f"the budget is used up; not measured: {', '.join(g.name for g in groups[position:])}")
            return 3
        except KeyboardInterrupt:
            print(f"interrupted; not measured: {', '.join(g.name for g in groups[position:])}")
            return 130
        except RuntimeError as error:  # one arrangement that a machine cannot run must not cost the rest
            print(f"error: {group.name}: {error}", file=sys.stderr)
            status = 1
            continue
        path = record(group, measured, began, options)
        print(f"{group.name}  ({len(measured['turns_ms'])} rounds, {path})")
        for name, case in measured["cases"].items():
            ratio = case["ratio"]
            print(
                f"  {name:<22} {case['ms']['median']:9.2f} ms   {ratio['median']:.3f} "
                f"({ratio['q1']:.3f} to {ratio['q3']:.3f}) x {case['against']}   memory {case['memory_ratio']:.3f}"
            )
    return status


def progress(text: str) -> None:
    print(f"\r  {text:<40}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
