"""Processes of their own, forked from one that has imported what they need: one that dies costs no other."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any


def forks(preloaded: Sequence[str]) -> Any:
    """A context whose processes fork, on Linux, from one that has these modules imported; elsewhere they spawn."""
    context: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([*preloaded])
    return context


def apart(context: Any, function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns in a process of its own. Raises ``ChildProcessError`` where it ends without an answer."""
    receives, sends = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sends, function, *given))
    process.start()
    sends.close()
    wait([receives, process.sentinel])  # its own processes may hold the other end of the pipe for longer
    with suppress(EOFError):
        if receives.poll():
            return receives.recv()
    process.join()
    raise ChildProcessError(f"its process ended with code {process.exitcode}")


def _answer(sends: Connection, function: Callable[..., Any], *given: Any) -> None:
    sends.send(function(*given))
