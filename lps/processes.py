"""Processes that fork from one which has imported what they need, share a run, and stop on Ctrl-C and SIGTERM."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from torch import distributed as dist

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Stop = Callable[[], bool]


class Session(NamedTuple):
    """What a run heeds: whom it tells of the steps that are done and of all steps, whom it asks whether to stop, and
    the moment, in seconds of ``time.monotonic``, that no epoch may pass."""

    report: Callable[[int, int], None] = lambda step, steps: None
    stop: Stop = lambda: False
    deadline: float | None = None


ALONE = Session()


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


def gather(value: Any) -> list[Any]:
    """The value that each of the processes which share a run has, once all of them have asked for it here."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current batch."""
    received: list[int] = []
    before = [signal.signal(number, lambda number, frame: received.append(number)) for number in SIGNALS]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def kept_back() -> Iterator[None]:
    """Keep signals back until :func:`release`: here, and in the processes that are started here.

    Those that share a run wait for one another from their start on; one that a signal ended while it imports would
    leave the others waiting.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        release()


def release() -> None:
    """Let signals in, also those that came in the meantime."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
